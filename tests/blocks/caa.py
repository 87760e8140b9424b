"""CAA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, pointwise, sigmoid, silu
from models.attention.caa import CAA


def slow_caa(block, x):
    """The 7 x 7 mean position by position, zeros outside; the strips tap by tap."""
    height, width = x.shape[2:]
    pooled = torch.stack(
        [
            torch.stack(
                [
                    x[:, :, max(0, row - 3) : row + 4, max(0, column - 3) : column + 4].sum((2, 3)) / 49
                    for column in range(width)
                ],
                2,
            )
            for row in range(height)
        ],
        2,
    )
    hidden = silu(batch_norm(block.conv1.bn, pointwise(block.conv1.conv, pooled)))
    hidden = convolution(block.v_conv, convolution(block.h_conv, hidden))
    return sigmoid(silu(batch_norm(block.conv2.bn, pointwise(block.conv2.conv, hidden)))) * x


def rebuilt_caa(block, x, records):
    """The shown gate times the input."""
    return records[0].values * x


CASES = {
    "CAA": BlockCase(
        oracles={
            "kernel 11": Oracle(lambda: CAA(6), slow_caa, 6, sizes=((1, 1), (2, 3), (7, 5), (9, 14))),
            "kernels 3 and 5": Oracle(lambda: CAA(4, 3, 5), slow_caa, 4),
        },
        counts={64: 9_984, 256: 138_240, 512: 538_624, 1024: 2_125_824},
        rebuilt=rebuilt_caa,
        refused={(32, 10): "h_kernel_size", (32, 11, 4): "v_kernel_size", (0,): "ch"},
    )
}
