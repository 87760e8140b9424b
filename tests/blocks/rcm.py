"""RCM."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, pointwise, relu, sigmoid
from models.attention.rcm import RCM


def slow_rcm(block, x):
    """The sum of row and column means position by position; the convolutions tap by tap."""
    attention, (height, width) = block.attention, x.shape[2:]
    means = torch.stack(
        [
            torch.stack(
                [x[:, :, row].sum(2) / width + x[:, :, :, column].sum(2) / height for column in range(width)], 2
            )
            for row in range(height)
        ],
        2,
    )
    rows = relu(batch_norm(attention.rows.bn, convolution(attention.rows.conv, means)))
    calibrated = sigmoid(convolution(attention.columns, rows)) * convolution(attention.local, x)
    hidden = pointwise(block.fc1, batch_norm(block.norm, calibrated))
    return x + pointwise(block.fc2, hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)


def rebuilt_rcm(block, x, records):
    """The gate times the square convolution, then norm and MLP."""
    calibrated = block.norm(records[0].values * block.attention.local(x))
    return x + block.fc2(torch.nn.functional.gelu(block.fc1(calibrated)))


CASES = {
    "RCM": BlockCase(
        oracles={
            "band 11": Oracle(lambda: RCM(6), slow_rcm, 6, sizes=((1, 1), (2, 3), (7, 5), (9, 14))),
            "band 5, square 5, MLP 3": Oracle(lambda: RCM(4, 5, 5, 3), slow_rcm, 4),
        },
        counts={width: 4 * width**2 + 40 * width for width in (32, 64, 256, 512, 1024)},
        rebuilt=rebuilt_rcm,
        refused={
            (32, 10): "band_kernel_size",
            (32, 11, 2): "square_kernel_size",
            (32, 11, 3, 0): "mlp_ratio",
            (0,): "dim",
        },
    )
}
