"""MCA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import sigmoid
from models.attention.mca import MCA


def slow_gate(gate, slices):
    """(B, L, values) -> (B, L): the two poolings, their blend, and the 1-D convolution tap by tap."""
    batch, length, values = slices.shape
    mean = slices.sum(2) / values
    std = (((slices - mean[..., None]) ** 2).sum(2) / (values - 1)).sqrt() if values > 1 else torch.zeros_like(mean)
    alpha, beta = sigmoid(gate.weight)
    squeezed = (mean + std) / 2 + alpha * mean + beta * std
    taps = gate.conv.weight[0, 0, 0]
    logits, nothing = [], torch.zeros(batch, dtype=mean.dtype)
    for place in range(length):
        near = [(tap, place + tap - len(taps) // 2) for tap in range(len(taps))]
        logits.append(sum((taps[tap] * squeezed[:, at] for tap, at in near if 0 <= at < length), nothing))
    return sigmoid(torch.stack(logits, 1))


def slow_mca(block, x):
    """Each axis in turn is put second, as the paper permutes the map, and its gate multiplies the map."""
    out = 0
    for gate, turn in ((block.c_hw, (0, 1, 2, 3)), (block.h_cw, (0, 2, 1, 3)), (block.w_hc, (0, 3, 2, 1))):
        turned = x.permute(turn)
        out = out + (slow_gate(gate, turned.flatten(2))[..., None, None] * turned).permute(turn)
    return out / 3


def rebuilt_mca(block, x, records):
    """The input times the mean of the three gates."""
    channels, rows, columns = (shown.values for shown in records)
    assert (channels.shape[1:], rows.shape[1:], columns.shape[1:]) == (
        (x.shape[1], 1, 1),
        (1, x.shape[2], 1),
        (1, 1, x.shape[3]),
    )
    return x * (channels + rows + columns) / 3


CASES = {
    "MCA": BlockCase(
        oracles={
            "kernel from the width": Oracle(lambda: MCA(64), slow_mca, 64),
            "kernel 5": Oracle(lambda: MCA(6, 5), slow_mca, 6),
        },
        counts={8: 13, 16: 13, 64: 15, 128: 15, 256: 17, 512: 17, 1024: 17, 1280: 17},  # 12 + k
        rebuilt=rebuilt_mca,
        refused={(32, 4): "odd", (0,): "inp"},
    )
}
