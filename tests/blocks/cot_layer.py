"""CoT."""

import torch
from torch.nn import functional as F

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, conv_norm, group_norm, pointwise, relu, silu, softmax
from models.attention.cot_layer import SHARE, CoT


def slow_cot_layer(block, x):
    """A kernel per position and group of 8 channels, applied to the neighbors one by one."""
    batch, channels, height, width = x.shape
    static, values = conv_norm(block.key_embed, x), conv_norm(block.value_embed, x)
    reduce, expand, norm = block.attention_embed
    kernels = group_norm(norm, pointwise(expand, conv_norm(reduce, torch.cat((x, static), 1))))
    side, taps = block.kernel_size, block.kernel_size**2
    dynamic = torch.zeros_like(x)
    for channel in range(channels):
        for tap in range(taps):
            weights = kernels[:, channel // SHARE * taps + tap]
            down, right = tap // side - side // 2, tap % side - side // 2
            for row in range(max(0, -down), min(height, height - down)):
                for column in range(max(0, -right), min(width, width - right)):
                    near = values[:, channel, row + down, column + right].clone()
                    dynamic[:, channel, row, column] += weights[:, row, column] * near
    dynamic = silu(batch_norm(block.bn, dynamic))
    first, inner, _, second = block.fuse_embed
    pooled = (static + dynamic).mean((2, 3), keepdim=True)
    logits = pointwise(second, relu(batch_norm(inner, pointwise(first, pooled)))).view(batch, channels, 2)
    share = softmax(logits, 2)
    return share[:, :, 0, None, None] * dynamic + share[:, :, 1, None, None] * static


def rebuilt_cot_layer(block, x, records):
    """Neighbors weighted by the kernels shown at each position; both contexts at their shown shares."""
    kernels, share = (record.values for record in records)
    static, values = conv_norm(block.key_embed, x), conv_norm(block.value_embed, x)
    side = block.kernel_size
    near = F.unfold(values, side, padding=side // 2).view(x.shape[0], kernels.shape[1], SHARE, side**2, *x.shape[2:])
    dynamic = silu(batch_norm(block.bn, (kernels.unsqueeze(2) * near).sum(3).flatten(1, 2)))
    return share[:, 0] * dynamic + share[:, 1] * static


CASES = {
    "CoT": BlockCase(
        oracles={
            "kernel 3": Oracle(lambda: CoT(16), slow_cot_layer, 16, ((1, 1), (2, 3), (5, 4))),
            "kernel 5": Oracle(lambda: CoT(8, 5), slow_cot_layer, 8, ((1, 1), (3, 4))),
        },
        counts={64: 26_744, 128: 105_200, 256: 417_248, 512: 1_661_888, 1024: 6_633_344},
        flat={"fuse_embed.0.bias": "the following batch norm cancels it; kept for the published count"},
        rebuilt=rebuilt_cot_layer,
        refused={(36,): "multiple of 8", (32, 4): "odd"},
    )
}
