"""EPSA."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import convolution, pointwise, relu, sigmoid, softmax
from models.attention.epsa import EPSA


def slow_epsa(block, x):
    """Scale by scale: its features, its gate, and the softmax over the scales' gates of the same channel."""
    features = [convolution(conv, x) for conv in block.convs]
    gates = []
    for scale in features:
        mean = scale.sum((2, 3), keepdim=True) / x[0, 0].numel()
        gates.append(sigmoid(pointwise(block.se.fc2, relu(pointwise(block.se.fc1, mean)))))
    weights = softmax(torch.stack(gates), 0)
    return torch.cat([weight * scale for weight, scale in zip(weights, features, strict=True)], 1)


def rebuilt_epsa(block, x, records):
    """The scales side by side, each times its shown share."""
    share = records[0].values
    assert torch.allclose(share.sum(1), torch.ones_like(share[:, 0]))
    return torch.cat([share[:, index] * convolution(conv, x) for index, conv in enumerate(block.convs)], 1)


def expected(channels, groups):
    width = channels // 4
    hidden = max(8, width // 16)
    convolutions = sum(
        kernel**2 * channels * width // group for kernel, group in zip((3, 5, 7, 9), groups, strict=True)
    )
    return convolutions + 2 * width * hidden + width + hidden


CASES = {
    "EPSA": BlockCase(
        oracles={
            "four scales": Oracle(lambda: EPSA(16), slow_epsa, 16),
            "two scales, groups given": Oracle(lambda: EPSA(12, [5, 3], [3, 2], 2), slow_epsa, 12),
        },
        counts={
            8: expected(8, (1, 2, 2, 2)),
            64: expected(64, (1, 4, 8, 16)),
            80: expected(80, (1, 4, 5, 10)),
            96: expected(96, (1, 4, 8, 12)),
            512: expected(512, (1, 4, 8, 16)),
            1024: expected(1024, (1, 4, 8, 16)),
        },
        spread="each scale has a quarter of the weight",
        rebuilt=rebuilt_epsa,
        refused={
            (30,): "multiple of 4",
            (32, (3, 5, 7, 8)): "odd",
            (32, (3, 5), (1,)): "one for each kernel",
            (32, (3, 5), (1, 3)): "one of 1, 2, 4",
            (32, (3, 5), None, 0): "reduction",
        },
    )
}
