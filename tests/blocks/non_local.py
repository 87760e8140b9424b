"""NonLocal."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, attention, conv_norm, maps_of, pointwise, tokens
from models.attention.non_local import NonLocal


def halved(maps):
    """The maximum of each 2 x 2 cell; cells at the border have fewer positions."""
    rows, columns = range(0, maps.shape[2], 2), range(0, maps.shape[3], 2)
    return torch.stack(
        [
            torch.stack([maps[:, :, row : row + 2, column : column + 2].amax((2, 3)) for column in columns], 2)
            for row in rows
        ],
        2,
    )


def slow_non_local(block, x):
    theta, phi, g = (pointwise(conv, x) for conv in (block.theta, block.phi, block.g))
    if block.sub_sample:
        phi, g = halved(phi), halved(g)
    scale = theta.shape[1] ** -0.5 if block.scale != 1 else 1.0
    return x + conv_norm(block.z, maps_of(attention(tokens(theta), tokens(phi), tokens(g), scale), x))


GATED = "the scale of the last norm starts at zero"


def rebuilt_non_local(block, x, records):
    """The embedded values, pooled if keys are, weighted as shown."""
    value = halved(block.g(x)) if block.sub_sample else block.g(x)
    assert records[0].key_size == tuple(value.shape[2:])
    return x + block.z(maps_of(applied(records[0], tokens(value)), x))


CASES = {
    "NonLocal": BlockCase(
        oracles={
            "the paper's": Oracle(lambda: NonLocal(8), slow_non_local, 8),
            "scaled, a quarter of the channels": Oracle(lambda: NonLocal(12, 4, True), slow_non_local, 12),
            "pooled keys": Oracle(lambda: NonLocal(6, sub_sample=True), slow_non_local, 6),
        },
        counts={channels: 2 * channels**2 + 2 * channels for channels in (16, 64, 256, 1024)},
        delayed={"theta.weight": GATED, "phi.weight": GATED, "g.weight": GATED, "z.conv.weight": GATED},
        rebuilt=rebuilt_non_local,
        refused={(32, 0): "reduction"},
    )
}
