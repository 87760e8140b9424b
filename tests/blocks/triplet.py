"""TripletAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, convolution, sigmoid
from models.attention.triplet import TripletAttention


def slow_triplet(block, x):
    """As in the paper: the map is permuted until the pooled axis is first, gated, and permuted back."""
    out = 0
    for gate, turn in ((block.hw, (0, 1, 2, 3)), (block.cw, (0, 2, 1, 3)), (block.hc, (0, 3, 2, 1))):
        turned = x.permute(turn)
        pooled = torch.stack((turned.max(1).values, turned.sum(1) / turned.shape[1]), 1)
        logits = batch_norm(gate.conv.bn, convolution(gate.conv.conv, pooled))
        out = out + (turned * sigmoid(logits)).permute(turn)  # each turn is its own inverse
    return out / 3


def rebuilt_triplet(block, x, records):
    """The input times the mean of the three gates."""
    columns, rows, positions = (shown.values for shown in records)
    batch, channels, height, width = x.shape
    assert columns.shape == (batch, channels, 1, width) and rows.shape == (batch, channels, height, 1)
    assert positions.shape == (batch, 1, height, width)
    return x * (columns + rows + positions) / 3


CASES = {
    "TripletAttention": BlockCase(
        oracles={
            "kernel 7": Oracle(lambda: TripletAttention(6), slow_triplet, 6),
            "kernel 3": Oracle(lambda: TripletAttention(5, 3), slow_triplet, 5),
        },
        counts={8: 300, 64: 300, 1024: 300},
        golden={"TripletAttention": Golden(lambda: TripletAttention(32))},
        rebuilt=rebuilt_triplet,
        refused={(32, 4): "odd", (0,): "c_in"},
    )
}
