"""LiteMLA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, batch_norm, convolution, maps_of, pointwise, relu
from models.attention.lite_mla import LiteMLA


def slow_lite_mla(block, x):
    """The weighted mean for one image, head, query and key at a time, at each scale."""
    batch, channels, height, width = x.shape
    first = pointwise(block.qkv, x)
    scales = [first] + [convolution(grouped, convolution(depthwise, first)) for depthwise, grouped in block.aggreg]
    parts = []
    for maps in scales:
        for head in range(channels // block.dim):
            own = maps[:, 3 * block.dim * head : 3 * block.dim * (head + 1)].flatten(2)
            query, key, value = (own[:, number * block.dim : (number + 1) * block.dim] for number in range(3))
            attended = torch.zeros_like(value)
            for image in range(batch):
                for i in range(height * width):
                    weights = [(relu(key[image, :, j]) * relu(query[image, :, i])).sum() for j in range(height * width)]
                    total = sum(weight * value[image, :, j] for j, weight in enumerate(weights))
                    attended[image, :, i] = total / (sum(weights) + block.eps)
            parts.append(attended.reshape(batch, block.dim, height, width))
    return x + batch_norm(block.proj.bn, pointwise(block.proj.conv, torch.cat(parts, 1)))


def rebuilt_lite_mla(block, x, records):
    """The values of each scale, weighted as shown."""
    first, parts = block.qkv(x), []
    for shown, maps in zip(records, (first, *(aggregate(first) for aggregate in block.aggreg)), strict=True):
        value = maps.flatten(2).unflatten(1, (-1, 3 * block.dim))[:, :, 2 * block.dim :].transpose(2, 3)
        parts.append(maps_of(applied(shown, value), x))
    return x + block.proj(torch.cat(parts, 1))


CASES = {
    "LiteMLA": BlockCase(
        oracles={
            "heads of 4": Oracle(lambda: LiteMLA(8, dim=4), slow_lite_mla, 8),
            "scales 3 and 5": Oracle(lambda: LiteMLA(6, dim=3, scales=(3, 5)), slow_lite_mla, 6),
        },
        counts={channels: 5 * channels**2 + 101 * channels for channels in (64, 512)},
        rebuilt=rebuilt_lite_mla,
        refused={(30, 8): "one of 1, 2, 3", (32, 8, (4,)): "scales", (32, 8, 5): "scales"},
    )
}
