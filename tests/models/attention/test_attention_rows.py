"""Yaml rows of the attention blocks: those that the tutorials print, and what a block's row may hold at every scale."""

import pytest
from blocks.instances import BLOCKS, CASES
from torch import nn

import models.attention
from models.registry import Scale, find

TUTORIAL_ROWS = [  # yaml block, yaml args, nominal input channels, constructor arguments after the channels
    ("CoTAttention", [512], 512, ()),
    ("CoTAttention", [512, 3], 512, (3,)),
    ("CBAM", [1024], 1024, ()),
    ("CBAM", [1024, 8], 1024, (8,)),
    ("CBAM", [1024, 16, 7], 1024, (16, 7)),
    ("MHSA", [1024], 1024, ()),
    ("MHSA", [1024, 14, 14, 4], 1024, (14, 14, 4)),
    ("SEAttention", [1024, 16], 1024, (16,)),
    ("SimAM", [1024, 1e-4], 1024, (1e-4,)),
    ("CBAM", [], 256, ()),
    ("MHSA", [], 256, ()),
    ("CoTAttention", [], 256, ()),
]


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize(("name", "args", "nominal", "rest"), TUTORIAL_ROWS)
def test_the_tutorials_rows_fit_every_scale(name, args, nominal, rest, width):
    scale = Scale(width=width)
    arriving = scale(nominal)
    assert find(name).plan([arriving], 1, scale, args).args == (arriving, *rest)
    if args:  # channels as they really are
        assert find(name).plan([arriving], 1, scale, [arriving, *args[1:]]).args == (arriving, *rest)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
def test_rows_of_the_blocks_that_may_change_the_width(width):
    scale = Scale(width=width)
    arriving, double = scale(1024), find("DoubleAttentionLayer").wiring
    for args, rest in (([1024], ()), ([1024, 1024], ()), ([], ()), ([1024, 5], (5,)), ([1024, 1024, 7, 4], (7, 4))):
        plan = find("ACmix").wiring([arriving], 1, scale, args)
        assert (plan.args, plan.channels_out) == ((arriving, arriving, *rest), arriving)
    for args, rest in (([], ()), ([1024], ()), ([1024, 32], (32,)), ([1024, 1024, 16], (16,)), ([16], (16,))):
        assert find("CoordAtt").wiring([arriving], 1, scale, args).args == (arriving, arriving, *rest)
    assert find("ACmix").wiring([arriving], 1, scale, [1024, 512]).channels_out == scale(512)
    plan = double([scale(64)], 1, scale, [128, 3])
    assert (plan.args, plan.channels_out) == ((scale(64), scale(128), 3), scale(128))
    assert double([scale(64)], 1, scale, [128, 3, True]).channels_out == scale(64)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("CoTAttention", [256]),
        ("CBAM", [256]),
        ("MHSA", [256]),
        ("CBAM", [256, 16]),
        ("ACmix", [256, 1024]),
        ("DoubleAttentionLayer", []),
        ("DoubleAttentionLayer", [128]),
        ("DoubleAttentionLayer", [128, "3"]),
        ("ACmix", ["x"]),
    ],
)
def test_channels_that_do_not_arrive_are_refused(name, args):
    with pytest.raises(ValueError):
        find(name).wiring([512], 1, Scale(width=1.0), args)


def test_the_channel_gate_never_has_an_empty_hidden_layer():
    block = models.attention.CBAM(8, ratio=16)
    assert block.channel_attention.fc1.weight.shape == (1, 8, 1, 1)
    assert isinstance(block.channel_attention, models.attention.ChannelAttentionModule)
    assert isinstance(block.spatial_attention, models.attention.spatial_attention) and isinstance(block, nn.Module)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "ACmix" and not CASES[name].args(32)])
def test_a_row_may_name_the_channels_nominally_really_or_not_at_all(name):
    for width in (0.25, 0.33, 0.5, 0.75, 1.0, 1.25):
        scale = Scale(width=width)
        arriving = scale(128)
        plans = [find(name).wiring([arriving], 2, scale, args) for args in ([], [128], [arriving])]
        assert plans[0] == plans[1] == plans[2] and plans[0].channels_out == arriving
        assert find(name).cls(*plans[0].args)
