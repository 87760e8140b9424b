"""Muon and MuSGD: singular values by their polynomial, steps by their formula, everything else exactly as with SGD."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import Model
from utils.config import OPTIMIZERS
from utils.engine import muon
from utils.engine.muon import COEFFICIENTS, Muon, MuSGD, is_matrix, muon_updates, orthogonalized
from utils.engine.optim import GATE_LR, build_optimizer, hidden_matrices, parameter_groups
from utils.errors import ConfigError
from utils.files import ROOT
from utils.log import LOGGER


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def literal(matrix):
    """The iterations as the numbers that they make of each singular value."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / (matrix.square().sum().sqrt() + 1e-7)
    for linear, cubic, quintic in COEFFICIENTS:
        values = linear * values + cubic * values**3 + quintic * values**5
    return left @ torch.diag(values) @ right


def test_each_polynomial_is_the_nearest_to_one_where_the_one_before_left_the_values():
    """Odd, of degree 5: by Chebyshev's criterion the best has its largest error four times, with signs in turn."""
    low, high = 0.01, 1.0
    for linear, cubic, quintic in COEFFICIENTS:
        values = np.geomspace(low, high, 200_001)
        errors = linear * values + cubic * values**3 + quintic * values**5 - 1
        turns = np.flatnonzero(np.diff(np.sign(np.diff(errors)))) + 1
        extremes = errors[[0, *turns, -1]]
        assert len(extremes) == 4 and (np.sign(extremes) == [-1, 1, -1, 1]).all()
        np.testing.assert_allclose(np.abs(extremes), np.abs(errors).max(), atol=1e-3)
        low, high = 1 + errors.min(), 1 + errors.max()
    assert (low, high) == pytest.approx((0.73, 1.27), abs=0.001)


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3), (2, 40)])
def test_iterations_change_singular_values_by_their_polynomial(shape):
    matrices = normal(3, *shape)
    found = orthogonalized(matrices)
    for matrix, each in zip(matrices, found, strict=True):
        torch.testing.assert_close(each, literal(matrix), rtol=1e-9, atol=1e-9)
        values = torch.linalg.svdvals(each)
        assert values.min() > 0.3 and values.max() < 1.3, "near 1, however far apart they were"


@pytest.mark.parametrize("shape", [(32, 32), (32, 288), (288, 32)])
@pytest.mark.parametrize("decades", [0, 2, 5, 40])
def test_single_precision_suffices_for_singular_values_decades_apart(shape, decades):
    left, _, right = torch.linalg.svd(normal(*shape), full_matrices=False)
    matrix = left @ torch.diag(torch.logspace(0, -decades, 32, dtype=torch.float64)) @ right
    error = orthogonalized(matrix.float()[None])[0].double() - literal(matrix)
    assert torch.linalg.matrix_norm(error, 2) < 0.002


@pytest.mark.parametrize("shape, most", [((32, 288), 0.001), ((128, 1152), 0.005), ((256, 1152), 0.02)])
def test_one_direction_that_outweighs_the_others_leaves_them_more_exact_than_half_precision_would(shape, most):
    matrix = normal(shape[0], 1) @ normal(1, shape[1], seed=1)
    matrix = matrix / matrix.norm() + 0.001 * normal(*shape, seed=2) / shape[1] ** 0.5
    exact = literal(matrix)
    halves = (matrix / matrix.norm()).bfloat16()
    for linear, cubic, quintic in COEFFICIENTS:
        gram = halves @ halves.mT
        halves = linear * halves + (cubic * gram + quintic * gram @ gram) @ halves
    errors = [
        torch.linalg.matrix_norm(found.double() - exact, 2).item()
        for found in (orthogonalized(matrix.float()[None])[0], halves)
    ]
    assert errors[0] < most and errors[1] > 10 * errors[0]


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 3, 5)])
def test_a_matrix_of_zeros_stays_one(shape):
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


def test_kernels_of_equal_shape_are_computed_together_and_each_is_its_own():
    kernels = [normal(*shape, seed=seed) for seed, shape in enumerate([(4, 3, 3, 3), (8, 4), (4, 3, 3, 3), (4, 27)])]
    for kernel, update in zip(kernels, muon_updates(kernels), strict=True):
        rows, columns = len(kernel), kernel[0].numel()
        expected = literal(kernel.reshape(rows, columns)) * max(1, rows / columns) ** 0.5
        torch.testing.assert_close(update, expected.reshape(kernel.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "shape, expected",
    [((8, 4, 3, 3), True), ((8, 1, 3, 3), True), ((1, 2, 7, 7), False), ((8, 1, 1, 1), False), ((8,), False)],
)
def test_vectors_are_no_matrices(shape, expected):
    assert is_matrix(torch.zeros(shape)) is expected


@pytest.mark.parametrize("kind, share", [(Muon, 1.0), (MuSGD, 0.5)])
def test_steps_are_those_of_the_formula(kind, share):
    weight = nn.Parameter(normal(6, 2, 3, 1))
    optimizer = kind([{"params": [weight], "weight_decay": 0.01}], [weight], lr=0.1, momentum=0.9)
    expected, velocity = weight.detach().reshape(6, 6).clone(), torch.zeros(6, 6, dtype=torch.float64)
    for step in range(4):
        gradient = normal(6, 2, 3, 1, seed=step + 1)
        weight.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(weight.grad, gradient)
        velocity = 0.9 * velocity + gradient.reshape(6, 6)
        direction = gradient.reshape(6, 6) + 0.9 * velocity
        update = share * literal(direction) + (1 - share) * direction
        expected = expected - 0.1 * (update + 0.01 / (1 - 0.9) * expected)
        torch.testing.assert_close(weight.detach().reshape(6, 6), expected, rtol=1e-9, atol=1e-9)


def test_matrices_take_turns_and_go_as_far_together():
    """Of five matrices each moves in every third step, three times as far, by the velocity of all steps."""
    weights = [nn.Parameter(normal(3, 5, seed=seed)) for seed in range(5)]
    group = {"params": weights, "weight_decay": 0.01}
    optimizer = Muon([group], weights, lr=0.1, momentum=0.9, every=3)
    expected = [weight.detach().clone() for weight in weights]
    velocities = [torch.zeros_like(weight) for weight in expected]
    moved = []
    for step in range(7):
        gradients = [normal(3, 5, seed=10 * step + place) for place in range(5)]
        before = [weight.detach().clone() for weight in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        if step == 4:  # as when a run is resumed
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = Muon([{"params": weights}], weights, lr=0.5, momentum=0.5, every=3)
            optimizer.load_state_dict(state)
        optimizer.step()
        for place, (gradient, velocity) in enumerate(zip(gradients, velocities, strict=True)):
            velocity.mul_(0.9).add_(gradient)
            if (place + step) % 3 == 0:
                update = literal(gradient + 0.9 * velocity)
                expected[place] = expected[place] - 0.3 * (update + 0.01 / (1 - 0.9) * expected[place])
        torch.testing.assert_close([weight.detach() for weight in weights], expected, rtol=1e-9, atol=1e-9)
        moved.append([place for place in range(5) if not torch.equal(weights[place], before[place])])
    assert moved[:3] == [[0, 3], [2], [1, 4]] and moved[3:6] == moved[:3] and moved[6] == [0, 3]


def test_a_turn_takes_a_step_at_least():
    weight = nn.Parameter(normal(3, 5))
    with pytest.raises(ValueError, match="every 0: expected at least 1 step"):
        Muon([weight], [weight], lr=0.1, momentum=0.9, every=0)


def test_the_recipe_says_how_often(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False))
    with caplog.at_level("INFO"):
        optimizer = build_optimizer(layers, "Muon", lr=0.01, momentum=0.9, weight_decay=0, ortho_every=2)
    assert "Muon orthogonalizes the steps of 2 matrices, each once in 2 steps, SGD takes all others" in caplog.text
    before = [layer.weight.detach().clone() for layer in layers]
    for layer in layers:
        layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert [torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True)] == [False, True]


def test_decay_is_as_strong_as_that_of_sgd():
    """With a gradient of zero both only decay; SGD's velocity has to fill first, so its last steps are compared."""
    ratios = {}
    for name in ("SGD", "Muon"):
        layer = nn.Conv2d(4, 4, 3, bias=False)
        optimizer = build_optimizer(layer, name, lr=0.01, momentum=0.9, weight_decay=0.01)
        for _ in range(100):
            before = layer.weight.detach().clone()
            layer.weight.grad = torch.zeros_like(layer.weight)
            optimizer.step()
        ratios[name] = 1 - float((layer.weight.detach() / before).mean())
    assert ratios["Muon"] == pytest.approx(0.001, rel=1e-3) and ratios["SGD"] == pytest.approx(0.001, rel=0.02)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Model(ROOT / "models/yolov5n.yaml", nc=3, report=False)


def stepped(network, name, steps=3):
    model = copy.deepcopy(network)
    optimizer = build_optimizer(model, name, lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(steps):
        for seed, weight in enumerate(model.parameters()):
            weight.grad = normal(*weight.shape, seed=1000 * step + seed, dtype=torch.float32)
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["Muon", "MuSGD"])
def test_all_but_hidden_matrices_learn_exactly_as_with_sgd(network, name):
    found, optimizer = stepped(network, name)
    expected, _ = stepped(network, "SGD")
    hidden = {id(each) for each in hidden_matrices(found, parameter_groups(found))}
    assert len(hidden) == 57, "of 60 decayed kernels, three are the output layers'"
    for (key, weight), reference in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(weight, reference) is not (id(weight) in hidden), key
    assert type(optimizer).__name__ == name
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 5e-4, 0]
    kinds = {key for state in optimizer.state.values() for key in state}
    assert kinds == {"momentum_buffer"} and len(optimizer.state) == sum(1 for _ in found.parameters())


def test_a_restored_optimizer_takes_the_same_steps_to_the_last_bit(network):
    model, optimizer = stepped(network, "MuSGD")
    other = copy.deepcopy(model)
    again = build_optimizer(other, "MuSGD", lr=0.3, momentum=0.5, weight_decay=0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, stepper in ((model, optimizer), (other, again)):
        for seed, weight in enumerate(each.parameters()):
            weight.grad = normal(*weight.shape, seed=seed, dtype=torch.float32)
        stepper.step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_weights_without_gradient_stay(network):
    model = copy.deepcopy(network)
    optimizer = build_optimizer(model, "Muon", lr=0.01, momentum=0.9, weight_decay=5e-4)
    weight = model.model[1].conv.weight
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moved = [not torch.equal(*pair) for pair in zip(model.parameters(), network.parameters(), strict=True)]
    assert sum(moved) == 1 and not torch.equal(weight, network.model[1].conv.weight)


def test_with_its_polynomial_a_step_is_near_that_of_torch(monkeypatch):
    """Its iterations run in bfloat16, and its step has Jordan's other scale of the velocity, which changes nothing."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    monkeypatch.setattr(muon, "COEFFICIENTS", ((3.4445, -4.7750, 2.0315),) * 5)
    ours, theirs = (nn.Parameter(normal(24, 12, dtype=torch.float32)) for _ in range(2))
    start = ours.detach().clone()
    mine = Muon([ours], [ours], lr=0.02, momentum=0.95)
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original")
    for step in range(3):
        for weight, optimizer in ((ours, mine), (theirs, reference)):
            weight.grad = normal(24, 12, seed=step + 1, dtype=torch.float32)
            optimizer.step()
    apart, way = (ours - theirs).norm().item(), (ours - start).norm().item()
    assert apart < 0.02 * way


def test_names_and_momentum_are_checked():
    layer = nn.Conv2d(2, 2, 1)
    assert set(GATE_LR) == set(OPTIMIZERS) and GATE_LR["Muon"] == GATE_LR["MuSGD"] == GATE_LR["SGD"]
    with pytest.raises(ConfigError, match=r"--optimizer muon: expected SGD, .* MuSGD or Muon \(did you mean Muon"):
        build_optimizer(layer, "muon", 0.1, 0.9, 0)
    with pytest.raises(ConfigError, match="--optimizer MuSGD: needs a momentum below 1 in the hyperparameters"):
        build_optimizer(layer, "MuSGD", 0.1, 1.0, 0)
