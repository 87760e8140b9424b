"""What every registered attention block must hold, whatever it computes: a new one is tested once it is registered."""

import copy

import pytest
import torch
from torch import nn

import models.attention  # noqa: F401 - registers the blocks
from models.registry import Scale, find, registered
from utils.errors import ModelError

BLOCKS = sorted(name for name, entry in registered().items() if entry.attention)
YAML_ARGS = {"DoubleAttentionLayer": lambda channels: [channels, 3]}  # others are built from [channels]
SIZES = [(1, 1), (2, 3), (7, 5), (13, 21), (80, 80)]
COUNTS = {  # parameters at 64 and 512 channels, by the closed forms of the papers' layers
    "CoTAttention": (36_736, 2_300_928), "ACmix": (17_822, 829_934), "CBAM": (610, 32_866),
    "DoubleAttentionLayer": (4_550, 512 * 512 + 512 + 2 * (512 * 3 + 3)), "MHSA": (14_272, 3 * (512**2 + 512) + 28 * 512),
}


def build(name, channels=32, scale=None):
    entry = find(name)
    plan = entry.wiring([channels], 1, scale or Scale(), YAML_ARGS.get(name, lambda width: [width])(channels))
    assert plan.channels_out == channels
    torch.manual_seed(0)
    return entry.cls(*plan.args)


def image(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_the_catalogue_holds_the_tutorials_blocks():
    assert set(BLOCKS) >= {"ACmix", "CBAM", "CoTAttention", "DoubleAttentionLayer", "MHSA"}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_in_and_the_same_size_out(name, size):
    block = build(name, 16).eval()
    x = image(2 if size != (80, 80) else 1, 16, *size)
    before = x.clone()
    with torch.no_grad():
        out = block(x)
    assert out.shape == x.shape and out.isfinite().all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(1, 32, 7, 5), (3, 32, 8, 8)])
def test_trains_at_any_batch_and_every_parameter_gets_a_finite_gradient(name, shape):
    block = build(name).train()
    x = image(*shape).requires_grad_()
    before = x.detach().clone()
    (block(x) * image(*shape)).sum().backward()
    assert torch.equal(x.detach(), before) and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", BLOCKS)
def test_an_image_does_not_depend_on_its_batch(name):
    block, x = build(name).eval(), image(3, 32, 9, 6)
    other = x.clone()
    other[1:] = 5 * other[1:].flip(0)
    with torch.no_grad():
        torch.testing.assert_close(block(x)[:1], block(other)[:1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(block(x)[:1], block(x[:1]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(block(x)[1], block(other)[1], atol=1e-3)


@pytest.mark.parametrize("name", BLOCKS)
def test_number_types_and_memory_formats(name):
    block, x = build(name).eval(), image(2, 32, 10, 12)
    with torch.no_grad():
        expected = block.double()(x.double())
        assert expected.dtype == torch.float64
        block.float()
        torch.testing.assert_close(block(x), expected.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(block(x.to(memory_format=torch.channels_last)), expected.float(), rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = block(x)
        half = block.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    for low in (mixed, half):
        assert (low.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("name", BLOCKS)
def test_trains_under_autocast(name):
    block = build(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(image(2, 32, 6, 7))
    out.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_copies_and_state_dicts_carry_everything(name):
    block, x = build(name).eval(), image(1, 32, 7, 7)
    twin = copy.deepcopy(block)
    fresh = build(name)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
        fresh.load_state_dict(block.state_dict())
        for other in (twin, fresh.eval()):
            assert torch.equal(other(x), block(x))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("channels", [16, 48, 80, 160, 320, 1280])
def test_builds_at_the_widths_of_every_scale(name, channels):
    with torch.device("meta"):
        out = build(name, channels).eval()(torch.empty(1, channels, 4, 6))
    assert out.shape == (1, channels, 4, 6)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name in COUNTS])
def test_parameter_counts(name):
    with torch.device("meta"):
        assert tuple(sum(each.numel() for each in build(name, width).parameters()) for width in (64, 512)) == COUNTS[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_tensor_follows_the_blocks_type(name):
    """Buffers and parameters follow the block: nothing is left behind by .to()."""
    block = build(name).to(torch.float64)
    assert {tensor.dtype for tensor in block.state_dict().values() if tensor.is_floating_point()} == {torch.float64}


TUTORIAL_ROWS = [  # yaml block, yaml args, nominal channels that arrive, constructor arguments behind the channels
    ("CoTAttention", [512], 512, ()), ("CoTAttention", [512, 3], 512, (3,)), ("CBAM", [1024], 1024, ()),
    ("CBAM", [1024, 7], 1024, (7,)), ("CBAM", [1024, 16, 7], 1024, (16, 7)), ("MHSA", [1024], 1024, ()),
    ("MHSA", [1024, 14, 14, 4], 1024, (14, 14, 4)), ("CBAM", [], 256, ()), ("MHSA", [], 256, ()), ("CoTAttention", [], 256, ()),
]


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize(("name", "args", "nominal", "rest"), TUTORIAL_ROWS)
def test_the_tutorials_rows_fit_every_scale(name, args, nominal, rest, width):
    scale = Scale(width=width)
    arriving = scale(nominal)
    assert find(name).wiring([arriving], 1, scale, args).args == (arriving, *rest)
    if args:  # channels as they really are
        assert find(name).wiring([arriving], 1, scale, [arriving, *args[1:]]).args == (arriving, *rest)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
def test_rows_of_the_blocks_that_may_change_the_width(width):
    scale = Scale(width=width)
    arriving, double = scale(1024), find("DoubleAttentionLayer").wiring
    for args, rest in (([1024], ()), ([1024, 1024], ()), ([], ()), ([1024, 5], (5,)), ([1024, 1024, 7, 4], (7, 4))):
        plan = find("ACmix").wiring([arriving], 1, scale, args)
        assert (plan.args, plan.channels_out) == ((arriving, arriving, *rest), arriving)
    assert find("ACmix").wiring([arriving], 1, scale, [1024, 512]).channels_out == scale(512)
    plan = double([scale(64)], 1, scale, [128, 3])
    assert (plan.args, plan.channels_out) == ((scale(64), scale(128), 3), scale(128))
    assert double([scale(64)], 1, scale, [128, 3, True]).channels_out == scale(64)


@pytest.mark.parametrize(("name", "args"), [
    ("CoTAttention", [256]), ("CBAM", [256]), ("MHSA", [256]), ("CBAM", [256, 16]), ("ACmix", [256, 1024]),
    ("DoubleAttentionLayer", []), ("DoubleAttentionLayer", [128]), ("DoubleAttentionLayer", [128, "3"]), ("ACmix", ["x"]),
])
def test_channels_that_do_not_arrive_are_refused(name, args):
    with pytest.raises(ValueError):
        find(name).wiring([512], 1, Scale(width=1.0), args)


@pytest.mark.parametrize(("name", "args", "word"), [
    ("CoTAttention", (64, 4), "odd"), ("CoTAttention", (30,), "multiple of 4"), ("MHSA", (30, 14, 14, 4), "multiple of 4"),
    ("MHSA", (32, 0), "width"), ("ACmix", (32, 30), "multiple of 4"), ("ACmix", (32, 32, 6), "kernel_att"),
    ("ACmix", (32, 32, 7, 4, 2), "kernel_conv"), ("ACmix", (32, 32, 7, 4, 3, 0), "stride"), ("CBAM", (32, 16, 6), "odd"),
    ("CBAM", (32, 0), "reduction"), ("DoubleAttentionLayer", (32, 32, 0), "c_n"),
])
def test_arguments_that_cannot_work_say_which_can(name, args, word):
    with pytest.raises(ModelError, match=word) as caught:
        find(name).cls(*args)
    assert "\n" not in str(caught.value)


def test_the_channel_gate_never_has_an_empty_hidden_layer():
    block = models.attention.CBAM(8, ratio=16)
    assert block.channel_attention.fc1.weight.shape == (1, 8, 1, 1)
    assert isinstance(block.channel_attention, models.attention.ChannelAttentionModule)
    assert isinstance(block.spatial_attention, models.attention.spatial_attention) and isinstance(block, nn.Module)
