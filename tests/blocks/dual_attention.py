"""DualAttention."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, attention, conv_norm, maps_of, pointwise, softmax, tokens
from models.attention.dual_attention import DualAttention


def slow_positions(layer, x):
    query, key, value = (tokens(pointwise(conv, x)) for conv in (layer.query_conv, layer.key_conv, layer.value_conv))
    return layer.gamma * maps_of(attention(query, key, value), x) + x


def slow_channels(layer, x):
    """The products of channels, subtracted from their maximum as released."""
    rows = x.flatten(2)
    products = torch.einsum("bcn,bdn->bcd", rows, rows)
    share = softmax(products.amax(2, keepdim=True) - products, 2)
    return layer.gamma * torch.einsum("bcd,bdn->bcn", share, rows).view_as(x) + x


def slow_dual_attention(block, x):
    branches = []
    for (first, layer, second), slow in ((block.position, slow_positions), (block.channel, slow_channels)):
        branches.append(conv_norm(second, slow(layer, conv_norm(first, x))))
    return conv_norm(block.project, branches[0] + branches[1])


def rebuilt_dual_attention(block, x, records):
    """Positions weighted as shown in one branch, channels in the other."""
    (first, layer, second), (other_first, other, other_second) = block.position, block.channel
    maps, channels = conv_norm(first, x), conv_norm(other_first, x)
    attended = maps_of(applied(records[0], tokens(pointwise(layer.value_conv, maps))), x)
    crossed = torch.einsum("bcd,bdhw->bchw", records[1].values[:, 0], channels)
    branches = (layer.gamma * attended + maps, other.gamma * crossed + channels)
    return conv_norm(block.project, conv_norm(second, branches[0]) + conv_norm(other_second, branches[1]))


def count(channels):
    inner = channels // 4
    query = max(8, inner // 8)
    position = 2 * (inner * query + query) + inner**2 + inner + 1
    return (
        2 * (9 * channels * inner + 2 * inner + 9 * inner**2 + 2 * inner)
        + position
        + 1
        + channels * inner
        + 2 * channels
    )


GATED = "its gamma starts at zero"
CASES = {
    "DualAttention": BlockCase(
        oracles={
            "quarters": Oracle(lambda: DualAttention(16), slow_dual_attention, 16),
            "halves": Oracle(lambda: DualAttention(20, 2), slow_dual_attention, 20),
        },
        counts={channels: count(channels) for channels in (32, 64, 256, 1024)},
        delayed={f"{part}_conv.{kind}": GATED for part in ("query", "key", "value") for kind in ("weight", "bias")},
        flat={"key_conv.bias": "softmax ignores it; kept for the published count"},
        rebuilt=rebuilt_dual_attention,
        refused={(32, 0): "reduction"},
    )
}
