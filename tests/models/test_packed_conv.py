"""Packed convolutions compute what torch's do, and step aside where they cannot be used."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import packed_conv
from models.packed_conv import PackedConv2d, is_packable

needs_operators = pytest.mark.skipif(
    not is_packable(nn.Conv2d(1, 1, 1)), reason="this torch has no oneDNN operators on this processor"
)
OPTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": (5, 3), "padding": (2, 1), "stride": 2},
    {"kernel_size": 3, "padding": 3, "dilation": 3},
    {"kernel_size": 3, "padding": 1, "groups": 4},
    {"kernel_size": 3, "padding": 1, "groups": 8},
]


class _Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name().partition("::")[2])
        return function(*args, **(kwargs or {}))


@needs_operators
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("with_silu", [False, True])
def test_equals_the_convolution_and_the_silu_in_double_precision(options, with_silu):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, **options).requires_grad_(False)
    x = torch.randn(2, 8, 13, 11)
    exact = copy.deepcopy(conv).double()(x.double())
    with torch.no_grad(), _Calls() as calls:
        got = PackedConv2d(conv, with_silu)(x)
    assert "_convolution_pointwise" in calls.names and "convolution" not in calls.names and "silu" not in calls.names
    torch.testing.assert_close(got.double(), F.silu(exact) if with_silu else exact, rtol=1e-5, atol=1e-5)


@needs_operators
def test_steps_aside_for_gradients_other_types_and_graphs():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 4, 6, 6)
    packed, expected = PackedConv2d(conv, with_silu=True), F.silu(conv(x))
    leaf = x.clone().requires_grad_()
    packed(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0
    with torch.no_grad():
        traced = torch.jit.trace(packed, x)
        assert "_convolution_pointwise" not in str(traced.graph)
        torch.testing.assert_close(traced(x), expected)
        torch.testing.assert_close(copy.deepcopy(packed).double()(x.double()).float(), expected)
        assert packed.to("meta")(x.to("meta")).device.type == "meta"


@needs_operators
def test_a_copy_shares_the_packed_weight_and_a_conversion_drops_it():
    packed = PackedConv2d(nn.Conv2d(4, 4, 1))
    other = copy.deepcopy(packed)
    assert other.packed is packed.packed and other.weight is not packed.weight
    assert other.half().packed is None and packed.packed is not None


def test_what_is_not_packed(monkeypatch):
    assert not is_packable(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert not is_packable(nn.Conv2d(4, 4, 3, padding="same"))
    assert not is_packable(nn.Conv2d(4, 4, 3).double()) and not is_packable(nn.Conv2d(4, 4, 3, device="meta"))
    assert not is_packable(nn.ConvTranspose2d(4, 4, 3)) and not is_packable(nn.Linear(4, 4))
    monkeypatch.setattr(packed_conv.platform, "machine", lambda: "arm64")
    assert not is_packable(nn.Conv2d(4, 4, 3))
