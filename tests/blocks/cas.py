"""CAS."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, pointwise, relu, sigmoid
from models.attention.cas import CAS


def slow_gate(gate, maps):
    local = relu(batch_norm(gate.local.bn, convolution(gate.local.conv, maps)))
    maps = maps * sigmoid(pointwise(gate.position, local))
    mean = maps.flatten(2).sum(2) / (maps.shape[2] * maps.shape[3])
    return maps * sigmoid(pointwise(gate.channel, mean[:, :, None, None]))


def slow_cas(block, x):
    """Both gates of queries and keys, their sum, its product with the values."""
    query, key, value = pointwise(block.qkv, x).chunk(3, 1)
    context = convolution(block.dwc, slow_gate(block.oper_q, query) + slow_gate(block.oper_k, key))
    return x + convolution(block.proj, context * value)


def rebuilt_cas(block, x, records):
    """Queries and keys times their shown gates, which give the shown factor of the values."""
    query, key, value = pointwise(block.qkv, x).chunk(3, 1)
    *gates, factor = (record.values for record in records)
    context = convolution(block.dwc, query * gates[0] * gates[1] + key * gates[2] * gates[3])
    assert torch.allclose(context, factor)
    return x + convolution(block.proj, factor * value)


CASES = {
    "CAS": BlockCase(
        oracles={
            "without bias": Oracle(lambda: CAS(6), slow_cas, 6),
            "with bias": Oracle(lambda: CAS(8, True), slow_cas, 8),
        },
        counts={channels: 5 * channels**2 + 44 * channels for channels in (64, 512)},
        rebuilt=rebuilt_cas,
        refused={(0,): "dim"},
    )
}
