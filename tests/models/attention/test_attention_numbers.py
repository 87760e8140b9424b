"""Attention blocks in every floating-point type: half precision, autocast, large features, and memory."""

import copy
import re

import pytest
import torch
from blocks.instances import BLOCKS, CASES, build, image, opened
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.files import ROOT


@pytest.mark.parametrize("name", BLOCKS)
def test_types_and_memory_formats(name):
    block, x = build(name).eval(), image(2, 32, 10, 12)
    with torch.no_grad():
        expected = block.double()(x.double())
        assert expected.dtype == torch.float64
        block.float()
        torch.testing.assert_close(block(x), expected.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            block(x.to(memory_format=torch.channels_last)), expected.float(), rtol=1e-4, atol=1e-4
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = block(x)
        low = block.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    for each in (mixed, low):
        assert (each.float() - expected).abs().mean() < CASES[name].low_tolerance * expected.abs().mean()


@pytest.mark.parametrize("name", BLOCKS)
def test_huge_values_stay_finite_in_half_precision(name):
    """Norms, powers and softmax are computed in float32 if the model is in half precision."""
    block = build(name).eval().bfloat16()
    with torch.no_grad():
        assert block(100 * image(1, 32, 6, 5, dtype=torch.bfloat16)).isfinite().all()
        assert block(torch.zeros(1, 32, 6, 5, dtype=torch.bfloat16)).isfinite().all()


UNBOUNDED = {"CAS", "CPCA", "LKA", "LSKA", "LSKA_Attention", "LSKblock", "PolaFormer", "Strip"}  # products of features


@pytest.mark.parametrize("name", BLOCKS)
def test_only_an_unbounded_gate_outgrows_the_features(name):
    """The output of the others grows with the input, and not with a power of it."""
    block, x = opened(build(name)).double().eval(), 500 * (image(1, 32, 8, 9, dtype=torch.float64) + 2)
    with torch.no_grad():
        growth = float(block(2 * x).abs().mean() / block(x).abs().mean())
    assert (growth > 2.5) == (name in UNBOUNDED), growth


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in UNBOUNDED])
def test_large_features_stay_finite_in_float16(name):
    """If the result fits float16, no intermediate leaves its range: logits, norms, powers, sums."""
    block, x = opened(build(name)).eval(), 500 * (image(1, 32, 8, 9) + 2)
    with torch.no_grad():
        expected = copy.deepcopy(block).double()(x.double())
        with torch.autocast("cpu", dtype=torch.float16):
            mixed = block(x)
        for out in (mixed, block.half()(x.half())):
            assert out.isfinite().all()
            assert (out - expected).abs().mean() < 0.03 * expected.abs().mean() + 1e-3


class Largest(TorchDispatchMode):
    """Sees every tensor that is made, and keeps the largest number of elements."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(each.numel() for each in tree_leaves(out) if isinstance(each, torch.Tensor))]
        )
        return out


@pytest.mark.parametrize("name", BLOCKS)
def test_no_weight_for_each_pair_of_positions_is_held(name):
    """Attention of quadratic cost in time goes through torch's fused kernels, forwards and backwards."""
    block, x = build(name).train(), image(1, 32, 40, 40).requires_grad_()
    with Largest() as made:
        block(x).sum().backward()
    assert x.numel() <= made.elements < 1600**2


@pytest.mark.parametrize("name", BLOCKS)
def test_trains_under_autocast(name):
    block = build(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = image(2, 32, 6, 7).requires_grad_()
        out = block(x)
    out.float().square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


SOURCES = sorted((ROOT / "models" / "attention").rglob("*.py"))
LITERALS = re.compile(
    r"\.cuda\(|\.half\(|\.float\(|\.double\(|torch\.(float|bfloat|half)\d*|device=[\"']|\.view\(-1, *\d+ *\*|"
    r"AdaptiveMaxPool"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_type_or_device_is_fixed_in_a_block(path):
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LITERALS.search(line) and "promote_types" not in line
    ]
    assert not found
