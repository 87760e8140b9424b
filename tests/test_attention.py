"""What every registered attention block must hold, whatever it computes: a new one is tested once it is registered.

What differs from block to block (its oracle, counts, reference figures and listed exceptions) is in tests/blocks/."""

import copy
import re

import numpy as np
import pytest
import torch
from blocks import cases
from torch import nn

import models.attention
from models.identity_start import started_as_identity
from models.registry import Scale, find, registered
from models.yolo import Model
from utils.errors import ModelError
from utils.files import ROOT
from utils.optim import build_optimizer

BLOCKS = sorted(name for name, entry in registered().items() if entry.attention)
CASES = cases()
SIZES = [(1, 1), (2, 3), (7, 5), (13, 21), (80, 80)]
WIDTHS = [8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280]  # of all five scales, C3s inside
ORACLES = [(name, word) for name, case in CASES.items() for word in case.oracles]
GOLDENS = [(name, word) for name, case in CASES.items() for word in case.golden]
LEARNED = [name for name in BLOCKS if name not in CASES or any(CASES[name].counts.values())]  # those that have parameters
REFUSED = [(name, args, word) for name, case in CASES.items() for args, word in case.refused.items()]


def build(name, channels=32):
    entry = find(name)
    plan = entry.wiring([channels], 1, Scale(), CASES[name].args(channels))
    assert plan.channels_out == channels
    torch.manual_seed(0)
    return entry.cls(*plan.args)


def image(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def randomised(block, seed=5):
    """The block in float64 with random parameters and running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    block = block.double().eval()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else 0.5 * drawn)
    return block


def listed(name, exceptions):
    return any(name.endswith(end) for end in exceptions)


@pytest.mark.parametrize("name", BLOCKS)
def test_has_a_case_with_an_oracle_and_counts(name):
    case = CASES[name]
    assert case.oracles and len(case.counts) >= 2
    assert find(name).cls.__doc__ and find(name).cls.__name__ in models.attention.__all__


# ---- what it computes ----


@pytest.mark.parametrize(("name", "word"), ORACLES)
def test_equals_its_equations(name, word):
    oracle = CASES[name].oracles[word]
    for size in oracle.sizes:
        block = randomised(oracle.build())
        x = image(2, oracle.channels, *size, dtype=torch.float64)
        with torch.no_grad():
            expected = oracle.slow(block, x)
            torch.testing.assert_close(block(x), expected, rtol=1e-8, atol=1e-9, msg=lambda text, size=size: f"at {size}: {text}")
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize(("name", "word"), [each for each in ORACLES if CASES[each[0]].oracles[each[1]].gradients])
def test_gradients_equal_those_of_the_equations(name, word):
    """Exact short cuts are exact for training too."""
    oracle = CASES[name].oracles[word]
    block = randomised(oracle.build(), seed=6)
    x = image(2, oracle.channels, 4, 3, dtype=torch.float64).requires_grad_()
    names, wanted = ["x", *(key for key, _ in block.named_parameters())], [x, *block.parameters()]
    pull = image(*block(x).shape, dtype=torch.float64, seed=2)
    fast = torch.autograd.grad((block(x) * pull).sum(), wanted, allow_unused=True, materialize_grads=True)
    literal = torch.autograd.grad((oracle.slow(block, x) * pull).sum(), wanted, allow_unused=True, materialize_grads=True)
    for key, ours, theirs in zip(names, fast, literal, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "word"), GOLDENS)
def test_equals_the_reference_figures(name, word, golden, fill):
    facts, reference = golden("attention.json")[word], CASES[name].golden[word]
    block = reference.build()
    assert {key: list(value.shape) for key, value in block.state_dict().items()} == facts["state_dict"]
    assert sum(parameter.numel() for parameter in block.parameters()) == facts["parameters"]
    fill.fill_(block, facts["seed"]).eval()
    with torch.no_grad():
        x = fill.tensor_input(facts["input_name"], facts["input_shape"], facts["seed"])
        output = reference.from_map(block(reference.to_map(x))).numpy()
    expected = golden(f"attention_{word}.npz")["output"]
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-4


def test_every_reference_figure_is_compared(golden):
    assert {word for _, word in GOLDENS} == set(golden("attention.json")) - {"note", "notes"}


@pytest.mark.parametrize("name", BLOCKS)
def test_parameter_counts(name):
    with torch.device("meta"):
        counts = {width: sum(each.numel() for each in build(name, width).parameters()) for width in CASES[name].counts}
    assert counts == dict(CASES[name].counts)


# ---- what it takes ----


@pytest.mark.parametrize("name", BLOCKS)
def test_any_size_in_and_the_same_size_out(name):
    block = build(name, 16).eval()
    for size in SIZES:
        x = image(1 if size == (80, 80) else 2, 16, *size)
        before = x.clone()
        with torch.no_grad():
            out = block(x)
        assert out.shape == x.shape and out.isfinite().all(), size
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", BLOCKS)
def test_builds_and_runs_at_every_width_of_every_scale(name):
    for channels in WIDTHS:
        with torch.device("meta"):
            block = build(name, channels).eval()
            assert block(torch.empty(1, channels, 4, 6)).shape == (1, channels, 4, 6)
        assert all(parameter.numel() for parameter in block.parameters()), f"an empty layer at {channels} channels"


@pytest.mark.parametrize(("name", "args", "word"), REFUSED)
def test_arguments_that_cannot_work_say_which_can(name, args, word):
    with pytest.raises(ModelError, match=word) as caught:
        find(name).cls(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_image_does_not_depend_on_its_batch(name):
    block, x = build(name).eval(), image(3, 32, 9, 6)
    with torch.no_grad():
        for parameter in block.parameters():  # gates that start at zero are opened
            parameter.add_(0.1 * image(*parameter.shape, seed=3))
        other = x.clone()
        other[1:] = 5 * other[1:].flip(0)
        torch.testing.assert_close(block(x)[:1], block(other)[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block(x)[:1], block(x[:1]), rtol=1e-4, atol=1e-5)
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
        low = block.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    for each in (mixed, low):
        assert (each.float() - expected).abs().mean() < CASES[name].low_tolerance * expected.abs().mean()


@pytest.mark.parametrize("name", BLOCKS)
def test_huge_values_stay_finite_in_half_precision(name):
    """Norms, powers and softmax work in float32 where the model is in half precision."""
    block = build(name).eval().bfloat16()
    with torch.no_grad():
        assert block(100 * image(1, 32, 6, 5, dtype=torch.bfloat16)).isfinite().all()
        assert block(torch.zeros(1, 32, 6, 5, dtype=torch.bfloat16)).isfinite().all()


# ---- how it trains ----


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (1, 32, 7, 5), (3, 32, 8, 8)])
def test_trains_at_any_batch_and_size(name, shape):
    block = build(name).train()
    x = image(*shape).requires_grad_()
    before = x.detach().clone()
    (block(x) * image(*shape, seed=2)).sum().backward()
    assert torch.equal(x.detach(), before) and x.grad.isfinite().all()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_moves_on_the_first_step_and_the_sleeping_ones_on_the_second(name):
    case, block, x = CASES[name], build(name).train(), image(2, 32, 9, 10)
    optimizer = build_optimizer(block, "Adam", lr=1e-2, momentum=0.9, weight_decay=0.0)
    for exceptions in ({**case.asleep, **case.flat}, case.flat):
        before = {key: value.detach().clone() for key, value in block.named_parameters()}
        optimizer.zero_grad()
        (block(x) * image(*x.shape, seed=2)).sum().backward()
        gradients = {key: value.grad for key, value in block.named_parameters()}
        optimizer.step()
        for key, value in block.named_parameters():
            if not listed(key, exceptions):
                assert gradients[key].abs().sum() > 0, f"{key} receives no gradient"
                assert not torch.equal(value, before[key]), f"{key} stays where it was"


@pytest.mark.parametrize("name", BLOCKS)
def test_started_as_the_identity_it_is_the_identity_and_learns(name):
    """A block that starts as the identity by itself would, behind a zero gate, get no gradient for ever, nor would the gate."""
    block, x = started_as_identity(build(name), 32, 32).train(), image(2, 32, 9, 10)
    assert torch.equal(block(x), x)
    before = {key: value.detach().clone() for key, value in block.named_parameters()}
    optimizer = build_optimizer(block, "Adam", lr=1e-2, momentum=0.9, weight_decay=0.0)
    for _ in range(4):
        optimizer.zero_grad()
        (block(x) * image(*x.shape, seed=2)).sum().backward()
        optimizer.step()
    still = [key for key, value in block.named_parameters() if torch.equal(value, before[key])]
    assert not [key for key in still if not listed(key, CASES[name].flat)]


@pytest.mark.parametrize("name", BLOCKS)
def test_listed_exceptions_are_real(name):
    case, keys = CASES[name], [key for key, _ in build(name).named_parameters()]
    for end, reason in {**case.asleep, **case.flat}.items():
        assert reason and any(key.endswith(end) for key in keys), end


@pytest.mark.parametrize("name", BLOCKS)
def test_the_spread_at_the_start_is_that_of_the_input(name):
    x = image(4, 64, 16, 16)
    with torch.no_grad():
        out = build(name, 64).train()(x)
    ratio = float(out.std() / x.std())
    inside = 0.3 <= ratio <= 3
    assert inside != bool(CASES[name].spread), f"{ratio:.3f} with the listed reason {CASES[name].spread!r}"


@pytest.mark.parametrize("name", BLOCKS)
def test_trains_under_autocast(name):
    block = build(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = image(2, 32, 6, 7).requires_grad_()
        out = block(x)
    out.float().square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


# ---- how it is kept ----


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
def test_every_tensor_follows_the_blocks_type(name):
    """Buffers and parameters follow the block: nothing is left behind by .to()."""
    block = build(name).to(torch.float64)
    assert {tensor.dtype for tensor in block.state_dict().values() if tensor.is_floating_point()} <= {torch.float64}


@pytest.mark.parametrize("name", BLOCKS)
def test_fuse_changes_nothing(name):
    rows = [[-1, 1, "Conv", [32, 3, 4]], [-1, 1, name, CASES[name].args(32)], [-1, 1, "Conv", [16, 3, 2]]]
    head = [[[2], 1, "Detect", ["nc", "anchors"]]]
    torch.manual_seed(0)
    model = Model({"nc": 2, "depth_multiple": 1, "width_multiple": 1, "anchors": [[8, 8, 20, 20]], "backbone": rows, "head": head})
    x = image(2, 3, 64, 96).abs()
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)  # running statistics other than zero and one
        before = model.eval()(x)[0]
        after = model.fuse()(x)[0]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)


SOURCES = sorted((ROOT / "models" / "attention").glob("*.py"))
LITERALS = re.compile(r"\.cuda\(|\.half\(|\.float\(|\.double\(|torch\.(float|bfloat|half)\d*|device=[\"']|\.view\(-1, *\d+ *\*|AdaptiveMaxPool")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_number_type_or_device_is_written_into_a_block(path):
    if path.stem == "arithmetic":
        pytest.skip("the one place that decides number types")
    found = [f"{path.name}:{number}: {line.strip()}" for number, line in enumerate(path.read_text().splitlines(), 1)
             if LITERALS.search(line) and "promote_types" not in line]
    assert not found


# ---- the tutorials' rows ----


TUTORIAL_ROWS = [  # yaml block, yaml args, nominal channels that arrive, constructor arguments behind the channels
    ("CoTAttention", [512], 512, ()), ("CoTAttention", [512, 3], 512, (3,)), ("CBAM", [1024], 1024, ()),
    ("CBAM", [1024, 7], 1024, (7,)), ("CBAM", [1024, 16, 7], 1024, (16, 7)), ("MHSA", [1024], 1024, ()),
    ("MHSA", [1024, 14, 14, 4], 1024, (14, 14, 4)), ("SEAttention", [1024, 16], 1024, (16,)), ("SimAM", [1024, 1e-4], 1024, (1e-4,)),
    ("CBAM", [], 256, ()), ("MHSA", [], 256, ()), ("CoTAttention", [], 256, ()),
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
    for args, rest in (([], ()), ([1024], ()), ([1024, 32], (32,)), ([1024, 1024, 16], (16,)), ([16], (16,))):
        assert find("CoordAtt").wiring([arriving], 1, scale, args).args == (arriving, arriving, *rest)
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


def test_the_channel_gate_never_has_an_empty_hidden_layer():
    block = models.attention.CBAM(8, ratio=16)
    assert block.channel_attention.fc1.weight.shape == (1, 8, 1, 1)
    assert isinstance(block.channel_attention, models.attention.ChannelAttentionModule)
    assert isinstance(block.spatial_attention, models.attention.spatial_attention) and isinstance(block, nn.Module)
