"""ParNetAttention."""

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, convolution, pointwise, sigmoid, silu
from models.attention.parnet import ParNetAttention


def slow_parnet(block, x):
    point, pointnorm = block.conv1x1
    square, squarenorm = block.conv3x3
    mean = x.sum((2, 3), keepdim=True) / x[0, 0].numel()
    gated = sigmoid(pointwise(block.sse[1], mean)) * x
    return silu(batch_norm(pointnorm, pointwise(point, x)) + batch_norm(squarenorm, convolution(square, x)) + gated)


def rebuilt_parnet(block, x, records):
    """Both convolutions plus the gated input."""
    return silu(block.conv1x1(x) + block.conv3x3(x) + x * records[0].values)


CASES = {
    "ParNetAttention": BlockCase(
        oracles={"width 6": Oracle(lambda: ParNetAttention(6), slow_parnet, 6)},
        counts={channels: 11 * channels**2 + 7 * channels for channels in (32, 64, 512)} | {1024: 11_541_504},
        golden={"ParNetAttention": Golden(lambda: ParNetAttention(32))},
        flat={"conv1x1.0.bias": "batch norm cancels it", "conv3x3.0.bias": "batch norm cancels it"},
        rebuilt=rebuilt_parnet,
        refused={(0,): "channel"},
    )
}
