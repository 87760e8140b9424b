"""MLCA."""

import math

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import sigmoid
from models.attention.mlca import MLCA


def cell(index, cells, length):
    """The positions of one cell."""
    return range(math.floor(index * length / cells), math.ceil((index + 1) * length / cells))


def resized(maps, rows, columns):
    """Each output is the mean of the values under it."""
    height, width = maps.shape[-2:]
    out = [
        [
            maps[..., list(cell(row, rows, height)), :][..., list(cell(column, columns, width))].mean((-2, -1))
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    return torch.stack([torch.stack(line, -1) for line in out], -2)


def slid(sequence, conv):
    """A 1-D convolution over (B, L), tap by tap, zeros outside."""
    taps, length = conv.weight[0, 0], sequence.shape[1]
    reach = len(taps) // 2
    padded = torch.cat(
        (sequence.new_zeros(len(sequence), reach), sequence, sequence.new_zeros(len(sequence), reach)), 1
    )
    return sum(tap * padded[:, at : at + length] for at, tap in enumerate(taps))


def slow_mlca(block, x):
    channels, cells, share = x.shape[1], block.local_size, block.local_weight
    pooled = resized(x, cells, cells)
    places = [(row, column) for row in range(cells) for column in range(cells)]
    sequence = torch.cat([pooled[:, :, row, column] for row, column in places], 1)
    local = sigmoid(slid(sequence, block.conv_local))
    whole = sigmoid(slid(sum(pooled[:, :, row, column] for row, column in places) / len(places), block.conv))
    gate = torch.zeros_like(pooled)
    for at, (row, column) in enumerate(places):
        gate[:, :, row, column] = (1 - share) * whole + share * local[:, at * channels : (at + 1) * channels]
    return resized(gate, *x.shape[2:]) * x


def rebuilt_mlca(block, x, records):
    """The input times the blended gate."""
    return x * records[0].values


CASES = {
    "MLCA": BlockCase(
        oracles={
            "5 cells": Oracle(lambda: MLCA(8), slow_mlca, 8, sizes=((1, 1), (2, 3), (7, 5), (4, 9), (12, 11))),
            "3 cells, more local": Oracle(lambda: MLCA(6, 3, local_weight=0.8), slow_mlca, 6),
        },
        counts={64: 6, 128: 10, 1024: 10},  # 2 k
        golden={"MLCA": Golden(lambda: MLCA(64, local_size=5, gamma=2, b=1, local_weight=0.5))},
        rebuilt=rebuilt_mlca,
        refused={(32, 0): "local_size", (32, 5, 0): "gamma", (32, 5, 2, 1, 1.5): "local_weight"},
    )
}
