"""DoubleAttentionLayer."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import pointwise
from models.attention.double_attention import DoubleAttentionLayer


def slow_double_attention(block, x):
    """Gather and distribute as the paper's sums, one image, descriptor and position at a time."""
    batch, _, height, width = x.shape
    feature, look, take = (pointwise(conv, x).flatten(2) for conv in (block.convA, block.convB, block.convV))
    out = torch.zeros(batch, feature.shape[1], height * width, dtype=x.dtype)
    for image in range(batch):
        descriptors = []
        for row in look[image]:
            share = torch.exp(row - row.max())
            descriptors.append((feature[image] * share / share.sum()).sum(1))
        for place in range(height * width):
            share = torch.exp(take[image, :, place] - take[image, :, place].max())
            out[image, :, place] = sum(part * each for part, each in zip(share / share.sum(), descriptors, strict=True))
    out = out.view(batch, -1, height, width)
    return pointwise(block.conv_reconstruct, out) if block.reconstruct else out


def rebuilt_double_attention(block, x, records):
    """Descriptors gathered by the shown maps, and distributed by the shown maps."""
    gather, distribute = (record.values.flatten(2) for record in records)
    descriptors = pointwise(block.convA, x).flatten(2) @ gather.transpose(1, 2)
    out = (descriptors @ distribute).unflatten(2, x.shape[2:])
    return pointwise(block.conv_reconstruct, out) if block.reconstruct else out


CASES = {
    "DoubleAttentionLayer": BlockCase(
        oracles={
            "as the tutorials build it": Oracle(lambda: DoubleAttentionLayer(8, 12, 3), slow_double_attention, 8),
            "reconstructed": Oracle(lambda: DoubleAttentionLayer(8, 6, 4, True), slow_double_attention, 8),
        },
        counts={64: 4_550, 128: 17_286, 512: 512 * 512 + 512 + 2 * (512 * 3 + 3)},
        args=lambda channels: [channels, 3],
        golden={
            "DoubleAttentionLayer": Golden(lambda: DoubleAttentionLayer(32, 32, 3)),
            "DoubleAttentionLayer_reconstruct": Golden(lambda: DoubleAttentionLayer(32, 16, 8, reconstruct=True)),
        },
        spread="a mean over all positions: the tutorials' form has no residual",
        flat={"convB.bias": "a softmax over positions ignores it"},
        rebuilt=rebuilt_double_attention,
        refused={(32, 32, 0): "c_n"},
    )
}
