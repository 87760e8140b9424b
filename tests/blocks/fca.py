"""FcaNet."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import relu, sigmoid
from models.attention.fca import FcaNet


def reader(pairs):
    """An oracle that knows the components of the parts of the channels, by the equations, position by position."""

    def slow(block, x):
        batch, channels, height, width = x.shape
        squeezed = x.new_zeros(batch, channels)
        for channel in range(channels):
            u, v = pairs[channel * len(pairs) // channels]
            u, v = min(u, height - 1), min(v, width - 1)
            scale = math.sqrt(2) ** ((u > 0) + (v > 0)) / (height * width)
            for i in range(height):
                for j in range(width):
                    wave = math.cos(math.pi * u * (i + 0.5) / height) * math.cos(math.pi * v * (j + 0.5) / width)
                    squeezed[:, channel] += scale * wave * x[:, channel, i, j]
        hidden = relu(torch.einsum("hc,bc->bh", block.fc[0].weight, squeezed))
        return x * sigmoid(torch.einsum("ch,bh->bc", block.fc[2].weight, hidden))[:, :, None, None]

    return slow


def rebuilt_fca(block, x, records):
    """The input times the shown gate."""
    return x * records[0].values


LOWEST = [
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
    (0, 2),
    (2, 0),
    (1, 2),
    (2, 1),
    (2, 2),
    (0, 3),
    (3, 0),
    (1, 3),
    (3, 1),
    (2, 3),
    (3, 2),
    (0, 4),
]


CASES = {
    "FcaNet": BlockCase(
        oracles={
            "16 components": Oracle(lambda: FcaNet(32), reader(LOWEST), 32),
            "a width that 16 does not divide": Oracle(lambda: FcaNet(24, reduction=4), reader(LOWEST), 24),
            "fewer channels than 16": Oracle(lambda: FcaNet(8, reduction=2), reader(LOWEST[:8]), 8),
            "the mean alone": Oracle(lambda: FcaNet(6, 2, num_freq=1), reader([(0, 0)]), 6),
            "chosen ones": Oracle(
                lambda: FcaNet(6, 2, None, [[0, 0], [6, 0], [3, 5]]), reader([(0, 0), (6, 0), (3, 5)]), 6
            ),
        },
        counts={8: 16, 64: 512, 256: 8_192, 1024: 131_072},
        rebuilt=rebuilt_fca,
        refused={
            (32, 0): "reduction",
            (32, 16, 33): "32 at most",
            (32, 16, 0): "num_freq",
            (32, 16, None, ((0, 1, 2),)): "pairs",
            (32, 16, None, ((0, -1),)): "pairs",
            (32, 16, 3, ((0, 1),)): "3 pairs",
        },
    )
}
