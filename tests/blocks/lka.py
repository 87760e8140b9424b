"""LKA."""

from blocks import BlockCase, Oracle
from blocks.literal import convolution, pointwise
from models.attention.lka import LKA


def slow_lka(block, x):
    """Tap by tap."""
    return pointwise(block.conv1, convolution(block.conv_spatial, convolution(block.conv0, x))) * x


def rebuilt_lka(block, x, records):
    """The input times the gate."""
    return x * records[0].values


CASES = {
    "LKA": BlockCase(
        oracles={"6 channels": Oracle(lambda: LKA(6), slow_lka, 6, sizes=((1, 1), (2, 3), (7, 5), (4, 21)))},
        counts={64: 64**2 + 77 * 64, 128: 128**2 + 77 * 128, 512: 301_568, 1024: 1024**2 + 77 * 1024},
        rebuilt=rebuilt_lka,
        refused={(0,): "dim"},
    )
}
