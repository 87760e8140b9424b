"""SpatialGroupEnhance."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import sigmoid
from models.attention.sge import SpatialGroupEnhance


def slow_sge(block, x):
    """Group by group, position by position."""
    batch, channels, height, width = x.shape
    size, positions = channels // block.groups, height * width
    out = torch.zeros_like(x)
    for image in range(batch):
        for group in range(block.groups):
            own = slice(group * size, (group + 1) * size)
            vectors = x[image, own].reshape(size, positions)
            mean = sum(vectors[:, at] for at in range(positions)) / positions
            dots = torch.stack([(mean * vectors[:, at]).sum() for at in range(positions)])
            off = dots - dots.sum() / positions
            spread = ((off**2).sum() / (positions - 1)).sqrt() if positions > 1 else 0.0
            gates = sigmoid(block.weight[0, group, 0, 0] * off / (spread + 1e-5) + block.bias[0, group, 0, 0])
            out[image, own] = (gates * vectors).view(size, height, width)
    return out


def rebuilt_sge(block, x, records):
    """The input times the gate of each channel's group."""
    groups = records[0].values.unflatten(1, (block.groups, -1))
    assert (groups == groups[:, :, :1]).all()
    return x * records[0].values


CASES = {
    "SpatialGroupEnhance": BlockCase(
        oracles={
            "8 groups": Oracle(lambda: SpatialGroupEnhance(16), slow_sge, 16),
            "3 groups": Oracle(lambda: SpatialGroupEnhance(12, groups=3), slow_sge, 12),
        },
        counts={8: 16, 64: 16, 1024: 16, 20: 10},  # 2 G; 20 channels have 5 groups
        golden={"SpatialGroupEnhance": Golden(lambda: SpatialGroupEnhance(64, groups=8))},
        rebuilt=rebuilt_sge,
        refused={(32, 5): "one of 1, 2, 4", (32, 0): "one of 1, 2, 4"},
    )
}
