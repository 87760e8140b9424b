"""CPCA."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import convolution, pointwise, relu, sigmoid
from models.attention.cpca import CPCA


def slow_cpca(block, x):
    """Both branches of the channel gate apart, and the strips tap by tap."""
    features = pointwise(block.conv, x)
    features = features * (1 + torch.erf(features / math.sqrt(2))) / 2
    pooled = [features.sum((2, 3), keepdim=True) / x[0, 0].numel(), features.flatten(2).max(2).values[..., None, None]]
    features = features * sum(sigmoid(pointwise(block.ca.fc2, relu(pointwise(block.ca.fc1, each)))) for each in pooled)
    total = near = convolution(block.dconv5_5, features)
    for across, down in (
        (block.dconv1_7, block.dconv7_1),
        (block.dconv1_11, block.dconv11_1),
        (block.dconv1_21, block.dconv21_1),
    ):
        total = total + convolution(down, convolution(across, near))
    return pointwise(block.conv, pointwise(block.conv, total) * features)


def rebuilt_cpca(block, x, records):
    """Features times the shown channel gate and the shown gate of each channel and position."""
    channel, spatial = (record.values for record in records)
    features = pointwise(block.conv, x)
    features = channel * features * (1 + torch.erf(features / math.sqrt(2))) / 2
    return pointwise(block.conv, spatial * features)


CASES = {
    "CPCA": BlockCase(
        oracles={
            "reduction 4": Oracle(lambda: CPCA(8), slow_cpca, 8, sizes=((1, 1), (2, 3), (7, 5), (4, 23))),
            "reduction 16 on 6 channels": Oracle(lambda: CPCA(6, 16), slow_cpca, 6),
        },
        counts={64: 13_328, 256: 127_040, 512: 450_688, 1024: 1_687_808},
        rebuilt=rebuilt_cpca,
        refused={(32, 0): "channelAttention_reduce", (0,): "channels"},
    )
}
