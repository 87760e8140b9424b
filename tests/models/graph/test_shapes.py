"""Shapes and costs of layers, measured once per kind of layer."""

import pytest
from torch import nn

from models import registry
from models.graph.architecture import insert_block, read_yaml
from models.graph.shapes import ShapeCache, infer_shapes, load_spec
from models.registry import register, registered


@pytest.fixture()
def two_names():
    """One class under two names, of which one starts as the identity and so has a gate per channel."""

    class Twice(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return x * self.conv(x).sigmoid()

    before = registered()
    yield register(name="Plain")(register(name="Gated", start="identity")(Twice))
    registry._entries.clear()
    registry._entries.update(before)


def test_a_class_under_two_names_is_measured_under_each(two_names):
    cache = ShapeCache()
    parameters = {}
    for name in ("Plain", "Gated"):
        layers = infer_shapes(load_spec(insert_block(read_yaml("yolov5n.yaml"), name, [8])), cache)
        parameters[name] = next(layer for layer in layers if layer.row.block == name).stats.parameters
    assert parameters == {"Plain": 256 * 256 + 256, "Gated": 256 * 256 + 256 + 256}
