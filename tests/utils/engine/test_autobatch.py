"""The memory estimate of a training step: against counted real steps, and the batches that follow from it."""

import logging

import pytest
import torch
from small_models import SMALL

from models.yolo import Model
from utils.config import TrainConfig, from_options
from utils.engine import autobatch
from utils.engine.autobatch import MemoryEstimate, auto_batch_size, estimate_memory, is_out_of_memory, smaller_batch
from utils.profile.memory import LiveBytes, train_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model(SMALL)


def config(**changes):
    return from_options(TrainConfig, **{"imgsz": 64, "workers": 0, **changes})


def counted(model, batch, side=64):
    """Bytes of a step on real tensors, its weights' average included."""
    with LiveBytes() as live:
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        train_step(model.train(), torch.zeros(batch, 3, side, side))
    return live.peak + sum(weight.nbytes for weight in model.parameters())


def test_the_estimate_is_what_a_real_step_takes_at_other_batches(model):
    estimate = estimate_memory(model, config(), CPU)
    for batch in (3, 16):
        assert estimate.fixed + estimate.per_image * batch == pytest.approx(counted(model, batch), rel=0.01)


def test_adam_a_second_state_and_workers_the_images_they_hold(model):
    plain, adam, workers = (
        estimate_memory(model, config(**changes), CPU) for changes in ({}, {"optimizer": "AdamW"}, {"workers": 3})
    )
    assert adam.fixed - plain.fixed == sum(weight.nbytes for weight in model.parameters())
    assert workers.per_image - plain.per_image == 2 * 3 * 3 * 64 * 64


def test_multi_scale_counts_its_largest_images(model):
    assert estimate_memory(model, config(multi_scale=True), CPU).side == 96


@pytest.mark.parametrize("free, batch", [(10_000, 15), (2_500, 0), (2_625, 0), (3_800, 2)])
def test_the_largest_batch_takes_at_most_the_share(free, batch):
    estimate = MemoryEstimate(fixed=2_000, per_image=400, side=64)
    assert estimate.fitting(free) == batch
    assert estimate.fixed + batch * estimate.per_image <= max(0.8 * free, estimate.fixed)


def test_the_message_says_how_it_came_to_the_batch(model, monkeypatch, caplog):
    monkeypatch.setattr(autobatch, "available_memory", lambda: 100_000_000)
    estimate = estimate_memory(model, config(), CPU)
    with caplog.at_level(logging.INFO, "yolo"):
        batch = auto_batch_size(model, config(), CPU)
    assert batch == int((80_000_000 - estimate.fixed) / estimate.per_image) > 1
    (line,) = caplog.messages
    assert "0.10 GB are free on cpu" in line and "80%" in line and "per image of 64 pixels" in line
    assert line.endswith(f"using {batch}")


def test_too_little_memory_is_one_image_and_a_warning(model, monkeypatch, caplog):
    monkeypatch.setattr(autobatch, "available_memory", lambda: 1000)
    assert auto_batch_size(model, config(), CPU) == 1
    assert "not even one image" in caplog.messages[-1]


def test_very_much_memory_is_the_largest_batch(model, monkeypatch):
    monkeypatch.setattr(autobatch, "available_memory", lambda: 1 << 45)
    assert auto_batch_size(model, config(), CPU) == autobatch.LARGEST


def test_an_unknown_amount_is_the_default(model, monkeypatch):
    monkeypatch.setattr(autobatch, "available_memory", lambda: None)
    assert auto_batch_size(model, config(), CPU) == 16


def test_torch_really_words_it_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_counts_as_out_of_memory(error):
    assert is_out_of_memory(error) and not is_out_of_memory(RuntimeError("shape mismatch"))


def test_the_advised_batch_is_smaller_than_the_one_that_failed():
    estimate = MemoryEstimate(fixed=0, per_image=100, side=64)
    assert smaller_batch(estimate, 1000, 64) == 8
    assert smaller_batch(estimate, 1 << 30, 64) == smaller_batch(estimate, None, 64) == 32
    assert smaller_batch(estimate, 0, 64) == smaller_batch(estimate, 1 << 30, 1) == 1
