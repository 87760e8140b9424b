"""HAT."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import convolution, layer_norm, pointwise, relu, sigmoid
from blocks.swin import heads_of, rebuilt_window_msa, slow_window_msa
from models.attention.hat import HAT


def gelu(value):
    return value * 0.5 * (1 + torch.erf(value / math.sqrt(2)))


def slow_hat(block, x):
    normed = layer_norm(block.norm1, x, 1)
    first, _, second = block.conv_block.cab
    mixed = convolution(second, gelu(convolution(first, normed)))
    narrow, _, widen, _ = block.conv_block.gate
    mean = mixed.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    gate = sigmoid(pointwise(widen, relu(pointwise(narrow, mean))))
    x = x + slow_window_msa(block.attn, normed) + block.conv_scale * gate * mixed
    narrow, _, widen = block.mlp
    return x + pointwise(widen, gelu(pointwise(narrow, layer_norm(block.norm2, x, 1))))


def count(dim):
    inner, squeezed = max(8, dim // 3), max(4, dim // 30)
    attention = 4 * dim**2 + 4 * dim + 15**2 * heads_of(dim)
    channel = 18 * dim * inner + inner + dim + 2 * dim * squeezed + squeezed + dim
    return 4 * dim + attention + channel + 4 * dim**2 + 3 * dim


def rebuilt_hat(block, x, records):
    """Windows weighted as shown, and the shown gate times the two convolutions."""
    attention, channel = records
    normed = block.norm1(x)
    mixed = x + rebuilt_window_msa(block.attn, normed, attention)
    mixed = mixed + block.conv_scale * channel.values * block.conv_block.cab(normed)
    return mixed + block.mlp(block.norm2(mixed))


CASES = {
    "HAT": BlockCase(
        oracles={
            "windows of 3, moved by 1": Oracle(lambda: HAT(8, 2, 3, 1, conv_scale=0.5), slow_hat, 8),
            "windows of 8": Oracle(lambda: HAT(8), slow_hat, 8, ((1, 1), (3, 4), (9, 3))),
        },
        counts={dim: count(dim) for dim in (16, 180, 256)},
        rebuilt=rebuilt_hat,
        refused={
            (32, 5): "one of 1, 2, 4",
            (32, 4, 8, 8): "0 to 7",
            (32, 4, 8, 0, 0): "compress_ratio",
            (32, 4, 8, 0, 3, 30, 0.01, 0): "mlp_ratio",
        },
    )
}
