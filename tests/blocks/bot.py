"""BoT."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, batch_norm, conv_norm, maps_of, pointwise, relu, softmax, tokens
from models.attention.bot import BoT


def slow_attention(layer, x):
    """The N x N logits pair by pair, each with the table rows of its own offsets."""
    query, key, value = (tokens(pointwise(conv, x), layer.heads) for conv in (layer.query, layer.key, layer.value))
    reach_h, reach_w = (len(table) // 2 for table in (layer.rel_h, layer.rel_w))
    places = [(row, column) for row in range(x.shape[2]) for column in range(x.shape[3])]
    out = []
    for i, (row, column) in enumerate(places):
        logits = []
        for j, (other_row, other_column) in enumerate(places):
            below = min(max(other_row - row, -reach_h), reach_h)
            right = min(max(other_column - column, -reach_w), reach_w)
            position = layer.rel_h[below + reach_h] + layer.rel_w[right + reach_w]
            logits.append((query[:, :, i] * (key[:, :, j] + position)).sum(2) / math.sqrt(query.shape[3]))
        share = softmax(torch.stack(logits, 2), 2)
        out.append((share.unsqueeze(3) * value).sum(2))
    return maps_of(torch.stack(out, 2), x)


def slow_bot(block, x):
    attended = slow_attention(block.attention, conv_norm(block.contract, x))
    return x + conv_norm(block.expand, relu(batch_norm(block.norm, attended)))


def rebuilt_bot(block, x, records):
    """The bottleneck around values weighted as shown."""
    layer, inner = block.attention, conv_norm(block.contract, x)
    attended = maps_of(applied(records[0], tokens(pointwise(layer.value, inner), layer.heads)), x)
    return x + conv_norm(block.expand, relu(batch_norm(block.norm, attended)))


def count(channels, tables=20 + 20):
    inner = channels // 4
    return 2 * channels * inner + 3 * inner**2 + (2 * tables - 2) * inner // 4 + 4 * inner + 2 * channels


GATED = "the scale of the last norm starts at zero"
INSIDE = (
    "contract.conv.weight",
    "contract.bn.weight",
    "contract.bn.bias",
    "attention.query.weight",
    "attention.key.weight",
    "attention.value.weight",
    "attention.rel_h",
    "attention.rel_w",
    "norm.weight",
    "norm.bias",
    "expand.conv.weight",
)
CASES = {
    "BoT": BlockCase(
        oracles={
            "4 heads": Oracle(lambda: BoT(32), slow_bot, 32, ((1, 1), (2, 3), (5, 4))),
            "beyond its tables": Oracle(lambda: BoT(12, 3, 2, 2, 2), slow_bot, 12, ((1, 1), (4, 6), (7, 3))),
        },
        counts={channels: count(channels) for channels in (32, 64, 256, 1024)},
        delayed={key: GATED for key in INSIDE},
        rebuilt=rebuilt_bot,
        refused={
            (32, 20, 20, 3): "one of 1, 2, 4, 8",
            (32, 0): "width",
            (32, 20, 20, 0): "heads",
            (32, 20, 20, 4, 0): "expansion",
        },
    )
}
