"""CoordAtt."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, pointwise, relu, sigmoid
from models.attention.coordinate import CoordAtt


def slow_coordinate(block, x):
    """Row by row and column by column: one descriptor at a time."""

    def shared(descriptor):  # (B, C) -> (B, m, 1, 1)
        normed = batch_norm(block.bn1, pointwise(block.conv1, descriptor[:, :, None, None]))
        return normed * relu(normed + 3).clamp(max=6) / 6

    out = torch.empty_like(x)
    height, width = x.shape[2:]
    rows = [sigmoid(pointwise(block.conv_h, shared(x[:, :, i].sum(2) / width)))[..., 0, 0] for i in range(height)]
    columns = [sigmoid(pointwise(block.conv_w, shared(x[..., j].sum(2) / height)))[..., 0, 0] for j in range(width)]
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = x[:, :, i, j] * rows[i] * columns[j]
    return out


def rebuilt_coordinate(block, x, records):
    """The input times the gate of its row and that of its column."""
    rows, columns = (record.values for record in records)
    return x * rows * columns


CASES = {
    "CoordAtt": BlockCase(
        oracles={
            "reduction 32": Oracle(lambda: CoordAtt(12), slow_coordinate, 12),
            "reduction 2": Oracle(lambda: CoordAtt(24, 24, reduction=2), slow_coordinate, 24),
        },
        counts={64: 1_688, 256: 6_680, 512: 25_648, 1024: 100_448},
        golden={"CoordAtt": Golden(lambda: CoordAtt(64, 64, reduction=32))},
        flat={"conv1.bias": "batch norm cancels it"},
        spread="two gates of one half",
        rebuilt=rebuilt_coordinate,
        refused={(64, 32): "oup must be inp = 64", (64, 64, 0): "reduction"},
    )
}
