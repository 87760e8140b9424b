"""DLKA."""

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


CASES = {
    "DLKA": BlockCase(
        oracles={"3 channels": Oracle(lambda: DLKA(3), slow_dlka, 3)},
        counts={width: width**2 + 6_127 * width + 148 for width in (32, 64, 256)} | {512: 3_399_316},
        refused={(0,): "dim"},
    )
}
