"""SHSA."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, batch_norm, group_norm, maps_of, pointwise, relu, softmax, tokens
from models.attention.shsa import SHSA


def slow_shsa(block, x):
    """The single head's softmax for one image and position at a time."""
    part, rest = x[:, : block.pdim], x[:, block.pdim :]
    qkv = batch_norm(block.qkv.bn, pointwise(block.qkv.conv, group_norm(block.pre_norm, part))).flatten(2)
    query, key, value = qkv[:, : block.qk_dim], qkv[:, block.qk_dim : 2 * block.qk_dim], qkv[:, 2 * block.qk_dim :]
    attended = torch.zeros_like(value)
    for image in range(x.shape[0]):
        for i in range(value.shape[2]):
            share = softmax((query[image, :, i, None] * key[image]).sum(0) / math.sqrt(block.qk_dim), 0)
            attended[image, :, i] = (value[image] * share).sum(1)
    joined = torch.cat((attended.reshape(part.shape), rest), 1)
    return x + batch_norm(block.proj[1].bn, pointwise(block.proj[1].conv, relu(joined)))


def count(channels, part):
    return 2 * part + part * (32 + part) + 2 * (32 + part) + channels**2 + 2 * channels


def rebuilt_shsa(block, x, records):
    """The values of the channels that attend, weighted as shown."""
    part, rest = x[:, : block.pdim], x[:, block.pdim :]
    value = block.qkv(block.pre_norm(part))[:, 2 * block.qk_dim :]
    return x + block.proj(torch.cat((maps_of(applied(records[0], tokens(value)), x), rest), 1))


CASES = {
    "SHSA": BlockCase(
        oracles={
            "fewer channels than the queries have": Oracle(lambda: SHSA(12, qk_dim=8, pdim=4), slow_shsa, 12),
            "all channels": Oracle(lambda: SHSA(8, qk_dim=4, pdim=8), slow_shsa, 8),
        },
        counts={64: count(64, 16), 224: count(224, 48), 448: count(448, 96), 512: count(512, 112)},
        delayed={
            key: "the last batch norm's weight starts at zero, as published"
            for key in (
                "pre_norm.weight",
                "pre_norm.bias",
                "qkv.conv.weight",
                "qkv.bn.weight",
                "qkv.bn.bias",
                "proj.1.conv.weight",
            )
        },
        rebuilt=rebuilt_shsa,
        refused={(32, 16, 40): "1 to 32", (32, 0): "qk_dim", (32, 16, 0): "pdim"},
    )
}
