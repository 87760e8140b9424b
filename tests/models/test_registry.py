"""The registry: names, wirings, scaling, plugins."""

import sys

import pytest
from torch import nn

from models import common, registry
from models.registry import WIRINGS, Scale, WiringPlan, find, load_plugin, register, registered
from models.yolo import Model
from utils.errors import ModelError

ONES = Scale(1.0, 1.0, 0)


@pytest.fixture(autouse=True)
def restored_registry():
    before = registered()
    yield
    registry._entries.clear()
    registry._entries.update(before)


def test_scale_rounds_up_to_eight_but_for_the_head_s_width():
    scale = Scale(0.33, 0.5, 255)
    assert [scale(width) for width in (64, 100, 1, 255, 254)] == [32, 56, 8, 255, 128]
    assert [scale.repeats(count) for count in (1, 2, 3, 6, 9)] == [1, 1, 1, 2, 3]
    assert [Scale(1.33, 1.25)(width) for width in (64, 1024)] == [80, 1280]


@pytest.mark.parametrize(
    "wiring, channels, repeats, scale, args, plan",
    [
        ("same_width", [256], 2, Scale(1, 0.25), [], WiringPlan((256,), 256, 2)),
        ("same_width", [256], 1, Scale(1, 0.25), [1024, 16], WiringPlan((256, 16), 256)),  # scaled as in the tutorials
        ("same_width", [256], 1, Scale(1, 0.25), [256, 16], WiringPlan((256, 16), 256)),  # as it stands
        (
            "same_width",
            [256],
            1,
            Scale(1, 0.25),
            [16],
            WiringPlan((256, 16), 256),
        ),  # no width: the block's own argument
        ("same_width", [8], 1, Scale(1, 0.25), [7], WiringPlan((8, 7), 8)),  # a kernel, though 7 scales to 8
        ("widened", [64], 1, Scale(1, 0.5), [128, 3, 2], WiringPlan((64, 64, 3, 2), 64)),
        ("stacked", [64], 3, Scale(1, 0.5), [128, False], WiringPlan((64, 64, 3, False), 64)),
        ("untouched", [64], 1, ONES, [None, 2, "nearest"], WiringPlan((None, 2, "nearest"), 64)),
        ("concatenated", [64, 32], 1, ONES, [1], WiringPlan((1,), 96)),
        ("detection", [64, 32], 1, ONES, [80, 3], WiringPlan((80, 3, (64, 32)), 0)),
    ],
)
def test_wirings(wiring, channels, repeats, scale, args, plan):
    assert WIRINGS[wiring](channels, repeats, scale, args) == plan


@pytest.mark.parametrize(
    "wiring, channels, args, message",
    [
        ("same_width", [256], [512], "is given 512 channels .* but 256 arrive"),
        ("same_width", [8, 8], [], "takes one source, got 2"),
        ("widened", [8], [], "first argument must be the number of output channels"),
        ("stacked", [8], [True], "first argument must be"),
        ("detection", [8], [80], r"expects \[nc, anchors\]"),
    ],
)
def test_wirings_refuse(wiring, channels, args, message):
    with pytest.raises(ValueError, match=message):
        WIRINGS[wiring](channels, 1, ONES, args)


def test_find_and_its_neighbours():
    assert find("C3").cls is common.C3 and find("C3").wiring_name == "stacked" and not find("C3").attention
    assert find("CBAM").attention and find("nn.Upsample").cls is nn.Upsample
    for wrong, message in {
        "CMBA": "did you mean .*CBAM",
        "Upsample": "did you mean nn.Upsample",
        "nn.Upsampel": "did you mean nn.Upsample",
        "nn.functional": "no such module",
        "nn.Parameter": "no such module",
    }.items():
        with pytest.raises(ModelError, match=message):
            find(wrong)


def test_registered_returns_a_copy():
    registered().clear()
    assert "Conv" in registered()


def test_common_offers_every_registered_layer_and_block():
    shown = [
        entry.cls for entry in registered().values() if entry.module.startswith(("models.layers", "models.attention"))
    ]
    assert len(shown) >= 25 and all(getattr(common, cls.__name__) is cls for cls in shown)


def test_duplicates_and_unknown_wirings_are_refused():
    with pytest.raises(ModelError, match="two blocks are named 'Conv'"):

        @register("widened")
        class Conv(nn.Module):
            pass

    with pytest.raises(ModelError, match="unknown wiring 'wided' .did you mean widened"):
        register("wided")

    for _ in range(2):  # the same class again, as when a module is reloaded
        register(name="Own")(nn.Identity)
    assert find("Own").cls is nn.Identity


PLUGIN = """
from torch import nn
from models.registry import WiringPlan, register

@register()
class Doubler(nn.Module):
    def __init__(self, channels, factor=2):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor

@register(lambda channels, repeats, scale, args: WiringPlan((channels[0], scale(args[0])), scale(args[0])))
class Widener(nn.Conv2d):
    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out, 1)
"""
YAML = """
nc: 2
depth_multiple: 1.0
width_multiple: 0.5
anchors: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Doubler, [5]]
  - [-1, 1, Widener, [64]]
head:
  - [[2], 1, Detect, [nc, anchors]]
"""


def test_yamls_can_name_plugin_blocks(tmp_path):
    plugin, config = tmp_path / "my_block.py", tmp_path / "m.yaml"
    plugin.write_text(PLUGIN)
    config.write_text(YAML)
    with pytest.raises(ModelError, match="unknown block 'Doubler'.*--plugin"):
        Model(config)
    load_plugin(plugin)
    load_plugin(plugin)  # once is enough
    model = Model(config)
    assert model.model[1].factor == 5 and model.model[2].out_channels == 32


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = (\n", r"plugin_0.py:1: SyntaxError"),
        ("import os\n\nimport not_a_module\n", r"plugin_1.py:3: ModuleNotFoundError: No module named 'not_a_module'"),
        ("def build():\n    raise ValueError('two\\nlines')\nbuild()\n", r"plugin_2.py:2: ValueError: two lines"),
        (
            "from models.registry import register\nfrom torch import nn\nregister(name='Half')(nn.Identity)\n1 / 0\n",
            "plugin_3.py:4: ZeroDivision",
        ),
    ],
)
def test_plugin_errors_name_file_and_line(tmp_path, request, text, message):
    number = [item for item in "0123" if f"plugin_{item}" in message][0]
    path = tmp_path / f"plugin_{number}.py"
    path.write_text(text)
    modules = set(sys.modules)
    with pytest.raises(ModelError, match=message) as caught:
        load_plugin(path)
    assert "\n" not in str(caught.value) and "Half" not in registered()
    assert not {name for name in set(sys.modules) - modules if "plugin" in name}


def test_missing_plugin_and_wrong_suffix(tmp_path):
    (tmp_path / "my_block.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match="my_blok.py does not exist .did you mean my_block.py"):
        load_plugin(tmp_path / "my_blok.py")
    with pytest.raises(ModelError, match="not a Python file"):
        load_plugin(tmp_path / "notes.txt")
