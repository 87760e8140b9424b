"""Strip."""

from blocks import BlockCase, Oracle
from blocks.literal import convolution, pointwise
from models.attention.strip import Strip


def slow_strip(block, x):
    """Tap by tap."""
    square = convolution(block.conv0, x)
    across = convolution(block.conv_spatial1, square)
    return pointwise(block.conv1, convolution(block.conv_spatial2, across)) * x


def rebuilt_strip(block, x, records):
    """The input times the gate."""
    return x * records[0].values


CASES = {
    "Strip": BlockCase(
        oracles={
            "1 and 19": Oracle(lambda: Strip(6), slow_strip, 6, sizes=((1, 1), (2, 3), (7, 5), (4, 21))),
            "3 and 5": Oracle(lambda: Strip(4, 3, 5), slow_strip, 4),
        },
        counts={width: width**2 + 67 * width for width in (32, 64, 256, 512, 1024)},
        rebuilt=rebuilt_strip,
        refused={(32, 2): "k1", (32, 1, 18): "k2", (0,): "dim"},
    )
}
