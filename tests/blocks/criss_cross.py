"""CrissCross."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, maps_of, pointwise, softmax, tokens
from models.attention.criss_cross import CrissCross


def crossed(block, x):
    """One round: each position and the list of the others on its cross, itself once."""
    query, key, value = (pointwise(conv, x) for conv in (block.query_conv, block.key_conv, block.value_conv))
    height, width = x.shape[2:]
    out = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            cross = [(other, column) for other in range(height)] + [
                (row, other) for other in range(width) if other != column
            ]
            assert len(cross) == height + width - 1
            logits = torch.stack([(query[:, :, row, column] * key[:, :, a, b]).sum(1) for a, b in cross], 1)
            share = softmax(logits, 1)
            out[:, :, row, column] = sum(
                share[:, index, None] * value[:, :, a, b] for index, (a, b) in enumerate(cross)
            )
    return block.gamma * out + x


def slow_criss_cross(block, x):
    for _ in range(block.recurrence):
        x = crossed(block, x)
    return x


def rebuilt_criss_cross(block, x, records):
    """Round after round, the values on each cross weighted as shown; a position itself counts once."""
    assert len(records) == block.recurrence
    for shown in records:
        itself = shown.keys == torch.arange(len(shown.keys))[:, None]
        assert (itself.sum(1) == 2).all() and (shown.values[:, 0, itself].unflatten(1, (-1, 2))[..., 0] == 0).all()
        x = block.gamma * maps_of(applied(shown, tokens(pointwise(block.value_conv, x))), x) + x
    return x


GATED = "gamma starts at zero"
CASES = {
    "CrissCross": BlockCase(
        oracles={
            "two rounds": Oracle(lambda: CrissCross(16), slow_criss_cross, 16),
            "one round": Oracle(lambda: CrissCross(8, 1, 2), slow_criss_cross, 8),
        },
        counts={channels: 5 * channels**2 // 4 + 5 * channels // 4 + 1 for channels in (64, 128, 512, 1024)},
        delayed={f"{part}_conv.{kind}": GATED for part in ("query", "key", "value") for kind in ("weight", "bias")},
        flat={"key_conv.bias": "softmax ignores it; kept for the published count"},
        rebuilt=rebuilt_criss_cross,
        refused={(32, 0): "recurrence", (32, 2, -1): "reduction"},
    )
}
