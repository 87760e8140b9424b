"""NAMAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, sigmoid
from models.attention.nam import NAMAttention


def slow_nam(block, x):
    """The share of each channel's scale, one by one."""
    norm = block.Channel_Att.bn2
    total = sum(abs(gamma) for gamma in norm.weight)
    normed = batch_norm(norm, x)
    gates = [sigmoid(abs(norm.weight[channel]) / total * normed[:, channel]) for channel in range(x.shape[1])]
    return x * torch.stack(gates, 1)


class Ungated(NAMAttention):
    """With scales that are all zero once the random parameters are in, and a large gradient towards their shares."""

    def forward(self, x):
        with torch.no_grad():
            self.Channel_Att.bn2.weight.zero_()
            self.Channel_Att.bn2.bias.fill_(100)
        return super().forward(x)


def rebuilt_nam(block, x, records):
    """The input times the gate."""
    return x * records[0].values


CASES = {
    "NAMAttention": BlockCase(
        oracles={
            "": Oracle(lambda: NAMAttention(6), slow_nam, 6),
            "scales all zero": Oracle(lambda: Ungated(6), lambda block, x: x / 2, 6),
        },
        counts={64: 128, 512: 1_024, 1024: 2_048},
        golden={"NAMAttention": Golden(lambda: NAMAttention(64))},
        rebuilt=rebuilt_nam,
        refused={(0,): "channels"},
    )
}
