"""LSConv."""

import torch
from torch.nn import functional

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, group_norm, pointwise, relu
from models.attention.lsconv import LSConv


def slow_perception(lkp, x):
    maps = relu(batch_norm(lkp.cv1.bn, pointwise(lkp.cv1.conv, x)))
    maps = batch_norm(lkp.cv2.bn, convolution(lkp.cv2.conv, maps))
    maps = relu(batch_norm(lkp.cv3.bn, pointwise(lkp.cv3.conv, maps)))
    return group_norm(lkp.norm, pointwise(lkp.cv4, maps))


def slow_lsconv(block, x):
    """Every position and channel sums its neighbors with its own kernel."""
    _, channels, height, width = x.shape
    kernels, size, gathered = slow_perception(block.lkp, x), block.sks, []
    for c in range(channels):
        first = (c // block.groups) * size * size
        for a in range(height):
            for b in range(width):
                total = x.new_zeros(x.shape[0])
                for tap in range(size * size):
                    row, column = a + tap // size - size // 2, b + tap % size - size // 2
                    if 0 <= row < height and 0 <= column < width:
                        total = total + kernels[:, first + tap, a, b] * x[:, c, row, column]
                gathered.append(total)
    return x + batch_norm(block.bn, torch.stack(gathered, 1).reshape(x.shape))


def count(channels, groups=8, sks=3, lks=7):
    hidden, kernels = channels // 2, sks * sks * channels // groups
    return channels * hidden + hidden * (lks * lks + hidden) + 6 * hidden + kernels * (hidden + 3) + 2 * channels


def rebuilt_lsconv(block, x, records):
    """Each group's neighbors in reading order, weighted by the shown kernels."""
    taps = functional.unfold(x, block.sks, padding=block.sks // 2).unflatten(1, (-1, block.groups, block.sks**2))
    weighted = (records[0].values.flatten(3).unsqueeze(2) * taps).sum(3)  # (B, G, C / G, N)
    return x + block.bn(weighted.reshape(x.shape))


CASES = {
    "LSConv": BlockCase(
        oracles={
            "groups of four": Oracle(lambda: LSConv(8, groups=4), slow_lsconv, 8),
            "kernels 3 and 5, groups of one": Oracle(lambda: LSConv(4, lks=3, sks=5, groups=1), slow_lsconv, 4),
        },
        counts={channels: count(channels) for channels in (64, 512)},
        rebuilt=rebuilt_lsconv,
        refused={(30, 7, 3, 8): "one of 1, 2, 3", (32, 6): "lks", (32, 7, 2): "sks"},
    )
}
