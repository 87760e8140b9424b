"""DLKA."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import convolution, pointwise
from models.attention.dlka import DLKA


def slow_deform(layer, maps, kernel, dilation):
    """Tap by tap: the value at a sampling location is the sum over all positions, weighted by hat functions."""
    steps = convolution(layer.offset_net, maps).unflatten(1, (kernel * kernel, 2))  # (B, taps, (down, right), H, W)
    weight = layer.deform_conv.weight.flatten(1)  # (C, taps)
    height, width = maps.shape[2:]
    rows, columns = torch.arange(height, dtype=maps.dtype), torch.arange(width, dtype=maps.dtype)
    out = 0
    for tap in range(kernel * kernel):
        down = rows.view(-1, 1) + (tap // kernel - kernel // 2) * dilation + steps[:, tap, 0]  # (B, H, W)
        right = columns + (tap % kernel - kernel // 2) * dilation + steps[:, tap, 1]
        above = (1 - (down[..., None] - rows).abs()).clamp(min=0)  # (B, H, W, H)
        beside = (1 - (right[..., None] - columns).abs()).clamp(min=0)  # (B, H, W, W)
        sampled = torch.einsum("bcyx,bhwy,bhwx->bchw", maps, above, beside)
        out = out + weight[:, tap].view(1, -1, 1, 1) * sampled
    return out


def slow_dlka(block, x):
    near = slow_deform(block.conv0, x, 5, 1)
    return pointwise(block.conv1, slow_deform(block.conv_spatial, near, 7, 3)) * x


def sampled_as_shown(layer, maps, shown, dilation):
    """The taps' weights times the map where the shown offsets move them."""
    taps = shown.values.shape[1]
    side, (height, width) = math.isqrt(taps), maps.shape[2:]
    out = torch.zeros_like(maps)
    for tap in range(taps):
        down = torch.arange(height).view(-1, 1) + (tap // side - side // 2) * dilation + shown.values[:, tap, 0]
        right = torch.arange(width) + (tap % side - side // 2) * dilation + shown.values[:, tap, 1]
        for row in range(height):
            for column in range(width):
                share = (1 - (down - row).abs()).clamp(min=0) * (1 - (right - column).abs()).clamp(min=0)
                value = maps[:, :, row, column] * layer.deform_conv.weight[:, 0].flatten(1)[:, tap]
                out += value[..., None, None] * share.unsqueeze(1)
    return out


def rebuilt_dlka(block, x, records):
    """The input times the shown gate, which the samples at the shown offsets give."""
    near, far, gate = records
    maps = sampled_as_shown(block.conv_spatial, sampled_as_shown(block.conv0, x, near, 1), far, 3)
    assert torch.allclose(pointwise(block.conv1, maps), gate.values)
    return gate.values * x


CASES = {
    "DLKA": BlockCase(
        oracles={"3 channels": Oracle(lambda: DLKA(3), slow_dlka, 3)},
        counts={width: width**2 + 6_127 * width + 148 for width in (32, 64, 256)} | {512: 3_399_316},
        rebuilt=rebuilt_dlka,
        refused={(0,): "dim"},
    )
}
