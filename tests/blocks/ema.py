"""EMA, the attention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import convolution, group_norm, pointwise, sigmoid, softmax
from models.attention.ema import EMA


def slow_ema(block, x):
    """Group by group; the mean after the norm is computed, the two weighted sums position by position."""
    size, height, width = x.shape[1] // block.factor, *x.shape[2:]
    out = []
    for group in x.split(size, 1):
        rows = pointwise(block.conv1x1, group.sum(3, keepdim=True) / width)
        columns = pointwise(block.conv1x1, group.sum(2, keepdim=True) / height)
        scaled = group_norm(block.gn, group * sigmoid(rows) * sigmoid(columns))
        local = convolution(block.conv3x3, group)
        shares = [softmax(each.sum((2, 3)) / (height * width), 1) for each in (scaled, local)]
        gates = torch.zeros(len(x), 1, height, width, dtype=x.dtype)
        for row in range(height):
            for column in range(width):
                crossed = shares[0] * local[:, :, row, column] + shares[1] * scaled[:, :, row, column]
                gates[:, 0, row, column] = sigmoid(crossed.sum(1))
        out.append(gates * group)
    return torch.cat(out, 1)


def rebuilt_ema(block, x, records):
    """The input times the shown gate, one for each group of channels."""
    grouped = records[0].values.unflatten(1, (block.factor, -1))
    assert (grouped == grouped[:, :, :1]).all()
    return x * records[0].values


CASES = {
    "EMA": BlockCase(
        oracles={
            "factor from the width": Oracle(lambda: EMA(16), slow_ema, 16),
            "factor 3": Oracle(lambda: EMA(12, factor=3), slow_ema, 12),
            "one group": Oracle(lambda: EMA(5), slow_ema, 5),
        },
        counts={8: 176, 48: 384, 80: 270, 512: 2_624, 1024: 10_368},  # 10 c^2 + 4 c with c = 4, 6, 5, 16, 32
        golden={"EMA": Golden(lambda: EMA(64, factor=8))},
        rebuilt=rebuilt_ema,
        refused={(48, 32): "one of 1, 2, 3", (16, 32): "one of 1, 2, 4", (32, 0): "one of 1, 2, 4"},
    )
}
