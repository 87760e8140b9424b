"""A training in two processes: weights after each step equal those of one, and validation equals it exactly."""

import copy
import dataclasses

import pytest
import torch
from several import run_several
from torch import nn

from models.norms import BatchNorm
from models.yolo import Model
from utils.box_losses import BoxLoss
from utils.config import EvalOptions, Hyperparameters, LoaderOptions, SplitOptions, TrainConfig
from utils.datasets.dataset import DetectionDataset
from utils.datasets.drawn_shapes import CLASSES, ShapesOptions, draw_dataset
from utils.datasets.labels import read_labels
from utils.datasets.loader import Loader
from utils.engine.build import gradient_scaler, multi_scale
from utils.engine.data_parallel import own_generators, prepare_batch_norm, unused_parameters, wrap
from utils.engine.evaluator import evaluate
from utils.engine.model_ema import ModelEMA
from utils.engine.noise_scale import KEPT, NoiseScale
from utils.engine.optim import build_optimizer
from utils.engine.trainer import Trainer, TrainingComponents
from utils.engine.training_settings import check_several
from utils.errors import ConfigError, NonFiniteError
from utils.loss import DetectionLoss
from utils.processes import ALONE, Processes
from utils.types import StepSettings, TrainState
from utils.world import World

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eleven drawn images."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    draw_dataset(folder, ShapesOptions(seed=0, train=11, val=1, test=1, size=SIDE))
    options = SplitOptions(imgsz=SIDE, cache_labels=False)
    return read_labels([folder / "images" / "train"], len(CLASSES), options, names=CLASSES)


class Small(nn.Module):
    """A network of three levels that trains in milliseconds."""

    def __init__(self, norm: bool):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 8, 1)
        self.norm = BatchNorm(8) if norm else nn.Identity()
        self.heads = nn.ModuleList(nn.Conv2d(8, 9, 1) for _ in range(3))

    def forward(self, images):
        x = self.norm(self.first(images)).sigmoid()
        maps = [head(nn.functional.avg_pool2d(x, 2**i)) for i, head in enumerate(self.heads)]
        return [m.view(len(m), 1, 9, *m.shape[2:]).permute(0, 1, 3, 4, 2).contiguous() for m in maps]


def components_of(processes: Processes, store, norm: bool, batch: int, accumulate: int = 1) -> TrainingComponents:
    from utils.types import HeadGeometry

    torch.manual_seed(3 + processes.world.rank)  # the first one's weights are what all start from
    model = Small(norm)
    prepare_batch_norm(model, processes, norm, batch)
    anchors = torch.tensor([[[1.5, 1.5]], [[1.2, 1.2]], [[1.0, 1.0]]])
    geometry = HeadGeometry(anchors, torch.tensor([8.0, 16.0, 32.0]), nc=4)
    dataset = DetectionDataset(store, SplitOptions(imgsz=SIDE, augment=True))
    ema = ModelEMA(model)
    return TrainingComponents(
        model=model,
        loss=DetectionLoss(geometry, Hyperparameters(), CPU, BoxLoss(), processes),
        optimizer=build_optimizer(model, "SGD", lr=0.01, momentum=0.9, weight_decay=5e-4),
        step_settings=lambda step: StepSettings((0.01, 0.01, 0.01), 0.9, accumulate),
        ema=ema,
        loader=Loader(dataset, LoaderOptions(batch, shuffle=True, world=processes.world)),
        device=CPU,
        scaler=gradient_scaler(CPU, False),
        image_size=multi_scale(SIDE, 32, 0),
        processes=processes,
        wrapper=wrap(model, processes, SIDE),
    )


def weights_by_step(processes: Processes, store, norm: bool, batch: int, accumulate: int = 1) -> list:
    components = components_of(processes, store, norm, batch, accumulate)
    rows = []
    trainer = Trainer(components, TrainState(), epochs=1)
    step = trainer.optimizer_step

    def recorded():
        step()
        rows.append(torch.cat([each.detach().flatten() for each in components.model.state_dict().values()]))

    trainer.optimizer_step = recorded
    losses = trainer.train_epoch(0)
    return [rows, losses.row()]


@pytest.mark.parametrize(
    "norm, batch, accumulate, size, steps",
    [(True, 4, 1, 2, 3), (False, 4, 2, 2, 2), (True, 5, 1, 3, 2), (True, 2, 1, 3, 5)],  # 11 images: an uneven batch
)
def test_weights_after_each_step_are_those_of_one(store, norm, batch, accumulate, size, steps):
    expected, losses = weights_by_step(ALONE, store, norm, batch, accumulate)
    for rows, terms in run_several(size, weights_by_step, store, norm, batch, accumulate):
        assert len(rows) == len(expected) == steps
        for row, reference in zip(rows, expected, strict=True):
            torch.testing.assert_close(row, reference, rtol=1e-4, atol=2e-6)
        assert terms == pytest.approx(losses, rel=1e-4)


def noise_measured(processes: Processes, store) -> tuple:
    """What a step of three batches measures, and the same from the gradients themselves."""
    components = components_of(processes, store, False, 4, 3)  # of 4, 4 and 3 images
    components.noise = NoiseScale(4, processes)
    firsts, state = [], TrainState()
    see = components.noise.see

    def recorded(batch, weights, pending):
        weights = list(weights)
        norm = float(sum(each.grad.square().sum() for each in weights)) ** 0.5
        firsts.append(((norm / (len(batch) * processes.world.size)) ** 2, 1 / len(batch)))
        see(batch, weights, pending)

    components.noise.see = recorded
    Trainer(components, state, epochs=1).train_epoch(0)
    norms, inverses = zip(*processes.gather(firsts[0]), strict=True)
    return dataclasses.asdict(state.noise), sum(norms) / len(norms), len(inverses) / sum(inverses)


def test_the_gradient_noise_is_one_number_for_all_processes(store):
    """The norm of all images' gradient is that of one process; few images are a process's share of the first batch."""
    alone, *_ = noise_measured(ALONE, store)
    results = run_several(2, noise_measured, store)
    assert results[0] == results[1]
    noise, first_norm, few = results[0]
    assert noise["measured"] == alone["measured"] == 1

    def norm_of(images, measured):
        return (measured["signal"] + measured["variance"] / images) / (1 - KEPT)

    assert norm_of(11, noise) == pytest.approx(norm_of(11, alone), rel=1e-3)
    assert norm_of(few, noise) == pytest.approx(first_norm, rel=1e-4)


def evaluated(processes: Processes, store) -> tuple:
    torch.manual_seed(0)
    model = Model("yolov5n.yaml", nc=4).eval()
    options = SplitOptions(imgsz=SIDE, stride=32, rect=True)
    loader = Loader(DetectionDataset(store, options), LoaderOptions(2))
    raw = DetectionLoss(model.geometry, Hyperparameters(), CPU, processes=processes)
    result = evaluate(model, loader, CLASSES, EvalOptions(), loss=raw, processes=processes)
    return result.row(), result.metrics.class_map.tolist(), result.confusion.matrix.tolist(), len(result.results)


def test_split_validation_is_exactly_that_of_one(store):
    alone = evaluated(ALONE, store)
    first, *others = run_several(3, evaluated, store)
    assert first == alone and alone[3] == 11
    assert all(other[:3] == alone[:3] and other[3] == 0 for other in others)


def poisoned(processes: Processes, store) -> tuple[str, int]:
    """The second process's images give a loss that is not finite; all stop, with the same words."""
    components = components_of(processes, store, False, 4)
    trainer = Trainer(components, TrainState(), epochs=1)
    loss = components.loss

    def bad(raw_maps, targets, counts=True):
        spoilt = [each * (1 if processes.is_first else float("nan")) for each in raw_maps]
        return loss(spoilt, targets, counts)

    trainer.components = dataclasses.replace(components, loss=bad)
    with pytest.raises(NonFiniteError) as raised:
        trainer.train_epoch(0)
    return str(raised.value), trainer.state.step


def test_numbers_that_are_not_finite_stop_all_at_the_same_step(store):
    (first, step), (second, other) = run_several(2, poisoned, store)
    assert first == second and "the loss is nan" in first and step == other == 0


def stopped(processes: Processes, store) -> tuple[int, int]:
    """Only the second process gets a signal, after its first step."""
    trainer = Trainer(components_of(processes, store, False, 2), TrainState(), epochs=9)
    if not processes.is_first:
        trainer.stop.number = 15
    with pytest.raises(KeyboardInterrupt) as raised:
        trainer.fit()
    return trainer.state.step, raised.value.exit_code


def test_a_signal_to_one_stops_all_after_the_same_step(store):
    assert run_several(2, stopped, store) == [(2, 143), (2, 143)]


def test_parameters_without_gradient_are_found_and_the_model_stays():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare, self.norm = nn.Conv2d(3, 2, 1), nn.Linear(2, 2), nn.BatchNorm2d(2)

        def forward(self, images):
            return [self.norm(self.used(images))]

    model = Odd()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert unused_parameters(model, 8) == ["spare.weight", "spare.bias"]
    model.spare.requires_grad_(False)
    assert unused_parameters(model, 8) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and model.used.weight.grad is None


def test_flags_that_do_not_fit_the_number_of_processes():
    two = Processes(World(0, 2, 0, 2))
    with pytest.raises(ConfigError, match="--sync-bn: needs several processes"):
        check_several(TrainConfig(sync_bn=True), None, ALONE)
    with pytest.raises(ConfigError, match="--cache ram: each of 2 processes"):
        check_several(TrainConfig(cache="ram"), None, two)
    with pytest.raises(ConfigError, match="--on-nan rollback: only the first process"):
        check_several(TrainConfig(on_nan="rollback"), None, two)
    check_several(TrainConfig(on_nan="rollback"), None, ALONE)
    check_several(TrainConfig(sync_bn=True, cache="disk"), None, two)
    check_several(TrainConfig(cache="ram"), None, ALONE)


def test_few_images_per_process_are_warned_of(caplog):
    caplog.set_level("INFO")
    prepare_batch_norm(Small(True), Processes(World(0, 2, 0, 2)), False, 8)
    assert "batch norm sees 4 images per process" in caplog.text and "--batch-size 16" in caplog.text
    caplog.clear()
    prepare_batch_norm(Small(True), Processes(World(0, 2, 0, 2)), False, 16)
    prepare_batch_norm(Small(True), ALONE, False, 1)
    assert caplog.text == ""


def test_dropout_differs_between_processes():
    drawn = []
    for rank in range(3):
        torch.manual_seed(5)
        own_generators(Processes(World(rank, 3, 0, 1)), 5, 0)
        drawn.append(torch.rand(1).item())
    torch.manual_seed(5)
    assert drawn[0] == torch.rand(1).item() and len(set(drawn)) == 3
