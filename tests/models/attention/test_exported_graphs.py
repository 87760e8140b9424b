"""Every attention block survives export: its graphs keep the rules of CONTRIBUTING.md, and other sizes give what torch
gives."""

import pytest
import torch
from blocks.instances import BLOCKS, build, image, opened
from graph_rules import EXAMPLE, broken_rules, traced
from random_share import share_of
from torch import nn

SIZES = ((1, 10, 12), (3, 7, 14), (2, 8, 8), (1, 11, 15), (1, 21, 16), (2, 5, 30), (1, 2, 3), (1, 28, 49))
TAKES_LONG = ("BRA", "DLKA", "WindowAttention")  # to export
# torch notes that a number of windows or areas is one or not, which decides about strides and copies
# alone: at every size the numbers are right, as the tests of traces and of ONNX Runtime show
COUNTS_OF_PARTS = ("AreaAttention", "BRA", "HAT", "SCSA", "WindowAttention")


def example(batch, height, width):
    return image(batch, 32, height, width)


def prepared(name):
    return opened(build(name)).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in TAKES_LONG else ()) for name in BLOCKS]
)
def test_the_graphs_of_every_block_keep_the_rules(name):
    found = broken_rules(prepared(name), example(*EXAMPLE))
    if name in COUNTS_OF_PARTS:
        found = [line for line in found if not line.startswith(("branch", "wants a size"))]
    assert found == []


@pytest.mark.parametrize("name", BLOCKS)
def test_a_trace_takes_any_size(name):
    block = prepared(name)
    trace = traced(block, example(*EXAMPLE))
    for size in SIZES:
        expected = block(example(*size))
        torch.testing.assert_close(trace(example(*size)), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def run_onnx(block, path, any_size, sizes):
    """The largest difference of ONNX Runtime to torch at each size, relative to the largest value."""
    pytest.importorskip("onnx", reason="needs onnx: pip install -r requirements-export.txt")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install -r requirements-export.txt")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -r requirements-export.txt")
    axes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),) if any_size else None
    torch.onnx.export(
        block,
        (example(*EXAMPLE),),
        str(path),
        dynamo=True,
        opset_version=20,
        input_names=["x"],
        dynamic_shapes=axes,
        external_data=False,
        verbose=False,
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = {}
    for size in sizes:
        expected = block(example(*size))
        got = torch.from_numpy(session.run(None, {"x": example(*size).numpy()})[0])
        assert got.shape == expected.shape
        differences[size] = float((got - expected).abs().max() / expected.abs().max())
    return differences


@pytest.mark.slow
@pytest.mark.parametrize("any_size", [False, True], ids=["fixed", "any size"])
@pytest.mark.parametrize("name", share_of(BLOCKS, 1 / 3))
def test_onnx_runtime_gives_what_torch_gives(name, any_size, tmp_path):
    differences = run_onnx(prepared(name), tmp_path / "block.onnx", any_size, SIZES if any_size else (EXAMPLE,))
    assert max(differences.values()) < 2e-5, differences  # float32 of sums over some hundred positions


def test_a_fixed_file_of_lite_mla_holds_numbers(tmp_path):
    """Its epsilon was dropped: 0 / 0 wherever no query meets a key."""
    differences = run_onnx(prepared("LiteMLA"), tmp_path / "block.onnx", False, (EXAMPLE,))
    assert max(differences.values()) < 2e-5


class Toy(nn.Module):
    """A block that is its function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


BREAKERS = {
    "constant 1e-12": lambda x: x / (x.abs().sum(1, keepdim=True) + 1e-12),
    "constant 1e-15": lambda x: x / (x.abs().sum(1, keepdim=True) + 1e-15 / x.shape[2]),
    "division of a negative size": lambda x: x[:, :, : -(-x.shape[2] // 7)],
    "branch": lambda x: x * 2 if x.shape[2] * x.shape[3] % 4 == 0 else x,
    "at least": lambda x: x * 2 if x.shape[2] > 7 else x,
    "fixes a size": lambda x: x * torch.ones(int(x.shape[3])),
    "operator aten::mT": lambda x: x.mT @ x,
    "operator aten::channel_shuffle": lambda x: nn.functional.channel_shuffle(x, 2),
    "aten::permute with negative axes": lambda x: x.permute(0, -1, 1, 2) * 2,
    "roll by computed numbers": lambda x: x.roll(x.shape[2] // 2, 2),
}


@pytest.mark.parametrize("rule", BREAKERS)
def test_a_block_that_breaks_a_rule_is_found(rule):
    found = broken_rules(Toy(BREAKERS[rule]).eval(), example(*EXAMPLE))
    assert any(rule in line for line in found), found


def test_a_block_that_keeps_the_rules_is_not():
    toy = Toy(lambda x: x[:, :, : (x.shape[2] + 6) // 7] / (x.abs().sum((1, 2, 3), keepdim=True) + 1e-6))
    assert broken_rules(toy, example(*EXAMPLE)) == []
