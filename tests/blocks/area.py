"""AreaAttention."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, attention, conv_norm, maps_of, tokens
from models.attention.area import AreaAttention


def slow_area(block, x):
    """Positions in reading order, cut into runs; within each run every position attends to every other."""
    heads, positions = block.num_heads, x.shape[2] * x.shape[3]
    query, key, value = conv_norm(block.qkv, x).split(x.shape[1], 1)
    length = math.ceil(positions / block.area)
    runs = [list(range(start, min(start + length, positions))) for start in range(0, positions, length)]
    query, key, value_tokens = (tokens(each, heads) for each in (query, key, value))
    scale = (x.shape[1] // heads) ** -0.5
    parts = [attention(query[:, :, run], key[:, :, run], value_tokens[:, :, run], scale) for run in runs]
    attended = maps_of(torch.cat(parts, 2), x)
    return x + conv_norm(block.project, attended + conv_norm(block.position, value))


def rebuilt_area(block, x, records):
    """The values of each position's area, weighted as shown."""
    value = conv_norm(block.qkv, x).chunk(3, 1)[2]
    attended = maps_of(applied(records[0], tokens(value, block.num_heads)), x)
    return x + conv_norm(block.project, attended + conv_norm(block.position, value))


CASES = {
    "AreaAttention": BlockCase(
        oracles={
            "4 areas": Oracle(lambda: AreaAttention(8), slow_area, 8, ((1, 1), (2, 3), (7, 5), (4, 8))),
            "3 areas, 2 heads": Oracle(lambda: AreaAttention(12, 2, 3), slow_area, 12),
            "the whole map": Oracle(lambda: AreaAttention(64, area=1), slow_area, 64, ((3, 4),)),
        },
        counts={channels: 4 * channels**2 + 35 * channels for channels in (16, 80, 256, 1024)},
        rebuilt=rebuilt_area,
        refused={(32, 3): "one of 1, 2, 4", (32, 1, 0): "area", (32, 0): "num_heads"},
    )
}
