"""GAM."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, relu, sigmoid
from models.attention.gam import GAM


def slow_gam(block, x):
    """The perceptron position by position with the channels last; the shuffle by index."""
    into, _, out = block.channel_attention
    gates = torch.zeros_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            hidden = relu(x[:, :, row, column] @ into.weight[:, :, 0, 0].T + into.bias)
            gates[:, :, row, column] = sigmoid(hidden @ out.weight[:, :, 0, 0].T + out.bias)
    x = gates * x
    first, norm, _, _, second, last = block.spatial_attention
    hidden = relu(batch_norm(norm, convolution(first, x)))
    size = hidden.shape[1] // first.groups
    shuffled = [group * size + member for member in range(size) for group in range(first.groups)]
    return x * sigmoid(batch_norm(last, convolution(second, hidden[:, shuffled])))


def rebuilt_gam(block, x, records):
    """The input times both gates."""
    channel, spatial = (record.values for record in records)
    return x * channel * spatial


CASES = {
    "GAM": BlockCase(
        oracles={
            "4 groups": Oracle(lambda: GAM(32), slow_gam, 32),
            "dense": Oracle(lambda: GAM(8, groups=1), slow_gam, 8),
            "rate 2, 3 groups": Oracle(lambda: GAM(12, 2, 3), slow_gam, 12),
        },
        counts={64: 27_456, 512: 1_739_264, 1024: 6_951_936},  # 6.625 C^2 + 5 C
        flat={
            "spatial_attention.0.bias": "batch norm cancels it",
            "spatial_attention.4.bias": "batch norm cancels it",
        },
        spread="two gates of one half",
        rebuilt=rebuilt_gam,
        refused={(32, 4, 5): "one of 1, 2, 4", (32, 4, 16): "in common", (32, 0): "rate"},
    )
}
