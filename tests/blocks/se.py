"""SEAttention, ESE."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import hard_sigmoid, relu, sigmoid
from models.attention.se import ESE, SEAttention


def means(x):
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def slow_se(block, x):
    first, second = block.fc[0].weight, block.fc[2].weight
    hidden = relu(torch.einsum("hc,bc->bh", first, means(x)))
    return x * sigmoid(torch.einsum("ch,bh->bc", second, hidden))[:, :, None, None]


def slow_ese(block, x):
    weighed = torch.einsum("oc,bc->bo", block.fc.weight[:, :, 0, 0], means(x)) + block.fc.bias
    return x * hard_sigmoid(weighed)[:, :, None, None]


def rebuilt_se(block, x, records):
    """The input times the gate."""
    assert records[0].values.shape == (*x.shape[:2], 1, 1)
    return x * records[0].values


CASES = {
    "SEAttention": BlockCase(
        oracles={
            "reduction 16": Oracle(lambda: SEAttention(32), slow_se, 32),
            "reduction 4": Oracle(lambda: SEAttention(16, reduction=4), slow_se, 16),
            "fewer channels than the reduction": Oracle(lambda: SEAttention(6), slow_se, 6),
        },
        counts={64: 512, 128: 2_048, 256: 8_192, 512: 32_768, 1024: 131_072},
        golden={"SEAttention": Golden(lambda: SEAttention(64, reduction=16))},
        rebuilt=rebuilt_se,
        refused={(32, 0): "reduction", (32, 2.5): "reduction"},
    ),
    "ESE": BlockCase(
        oracles={"": Oracle(lambda: ESE(6), slow_ese, 6)},
        counts={64: 4_160, 256: 65_792, 1024: 1_049_600},
        rebuilt=rebuilt_se,
        refused={(0,): "channels"},
    ),
}
