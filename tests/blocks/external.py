"""ExternalAttention."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import pointwise, softmax
from models.attention.external import ExternalAttention


def slow_external(block, x):
    """Softmax over the positions, then each position's weights divided by their sum, as the paper writes it."""
    batch, channels, height, width = x.shape
    weights = softmax(pointwise(block.mk, x).reshape(batch, -1, height * width), 2)
    weights = weights / weights.sum(1, keepdim=True)
    rows = block.mv.weight[:, :, 0, 0]  # (C, S)
    out = torch.stack(
        [
            sum(weights[:, row, place, None] * rows[:, row] for row in range(rows.shape[1]))
            for place in range(height * width)
        ],
        2,
    )
    return x + out.reshape(x.shape)


def rebuilt_external(block, x, records):
    """The input, and the rows of the memory at their shown weights."""
    rows = block.mv.weight[:, :, 0, 0]
    return x + torch.einsum("cs,bshw->bchw", rows, records[0].values)


CASES = {
    "ExternalAttention": BlockCase(
        oracles={
            "64 rows": Oracle(lambda: ExternalAttention(8), slow_external, 8),
            "5 rows": Oracle(lambda: ExternalAttention(6, 5), slow_external, 6),
        },
        counts={channels: 2 * 64 * channels for channels in (16, 64, 512)},
        rebuilt=rebuilt_external,
        refused={(32, 0): "S must be"},
    )
}
