"""CoTAttention."""

import torch
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, pointwise, silu
from models.attention.cot import CoTAttention


def slow_cot(block, x):
    """All k*k logits per channel, their mean, an explicit softmax over positions."""
    key_conv, key_norm = block.key_embed[0], block.key_embed[1]
    static = silu(batch_norm(key_norm, F.conv2d(x, key_conv.weight, padding=block.kernel_size // 2, groups=4)))
    values = batch_norm(block.value_embed[1], pointwise(block.value_embed[0], x))
    reduce, norm, _, expand = block.attention_embed
    logits = pointwise(expand, silu(batch_norm(norm, pointwise(reduce, torch.cat([static, x], 1)))))
    batch, channels, height, width = x.shape
    logits = logits.view(batch, channels, block.kernel_size**2, height, width).mean(2)
    weights = torch.exp(logits - logits.amax((2, 3), keepdim=True))
    return static + weights / weights.sum((2, 3), keepdim=True) * values


def rebuilt_cot(block, x, records):
    """The static context, and the values times their shown factors, which sum to 1 over the positions."""
    conv, norm = block.key_embed[:2]
    static = silu(batch_norm(norm, F.conv2d(x, conv.weight, padding=block.kernel_size // 2, groups=4)))
    factor = records[0].values
    assert torch.allclose(factor.sum((2, 3)), torch.ones_like(factor[..., 0, 0]))
    return static + factor * batch_norm(block.value_embed[1], pointwise(block.value_embed[0], x))


CASES = {
    "CoTAttention": BlockCase(
        oracles={
            "kernel 3": Oracle(lambda: CoTAttention(8), slow_cot, 8),
            "kernel 5": Oracle(lambda: CoTAttention(12, 5), slow_cot, 12),
        },
        counts={channels: 35 * channels**2 // 4 + 14 * channels for channels in (64, 128, 320, 512, 1024)},
        golden={"CoTAttention": Golden(lambda: CoTAttention(64, 3))},
        rebuilt=rebuilt_cot,
        refused={(64, 4): "odd", (30,): "multiple of 4"},
    )
}
