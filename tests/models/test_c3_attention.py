"""C3Attention: a C3 with any registered block in its bottlenecks."""

import pytest
import torch
from blocks import cases

from models.c3_attention import C3Attention
from models.layers import C3
from models.registry import Scale, find, registered
from models.yolo import Model
from utils.errors import ModelError

CASES = cases()
KEEPING = sorted(name for name, entry in registered().items() if entry.attention and name in CASES)
HEAD = [[[1], 1, "Detect", ["nc", "anchors"]]]


def model_of(args, width=1.0, repeats=3, block="C3Attention"):
    rows = [[-1, 1, "Conv", [64, 3, 8]], [-1, repeats, block, args]]
    return Model(
        {
            "nc": 2,
            "depth_multiple": 1.0,
            "width_multiple": width,
            "anchors": [[8, 8, 20, 20]],
            "backbone": rows,
            "head": HEAD,
        }
    )


@pytest.mark.parametrize("name", KEEPING)
def test_any_block_stands_in_it(name):
    args = CASES[name].args(32)
    model = model_of([64, name, *args])
    layer = model.model[1]
    assert (
        type(layer) is C3Attention
        and [type(each.attention).__name__ for each in layer.m] == [find(name).cls.__name__] * 3
    )
    assert [module.shape for module in model.train()(torch.rand(1, 3, 64, 64))] == [(1, 2, 8, 8, 7)]


def test_it_is_x_plus_attention_of_two_convolutions():
    layer = model_of([64, "CBAM", 4]).model[1].eval()
    x = torch.randn(2, 64, 6, 5)
    deep = layer.cv1(x)
    for each in layer.m:
        deep = deep + each.attention(each.cv2(each.cv1(deep)))
    torch.testing.assert_close(layer(x), layer.cv3(torch.cat((deep, layer.cv2(x)), 1)))
    assert layer.m[0].attention.channel_attention.fc1.weight.shape == (8, 32, 1, 1)  # ratio 4 of 32


def test_with_a_block_that_does_nothing_it_is_a_c3_of_the_same_weights():
    inner, c3 = model_of([64, "CBAM"]).model[1], model_of([64], block="C3").model[1]
    assert type(c3) is C3
    missing = inner.load_state_dict(c3.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(".attention." in key for key in missing.missing_keys)
    for each in inner.m:
        each.attention = torch.nn.Identity()
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(inner.eval()(x), c3.eval()(x))  # the same kernels on the same numbers, whichever they are


@pytest.mark.parametrize(
    ("args", "shortcut", "rest"),
    [
        ([128, "CBAM"], True, ()),
        ([128, False, "CBAM"], False, ()),
        ([128, True, "CBAM", 16, 5], True, (16, 5)),
    ],
)
@pytest.mark.parametrize("width", [0.25, 1.25])
def test_its_rows(args, shortcut, rest, width):
    scale = Scale(width=width)
    plan = find("C3Attention").wiring([40], 2, scale, args)
    assert (
        plan.args == (40, scale(128), 2, shortcut, "CBAM", *rest)
        and plan.channels_out == scale(128)
        and plan.copies == 1
    )


def test_without_shortcut_nothing_is_added():
    assert not any(each.residual for each in model_of([64, False, "CBAM"]).model[1].m)
    assert all(each.residual for each in model_of([64, "CBAM"]).model[1].m)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([64], r'such as \[128, "CBAM"\]'),
        ([64, 3], "BLOCK"),
        ([64, "CBMA"], "did you mean"),
        (["CBAM"], r"expects \[channels"),
        ([64, "DoubleAttentionLayer", 16, 3], "needs a block that keeps"),
        ([64, "CBAM", 1, 2, 3], "argument"),
    ],
)
def test_mistakes_are_one_line(args, word):
    with pytest.raises(ModelError, match=word) as caught:
        model_of(args)
    assert "\n" not in str(caught.value) and "layer 1" in str(caught.value)


def test_fuse_changes_nothing():
    model, x = model_of([64, "CBAM"]).double(), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        model.train()(x)
        before = model.eval()(x)[0]
        torch.testing.assert_close(model.fuse()(x)[0], before, rtol=1e-9, atol=1e-9)
