"""ECAAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import sigmoid
from models.attention.eca import ECAAttention


def slow_eca(block, x):
    """Tap by tap along the channels, zeros outside."""
    taps = block.conv.weight[0, 0]
    means = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    gates = []
    for channel in range(x.shape[1]):
        total = x.new_zeros(x.shape[0])
        for tap in range(len(taps)):
            other = channel + tap - len(taps) // 2
            if 0 <= other < x.shape[1]:
                total = total + taps[tap] * means[:, other]
        gates.append(sigmoid(total))
    return x * torch.stack(gates, 1)[:, :, None, None]


def rebuilt_eca(block, x, records):
    """The input times the shown gate."""
    return x * records[0].values


CASES = {
    "ECAAttention": BlockCase(
        oracles={
            "k of 64 channels": Oracle(lambda: ECAAttention(64), slow_eca, 64, sizes=((1, 1), (4, 3))),
            "k of 128 channels": Oracle(lambda: ECAAttention(128), slow_eca, 128, sizes=((2, 3),)),
            "k 7": Oracle(lambda: ECAAttention(10, k_size=7), slow_eca, 10),
        },
        counts={8: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 1280: 5},
        golden={"ECAAttention": Golden(lambda: ECAAttention(64, k_size=3))},
        rebuilt=rebuilt_eca,
        refused={(64, 4): "odd", (64, 0): "odd"},
    )
}
