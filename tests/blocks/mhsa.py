"""MHSA."""

import torch
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import pointwise
from models.attention.mhsa import MHSA


def slow_mhsa(block, x):
    """The N x N logits of content and position, made and added one by one."""
    batch, channels, height, width = x.shape
    split = (batch, block.heads, channels // block.heads, height * width)
    query, key, value = (pointwise(conv, x).view(split) for conv in (block.query, block.key, block.value))
    tables = []
    for table, size in ((block.rel_w, (height, 1)), (block.rel_h, (1, width))):
        maps = table.flatten(1, 2)
        tables.append(F.interpolate(maps, size=size, mode="bilinear", align_corners=False).unflatten(1, split[1:3]))
    position = (tables[0] + tables[1]).flatten(3)[0]  # (heads, d, N)
    logits = torch.einsum("bhdi,bhdj->bhij", query, key) + torch.einsum("hdi,bhdj->bhij", position, query)
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhdj->bhdi", weights, value).reshape(x.shape)


def rebuilt_mhsa(block, x, records):
    """The values, weighted by the shown weights."""
    value = pointwise(block.value, x).flatten(2).unflatten(1, (block.heads, -1))
    return torch.einsum("bhij,bhdj->bhdi", records[0].values, value).reshape(x.shape)


CASES = {
    "MHSA": BlockCase(
        oracles={
            "tables of 14": Oracle(lambda: MHSA(8, 14, 14, 4), slow_mhsa, 8),
            "small tables": Oracle(lambda: MHSA(8, 3, 4, 2), slow_mhsa, 8),
        },
        counts={channels: 3 * (channels**2 + channels) + 28 * channels for channels in (64, 512)},
        golden={"MHSA": Golden(lambda: MHSA(32, width=12, height=20, heads=4))},
        rebuilt=rebuilt_mhsa,
        refused={(30, 14, 14, 4): "one of 1, 2, 3", (32, 0): "width"},
    )
}
