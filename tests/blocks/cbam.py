"""CBAM."""

import torch
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import pointwise
from models.attention.cbam import CBAM


def slow_cbam(block, x):
    """Both branches of the channel gate apart, and the 7 x 7 convolution as windows."""
    fc1, fc2 = block.channel_attention.fc1, block.channel_attention.fc2
    pooled = [x.sum((2, 3), keepdim=True) / x[0, 0].numel(), x.flatten(2).max(2).values[..., None, None]]
    branches = [pointwise(fc2, pointwise(fc1, each).clamp(min=0)) for each in pooled]
    x = x / (1 + torch.exp(-branches[0] - branches[1]))
    kernel = block.spatial_attention.conv.weight
    stacked = torch.stack((x.max(1).values, x.sum(1) / x.shape[1]), 1)
    windows = F.unfold(stacked, kernel.shape[-1], padding=kernel.shape[-1] // 2)
    logits = (kernel.flatten(1) @ windows).view(x.shape[0], 1, *x.shape[2:])
    return x / (1 + torch.exp(-logits))


def rebuilt_cbam(block, x, records):
    """The input times both gates."""
    channel, spatial = (record.values for record in records)
    return x * channel * spatial


CASES = {
    "CBAM": BlockCase(
        oracles={
            "ratio 16": Oracle(lambda: CBAM(16), slow_cbam, 16),
            "ratio 4, kernel 3": Oracle(lambda: CBAM(16, 4, 3), slow_cbam, 16),
        },
        counts={64: 610, 128: 2_146, 256: 8_290, 512: 32_866, 1024: 131_170},
        golden={"CBAM": Golden(lambda: CBAM(64, ratio=16, kernel_size=7))},
        spread="two gates of one half",
        rebuilt=rebuilt_cbam,
        refused={(32, 16, 6): "odd", (32, 0): "ratio"},
    )
}
