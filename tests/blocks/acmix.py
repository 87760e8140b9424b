"""ACmix."""

import math

import torch
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import applied, pointwise, tokens
from models.attention.acmix import ACmix


def bounce(index, length):
    """Reflect an index into [0, length) without repeating the edge, as often as it takes."""
    while length > 1 and not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index if length > 1 else 0


def slow_acmix(block, x):
    """Equation by equation: the attention path with explicit neighbors and the whole position term, the convolution
    path with explicit mixtures and shifts."""
    query, key, value = (pointwise(conv, x) for conv in (block.conv1, block.conv2, block.conv3))
    batch, channels, height, width = query.shape
    heads, dim, reach, step = block.head, block.head_dim, block.kernel_att // 2, block.stride
    xs = [2 * column / (width - 1) - 1 if width > 1 else -1.0 for column in range(width)]
    ys = [2 * row / (height - 1) - 1 if height > 1 else -1.0 for row in range(height)]
    grid = torch.tensor([[xs for _ in ys], [[each] * width for each in ys]], dtype=x.dtype)
    encoding = pointwise(block.conv_p, grid[None])[0]  # (d, H, W)
    rows, columns = range(0, height, step), range(0, width, step)
    attended = torch.zeros(batch, channels, len(rows), len(columns), dtype=x.dtype)
    for image in range(batch):
        for head in range(heads):
            own = slice(head * dim, (head + 1) * dim)
            q, k, v = query[image, own], key[image, own], value[image, own]
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    near = [
                        (bounce(row + block.dilation * dy, height), bounce(column + block.dilation * dx, width))
                        for dy in range(-reach, reach + 1)
                        for dx in range(-reach, reach + 1)
                    ]
                    logits = torch.stack(
                        [
                            (
                                q[:, row, column]
                                / math.sqrt(dim)
                                * (k[:, a, b] + encoding[:, row, column] - encoding[:, a, b])
                            ).sum()
                            for a, b in near
                        ]
                    )
                    share = torch.exp(logits - logits.max())
                    neighbors = torch.stack([v[:, a, b] for a, b in near])
                    attended[image, own, i, j] = (share[:, None] / share.sum() * neighbors).sum(0)
    return block.rate1 * attended + block.rate2 * slow_shift(block, query, key, value)


def slow_shift(block, query, key, value):
    batch, channels, height, width = query.shape
    parts = torch.stack((query, key, value), 1).view(batch, 3 * block.head, block.head_dim, height, width)
    mixed = torch.einsum("tp,bpdhw->bdthw", block.fc.weight[:, :, 0, 0], parts)  # (B, d, taps, H, W)
    reach = block.kernel_conv // 2
    padded = F.pad(mixed.flatten(1, 2), (reach,) * 4).view(
        batch, block.head_dim, -1, height + 2 * reach, width + 2 * reach
    )
    weight = block.dep_conv.weight.view(block.head_dim, block.head, -1, block.kernel_conv, block.kernel_conv)
    out = 0
    for row in range(block.kernel_conv):
        for column in range(block.kernel_conv):
            moved = padded[..., row : row + height : block.stride, column : column + width : block.stride]
            out = out + torch.einsum("dht,bdtyx->bdhyx", weight[..., row, column], moved)
    return out.flatten(1, 2)


def rebuilt_acmix(block, x, records):
    """Neighbors weighted as shown plus the convolution path, at the shown rates."""
    near, rates = records
    query, key, value = (pointwise(conv, x) for conv in (block.conv1, block.conv2, block.conv3))
    attended = applied(near, tokens(value, block.head)).transpose(2, 3).flatten(1, 2).unflatten(2, near.size)
    return rates.values[:, 0] * attended + rates.values[:, 1] * slow_shift(block, query, key, value)


CASES = {
    "ACmix": BlockCase(
        oracles={
            "same width": Oracle(lambda: ACmix(8, 8), slow_acmix, 8),
            "widening, stride 2": Oracle(lambda: ACmix(8, 12, kernel_att=5, head=2, stride=2), slow_acmix, 8),
            "dilation 2, kernels 3 and 5": Oracle(
                lambda: ACmix(6, 8, kernel_att=3, kernel_conv=5, dilation=2), slow_acmix, 6
            ),
        },
        counts={64: 17_822, 128: 60_110, 256: 218_414, 512: 829_934, 1024: 3_232_622},
        golden={"ACmix": Golden(lambda: ACmix(32, 32, kernel_att=7, head=4, kernel_conv=3))},
        flat={"conv_p.bias": "the difference of two positions ignores it"},
        rebuilt=rebuilt_acmix,
        refused={
            (32, 30): "one of 1, 2, 3",
            (32, 32, 6): "kernel_att",
            (32, 32, 7, 4, 2): "kernel_conv",
            (32, 32, 7, 4, 3, 0): "stride",
        },
    )
}
