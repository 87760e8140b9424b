"""ELA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import group_norm, sigmoid
from models.attention.ela import ELA


def slow_line(conv, line):
    """A grouped 1-D convolution of (B, C, L), output channel by output channel, zeros outside."""
    channels, share, taps = conv.weight.shape
    length, out = line.shape[2], []
    for channel in range(channels):
        first = channel // share * share
        out.append(
            torch.stack(
                [
                    sum(
                        (conv.weight[channel, :, tap] * line[:, first : first + share, place + tap - taps // 2]).sum(1)
                        for tap in range(taps)
                        if 0 <= place + tap - taps // 2 < length
                    )
                    for place in range(length)
                ],
                1,
            )
        )
    return torch.stack(out, 1)


def slow_ela(block, x):
    rows = sigmoid(group_norm(block.gn_h, slow_line(block.conv_h, x.sum(3) / x.shape[3])))
    columns = sigmoid(group_norm(block.gn_w, slow_line(block.conv_w, x.sum(2) / x.shape[2])))
    return x * rows[:, :, :, None] * columns[:, :, None, :]


def rebuilt_ela(block, x, records):
    """The input times the gate of its row and that of its column."""
    rows, columns = (record.values for record in records)
    return x * rows * columns


CASES = {
    "ELA": BlockCase(
        oracles={
            "B: kernel 7, depth-wise, 16 groups or fewer": Oracle(lambda: ELA(24), slow_ela, 24),
            "S: kernel 5, 8 channels a group": Oracle(lambda: ELA(16, 5, 2, 4), slow_ela, 16),
        },
        counts={width: 18 * width for width in (8, 64, 80, 512, 1024)},
        spread="two gates of one half",
        rebuilt=rebuilt_ela,
        refused={
            (32, 6): "odd",
            (32, 7, 5): "groups",
            (32, 7, 32, 24): "num_group",
            (32, 7, 0): "groups",
            (0,): "channels",
        },
    )
}
