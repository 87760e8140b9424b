"""The training loop on a two-layer detector and drawn squares: seconds, no files."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kills import same
from torch import nn

from utils.device import network_input, resize_long_side
from utils.engine.build import first_of_last, gradient_scaler, multi_scale
from utils.engine.hooks import ClosedMosaic
from utils.engine.model_ema import ModelEMA
from utils.engine.optim import build_optimizer
from utils.engine.trainer import EpochProgress, Hook, Trainer, TrainingComponents
from utils.errors import NonFiniteError
from utils.loss import DetectionLoss
from utils.types import Batch, HeadGeometry, Letterbox, StepSettings, TrainState

SIDE, STRIDE, BATCH = 32, 8, 4
CPU = torch.device("cpu")
GEOMETRY = HeadGeometry(torch.tensor([[[1.0, 1.0], [2.0, 2.0]]]), torch.tensor([float(STRIDE)]), nc=2)
HYP = SimpleNamespace(
    box=0.05, obj=1.0, cls=0.5, cls_pw=1.0, obj_pw=1.0, anchor_t=4.0, fl_gamma=0.0, label_smoothing=0.0, iou="CIoU"
)


class TwoLayers(nn.Module):
    """One strided convolution with batch norm, one head: raw maps (B, 2, 4, 4, 7)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, STRIDE, STRIDE), nn.BatchNorm2d(16), nn.SiLU())
        self.head = nn.Conv2d(16, 2 * 7, 1)

    def forward(self, images):
        maps = self.head(self.body(images))
        batch, _, height, width = maps.shape
        return [maps.view(batch, 2, 7, height, width).permute(0, 1, 3, 4, 2)]


class Squares:
    """A loader of 5 batches; each image holds one bright or dark square, decided by (epoch, batch)."""

    def __init__(self, batches=5):
        self.batches = batches

    def __len__(self):
        return self.batches

    def epoch(self, epoch, batches=None):
        for number in range(self.batches) if batches is None else batches:
            generator = np.random.default_rng([7, epoch, number])
            images = np.full((BATCH, 3, SIDE, SIDE), 114, np.uint8)
            targets = []
            for index in range(BATCH):
                cls, side = int(generator.integers(2)), int(generator.integers(8, 16))
                x, y = generator.integers(0, SIDE - side, 2)
                images[index, :, y : y + side, x : x + side] = (20, 235)[cls]
                targets.append([index, cls, (x + side / 2) / SIDE, (y + side / 2) / SIDE, side / SIDE, side / SIDE])
            box = Letterbox((SIDE, SIDE), (1.0, 1.0), (0.0, 0.0), (SIDE, SIDE))
            yield Batch(
                torch.from_numpy(images),
                torch.tensor(targets, dtype=torch.float32),
                tuple("abcd"),
                (box,) * BATCH,
                tuple(range(BATCH)),
            )


def make_components(accumulate=1, loss=None, seed=0):
    torch.manual_seed(seed)
    model = TwoLayers()
    return TrainingComponents(
        model=model,
        loss=loss or DetectionLoss(GEOMETRY, HYP, CPU),
        optimizer=build_optimizer(model, "SGD", lr=0.01, momentum=0.9, weight_decay=5e-4),
        step_settings=lambda step: StepSettings(lr=(0.01, 0.01, 0.01), momentum=0.9, accumulate=accumulate),
        ema=ModelEMA(model),
        loader=Squares(),
        device=CPU,
        scaler=gradient_scaler(CPU, False),
    )


def snapshot(components):
    return copy.deepcopy(
        (components.model.state_dict(), components.ema.module.state_dict(), components.optimizer.state_dict())
    )


class Record(Hook):
    """Keeps the events and reports."""

    def __init__(self):
        self.events, self.reports, self.batches = [], [], []

    def start(self, trainer):
        self.events.append("start")

    def before_epoch(self, trainer, epoch):
        self.events.append(f"epoch {epoch}")

    def after_batch(self, trainer, batch, progress):
        self.batches.append(list(progress.mean))

    def after_epoch(self, trainer, report):
        self.events.append(f"done {report.epoch}")
        self.reports.append(report)

    def close(self, trainer):
        self.events.append("close")


def test_it_learns_squares():
    record = Record()
    state = Trainer(make_components(), TrainState(), 15, hooks=[record]).fit()
    first, last = (sum(record.reports[index].losses.row()) for index in (0, -1))
    assert last < 0.6 * first
    assert state.epoch == 15 and state.step == 75


def test_hooks_hear_everything_in_order():
    record = Record()
    Trainer(make_components(), TrainState(), 2, hooks=[record]).fit()
    assert record.events == ["start", "epoch 0", "done 0", "epoch 1", "done 1", "close"]
    assert len(record.batches) == 10
    assert [report.is_last for report in record.reports] == [False, True]


def test_two_and_two_epochs_equal_four_bit_for_bit():
    whole = make_components()
    Trainer(whole, TrainState(), 4).fit()
    first = make_components()
    state = Trainer(first, TrainState(), 2).fit()
    model, average, optimizer = snapshot(first)
    second = make_components(seed=99)
    second.model.load_state_dict(model)
    second.ema.module.load_state_dict(average)
    second.ema.updates = first.ema.updates
    second.optimizer.load_state_dict(optimizer)
    Trainer(second, TrainState(epoch=state.epoch, step=state.step), 4).fit()
    # one process, one number of threads, the same kernels on the same shapes: every sum has one order
    assert same(snapshot(whole), snapshot(second))


@pytest.mark.parametrize("accumulate, steps", [(1, 5), (2, 3), (4, 2), (8, 1)])
def test_gradients_are_added_up_and_none_is_lost(accumulate, steps):
    """5 batches an epoch: full groups, then what is left."""
    components = make_components(accumulate)
    Trainer(components, TrainState(), 1).fit()
    assert components.ema.updates == steps


def test_accumulated_step_equals_the_sum_of_its_batches():
    """One step over 5 batches moves the weights as the sum of their gradients does."""
    components, literal = make_components(accumulate=5), make_components()
    Trainer(components, TrainState(), 1).fit()
    literal.model.train()
    for batch in Squares().epoch(0):
        literal.loss(literal.model(batch.images.float() / 255), batch.targets)[0].backward()
    norm = torch.nn.utils.clip_grad_norm_(literal.model.parameters(), 10.0)
    assert norm > 0
    for group in literal.optimizer.param_groups:
        group.update(lr=0.01, momentum=0.9)
    literal.optimizer.step()
    for key, value in literal.model.state_dict().items():
        torch.testing.assert_close(components.model.state_dict()[key], value, rtol=1e-6, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    real = DetectionLoss(GEOMETRY, HYP, CPU)
    calls = []

    def poisoned(maps, targets, counts):
        calls.append(1)
        total, items = real(maps, targets)
        return (total * float("nan"), items) if len(calls) == 3 else (total, items)

    components = make_components(loss=poisoned)
    trainer = Trainer(components, TrainState(), 1)
    before = {}
    original = trainer.optimizer_step

    def step():
        original()
        before.update(copy.deepcopy({name: value for name, value in components.model.named_parameters()}))

    trainer.optimizer_step = step
    with pytest.raises(NonFiniteError, match="epoch 0, batch 2: the loss is nan.*every layer's output is finite"):
        trainer.fit()
    assert trainer.state.step == 2
    # nothing wrote to them
    assert all(torch.equal(before[name], value) for name, value in components.model.named_parameters())


class Overflow(nn.Module):
    def forward(self, values):
        return values * float("inf")


def test_the_first_layer_with_a_non_finite_output_is_named():
    components = make_components()
    components.model.body.add_module("spoilt", Overflow())
    with pytest.raises(NonFiniteError, match=r"first layer whose output is not finite is body\.spoilt \(Overflow\)"):
        Trainer(components, TrainState(), 1).fit()


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    components = make_components()
    components.model.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = snapshot(components)[0]["head.weight"]
    with pytest.raises(NonFiniteError, match="gradient of head.weight is not finite"):
        Trainer(components, TrainState(), 1).fit()
    assert torch.equal(before, components.model.head.weight)


def evaluation_of(fitness):
    return SimpleNamespace(metrics=SimpleNamespace(fitness=fitness, class_map=np.array([fitness])), losses=None)


def test_best_epoch_and_early_stop():
    fitness = iter((0.2, 0.5, 0.5, 0.4, 0.3, 0.9))
    record = Record()
    state = Trainer(
        make_components(),
        TrainState(),
        6,
        hooks=[record],
        evaluate=lambda module: evaluation_of(next(fitness)),
        should_stop=lambda state: state.epoch - 1 - state.best_epoch >= 2,
    ).fit()
    assert [report.is_best for report in record.reports] == [True, True, False, False]  # an equal epoch is not better
    assert state.best_epoch == 1 and state.best_fitness == 0.5 and state.epoch == 4
    assert state.class_map == [0.4]


def test_progress_is_a_running_mean():
    progress = EpochProgress(epoch=0, batches=3)
    for value in (1.0, 2.0, 6.0):
        progress.add((value, 0.0, 2 * value))
    assert progress.mean == pytest.approx([3.0, 0.0, 6.0])


def test_network_input_keeps_memory_order_and_scale():
    block = torch.randint(0, 256, (2, 8, 6, 3), dtype=torch.uint8)
    images = network_input(block.permute(0, 3, 1, 2), CPU)
    assert images.is_contiguous(memory_format=torch.channels_last)
    # a division is rounded in one way
    assert torch.equal(images, block.permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize("side, expected", [(None, (64, 32)), (64, (64, 32)), (96, (96, 64)), (32, (32, 32))])
def test_resized_rounds_to_the_stride(side, expected):
    assert tuple(resize_long_side(torch.rand(1, 3, 64, 32), side, stride=32).shape[2:]) == expected


def test_multi_scale_is_decided_by_seed_epoch_and_batch():
    draw, again, other = multi_scale(320, 32, 0), multi_scale(320, 32, 0), multi_scale(320, 32, 1)
    sides = [draw(epoch, batch) for epoch in range(4) for batch in range(50)]
    assert sides == [again(epoch, batch) for epoch in range(4) for batch in range(50)]
    assert sides != [other(epoch, batch) for epoch in range(4) for batch in range(50)]
    assert set(sides) == set(range(160, 481, 32))


def test_multi_scale_never_shrinks_to_one_cell():
    draw = multi_scale(64, 32, 0)
    assert {draw(0, batch) for batch in range(50)} == {64, 96}


@pytest.mark.parametrize("evaluate", [None, lambda module: evaluation_of(0.0)], ids=("unvalidated", "fitness 0"))
def test_until_something_is_found_the_newest_epoch_is_the_best(evaluate):
    record = Record()
    Trainer(make_components(), TrainState(), 3, hooks=[record], evaluate=evaluate).fit()
    assert [report.is_best for report in record.reports] == [True] * 3


@pytest.mark.parametrize("close, epochs, first", [(0, 30, None), (10, 30, 20), (1, 30, 29), (40, 30, 0)])
def test_the_last_epochs_count_from_the_end_of_the_run(close, epochs, first):
    assert first_of_last(close, epochs) == first


def test_a_line_says_once_that_mosaics_close(caplog):
    with caplog.at_level(logging.INFO, logger="yolo"):
        Trainer(make_components(), TrainState(), 4, hooks=[ClosedMosaic(2)]).fit()
    lines = [line for line in caplog.messages if line.startswith("close_mosaic")]
    assert lines == ["close_mosaic: epochs 2 to 3 show one image per sample, without mosaic, mixup and pasted objects"]


def test_hooks_are_closed_when_training_fails():
    class Fails(Hook):
        def after_epoch(self, trainer, report):
            raise NonFiniteError("here")

    record = Record()
    with pytest.raises(NonFiniteError):
        Trainer(make_components(), TrainState(), 3, hooks=[record, Fails()]).fit()
    assert record.events[-1] == "close"
