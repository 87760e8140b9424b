"""ParallelPolarizedSelfAttention and SequentialPolarizedSelfAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import layer_norm, pointwise, sigmoid, softmax
from models.attention.polarized import ParallelPolarizedSelfAttention, SequentialPolarizedSelfAttention


def slow_channel_gate(block, x):
    value, share = pointwise(block.ch_wv, x).flatten(2), softmax(pointwise(block.ch_wq, x).flatten(2), 2)
    seen = torch.einsum("bcn,bn->bc", value, share[:, 0])
    return sigmoid(layer_norm(block.ln, pointwise(block.ch_wz, seen[:, :, None, None])[:, :, 0, 0]))[:, :, None, None]


def slow_position_gate(block, x):
    query = pointwise(block.sp_wq, x)
    share = softmax(query.sum((2, 3)) / (x.shape[2] * x.shape[3]), 1)
    return sigmoid(torch.einsum("bc,bchw->bhw", share, pointwise(block.sp_wv, x)))[:, None]


def slow_parallel(block, x):
    return slow_channel_gate(block, x) * x + slow_position_gate(block, x) * x


def slow_sequential(block, x):
    gated = slow_channel_gate(block, x) * x
    return slow_position_gate(block, gated) * gated


COUNTS = {channels: 2 * channels**2 + 11 * channels // 2 + 1 for channels in (64, 256, 1024)}
FLAT = {"ch_wq.bias": "softmax over positions ignores it"}


def rebuilt_parallel(block, x, records):
    """The input times the sum of both gates."""
    channel, position = (shown.values for shown in records)
    return x * (channel + position)


def rebuilt_sequential(block, x, records):
    """The input times both gates."""
    channel, position = (shown.values for shown in records)
    return x * channel * position


CASES = {
    "ParallelPolarizedSelfAttention": BlockCase(
        oracles={
            "8 channels": Oracle(lambda: ParallelPolarizedSelfAttention(8), slow_parallel, 8),
            "odd width": Oracle(lambda: ParallelPolarizedSelfAttention(5), slow_parallel, 5),
        },
        counts=COUNTS,
        flat=FLAT,
        golden={"ParallelPolarizedSelfAttention": Golden(lambda: ParallelPolarizedSelfAttention(64))},
        rebuilt=rebuilt_parallel,
        refused={(0,): "channel"},
    ),
    "SequentialPolarizedSelfAttention": BlockCase(
        oracles={"8 channels": Oracle(lambda: SequentialPolarizedSelfAttention(8), slow_sequential, 8)},
        counts=COUNTS,
        flat=FLAT,
        golden={"SequentialPolarizedSelfAttention": Golden(lambda: SequentialPolarizedSelfAttention(64))},
        spread="two gates of about a half in sequence",
        rebuilt=rebuilt_sequential,
        refused={(0,): "channel"},
    ),
}
