"""The mean of the last epochs' weights: its formula, its statistics, its file, and a training that is resumed in it."""

import copy
import logging

import pytest
import torch
import yaml
from interruptions import StopAfter
from kills import TINY, same
from small_data import drawn_yaml
from torch import nn

from utils.checkpoint import build_model, holds_training, read_checkpoint
from utils.config import Hyperparameters, TrainConfig, from_options
from utils.engine import averaging
from utils.engine.training import train
from utils.engine.weight_average import WeightAverage

pytestmark = pytest.mark.usefixtures("blank_figures")


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def moved(model, seed):
    """Another epoch: other weights, and running statistics that have seen a batch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model.train()(torch.randn(2, 3, 5, 5, generator=generator))
    return model


def test_the_mean_equals_its_formula_and_counts_from_its_first_epoch():
    model, kept = small_model(), []
    average = WeightAverage(model, first=2)
    for epoch in range(6):
        average.add(moved(model, epoch), epoch)
        kept.append({name: value.clone().double() for name, value in model.state_dict().items()})
    assert average.count == 4
    for name, value in average.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 6
        else:
            expected = sum(each[name] for each in kept[2:]) / 4
            assert torch.allclose(value.double(), expected, atol=1e-6)


def test_a_single_epoch_is_its_own_mean_bit_for_bit():
    model = small_model()
    average = WeightAverage(model, first=0)
    average.add(moved(model, 1), 0)
    assert same(dict(average.module.state_dict()), dict(model.state_dict()))


def test_statistics_are_estimated_from_the_mean_networks_own_activations():
    model = small_model()
    average = WeightAverage(model, first=0)
    for epoch in range(3):
        average.add(moved(model, epoch), epoch)
    before = copy.deepcopy(average.module.state_dict())
    batches = [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    module = average.estimated((images, True) for images in batches)
    activations = [average.module[0](images).double() for images in batches]
    mean = sum(each.mean((0, 2, 3)) for each in activations) / 3
    variance = sum(each.var((0, 2, 3)) for each in activations) / 3
    assert torch.allclose(module[1].running_mean.double(), mean, atol=1e-6)
    assert torch.allclose(module[1].running_var.double(), variance, rtol=1e-5)
    assert not torch.allclose(before["1.running_var"].double(), variance, rtol=1e-2)
    assert same(dict(average.module.state_dict()), dict(before)) and module[1].momentum == 0.1
    assert not any(each.training for each in module.modules())


def test_a_mean_of_fewer_epochs_begins_anew_if_the_training_becomes_longer():
    model = small_model()
    before = WeightAverage(model, first=2)
    for epoch in range(2, 4):
        before.add(moved(model, epoch), epoch)
    state = copy.deepcopy(before.state_dict())
    longer, alike, shorter = (WeightAverage(small_model(), first) for first in (4, 2, 1))
    for average in (longer, alike, shorter):
        average.load_state_dict(state)
    assert [each.count for each in (longer, alike, shorter)] == [0, 2, 2]
    assert same(dict(alike.module.state_dict()), dict(before.module.state_dict()))


# ---- in a training ----


HYP = Hyperparameters(swa=2, smooth_fitness=0.5, close_mosaic=2, warmup_epochs=0, lr0=0.02)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swa")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return dict(
        cfg=str(folder / "tiny.yaml"),
        data=str(drawn_yaml(folder, train=24, val=4)),
        imgsz=64,
        epochs=4,
        batch_size=8,
        workers=0,
        device="cpu",
        noautoanchor=True,
        name="run",
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train(from_options(TrainConfig, **settings, project=str(folder)), HYP).save_dir


def test_swa_is_a_file_of_weights_that_builds(whole):
    checkpoint = read_checkpoint(whole / "weights" / "swa.pt", full=False)
    assert not holds_training(whole / "weights" / "swa.pt") and checkpoint.settings["swa_epochs"] == 2
    assert {value.dtype for name, value in checkpoint.state.items() if name.endswith("conv.weight")} == {torch.half}
    last = read_checkpoint(whole / "weights" / "last.pt")
    mean = last.training["swa"]
    assert mean["count"] == 2 and not same(mean["mean"], last.training["model_state"])
    built = build_model(read_checkpoint(whole / "weights" / "swa.pt")).state_dict()
    name = "model.1.conv.weight"
    assert torch.equal(built[name], mean["mean"][name].half().float())


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_training_ends_with_the_same_bits(settings, whole, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        train(from_options(TrainConfig, **settings, project=str(tmp_path)), HYP, hooks=[StopAfter(stop)])
    train(from_options(TrainConfig, resume=str(tmp_path / "run"), device="cpu"))
    for name in ("last.pt", "best.pt", "swa.pt"):
        ours, theirs = (read_checkpoint(folder / "weights" / name) for folder in (tmp_path / "run", whole))
        assert same(dict(ours.state), dict(theirs.state)), name
        assert ours.settings == theirs.settings
    ours, theirs = (read_checkpoint(folder / "weights" / "last.pt").training for folder in (tmp_path / "run", whole))
    assert same({**ours, "config": 0}, {**theirs, "config": 0})
    assert (tmp_path / "run" / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.parametrize("is_better", [True, False])
def test_the_mean_becomes_best_only_if_it_is_better(settings, whole, tmp_path, monkeypatch, caplog, is_better):
    """The last stages of a finished run, once more: its best epoch is worse than, or as good as, the mean."""
    fitness = read_checkpoint(whole / "weights" / "swa.pt").settings["swa_fitness"]
    finish = averaging.finish_average

    def judged(trainer, average, run):
        trainer.state.best_fitness = fitness / 2 if is_better else max(fitness, 1e-9)
        finish(trainer, average, run)

    monkeypatch.setattr("utils.engine.training_stages.finish_average", judged)
    assert fitness > 0
    with caplog.at_level(logging.INFO, logger="yolo"):
        run = train(from_options(TrainConfig, **settings, project=str(tmp_path)), HYP).save_dir
    best, swa = (read_checkpoint(run / "weights" / name) for name in ("best.pt", "swa.pt"))
    assert same(dict(best.state), dict(swa.state)) == is_better
    (line,) = [message for message in caplog.messages if message.startswith("swa:")]
    assert ("becomes best.pt" in line) == is_better and "epochs 2 to 3" in line


def test_an_early_end_makes_no_mean(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("utils.engine.optim.EarlyStopping.has_waited", lambda self, state: state.epoch >= 2)
    with caplog.at_level(logging.INFO, logger="yolo"):
        run = train(from_options(TrainConfig, **settings, project=str(tmp_path)), HYP).save_dir
    assert not (run / "weights" / "swa.pt").exists() and (run / "results.csv").read_text().count("\n") == 3
    assert "swa: no mean was made, as the training ended before epoch 2" in caplog.messages
