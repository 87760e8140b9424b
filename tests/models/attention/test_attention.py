"""What must be true of every registered attention block: a new one is tested once it is registered.

What differs from block to block (its oracle, counts, reference figures and listed exceptions) is in tests/blocks/."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
from blocks.instances import BLOCKS, CASES, build, build_arguments, image, opened, randomised

import models.attention
from models.identity_start import apply_identity_start
from models.registry import find
from models.yolo import Model
from utils.engine.optim import build_optimizer
from utils.errors import ModelError

SIZES = [(1, 1), (2, 3), (7, 5), (13, 21), (80, 80)]
WIDTHS = [
    8,
    16,
    32,
    48,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    512,
    640,
    768,
    1024,
    1280,  # of all five scales, C3s inside
    24,
    40,
    56,
    72,
    88,
    104,
]  # and what other multiples come to
ORACLES = [(name, word) for name, case in CASES.items() for word in case.oracles]
GOLDENS = [(name, word) for name, case in CASES.items() for word in case.golden]
LEARNED = [
    name for name in BLOCKS if name not in CASES or any(CASES[name].counts.values())
]  # those that have parameters
REFUSED = [(name, args, word) for name, case in CASES.items() for args, word in case.refused.items()]


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
            torch.testing.assert_close(
                block(x), expected, rtol=1e-8, atol=1e-9, msg=lambda text, size=size: f"at {size}: {text}"
            )
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
    literal = torch.autograd.grad(
        (oracle.slow(block, x) * pull).sum(), wanted, allow_unused=True, materialize_grads=True
    )
    for key, ours, theirs in zip(names, fast, literal, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "word"), GOLDENS)
def test_equals_the_reference_figures(name, word, golden, fill):
    facts, reference = golden("attention.json")[word], CASES[name].golden[word]
    block = reference.build()
    assert {key: list(value.shape) for key, value in block.state_dict().items()} == facts["state_dict"]
    assert sum(parameter.numel() for parameter in block.parameters()) == facts["parameters"]
    fill.fill_(block, facts["seed"]).double().eval()
    with torch.no_grad():
        x = fill.tensor_input(facts["input_name"], facts["input_shape"], facts["seed"]).double()
        output = reference.from_map(block(reference.to_map(x))).numpy()
    expected = golden(f"attention_{word}.npz")["output"]
    assert output.shape == expected.shape
    # the figures are float32, whose rounding alone is left (measured: 20 of the largest value's)
    assert np.abs(output - expected).max() < 64 * np.finfo(np.float32).eps * np.abs(expected).max()


def test_every_reference_figure_is_compared(golden):
    assert {word for _, word in GOLDENS} == set(golden("attention.json")) - {"note", "notes"}


POSITION_FREE = {
    "A2",
    "DoubleAttentionLayer",
    "ECAAttention",
    "ESE",
    "ExternalAttention",
    "GlobalContext",
    "NAMAttention",
    "NonLocal",
    "ParallelPolarizedSelfAttention",
    "SEAttention",
    "SHSA",
    "SequentialPolarizedSelfAttention",
    "ShuffleAttention",
    "SimAM",
    "SpatialGroupEnhance",
    "TSSA",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_only_a_mechanism_without_positions_commutes_with_any_shuffle_of_them(name):
    block, x = opened(build(name)).double().eval(), image(2, 32, 4, 7, dtype=torch.float64)
    order = torch.randperm(28, generator=torch.Generator().manual_seed(4))

    def shuffled(maps):
        return maps.flatten(2)[:, :, order].unflatten(2, (4, 7))

    with torch.no_grad():
        assert torch.allclose(block(shuffled(x)), shuffled(block(x)), rtol=1e-9, atol=1e-9) == (name in POSITION_FREE)


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
def test_arguments_that_cannot_work_name_those_that_can(name, args, word):
    with pytest.raises(ModelError, match=word) as caught:
        find(name).cls(*args)
    assert "\n" not in str(caught.value)


AWKWARD = [0, -1, 2.5, float("nan"), "x", True, None, [], ["a"], {"a": 1}]


@pytest.mark.parametrize("name", BLOCKS)
def test_an_awkward_argument_works_or_is_refused_by_name(name):
    """One argument at a time; a flag is True or False: a number in its place was meant for another argument."""
    cls, given = find(name).cls, build_arguments(name, 16)
    parameters = list(inspect.signature(cls).parameters.values())
    for index, parameter in list(enumerate(parameters))[1:]:
        before = [*given, *(each.default for each in parameters[len(given) :])][:index]
        for value in AWKWARD:
            words = f"{parameter.name}={value!r}"
            try:
                with torch.device("meta"):
                    block = cls(*before, value, *given[index + 1 :]).eval()
                    out = block(torch.empty(1, 16, 3, 4))
            except ModelError as error:
                assert parameter.name in str(error) and "\n" not in str(error), f"{words}: {error}"
                continue
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                pytest.fail(f"{words}: {type(error).__name__}: {error}")
            assert out.shape[2:] == (3, 4), words
            assert isinstance(value, bool) == (parameter.annotation is bool), f"{words} is taken"


@pytest.mark.parametrize("name", BLOCKS)
def test_an_image_does_not_depend_on_its_batch(name):
    block, x = opened(build(name)).double().eval(), image(3, 32, 9, 6, dtype=torch.float64)
    with torch.no_grad():
        other = x.clone()
        other[1:] = 5 * other[1:].flip(0)
        torch.testing.assert_close(block(x)[:1], block(other)[:1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(block(x)[:1], block(x[:1]), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(block(x)[1], block(other)[1], atol=1e-3)


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
def test_every_parameter_learns_on_the_first_step_and_those_behind_a_zero_on_the_second(name):
    case, block, x = CASES[name], build(name).train(), image(2, 32, 9, 10)
    optimizer = build_optimizer(block, "Adam", lr=1e-2, momentum=0.9, weight_decay=0.0)
    for exceptions in ({**case.delayed, **case.flat}, case.flat):
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
    """Behind a second zero gate, a block that starts as the identity would never get a gradient, nor would the gate."""
    block, x = apply_identity_start(build(name), 32, 32).train(), image(2, 32, 9, 10)
    assert torch.equal(block(x), x)  # x and nothing, zero times what is finite: no rounding
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
    for end, reason in {**case.delayed, **case.flat}.items():
        assert reason and any(key.endswith(end) for key in keys), end


@pytest.mark.parametrize("name", BLOCKS)
def test_the_spread_at_the_start_is_near_that_of_the_input(name):
    x = image(4, 64, 16, 16)
    with torch.no_grad():
        out = build(name, 64).train()(x)
    ratio = float(out.std() / x.std())
    inside = 0.3 <= ratio <= 3
    assert inside != bool(CASES[name].spread), f"{ratio:.3f} with the listed reason {CASES[name].spread!r}"


@pytest.mark.parametrize("name", BLOCKS)
def test_training_is_repeatable_to_the_last_bit(name):
    block, x = opened(build(name)).train(), image(2, 32, 12, 10)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            block.zero_grad()
            leaf = x.clone().requires_grad_()
            (block(leaf) * image(*x.shape, seed=2)).sum().backward()
            gradients.append([leaf.grad, *(parameter.grad for parameter in block.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    # one process, one number of threads, the same kernels on the same shapes, and none whose order is left to chance
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


# ---- how it is kept ----


@pytest.mark.parametrize("name", BLOCKS)
def test_copies_and_state_dicts_carry_everything(name):
    block, x = build(name).eval(), image(1, 32, 7, 7)
    twin, thawed = copy.deepcopy(block), pickle.loads(pickle.dumps(block))
    fresh = build(name)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
        fresh.load_state_dict(block.state_dict())
        for other in (twin, thawed, fresh.eval()):
            assert torch.equal(other(x), block(x))  # the same kernels on the same numbers, whichever they are


@pytest.mark.parametrize("name", BLOCKS)
def test_a_trace_takes_any_batch(name):
    block = opened(build(name)).double().eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants; that of the batch must not
        traced = torch.jit.trace(block, image(1, 32, 16, 12, dtype=torch.float64), check_trace=False)
        x = image(3, 32, 16, 12, dtype=torch.float64, seed=2)
        # in a trace what is worked out of sizes is float32
        torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_tensor_follows_the_blocks_type(name):
    """Buffers and parameters follow the block: nothing is left behind by .to()."""
    block = build(name).to(torch.float64)
    assert {tensor.dtype for tensor in block.state_dict().values() if tensor.is_floating_point()} <= {torch.float64}


@pytest.mark.parametrize("name", BLOCKS)
def test_fuse_changes_nothing(name):
    rows = [[-1, 1, "Conv", [32, 3, 4]], [-1, 2, name, CASES[name].args(32)], [-1, 1, "Conv", [16, 3, 2]]]
    head = [[[2], 1, "Detect", ["nc", "anchors"]]]
    torch.manual_seed(0)
    model = Model(
        {"nc": 2, "depth_multiple": 1, "width_multiple": 1, "anchors": [[8, 8, 20, 20]], "backbone": rows, "head": head}
    ).double()
    x = image(2, 3, 64, 96, dtype=torch.float64).abs()
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)  # running statistics other than zero and one
        before = model.eval()(x)[0]
        after = model.fuse()(x)[0]
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
