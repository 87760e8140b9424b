"""Checkpoints of a training in its midst: when they are written, what stays valid, and going back to an earlier one."""

import copy
import dataclasses
import os
import signal

import pytest
import torch
from test_trainer import make_components

from utils.engine import saving
from utils.engine.saving import PREVIOUS, Checkpoints, Rollback, SaveOptions, advance, remove_spare
from utils.engine.trainer import Hook, Trainer
from utils.errors import Interruption, MemoryShortageError, NonFiniteError
from utils.types import StepSettings, TrainState

EAGER = SaveOptions(minutes=1e-9)


def write_state(trainer, path):
    """Stands for a checkpoint: everything that a training is continued from."""
    components = trainer.components
    content = {
        "model": components.model.state_dict(),
        "ema": components.ema.module.state_dict(),
        "updates": components.ema.updates,
        "optimizer": components.optimizer.state_dict(),
        "state": dataclasses.asdict(trainer.state),
    }
    torch.save(content, path.with_name("part"))
    path.with_name("part").replace(path)


def read_state(trainer, path):
    content, components = torch.load(path), trainer.components
    components.model.load_state_dict(content["model"])
    components.ema.module.load_state_dict(content["ema"])
    components.ema.updates = content["updates"]
    components.optimizer.load_state_dict(content["optimizer"])
    vars(trainer.state).update(vars(TrainState(**content["state"])))


def trainer_of(folder, options=EAGER, hooks=(), accumulate=1, epochs=2, **keywords):
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder, write_state, options)
    return Trainer(make_components(accumulate), TrainState(), epochs, [checkpoints, *hooks], **keywords)


def weights(trainer):
    return copy.deepcopy(trainer.components.model.state_dict())


def equal(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


class SendAfter(Hook):
    """Sends a signal to this process after the batch of this count."""

    def __init__(self, batches, number):
        self.batches, self.number = batches, number

    def after_batch(self, trainer, batch, progress):
        self.batches -= 1
        if not self.batches:
            os.kill(os.getpid(), self.number)


class Record(Hook):
    def __init__(self):
        self.batches, self.steps, self.lr = [], [], []

    def after_batch(self, trainer, batch, progress):
        self.batches.append((progress.epoch, progress.done))
        self.lr.append(trainer.components.optimizer.param_groups[0]["lr"])

    def after_step(self, trainer):
        self.steps.append((trainer.state.epoch, trainer.state.batches_done))


# ---- within an epoch ----


def test_a_state_is_complete_after_each_step_and_at_the_end_of_an_epoch(tmp_path):
    record = Record()
    trainer_of(tmp_path, hooks=[record], accumulate=2).fit()
    assert record.steps == [(epoch, done) for epoch in (0, 1) for done in (2, 4, 5)]  # 5 batches, two per step


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_that_a_signal_ended_goes_on_to_the_same_weights(tmp_path, accumulate):
    whole = trainer_of(tmp_path / "whole", accumulate=accumulate)
    whole.fit()
    for sent in range(1, 10):
        folder = tmp_path / str(sent)
        cut = trainer_of(folder, SaveOptions(), [SendAfter(sent, signal.SIGTERM)], accumulate)
        with pytest.raises(Interruption) as caught:
            cut.fit()
        assert caught.value.exit_code == 143
        record = Record()
        resumed = trainer_of(folder, SaveOptions(), [record], accumulate)
        read_state(resumed, folder / "last.pt")
        done = resumed.state.epoch * 5 + resumed.state.batches_done
        assert sent <= done < sent + accumulate  # the step is finished, and nothing more
        resumed.fit()
        places = [(epoch, batch) for epoch in (0, 1) for batch in (1, 2, 3, 4, 5)]
        assert record.batches == places[done:]
        assert equal(weights(resumed), weights(whole)) and resumed.state == whole.state
        assert equal(resumed.components.ema.module.state_dict(), whole.components.ema.module.state_dict())


def test_the_mean_losses_of_an_epoch_count_the_batches_before_the_end(tmp_path):
    losses = []

    class Keep(Hook):
        def after_epoch(self, trainer, report):
            losses.append(report.losses)

    trainer_of(tmp_path / "whole", hooks=[Keep()], epochs=1).fit()
    with pytest.raises(Interruption):
        trainer_of(tmp_path / "cut", hooks=[SendAfter(3, signal.SIGINT)], epochs=1).fit()
    resumed = trainer_of(tmp_path / "cut", hooks=[Keep()], epochs=1)
    read_state(resumed, tmp_path / "cut" / "last.pt")
    resumed.fit()
    assert losses[0] == losses[1]


def test_a_validation_that_a_signal_breaks_off_is_all_that_is_done_again(tmp_path):
    def interrupted(module):
        os.kill(os.getpid(), signal.SIGUSR1)
        raise AssertionError("the signal comes first")

    cut = trainer_of(tmp_path, SaveOptions(), epochs=1, evaluate=interrupted)
    with pytest.raises(Interruption) as caught:
        cut.fit()
    assert caught.value.exit_code == 138
    record = Record()
    resumed = trainer_of(tmp_path, SaveOptions(), [record], epochs=1)
    read_state(resumed, tmp_path / "last.pt")
    assert (resumed.state.epoch, resumed.state.batches_done) == (0, 5)
    resumed.fit()
    assert record.batches == [] and resumed.state.epoch == 1 and equal(weights(resumed), weights(cut))


def test_minutes_decide_when_last_is_written_within_an_epoch(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(saving.time, "perf_counter", lambda: clock[0])

    class Minute(Hook):
        def after_batch(self, trainer, batch, progress):
            clock[0] += 60

    checkpoints = Checkpoints(tmp_path, write_state, SaveOptions(minutes=2))
    checkpoints.write_last = lambda trainer, source=None: (
        written.append(trainer.state.batches_done) or setattr(checkpoints, "written", clock[0])
    )
    checkpoints.after_epoch = lambda trainer, report: None
    Trainer(make_components(), TrainState(), 1, [Minute(), checkpoints]).fit()
    assert written == [2, 4]


@pytest.mark.parametrize("options", [SaveOptions(), SaveOptions(minutes=1e-9, nosave=True)])
def test_without_minutes_or_with_nosave_nothing_is_written_within_an_epoch(tmp_path, options):
    seen = []

    class Look(Hook):
        def after_step(self, trainer):
            seen.append((tmp_path / "last.pt").exists())

    trainer_of(tmp_path, options, [Look()], epochs=1).fit()
    assert seen == [False] * 5 and (tmp_path / "last.pt").exists()


# ---- files ----


def test_last_is_there_at_every_moment_and_the_one_before_it_too(tmp_path, monkeypatch):
    last, moments = tmp_path / "last.pt", []
    last.write_text("old")
    replace = os.replace

    def look(source, target):
        moments.append(last.read_text())
        replace(source, target)
        moments.append(last.read_text())

    monkeypatch.setattr(os, "replace", look)
    for content in ("new", "newest"):
        (tmp_path / "next.pt").write_text(content)
        advance(last, tmp_path / "next.pt")
    assert moments == ["old", "old", "old", "new", "new", "new", "new", "newest"]
    assert last.read_text() == "newest" and (tmp_path / PREVIOUS).read_text() == "new"


def test_without_hard_links_the_one_before_is_moved(tmp_path, monkeypatch):
    last = tmp_path / "last.pt"
    last.write_text("old")
    (tmp_path / "next.pt").write_text("new")

    def refuse(*paths):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    advance(last, tmp_path / "next.pt")
    assert (last.read_text(), (tmp_path / PREVIOUS).read_text()) == ("new", "old")
    remove_spare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_new_training_in_an_old_folder_does_not_fall_back_to_the_old_one(tmp_path):
    for name in ("last.pt", PREVIOUS):
        (tmp_path / name).write_text("of another training")
    trainer = trainer_of(tmp_path)
    Checkpoints(tmp_path, write_state, EAGER).start(trainer)
    assert not (tmp_path / PREVIOUS).exists()
    assert torch.load(tmp_path / "last.pt")["state"]["step"] == 0


def test_weights_that_are_not_finite_are_not_written_on_the_way_out(tmp_path, caplog):
    trainer = trainer_of(tmp_path)
    trainer.state.step = 1
    (tmp_path / "last.pt").write_text("good")
    trainer.components.model.head.bias.data[0] = float("nan")
    trainer.hooks[0].cut_off(trainer)
    assert (tmp_path / "last.pt").read_text() == "good" and "no longer finite" in caplog.text


# ---- out of memory ----


def test_out_of_memory_is_one_line_and_the_state_of_the_last_step_is_saved(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, SaveOptions(), accumulate=2)
    loss, calls = trainer.components.loss, []

    def hungry(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        return loss(*arguments)

    monkeypatch.setattr(trainer.components, "loss", hungry)
    with pytest.raises(MemoryShortageError, match=r"epoch 0: CUDA out of memory. Tried to allocate 2.00 GiB$"):
        trainer.fit()
    state = torch.load(tmp_path / "last.pt")["state"]
    assert (state["step"], state["batches_done"]) == (2, 2)  # the third batch has no step yet
    assert all(weight.grad is None for weight in trainer.components.model.parameters())


def test_another_runtime_error_is_left_as_it_is(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)

    def broken(*arguments):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(trainer.components, "loss", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        trainer.fit()


# ---- rollback ----


def nan_at(trainer, monkeypatch, *calls):
    """Let the loss be NaN at these calls, from 1."""
    loss, count = trainer.components.loss, [0]

    def spoilt(*arguments):
        count[0] += 1
        total, parts = loss(*arguments)
        return (total * float("nan") if count[0] in calls else total), parts

    monkeypatch.setattr(trainer.components, "loss", spoilt)


def test_rollback_goes_to_the_start_of_the_epoch_with_half_the_rates(tmp_path, monkeypatch, caplog):
    record = Record()
    trainer = trainer_of(tmp_path, hooks=[Rollback(tmp_path, write_state, read_state), record])
    nan_at(trainer, monkeypatch, 8)  # the third batch of the second epoch
    trainer.fit()
    assert record.batches == [(0, n) for n in (1, 2, 3, 4, 5)] + [(1, 1), (1, 2)] + [(1, n) for n in (1, 2, 3, 4, 5)]
    assert record.lr == [0.01] * 7 + [0.005] * 5 and trainer.state.rollbacks == 1
    assert "back to the start of epoch 1 with 0.5 of the learning rates (rollback 1 of at most 3)" in caplog.text

    expected = trainer_of(tmp_path / "expected")
    expected.components.step_settings = lambda step: StepSettings((0.01 if step < 5 else 0.005,) * 3, 0.9, 1)
    expected.fit()
    assert equal(weights(trainer), weights(expected))


def test_the_fourth_time_ends_the_training(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, hooks=[Rollback(tmp_path, write_state, read_state)])
    nan_at(trainer, monkeypatch, 1, 2, 3, 4)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        trainer.fit()
    assert trainer.state.rollbacks == 3


def test_a_training_that_was_cut_off_rolls_back_to_the_same_state(tmp_path, monkeypatch):
    """Where last.pt was written by the clock makes no difference."""
    ended = []
    for sent in (6, 7):
        folder = tmp_path / str(sent)
        cut = trainer_of(folder, hooks=[Rollback(folder, write_state, read_state), SendAfter(sent, signal.SIGTERM)])
        with pytest.raises(Interruption):
            cut.fit()
        resumed = trainer_of(folder, hooks=[Rollback(folder, write_state, read_state)])
        read_state(resumed, folder / "last.pt")
        nan_at(resumed, monkeypatch, 8 - sent)
        resumed.fit()
        assert resumed.state.rollbacks == 1
        ended.append(weights(resumed))
    assert equal(*ended)
