"""LSKA and LSKA_Attention."""

import math

import torch
from torch.nn.functional import gelu

from blocks import BlockCase, Golden, Oracle
from blocks.literal import pointwise
from models.attention.lska import LSKA, LSKA_Attention

TABLE = {
    7: (3, 3, 2),
    11: (3, 5, 2),
    23: (5, 7, 3),
    35: (5, 11, 3),
    41: (5, 13, 3),
    53: (5, 17, 3),
}  # near, far, dilation


def line(conv, maps, taps, dilation, axis):
    """A depth-wise line of `taps` along `axis`, position by position, zeros outside."""
    weight = conv.weight.reshape(maps.shape[1], taps)
    length, parts = maps.shape[axis], []
    for place in range(length):
        reached = [(tap, place + (tap - taps // 2) * dilation) for tap in range(taps)]
        terms = [weight[:, tap, None] * maps.select(axis, at) for tap, at in reached if 0 <= at < length]
        parts.append(sum(terms) + conv.bias[:, None])
    return torch.stack(parts, axis)


def slow_lska(block, x, k_size=11):
    near, far, dilation = TABLE[k_size]
    z = line(block.conv0v, line(block.conv0h, x, near, 1, 3), near, 1, 2)
    z = line(block.conv_spatial_v, line(block.conv_spatial_h, z, far, dilation, 3), far, dilation, 2)
    return pointwise(block.conv1, z) * x


def slow_attention(block, x):
    hidden = pointwise(block.proj_1, x)
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + pointwise(block.proj_2, slow_lska(block.spatial_gating_unit, hidden))


SIZES = ((1, 1), (2, 3), (7, 5), (4, 19))


def rebuilt_lska(block, x, records):
    """The input times the gate."""
    return x * records[0].values


def rebuilt_attention(block, x, records):
    """The gate applied between the two convolutions."""
    return x + block.proj_2(records[0].values * gelu(block.proj_1(x)))


CASES = {
    "LSKA": BlockCase(
        oracles={
            f"kernel {k_size}": Oracle(
                lambda k_size=k_size: LSKA(4, k_size),
                lambda block, x, k_size=k_size: slow_lska(block, x, k_size),
                4,
                SIZES,
            )
            for k_size in TABLE
        },
        counts={width: width**2 + 21 * width for width in (32, 64, 256, 512, 1024)},
        golden={"LSKA": Golden(lambda: LSKA(32, k_size=11))},
        rebuilt=rebuilt_lska,
        refused={(32, 9): "7, 11, 23, 35, 41, 53", (0,): "dim"},
    ),
    "LSKA_Attention": BlockCase(
        oracles={"kernel 11": Oracle(lambda: LSKA_Attention(4), slow_attention, 4, SIZES)},
        counts={width: 3 * width**2 + 23 * width for width in (32, 64, 256, 512, 1024)},
        golden={"LSKA_Attention": Golden(lambda: LSKA_Attention(32, k_size=11))},
        rebuilt=rebuilt_attention,
        refused={(32, 21): "7, 11, 23, 35, 41, 53", (0,): "d_model"},
    ),
}
