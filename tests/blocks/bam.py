"""BAM."""

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, pointwise, relu, sigmoid
from models.attention.bam import BAM


def slow_bam(block, x):
    """Both branches layer by layer, dilated convolutions tap by tap."""
    reduce, norm, _, expand = block.channel_att
    pooled = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    of_channels = pointwise(expand, relu(batch_norm(norm, pointwise(reduce, pooled))))
    *hidden, last = block.spatial_att
    maps = x
    for conv, norm in zip(hidden[::3], hidden[1::3], strict=True):
        maps = relu(batch_norm(norm, convolution(conv, maps)))
    return x + x * sigmoid(of_channels + pointwise(last, maps))


def rebuilt_bam(block, x, records):
    """The input, and the input times the shown map."""
    return x + x * records[0].values


CASES = {
    "BAM": BlockCase(
        oracles={
            "two layers of dilation 4": Oracle(lambda: BAM(32), slow_bam, 32, sizes=((1, 1), (7, 5), (4, 13))),
            "three layers of dilation 2": Oracle(lambda: BAM(12, reduction=3, dilation=2, num_layers=3), slow_bam, 12),
        },
        counts={64: 1_173, 512: 68_513, 1024: 272_193},
        flat={
            "channel_att.0.bias": "batch norm cancels it",
            "spatial_att.0.bias": "batch norm cancels it",
            "spatial_att.3.bias": "batch norm cancels it",
            "spatial_att.6.bias": "batch norm cancels it",
        },
        rebuilt=rebuilt_bam,
        refused={(64, 0): "reduction", (64, 16, 0): "dilation", (64, 16, 4, 0): "num_layers"},
    )
}
