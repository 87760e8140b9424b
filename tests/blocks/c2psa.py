"""C2PSA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, attention, conv_norm, maps_of, tokens
from models.attention.c2psa import C2PSA


def slow_attention(layer, x):
    heads, channels = layer.heads, x.shape[1]
    keys = max(channels // heads // 2, 1)
    query, key, value = conv_norm(layer.qkv, x).split((heads * keys, heads * keys, channels), 1)
    attended = maps_of(attention(*(tokens(each, heads) for each in (query, key, value)), keys**-0.5), x)
    return conv_norm(layer.project, attended + conv_norm(layer.position, value))


def slow_c2psa(block, x):
    features = conv_norm(block.split, x)
    around, through = features[:, : features.shape[1] // 2], features[:, features.shape[1] // 2 :]
    for each in block.blocks:
        through = through + slow_attention(each.attention, through)
        through = through + conv_norm(each.mlp[1], conv_norm(each.mlp[0], through))
    return conv_norm(block.merge, torch.cat((around, through), 1))


def rebuilt_c2psa(block, x, records):
    """Block after block, the values weighted as shown."""
    around, through = conv_norm(block.split, x).chunk(2, 1)
    for each, shown in zip(block.blocks, records, strict=True):
        layer = each.attention
        value = conv_norm(layer.qkv, through)[:, -through.shape[1] :]
        attended = maps_of(applied(shown, tokens(value, layer.heads)), through)
        through = through + conv_norm(layer.project, attended + conv_norm(layer.position, value))
        through = through + conv_norm(each.mlp[1], conv_norm(each.mlp[0], through))
    return conv_norm(block.merge, torch.cat((around, through), 1))


def count(channels):
    hidden = channels // 2
    attends, mlp = 3 * hidden**2 + 17 * hidden, 4 * hidden**2 + 6 * hidden
    return channels**2 + 2 * channels + attends + mlp + channels**2 + 2 * channels


CASES = {
    "C2PSA": BlockCase(
        oracles={
            "one block": Oracle(lambda: C2PSA(16), slow_c2psa, 16),
            "two blocks, 3 heads of 5 channels": Oracle(
                lambda: C2PSA(20, 2, 0.75, 3), slow_c2psa, 20, ((1, 1), (3, 4))
            ),
            "2 heads of 64": Oracle(lambda: C2PSA(256), slow_c2psa, 256, ((2, 3),), gradients=False),
        },
        counts={channels: count(channels) for channels in (16, 64, 256, 1024)},
        rebuilt=rebuilt_c2psa,
        refused={
            (32, 1, 0.0): "such as 0.5",
            (32, 1, 0.5, 3): "one of 1, 2, 4",
            (32, 0): "n must",
            (32, 1, 0.5, 0): "heads",
        },
    )
}
