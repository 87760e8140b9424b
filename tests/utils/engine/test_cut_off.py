"""Whole trainings that are cut off within an epoch and continued: files, exit codes, one line, equal to the bit."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from kills import TINY, differences
from small_data import drawn_yaml

from utils.checkpoint import read_checkpoint
from utils.config import TrainConfig, from_options
from utils.engine.trainer import Hook
from utils.engine.training import train as run_training
from utils.errors import CheckpointError, Interruption, MemoryShortageError, NonFiniteError, UserError
from utils.files import ROOT
from utils.lock_file import hold_lock
from utils.loss import DetectionLoss

pytestmark = pytest.mark.usefixtures("blank_figures")


class Strike(Hook):
    """Does something once, after the batch of this place."""

    def __init__(self, epoch, batch, act):
        self.place, self.act = (epoch, batch), act

    def after_batch(self, trainer, batch, progress):
        if (progress.epoch, progress.done) == self.place:
            self.place = None
            self.act(trainer)


def send(number):
    return lambda trainer: os.kill(os.getpid(), number)


def spoil(trainer):
    trainer.components.model.model[0].conv.weight.data[0] = float("nan")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut_off")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return dict(
        cfg=str(folder / "tiny.yaml"),
        data=str(drawn_yaml(folder, train=48, val=8)),
        imgsz=64,
        epochs=2,
        batch_size=8,
        workers=0,
        device="cpu",
        noautoanchor=True,
        name="run",
    )


def run(flags, project, *hooks, **changes):
    return run_training(from_options(TrainConfig, **{**flags, "project": str(project), **changes}), hooks=hooks)


def resume(project, *hooks, **changes):
    options = {"resume": str(project / "run"), "device": "cpu", **changes}
    return run_training(from_options(TrainConfig, **options), hooks=hooks)


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """A training that was never cut off, without states within epochs."""
    return run(flags, tmp_path_factory.mktemp("whole"), save_minutes=0).save_dir


def test_writing_after_every_step_changes_nothing(flags, whole, tmp_path):
    assert differences(run(flags, tmp_path, save_minutes=1e-6).save_dir, whole) == []


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_saves_the_step_and_says_how_to_go_on(flags, whole, tmp_path, name, code):
    with pytest.raises(Interruption, match=r"in epoch 0, after \d batches; continue with: .*last\.pt$") as caught:
        run(flags, tmp_path, Strike(0, 3, send(getattr(signal, name))))
    assert caught.value.exit_code == code
    state = read_checkpoint(tmp_path / "run" / "weights" / "last.pt").training["state"]
    assert state["epoch"] == 0 and 3 <= state["batches_done"] <= 6
    assert differences(resume(tmp_path).save_dir, whole) == []


def test_more_workers_continue_what_one_process_began(flags, whole, tmp_path):
    with pytest.raises(Interruption):
        run(flags, tmp_path, Strike(1, 2, send(signal.SIGTERM)), workers=2)
    assert differences(resume(tmp_path).save_dir, whole) == []


def test_the_second_signal_ends_at_once(flags, tmp_path):
    reached = []
    hooks = (Strike(0, 2, send(signal.SIGTERM)), Strike(0, 2, send(signal.SIGINT)), Strike(0, 2, reached.append))
    with pytest.raises(Interruption) as caught:
        run({**flags, "batch_size": 4}, tmp_path, *hooks)
    assert caught.value.exit_code == 130 and reached == []
    state = read_checkpoint(tmp_path / "run" / "weights" / "last.pt").training["state"]
    assert (state["epoch"], state["batches_done"]) == (0, 0)  # the one of the start


# ---- last.previous.pt ----


@pytest.mark.parametrize("damage", ["half", "byte", "gone"])
def test_a_damaged_last_is_replaced_by_the_one_before(flags, whole, tmp_path, caplog, damage):
    with pytest.raises(Interruption):
        run(flags, tmp_path, Strike(1, 2, send(signal.SIGTERM)))
    last = tmp_path / "run" / "weights" / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "gone":
        last.unlink()
    else:
        content[len(content) // 2] ^= 255
        last.write_bytes(content if damage == "byte" else content[: len(content) // 2])
    folder = resume(tmp_path).save_dir
    (line,) = [text for text in caplog.messages if "last.previous.pt" in text]
    assert "going on from" in line and "\n" not in line
    assert differences(folder, whole) == []


def test_if_both_are_damaged_the_training_is_refused_in_one_line(flags, tmp_path):
    with pytest.raises(Interruption):
        run(flags, tmp_path, Strike(1, 2, send(signal.SIGTERM)))
    for name in ("last.pt", "last.previous.pt"):
        (tmp_path / "run" / "weights" / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"last\.previous\.pt"):
        resume(tmp_path)


# ---- one training per folder ----


def test_a_second_training_in_the_folder_is_refused(flags, whole, tmp_path):
    with pytest.raises(Interruption):
        run(flags, tmp_path, Strike(0, 2, send(signal.SIGTERM)))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    with hold_lock(tmp_path / "run" / ".train.lock"):
        with pytest.raises(UserError, match=rf"run: another training uses this folder now \(process {os.getpid()} on "):
            resume(tmp_path)
        with pytest.raises(UserError, match="uses this folder now"):
            run(flags, tmp_path, exist_ok=True)
    after = {path: path.read_bytes() for path in before}
    assert after == before
    assert differences(resume(tmp_path).save_dir, whole) == []


# ---- memory, numbers that are not finite ----


def test_out_of_memory_names_a_batch_that_fits_and_saves(flags, tmp_path, monkeypatch):
    original, calls = DetectionLoss.__call__, []

    def hungry(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return original(self, *arguments)

    monkeypatch.setattr(DetectionLoss, "__call__", hungry)
    pattern = (
        r"in epoch 0: .*; of --batch-size 8 4 images fit by the estimate \(a step .*continue with: .*--batch-size N$"
    )
    with pytest.raises(MemoryShortageError, match=pattern):
        run(flags, tmp_path, save_minutes=0)
    assert read_checkpoint(tmp_path / "run" / "weights" / "last.pt").training["state"]["step"] > 0


def test_it_goes_on_with_a_smaller_batch(flags, tmp_path, caplog):
    with pytest.raises(Interruption):
        run(flags, tmp_path, Strike(1, 2, send(signal.SIGTERM)))
    seen = []
    caplog.set_level(logging.INFO, "yolo")
    folder = resume(tmp_path, Strike(1, 12, lambda trainer: seen.append(trainer.state.step)), batch_size=4).save_dir
    assert seen == [12 + 12]  # an epoch of 48 images has 12 batches of 4
    assert "batch size 8 -> 4: epoch 1 begins anew" in caplog.text
    rows = (folder / "results.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [0, 1]


def test_rollback_goes_on_from_the_epoch_with_half_the_rates(flags, tmp_path, caplog):
    folder = run(flags, tmp_path, Strike(1, 1, spoil), on_nan="rollback").save_dir
    rows = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [0, 1]
    plain = run(flags, tmp_path / "plain").save_dir
    expected = [line.split(",") for line in (plain / "results.csv").read_text().splitlines()[1:]]
    assert rows[0] == expected[0]
    assert [float(cell) for cell in rows[1][11:14]] == pytest.approx([float(cell) / 2 for cell in expected[1][11:14]])
    assert sum("rollback 1 of at most 3" in text for text in caplog.messages) == 1
    assert {path.name for path in (folder / "weights").iterdir()} == {"last.pt", "best.pt"}


def test_weights_spoilt_in_the_last_batch_are_taken_back_with_their_row(flags, tmp_path):
    folder = run(flags, tmp_path, Strike(0, 6, spoil), on_nan="rollback").save_dir
    rows = (folder / "results.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [0, 1]
    assert read_checkpoint(folder / "weights" / "last.pt").training["state"]["rollbacks"] == 1


def test_without_rollback_the_run_stops(flags, tmp_path):
    with pytest.raises(NonFiniteError):
        run(flags, tmp_path, Strike(1, 1, spoil))


# ---- real processes ----


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_signal_to_all_processes_of_a_job_is_an_orderly_end(flags, whole, tmp_path, workers):
    given = {**flags, "workers": workers, "project": tmp_path, "epochs": 200}
    del given["noautoanchor"]
    arguments = ["--noautoanchor", *(f"--{name.replace('_', '-')}={value}" for name, value in given.items())]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "weights" / "best.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    output = (tmp_path / "log").read_text()
    assert "Traceback" not in output and output.splitlines()[-1].startswith("ended by SIGTERM in epoch")
    state = read_checkpoint(tmp_path / "run" / "weights" / "last.pt").training["state"]
    assert f"in epoch {state['epoch']}" in output
