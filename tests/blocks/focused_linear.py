"""FocusedLinearAttention."""

import torch
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import applied, convolution, maps_of, tokens
from models.attention.focused_linear import FocusedLinearAttention


def linear(layer, vector):
    return layer.weight @ vector + (0 if layer.bias is None else layer.bias)


def table_maps(block, size):
    """The position table at the size of the map: (C, H, W)."""
    if block.grid is None and block.positional_encoding.shape[1] != size[0] * size[1]:
        assert block.positional_encoding.shape[1] == 6  # taken to be 2 x 3
    rows, columns = block.grid or (size if size[0] * size[1] == block.positional_encoding.shape[1] else (2, 3))
    maps = block.positional_encoding[0].T.reshape(1, -1, rows, columns)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]


def slow_weighted(queries, keys, values):
    """Every position's weighted mean of the values, pair by pair: lists of vectors in, one out."""
    out = []
    for query in queries:
        weights = [torch.dot(query, key) for key in keys]
        out.append(
            sum(weight * value for weight, value in zip(weights, values, strict=True))
            / len(keys)
            / (sum(weights) / len(keys) + 1e-6)
        )
    return out


def slow_phi(block, vector):
    feature = (vector.clamp(min=0) + 1e-6) / torch.log(1 + torch.exp(block.scale[0, 0]))
    power = feature**block.focusing_factor
    return (feature**2).sum().sqrt() * power / (power**2).sum().sqrt()


def slow_focused_linear(block, x):
    """The paper's equations, one image, head, query and key at a time."""
    batch, channels, height, width = x.shape
    dim, out = block.head_dim, torch.zeros_like(x)
    places = [(row, column) for row in range(height) for column in range(width)]
    position = table_maps(block, (height, width)) if block.positional_encoding is not None else x.new_zeros(x.shape[1:])
    for image in range(batch):
        queries = [slow_phi(block, linear(block.q, x[image, :, a, b])) for a, b in places]
        both = [linear(block.kv, x[image, :, a, b]) for a, b in places]
        keys = [slow_phi(block, each[:channels] + position[:, a, b]) for each, (a, b) in zip(both, places, strict=True)]
        parts = []
        for head in range(block.num_heads):
            own = slice(head * dim, (head + 1) * dim)
            values = [each[channels:][own] for each in both]
            attended = torch.stack(
                slow_weighted([each[own] for each in queries], [each[own] for each in keys], values), 1
            )
            local = convolution(block.dwc, torch.stack(values, 1).reshape(1, dim, height, width))[0]
            parts.append(attended.reshape(dim, height, width) + local)
        mixed = torch.cat(parts)
        out[image] = torch.stack([linear(block.proj, mixed[:, a, b]) for a, b in places], 1).reshape(x.shape[1:])
    return out


def rebuilt_focused_linear(block, x, records):
    """The values weighted as shown, and their depth-wise convolution."""
    value = torch.stack(
        [linear(block.kv, place)[x.shape[1] :] for place in x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])]
    )
    value = value.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)
    attended = maps_of(applied(records[0], tokens(value, block.num_heads)), x)
    local = torch.cat([convolution(block.dwc, part) for part in value.split(block.head_dim, 1)], 1)
    return torch.einsum("oc,bchw->bohw", block.proj.weight, attended + local) + block.proj.bias[:, None, None]


CASES = {
    "FocusedLinearAttention": BlockCase(
        oracles={
            "four heads": Oracle(lambda: FocusedLinearAttention(8, num_heads=4), slow_focused_linear, 8),
            "a table of 2 x 3, power 2, kernel 3": Oracle(
                lambda: FocusedLinearAttention(
                    6, [2, 3], num_heads=2, qkv_bias=False, focusing_factor=2, kernel_size=3
                ),
                slow_focused_linear,
                6,
            ),
            "a table of six": Oracle(
                lambda: FocusedLinearAttention(4, 6, num_heads=2),
                slow_focused_linear,
                4,
                sizes=((3, 2), (1, 6), (4, 5)),
            ),
        },
        counts={channels: 4 * channels**2 + 5 * channels + 26 * channels // 8 for channels in (64, 512)},
        golden={
            "FocusedLinearAttention": Golden(
                lambda: FocusedLinearAttention(
                    32, num_patches=240, num_heads=4, qkv_bias=True, focusing_factor=3, kernel_size=5
                ),
                to_map=lambda tokens: tokens.transpose(1, 2).unflatten(2, (12, 20)),
                from_map=lambda maps: maps.flatten(2).transpose(1, 2),
            )
        },
        spread="a mean over all positions, as published: the residual is outside",
        rebuilt=rebuilt_focused_linear,
        refused={
            (30, None, 4): "one of 1, 2, 3",
            (32, 0): "num_patches",
            (32, (2, 0)): "columns",
            (32, (1, 2, 3)): "num_patches",
            (32, None, 4, True, 3, 4): "kernel_size",
        },
    )
}
