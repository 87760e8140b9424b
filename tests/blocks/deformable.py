"""DAttentionBaseline."""

import math

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import applied, convolution, layer_norm, maps_of, pointwise, softmax, tokens
from models.attention.deformable import DAttentionBaseline


def read(maps, y, x):
    """The (C, H, W) maps at a location in pixels, bilinearly, zero outside."""
    out = 0
    top, left = math.floor(float(y.detach())), math.floor(float(x.detach()))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
                out = out + (1 - (y - row).abs()) * (1 - (x - column).abs()) * maps[:, row, column]
    return out + 0 * (x + y) * maps[:, 0, 0]


def norm(index, length):
    return 2 * index / max(length - 1, 1) - 1


def pixels(place, length):
    return (place + 1) / 2 * (length - 1)


def slow_offsets(block, query):
    """Return the sampling locations of one group (C/groups, H, W): a list of (y, x) over [-1, 1]."""
    if block.ksize == block.stride:  # whole steps, with zeros below and to the right
        query = torch.nn.functional.pad(query, (0, -query.shape[2] % block.stride, 0, -query.shape[1] % block.stride))
    hidden = layer_norm(block.conv_offset[1].norm, convolution(block.conv_offset[0], query[None]), 1)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    dy, dx = pointwise(block.conv_offset[3], hidden)[0]
    height, width = dy.shape
    locations = []
    for row in range(height):
        for column in range(width):
            y, x = norm(row + 0.5, height), norm(column + 0.5, width)
            if block.offset_range_factor < 0:
                locations.append(((dy[row, column] + y).clamp(-1, 1), (dx[row, column] + x).clamp(-1, 1)))
            else:
                locations.append(
                    (
                        y + torch.tanh(dy[row, column]) * block.offset_range_factor / max(height - 1, 1),
                        x + torch.tanh(dx[row, column]) * block.offset_range_factor / max(width - 1, 1),
                    )
                )
    return locations, height, width


def slow_dat(block, x):
    batch, channels, height, width = x.shape
    query, heads, groups = pointwise(block.proj_q, x), block.heads, block.groups
    dim, share = channels // heads, channels // groups
    mixed = torch.zeros_like(x)
    for image in range(batch):
        locations, sampled = [], []
        for group in range(groups):
            own = slice(group * share, (group + 1) * share)
            group_locations, rows, columns = slow_offsets(block, query[image, own])
            sampled.append(
                torch.stack([read(x[image, own], pixels(a, height), pixels(b, width)) for a, b in group_locations], 1)
            )
            locations.append(group_locations)
        points = torch.cat(sampled).view(1, channels, rows, columns)
        key, value = (pointwise(conv, points)[0].flatten(1) for conv in (block.proj_k, block.proj_v))
        for head in range(heads):
            own, group_locations = slice(head * dim, (head + 1) * dim), locations[head * groups // heads]
            for row in range(height):
                for column in range(width):
                    logits = (query[image, own, row, column, None] * key[own]).sum(0) / math.sqrt(dim)
                    if isinstance(block.rpe_table, torch.nn.Parameter):
                        table = block.rpe_table[head : head + 1]
                        logits = logits + torch.cat(
                            [
                                read(
                                    table,
                                    pixels((norm(row, height) - a) / 2, table.shape[1]),
                                    pixels((norm(column, width) - b) / 2, table.shape[2]),
                                )
                                for a, b in group_locations
                            ]
                        )
                    mixed[image, own, row, column] = (softmax(logits, 0) * value[own]).sum(1)
    if isinstance(block.rpe_table, torch.nn.Module):
        mixed = mixed + convolution(block.rpe_table, query)
    return pointwise(block.proj_out, mixed)


def rebuilt_dat(block, x, records):
    """The input read at reference points plus shown offsets, as keys and values that are weighted as shown."""
    offsets, weights = records
    (height, width), (rows, columns) = x.shape[2:], offsets.size
    share, sampled = x.shape[1] // block.groups, torch.zeros(*x.shape[:2], rows, columns, dtype=x.dtype)
    for image, maps in enumerate(x):
        for group in range(block.groups):
            own = slice(group * share, (group + 1) * share)
            for row in range(rows):
                for column in range(columns):
                    down, right = offsets.values[image, group, :, row, column]
                    y, z = pixels(norm(row + 0.5, rows), height), pixels(norm(column + 0.5, columns), width)
                    sampled[image, own, row, column] = read(maps[own], y + down, z + right)
    value = tokens(pointwise(block.proj_v, sampled), block.heads)
    attended = maps_of(applied(weights, value), x)
    if isinstance(block.rpe_table, torch.nn.Module):
        attended = attended + convolution(block.rpe_table, pointwise(block.proj_q, x))
    return pointwise(block.proj_out, attended)


def count(dim):
    heads = next(number for number in range(max(1, dim // 32), 0, -1) if dim % number == 0)
    share = dim // next(number for number in range(max(1, heads // 2), 0, -1) if heads % number == 0)
    return 4 * (dim**2 + dim) + 10 * dim + (9 * share + share) + 2 * share + 2 * share


SMALL = ((1, 1), (2, 3), (5, 4))
REFERENCE = dict(
    q_size=(12, 20),
    n_heads=4,
    n_head_channels=8,
    n_groups=2,
    stride=1,
    offset_range_factor=2,
    use_pe=True,
    dwc_pe=False,
    ksize=3,
)

CASES = {
    "DAttentionBaseline": BlockCase(
        oracles={
            "convolved positions, two groups": Oracle(lambda: DAttentionBaseline(8, 4, 2), slow_dat, 8, SMALL),
            "table, two groups": Oracle(
                lambda: DAttentionBaseline(8, 4, 2, dwc_pe=False, q_size=(3, 4)), slow_dat, 8, SMALL
            ),
            "stride 2, kernel 5, free offsets, no positions": Oracle(
                lambda: DAttentionBaseline(6, 2, 1, 2, -1, 5, use_pe=False), slow_dat, 6, ((1, 1), (4, 6), (3, 7))
            ),
            "stride and kernel 3": Oracle(
                lambda: DAttentionBaseline(6, 2, 2, 3, 2, 3), slow_dat, 6, ((1, 1), (3, 6), (7, 5))
            ),
        },
        counts={16: count(16), 64: count(64), 512: count(512)},
        golden={"DAttentionBaseline": Golden(lambda: DAttentionBaseline(32, **REFERENCE))},
        flat={"proj_k.bias": "softmax over the points ignores it"},
        spread="a mean of all points between two projections at torch's own start; the paper's residual is outside",
        rebuilt=rebuilt_dat,
        refused={
            (32, 5): "one of 1, 2, 4",
            (32, 4, 3): "4 heads, got 3; use one of 1, 2, 4",
            (32, 4, 2, 0): "stride",
            (32, 4, 2, 1, 2, 4): "ksize",
            (32, 4, 2, 1, 2, 3, True, True, None, 16): "leave one",
            (32, None, None, 1, 2, 3, True, False, (0, 3)): "q_size",
        },
    )
}
