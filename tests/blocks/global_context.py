"""GlobalContext."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import layer_norm, pointwise, relu, sigmoid, softmax
from models.attention.global_context import GlobalContext


def transformed(layers, context):
    return pointwise(layers[3], relu(layer_norm(layers[1], pointwise(layers[0], context), dim=1)))


def slow_global_context(block, x):
    """The weighted mean position by position, then what it adds or scales."""
    batch, channels, height, width = x.shape
    share = torch.full((batch, height * width), 1 / (height * width), dtype=x.dtype)
    if block.conv_mask is not None:
        share = softmax(pointwise(block.conv_mask, x).reshape(batch, -1), 1)
    places = [(row, column) for row in range(height) for column in range(width)]
    seen = sum(share[:, index, None] * x[:, :, row, column] for index, (row, column) in enumerate(places))
    context = seen[:, :, None, None]
    out = x
    if block.channel_mul_conv is not None:
        gate = sigmoid(transformed(block.channel_mul_conv, context))
        out = out * (gate if block.opening is None else 1 - block.opening + block.opening * gate)
    if block.channel_add_conv is not None:
        out = out + transformed(block.channel_add_conv, context)
    return out


def count(channels):
    hidden = max(8, channels // 16)
    return channels + 2 * channels * hidden + 3 * hidden + channels  # W_k; W_v1, W_v2; bias and norm; bias


def opened():
    block = GlobalContext(8, 1, "att", BOTH)
    block.start_as_identity()
    return block


BOTH = ["channel_add", "channel_mul"]
GATED = "the last convolution starts at zero"


def rebuilt_global_context(block, x, records):
    """The mean by the shown weights, what it adds, and the shown gate."""
    share = next(shown.values for shown in records if shown.kind == "maps")
    context = torch.einsum("bihw,bchw->bc", share, x)[:, :, None, None]
    gates = [shown.values for shown in records if shown.kind == "gate"]
    assert len(gates) == (block.channel_mul_conv is not None)
    if gates:
        gate = sigmoid(block.channel_mul_conv(context))
        gate = gate if block.opening is None else 1 + block.opening * (gate - 1)
        assert torch.allclose(gate, gates[0])
    out = x * gates[0] if gates else x
    return out if block.channel_add_conv is None else out + block.channel_add_conv(context)


CASES = {
    "GlobalContext": BlockCase(
        oracles={
            "added": Oracle(lambda: GlobalContext(16), slow_global_context, 16),
            "multiplied": Oracle(lambda: GlobalContext(16, 0.5, "att", "channel_mul"), slow_global_context, 16),
            "both, of the mean": Oracle(lambda: GlobalContext(8, 1, "avg", BOTH), slow_global_context, 8),
            "both, opened from the identity": Oracle(opened, slow_global_context, 8),
        },
        counts={channels: count(channels) for channels in (16, 64, 256, 1024)},
        delayed={
            "conv_mask.weight": GATED,
            "channel_add_conv.0.weight": GATED,
            "channel_add_conv.0.bias": GATED,
            "channel_add_conv.1.weight": GATED,
            "channel_add_conv.1.bias": GATED,
        },
        rebuilt=rebuilt_global_context,
        refused={
            (32, 16): "0.0625",
            (32, 0.5, "max"): "'att', 'avg'",
            (32, 0.5, "att", "add"): "channel_add",
            (32, 0.5, "att", ()): "channel_mul",
        },
    )
}
