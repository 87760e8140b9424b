"""MSDA."""

import math

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import applied, maps_of, pointwise, softmax, tokens
from models.attention.msda import MSDA


def slow_msda(block, x):
    """Position by position and head by head; a neighbor outside the map is a zero key and a zero value."""
    batch, channels, height, width = x.shape
    query, key, value = pointwise(block.qkv, x).split(channels, 1)
    dim, heads, reach = channels // block.num_heads, block.num_heads, block.kernel_size // 2
    nothing = x.new_zeros(batch, dim)
    mixed = torch.zeros_like(x)
    for head in range(heads):
        own, step = slice(head * dim, (head + 1) * dim), block.dilation[head * len(block.dilation) // heads]
        for row in range(height):
            for column in range(width):
                near = [
                    (row + step * dy, column + step * dx)
                    for dy in range(-reach, reach + 1)
                    for dx in range(-reach, reach + 1)
                ]
                inside = [0 <= a < height and 0 <= b < width for a, b in near]
                keys = [key[:, own, a, b] if there else nothing for (a, b), there in zip(near, inside, strict=True)]
                values = [value[:, own, a, b] if there else nothing for (a, b), there in zip(near, inside, strict=True)]
                logits = torch.stack([(query[:, own, row, column] * each).sum(1) / math.sqrt(dim) for each in keys], 1)
                share = softmax(logits, 1)
                mixed[:, own, row, column] = sum(share[:, tap, None] * each for tap, each in enumerate(values))
    return torch.einsum("oc,bchw->bohw", block.proj.weight, mixed) + block.proj.bias.view(1, -1, 1, 1)


def rebuilt_msda(block, x, records):
    """The values of each share of the heads at the shown positions, weighted as shown."""
    assert len(records) == len(block.dilation)
    values = tokens(block.qkv(x).chunk(3, 1)[2], block.num_heads).chunk(len(records), 1)
    parts = [maps_of(applied(shown, value), x) for shown, value in zip(records, values, strict=True)]
    return block.proj(torch.cat(parts, 1).movedim(1, 3)).movedim(3, 1)


CASES = {
    "MSDA": BlockCase(
        oracles={
            "four dilations": Oracle(lambda: MSDA(8), slow_msda, 8, ((1, 1), (2, 3), (7, 5))),
            "two dilations, four heads, bias": Oracle(
                lambda: MSDA(8, 4, 3, [1, 2], True), slow_msda, 8, ((2, 3), (4, 6))
            ),
            "kernel 5, odd width": Oracle(lambda: MSDA(5, 1, 5, 2), slow_msda, 5, ((1, 1), (4, 3))),
        },
        counts={channels: 4 * channels**2 + channels for channels in (64, 256, 1024)},
        golden={
            "MSDA": Golden(
                lambda: MSDA(64, num_heads=8, kernel_size=3, dilation=[1, 2, 3, 4]),
                lambda x: x.permute(0, 3, 1, 2),
                lambda y: y.permute(0, 2, 3, 1),
            )
        },
        spread="two projections at torch's own start and a mean of nine between them; the paper's residual is outside",
        rebuilt=rebuilt_msda,
        refused={
            (32, 5): "one of 1, 2, 4",
            (32, 8, 4): "kernel_size",
            (32, 8, 3, (1, 2, 3)): "multiple of 3",
            (32, 2): "multiple of 4",
            (32, 8, 3, (0, 1)): "dilation",
            (32, 8, 3, "1"): "list",
        },
    )
}
