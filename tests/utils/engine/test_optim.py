"""Every parameter is trained once and decayed where it should be; the schedule has known values at every step."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import Model
from utils.config import Hyperparameters
from utils.engine.optim import (
    EarlyStopping,
    Schedule,
    apply_step_settings,
    build_optimizer,
    full_accumulation,
    parameter_groups,
    scaled_weight_decay,
)
from utils.errors import ConfigError, ModelError
from utils.files import ROOT
from utils.types import StepSettings, TrainState


def schedule(epochs=300, batches=100, batch_size=16, cos_lr=False, **changes):
    return Schedule(Hyperparameters(**changes), epochs, batches, batch_size, cos_lr)


class Odd(nn.Module):
    """A bit of everything that v6.1's groups lose or decay by mistake."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.conv1d = nn.Conv1d(1, 1, 3, bias=False)
        self.up = nn.ConvTranspose2d(4, 4, 2, bias=False)
        self.linear = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        norms = nn.BatchNorm2d(4), nn.LayerNorm((4, 4)), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
        self.norms = nn.ModuleList(norms)
        self.table = nn.Embedding(3, 4)
        self.prelu = nn.PReLU(4)
        self.gate = Gate()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.rel_h = nn.Parameter(torch.zeros(1, 2, 2, 1, 5))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(4, 4))])


class Gate(nn.Module):
    """A gate a channel, called weight and bias as a convolution's would be."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, 4, 1, 1))


class RawKernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))


def names_of(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group}


def test_each_parameter_of_odd_modules_lies_where_it_should():
    model = Odd()
    no_decay, decay, bias = parameter_groups(model)
    assert names_of(model, decay) == {
        "conv.weight",
        "conv1d.weight",
        "up.weight",
        "linear.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert names_of(model, bias) == {
        "conv.bias",
        "linear.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norms.0.bias",
        "norms.1.bias",
        "norms.2.bias",
        "norms.3.bias",
        "gate.bias",
    }
    assert names_of(model, no_decay) == {
        "norms.0.weight",
        "norms.1.weight",
        "norms.2.weight",
        "norms.3.weight",
        "table.weight",
        "prelu.weight",
        "gate.weight",
        "gamma",
        "rel_h",
        "relative_position_bias_table",
        "scales.0",
    }
    assert len(no_decay) + len(decay) + len(bias) == sum(1 for _ in model.parameters())


def test_a_hand_written_kernel_is_decayed():
    assert len(parameter_groups(RawKernel()).decay) == 1


def test_shared_parameters_count_once():
    shared = nn.Conv2d(2, 2, 1)
    tied = nn.Conv2d(2, 2, 1)
    tied.weight = shared.weight
    groups = parameter_groups(nn.Sequential(shared, shared, tied))
    assert (len(groups.decay), len(groups.bias)) == (1, 2)


def v61_skeleton(parameters):
    """A module tree with the parameters of a reference model's state dict: names decide what holds them."""
    root = nn.Module()
    for name, shape in parameters:
        if name.endswith(("running_mean", "running_var", "num_batches_tracked", "anchors")):
            continue
        *path, leaf = name.split(".")
        module = root
        for depth, part in enumerate(path):
            if part not in module._modules:
                is_norm = depth == len(path) - 1 and len(shape) == 1 and part == "bn"
                module.add_module(part, nn.BatchNorm2d(1) if is_norm else nn.Module())
            module = module._modules[part]
        setattr(module, leaf, nn.Parameter(torch.zeros(shape)))
    return root


def test_groups_of_yolov5s_are_v61s(golden):
    model = golden("models.json")["yolov5s"]
    state = model["state_dict"]
    groups = parameter_groups(v61_skeleton(state.items() if isinstance(state, dict) else state))
    assert [len(group) for group in groups] == [57, 60, 60]


@pytest.mark.parametrize(
    "cfg, kept_from_decay",
    [("yolov5n_MHSA", {"model.10.rel_h", "model.10.rel_w"}), ("yolov5n_ACmix", {"model.10.rate1", "model.10.rate2"})],
)
def test_gates_and_tables_of_attention_blocks_are_trained_and_not_decayed(cfg, kept_from_decay):
    model = Model(ROOT / f"models/{cfg}.yaml")
    groups = parameter_groups(model)
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert names_of(model, groups.no_decay) == norms | kept_from_decay
    assert len(groups) == sum(1 for _ in model.parameters())


@pytest.mark.parametrize("name", ("SGD", "Adam", "AdamW"))
def test_optimizers_hold_every_parameter_and_decay_one_group(name, caplog):
    model = Odd()
    caplog.set_level(logging.INFO, "yolo")
    optimizer = build_optimizer(model, name, lr=0.01, momentum=0.9, weight_decay=0.004)
    assert type(optimizer).__name__ == name
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.004, 0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [11, 6, 9]
    assert "parameter groups 11 weight (no decay), 6 weight, 9 bias" in caplog.text
    assert "26/26 parameters in optimizer\n" in caplog.text and "Scaled weight_decay = 0.004" in caplog.text
    if name == "SGD":
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    else:
        assert all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ("SGD", "Adam", "AdamW"))
def test_empty_groups_and_frozen_layers_train_on(name, caplog):
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    model[0].weight.requires_grad_(False)
    caplog.set_level(logging.INFO, "yolo")
    optimizer = build_optimizer(model, name, lr=0.1, momentum=0.9, weight_decay=0.0)
    assert "1/2 parameters in optimizer, 1 frozen" in caplog.text
    before = [layer.weight.item() for layer in model]
    for _ in range(2):
        model(torch.ones(1, 1, 1, 1)).square().sum().backward()
        apply_step_settings(optimizer, StepSettings((0.1, 0.1, 0.1), 0.9, 1))
        optimizer.step()
    assert model[0].weight.item() == before[0] and model[1].weight.item() != before[1]


def test_nesterov_sgd_takes_the_steps_of_its_formula():
    model = nn.Conv2d(1, 1, 1, bias=False)
    optimizer = build_optimizer(model, "SGD", lr=0.1, momentum=0.9, weight_decay=0.05)
    weight, velocity = model.weight.item(), 0.0
    for gradient in (1.0, -0.5, 2.0):
        model.weight.grad = torch.full((1, 1, 1, 1), gradient)
        optimizer.step()
        pull = gradient + 0.05 * weight
        velocity = 0.9 * velocity + pull
        weight -= 0.1 * (pull + 0.9 * velocity)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_mistakes_are_named():
    with pytest.raises(
        ConfigError, match=r"--optimizer adamw: expected SGD, Adam, AdamW, MuSGD or Muon \(did you mean AdamW"
    ):
        build_optimizer(Odd(), "adamw", 0.1, 0.9, 0)
    with pytest.raises(ModelError, match="none of the model's 2 parameters can be trained: freeze fewer layers"):
        build_optimizer(nn.Conv2d(1, 1, 1).requires_grad_(False), "SGD", 0.1, 0.9, 0)


@pytest.mark.parametrize(
    "batch_size, accumulate, decay",
    [(16, 4, 0.0005), (64, 1, 0.0005), (128, 1, 0.001), (24, 3, 0.0005625), (1, 64, 0.0005)],
)
def test_weight_decay_follows_the_pictures_behind_a_step(batch_size, accumulate, decay):
    assert full_accumulation(batch_size) == accumulate
    assert scaled_weight_decay(0.0005, batch_size) == pytest.approx(decay)


@pytest.mark.parametrize("cos_lr", (False, True))
def test_learning_rate_falls_from_first_to_last(cos_lr):
    plan = schedule(epochs=10, lrf=0.2, cos_lr=cos_lr)
    rates = [plan.epoch_lr(epoch) for epoch in range(11)]
    assert rates[0] == pytest.approx(0.01) and rates[10] == pytest.approx(0.002)
    assert rates[5] == pytest.approx(0.006)
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))
    quarter = (1 + math.cos(math.pi * 0.2)) / 2 if cos_lr else 0.8
    assert rates[2] == pytest.approx(0.01 * (0.2 + 0.8 * quarter))


def interpolated(plan, step):
    """The settings of a step, by numpy's interpolation."""
    lr = plan.epoch_lr(step // plan.batches_per_epoch)
    span = [0, plan.warmup]
    weight = np.interp(step, span, [0, lr])
    return (
        (weight, weight, np.interp(step, span, [0.1, lr])),
        np.interp(step, span, [0.8, 0.937]),
        max(1, np.interp(step, span, [1, plan.accumulate]).round()),
    )


def test_knobs_of_every_step():
    plan = schedule(epochs=10, batches=100)
    assert plan.warmup == 300
    for step in range(1000):
        lr, momentum, accumulate = interpolated(plan, step)
        settings = plan.step_settings(step)
        assert (
            settings.lr == pytest.approx(lr)
            and settings.momentum == pytest.approx(momentum)
            and settings.accumulate == accumulate
        )
    assert plan.step_settings(0) == StepSettings((0.0, 0.0, 0.1), 0.8, 1)
    assert plan.step_settings(300) == StepSettings((plan.epoch_lr(3),) * 3, 0.937, 4)


@pytest.mark.parametrize(
    "epochs, batches, warmup_epochs, warmup",
    [
        (300, 100, 3, 300),
        (300, 10, 3, 100),
        (10, 10, 3, 50),
        (1, 1, 3, 0),
        (3, 100, 3, 150),
        (300, 100, 0, 0),
        (300, 100, 0.5, 100),
    ],
)
def test_warmup_has_a_floor_and_never_fills_a_training(epochs, batches, warmup_epochs, warmup):
    plan = schedule(epochs, batches, warmup_epochs=warmup_epochs)
    assert plan.warmup == warmup
    assert plan.step_settings(warmup).momentum == 0.937


def test_knobs_reach_the_optimizer():
    model = Odd()
    settings = StepSettings((0.1, 0.2, 0.3), 0.5, 1)
    for name in ("SGD", "Adam"):
        optimizer = build_optimizer(model, name, 0.01, 0.9, 0)
        apply_step_settings(optimizer, settings)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.3]
        assert all(group.get("momentum", group.get("betas", (0,))[0]) == 0.5 for group in optimizer.param_groups)
    with pytest.raises(ValueError):
        apply_step_settings(optimizer, StepSettings((0.1,), 0.5, 1))


def stops_at(patience, fitness):
    """The epoch after which a training with these fitnesses is stopped, None if it runs through."""
    state, stopping = TrainState(), EarlyStopping(patience)
    for epoch, value in enumerate(fitness):
        state.epoch = epoch + 1
        if value > state.best_fitness:
            state.best_fitness, state.best_epoch = value, epoch
        if stopping.should_stop(state):
            return epoch
    return None


def test_early_stopping_waits_for_patience_and_no_longer():
    assert stops_at(3, [0.1, 0.5, 0.4, 0.4, 0.4, 0.4]) == 4
    assert stops_at(3, [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]) == 4, "equal fitness is no progress"
    assert stops_at(3, [0.1, 0.5, 0.4, 0.4, 0.6, 0.5]) is None
    assert stops_at(3, [0.0] * 6 + [0.2, 0.1, 0.1, 0.1]) == 9, "a start at 0 is no standstill"
    assert stops_at(0, [0.5] + [0.1] * 50) is None


def smoothed(figures, share):
    """The literal running mean: weights s^age of all figures so far, normalized."""
    means = []
    for count in range(1, len(figures) + 1):
        weights = [share ** (count - 1 - place) for place in range(count)]
        means.append(sum(w * f for w, f in zip(weights, figures, strict=False)) / sum(weights))
    return means


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_patience_follows_the_running_mean_and_best_the_fitness(share):
    figures = [0.1, 0.5, 0.2, 0.3, 0.4, 0.45, 0.44, 0.4, 0.4]
    state = TrainState()
    for epoch, fitness in enumerate(figures):
        state.smooth(fitness, share)
        if fitness > state.best_fitness:
            state.best_fitness, state.best_epoch = fitness, epoch
        means = smoothed(figures[: epoch + 1], share)
        assert state.patience_epoch == means.index(max(means))
        if share:
            assert math.isclose(state.smooth_best, max(means))
        state.end_epoch()
        waited = epoch - means.index(max(means))
        assert [EarlyStopping(patience).has_waited(state) for patience in (waited, waited + 1)] == [waited > 0, False]
    assert state.best_epoch == 1
    assert state.patience_epoch == {0.0: 1, 0.5: 6, 0.9: 8}[share]


def test_without_smoothing_the_state_is_what_it_was():
    state = TrainState()
    state.smooth(0.4, 0)
    assert state == TrainState()


@pytest.mark.parametrize(
    "batch_size, nbs, accumulate, decay",
    [(16, 64, 4, 0.0005), (16, 16, 1, 0.0005), (16, 40, 2, 0.0004), (16, 128, 8, 0.0005), (48, 16, 1, 0.0015)],
)
def test_nbs_is_the_images_behind_a_step_and_of_the_weight_decay(batch_size, nbs, accumulate, decay):
    plan = schedule(batch_size=batch_size, nbs=nbs)
    assert plan.accumulate == plan.step_settings(plan.warmup).accumulate == full_accumulation(batch_size, nbs)
    assert plan.accumulate == accumulate
    assert scaled_weight_decay(0.0005, batch_size, nbs) == pytest.approx(decay)


def test_the_recipes_cosine_is_that_of_the_flag_with_lrf_as_its_floor():
    recipe, flag = schedule(epochs=20, schedule="cosine", lrf=0.1), schedule(epochs=20, cos_lr=True, lrf=0.1)
    assert [recipe.step_settings(step) for step in range(2000)] == [flag.step_settings(step) for step in range(2000)]
    rates = [recipe.epoch_lr(epoch) for epoch in range(21)]
    assert rates == pytest.approx([0.001 + 0.009 * (1 + math.cos(math.pi * epoch / 20)) / 2 for epoch in range(21)])
    assert min(rates) == rates[20] == pytest.approx(0.001) and rates[10] == pytest.approx(0.0055)
    assert schedule(epochs=20, schedule="linear", lrf=0.1).epoch_lr(5) == pytest.approx(0.00775)


@pytest.mark.parametrize("share, warmup", [(0.1, 30), (0.5, 150), (0, 0), (0.001, 0), (1 / 60, 5)])
def test_warmup_as_a_share_has_no_floor(share, warmup):
    plan = schedule(epochs=10, batches=30, warmup_share=share, warmup_epochs=3)
    assert plan.warmup == warmup
    for step in range(0, 300, 7):
        lr, momentum, accumulate = interpolated(plan, step) if warmup else ((plan.epoch_lr(step // 30),) * 3, 0.937, 4)
        settings = plan.step_settings(step)
        assert settings.lr == pytest.approx(lr) and settings.momentum == pytest.approx(momentum)
        assert settings.accumulate == accumulate


def test_the_pieces_of_the_schedule_are_off_by_default():
    """v6.1's, at every step."""
    plain = schedule(epochs=30, batches=13)
    named = schedule(epochs=30, batches=13, schedule="linear", nbs=64, warmup_share=None)
    assert plain.warmup == 100 and plain.accumulate == 4
    assert [plain.step_settings(step) for step in range(390)] == [named.step_settings(step) for step in range(390)]


@pytest.mark.parametrize(
    "batches, batch_size, nbs, steps", [(13, 16, 64, 4), (12, 16, 64, 3), (13, 64, 64, 13), (5, 8, 16, 3)]
)
def test_optimizer_steps_are_those_of_the_epochs_with_their_last_short_one(batches, batch_size, nbs, steps):
    plan = schedule(epochs=7, batches=batches, batch_size=batch_size, nbs=nbs, warmup_share=0)
    taken = pending = 0
    for step in range(7 * batches):
        pending += 1
        if pending >= plan.step_settings(step).accumulate or (step + 1) % batches == 0:
            taken, pending = taken + 1, 0
    assert plan.optimizer_steps == taken == 7 * steps
