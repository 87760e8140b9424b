"""Trainings cut off at any stage are resumed to the same files; what changed meanwhile is named or refused."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from interruptions import StopAfter
from small_data import SHAPES, drawn_yaml

import train
from utils.checkpoint import read_checkpoint, write_checkpoint
from utils.config import TrainConfig, from_options
from utils.engine import training
from utils.engine.epoch_history import EpochHistory
from utils.engine.hooks import ResultsFile
from utils.engine.optim import EarlyStopping
from utils.engine.resume import resolve_config
from utils.engine.stages import RunFolder, Stage, enter, open_stages
from utils.engine.training_stages import strip_best
from utils.errors import CheckpointError, DataError, Interruption, UserError
from utils.plots import canvas
from utils.types import TrainState

pytestmark = pytest.mark.usefixtures("blank_figures")
MARKS = ("metrics.json", "results.png", "confusion_matrix.png", "PR_curve.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=16, val=4)


def options(data, folder, **changes):
    flags = dict(cfg="models/yolov5n.yaml", imgsz=64, epochs=2, batch_size=8, workers=0, device="cpu", name="run")
    return from_options(
        TrainConfig, **{**flags, "noautoanchor": True, "data": str(data), "project": str(folder), **changes}
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished training of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "write_figure", lambda _, file, *rest: Path(file).write_bytes(b""))
        return training.train(options(data, tmp_path_factory.mktemp("whole"))).save_dir


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def cut_off(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_run_cut_off_again_and_again_is_finished(data, whole, tmp_path, monkeypatch, caplog):
    """Each start does one stage and is cut off in the next."""
    caplog.set_level("INFO", "yolo")
    cuts = {
        "utils.engine.training_stages.strip": "",
        "utils.engine.training_stages.evaluate_weights": "strip, validation, plots",
        "utils.engine.validation.write_metrics": "validation, plots",
        "utils.plots.curves.plot_results": "validation, plots",
    }
    for target, left in cuts.items():
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(target, cut_off)
            with pytest.raises(Interruption, match="in epoch 2; continue with: python train.py --resume .*last.pt"):
                train.run(resume=str(tmp_path / "run"), device="cpu") if left else training.train(
                    options(data, tmp_path)
                )
        assert f"its 2 epochs are done; left: {left}" in caplog.text if left else "resuming" not in caplog.text
    caplog.clear()
    resumed = train.run(resume=str(tmp_path / "run"), device="cpu")
    assert "its 2 epochs are done; left: plots" in caplog.text and resumed.evaluation is None
    names = {path.name for path in resumed.save_dir.iterdir() if not path.name.startswith("events")}
    assert names == {path.name for path in whole.iterdir() if not path.name.startswith("events")}
    assert (resumed.save_dir / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    best, other = (read_checkpoint(folder / "weights" / "best.pt") for folder in (whole, resumed.save_dir))
    # the same kernels on the same shapes in one process: equal to the last bit
    assert best.training is other.training is None and best.state.keys() == other.state.keys()
    assert all(torch.equal(best.state[name], other.state[name]) for name in best.state)
    with pytest.raises(CheckpointError, match="its 2 epochs are done; --epochs N"):
        train.run(resume=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"metrics\.json"):
        resumed.row()


def test_an_early_stop_that_was_cut_off_is_finished_and_trains_no_epoch(data, tmp_path, monkeypatch):
    monkeypatch.setattr(EarlyStopping, "has_waited", lambda self, state: state.epoch >= 1)
    with monkeypatch.context() as patch:
        patch.setattr("utils.engine.training_stages.strip", cut_off)
        with pytest.raises(Interruption):
            training.train(options(data, tmp_path, epochs=5))
    resumed = train.run(resume=str(tmp_path / "run"), device="cpu")
    assert resumed.state.epoch == 1 and len((resumed.save_dir / "results.csv").read_text().splitlines()) == 2
    assert all((resumed.save_dir / name).is_file() for name in MARKS)
    with pytest.raises(CheckpointError, match="stopped early after 1 epochs and is finished; --patience N"):
        train.run(resume=str(tmp_path / "run"))


def test_patience_goes_on_after_an_early_stop(copied):
    last = copied / "weights" / "last.pt"
    checkpoint = read_checkpoint(last)
    state = {**checkpoint.training["state"], "best_fitness": 0.5, "best_epoch": 0}
    config = {**checkpoint.training["config"], "epochs": 9, "patience": 1}
    changed = {**checkpoint.training, "state": state, "config": config}
    write_checkpoint(dataclasses.replace(checkpoint, training=changed), last)
    with pytest.raises(CheckpointError, match=r"--patience N with N over 1 goes on"):
        resolve_config(TrainConfig(resume=str(last)))
    assert resolve_config(TrainConfig(resume=str(last), patience=5))[0].patience == 5


def test_entering_a_stage_removes_what_later_ones_left(copied):
    run = RunFolder(copied)
    assert open_stages(run, True) == ()
    assert open_stages(run, False) == tuple(Stage)
    (copied / "weights" / ".last.pt.ab12cd_9.tmp").write_bytes(b"half")
    (copied / ".hidden").write_text("mine")
    run.curves.unlink()
    assert open_stages(run, True) == (Stage.PLOTS,)
    enter(run, (Stage.PLOTS,))
    assert run.metrics.is_file() and (copied / ".hidden").is_file()
    assert {path.name for path in (copied / "weights").iterdir()} == {"last.pt", "best.pt"}
    run.metrics.unlink()
    run.curves.write_bytes(b"of an earlier end")
    assert open_stages(run, True) == (Stage.VALIDATION, Stage.PLOTS)
    enter(run, tuple(Stage))
    assert not run.curves.exists()


def test_a_best_that_is_missing_is_made_from_last_if_that_is_it(copied):
    run = RunFolder(copied)
    run.best.unlink()
    with pytest.raises(
        CheckpointError, match=r"best\.pt: is missing, and last\.pt holds epoch 1, not the best epoch 0"
    ):
        strip_best(run, TrainState(epoch=2, best_epoch=0))
    strip_best(run, TrainState(epoch=2, best_epoch=1))
    assert open_stages(run, True) == () and read_checkpoint(run.best).training is None


# ---- results.csv ----


@pytest.mark.parametrize("damage", ["torn", "missing", "no row", "a cell of text", "twice"])
def test_a_damaged_table_is_written_anew(copied, caplog, damage):
    history = EpochHistory.of(read_checkpoint(copied / "weights" / "last.pt").training["history"])
    table = copied / "results.csv"
    text = table.read_text()
    before = text.splitlines()
    if damage == "missing":
        table.unlink()
    else:
        table.write_text(
            {
                "torn": text[:-30],
                "no row": before[0] + "\n" + before[2] + "\n",
                "a cell of text": text.replace(before[1][:60], before[1][:40] + "x" * 20),
                "twice": text + before[1] + "\n",
            }[damage]
        )
    components = SimpleNamespace(model=torch.nn.Identity())
    ResultsFile(table, history).start(SimpleNamespace(state=TrainState(epoch=2), components=components))
    assert table.read_text() == text
    assert [message.endswith("written anew from the checkpoint") for message in caplog.messages] == [True] * (
        damage != "twice"
    )


def test_an_older_checkpoint_resumes_without_history_and_fingerprint(copied, caplog):
    last = copied / "weights" / "last.pt"
    checkpoint = read_checkpoint(last)
    older = {key: value for key, value in checkpoint.training.items() if key not in ("history", "data")}
    write_checkpoint(dataclasses.replace(checkpoint, training=older), last)
    lines = (copied / "results.csv").read_text().splitlines()
    (copied / "results.csv").write_text("\n".join([lines[0], lines[2]]) + "\n")
    train.run(resume=str(copied), epochs=3, device="cpu")
    rows = (copied / "results.csv").read_text().splitlines()[1:]
    said = caplog.text
    assert [row.split(",")[0].strip() for row in rows] == ["1", "2"]
    assert "rows of 1 of 2 epochs are missing, first that of epoch 0; the checkpoint was written without" in said
    assert "has changed" not in said


def test_a_history_keeps_every_digit():
    history = EpochHistory()
    history.add({"epoch": 0, "loss": np.pi})
    history.add({"epoch": 1, "loss": np.nextafter(1.0, 2.0)})
    again = EpochHistory.of(history.saved())
    assert again == history and again.covers(2, ("epoch", "loss")) and not again.covers(3, ("epoch", "loss"))
    assert again.line(0) == "                   0,              3.1416"
    again.cut(1)
    assert again.rows == [(0.0, np.pi)]
    with pytest.raises(ValueError, match="damaged"):
        EpochHistory.of({"columns": ["epoch"], "rows": torch.zeros(2, 3)})


# ---- the data of a run that is resumed ----


def with_yaml(copied, folder, data, change):
    spec = yaml.safe_load(Path(data).read_text())
    change(spec)
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(spec))
    last = copied / "weights" / "last.pt"
    checkpoint = read_checkpoint(last)
    config = {**checkpoint.training["config"], "data": str(file)}
    write_checkpoint(dataclasses.replace(checkpoint, training={**checkpoint.training, "config": config}), last)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([SHAPES[1], SHAPES[0], *SHAPES[2:]], "the same names in another order: class 0 was 'disc', is 'triangle' now"),
        ([*SHAPES[:3], "comet"], "class 3 was 'star', is 'comet' now"),
    ],
)
def test_permuted_and_renamed_classes_are_refused(copied, tmp_path, data, names, said):
    with_yaml(copied, tmp_path, data, lambda spec: spec.update(names=names))
    before = (copied / "weights" / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=f"other classes than .*changed.yaml has now: {said}"):
        train.run(resume=str(copied), epochs=3, device="cpu")
    assert (copied / "weights" / "last.pt").read_bytes() == before


def test_changed_labels_are_named_and_training_goes_on(copied, tmp_path, data, caplog):
    shapes = shutil.copytree(data.parent / "shapes", tmp_path / "shapes")
    with_yaml(copied, tmp_path, data, lambda spec: spec.update(path=str(shapes)))
    label = sorted((shapes / "labels" / "train").glob("*.txt"))[0]
    label.write_text("0 0.5 0.5 0.25 0.25\n")
    assert train.run(resume=str(copied), epochs=3, device="cpu").state.epoch == 3
    said = [message for message in caplog.messages if "has changed since" in message]
    assert len(said) == 1 and "train has changed" in said[0] and "other labels" in said[0]


# ---- what goes wrong in mid-run ----


class Raise(StopAfter):
    """Raises an error before the second epoch."""

    def __init__(self, error, act=lambda: None):
        self.error, self.act = error, act

    def before_epoch(self, trainer, epoch):
        if epoch == 1:
            self.act()
            raise self.error


def test_a_dead_worker_is_one_line_wherever_it_is_seen(data, tmp_path):
    """torch raises this in its handler of SIGCHLD, here between two epochs."""
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")
    with pytest.raises(DataError, match=r"worker .* died \(.*Killed\); .*--workers.*--resume .*last\.pt") as caught:
        training.train(options(data, tmp_path), hooks=[Raise(error)])
    assert "\n" not in str(caught.value) and (tmp_path / "run" / "weights" / "last.pt").is_file()


def test_another_runtime_error_passes(data, tmp_path):
    with pytest.raises(RuntimeError, match="a fault of ours"):
        training.train(options(data, tmp_path), hooks=[Raise(RuntimeError("a fault of ours"))])


def test_a_run_folder_that_is_removed_is_one_line(data, tmp_path):
    hook = Raise(
        FileNotFoundError(2, "No such file", str(tmp_path / "run" / "x")), lambda: shutil.rmtree(tmp_path / "run")
    )
    with pytest.raises(UserError, match=r"run: the run folder, or files in it, were removed in mid-run; there is no"):
        training.train(options(data, tmp_path), hooks=[hook])


def test_before_anything_was_saved_there_is_nothing_to_go_on_from(data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.engine.training.draw_labels", cut_off)
    with pytest.raises(Interruption, match="interrupted in epoch 0; there is no last.pt to continue from"):
        training.train(options(data, tmp_path))
