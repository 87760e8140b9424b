"""train.py on a small drawn dataset: a run from flags to its folder, resumed, refused, and compared bit for bit."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from interruptions import StopAfter
from small_data import drawn_yaml

import train
import val
from utils.checkpoint import read_checkpoint
from utils.config import TrainConfig, from_options
from utils.engine import saving
from utils.engine.trainer import Hook
from utils.engine.training import train as run_training
from utils.errors import CheckpointError, NonFiniteError, UserError
from utils.files import ROOT
from utils.metrics.average_precision import table_rows

pytestmark = pytest.mark.usefixtures("blank_figures")  # `finished` draws its own
V61_COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
SMALL = dict(
    cfg="models/yolov5n_CBAM.yaml", imgsz=64, epochs=2, batch_size=8, workers=0, device="cpu", noautoanchor=True
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of 24 + 8 drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=24, val=8, test=2)


def options(data, tmp_path, **changes):
    return from_options(TrainConfig, **{**SMALL, "data": str(data), "project": str(tmp_path), "name": "run", **changes})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """One run of two epochs, through the script's own run()."""
    folder = tmp_path_factory.mktemp("finished")
    return train.run(**{**SMALL, "data": data, "project": folder, "name": "run"})


def rows_of(path):
    with (path / "results.csv").open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    return [name.strip() for name in header], [[float(cell) for cell in row] for row in rows]


def test_the_run_folder_holds_v61_files(finished):
    expected = {
        "opt.yaml",
        "hyp.yaml",
        "results.csv",
        "results.png",
        "labels.jpg",
        "labels_correlogram.jpg",
        *(f"train_batch{number}.jpg" for number in range(3)),
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
        "confusion_matrix.png",
        "F1_curve.png",
        "P_curve.png",
        "R_curve.png",
        "PR_curve.png",
        "metrics.json",
        "weights",
    }
    names = {path.name for path in finished.save_dir.iterdir()}
    assert expected <= names and any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (finished.save_dir / "weights").iterdir()} == {"last.pt", "best.pt"}


def test_results_csv_has_v61_columns_and_widths(finished):
    header, rows = rows_of(finished.save_dir)
    assert tuple(header) == V61_COLUMNS
    assert [row[0] for row in rows] == [0, 1]
    lines = (finished.save_dir / "results.csv").read_text().splitlines()
    assert all(len(cell) == 20 for line in lines for cell in line.split(","))
    assert all(np.isfinite(rows).ravel())


def test_settings_are_kept(finished):
    opt = yaml.safe_load((finished.save_dir / "opt.yaml").read_text())
    assert opt["imgsz"] == 64 and opt["epochs"] == 2 and opt["cfg"] == SMALL["cfg"]
    hyp = yaml.safe_load((finished.save_dir / "hyp.yaml").read_text())
    assert hyp["lr0"] == 0.01 and hyp["mosaic"] == 1.0


def test_last_holds_everything_and_best_is_stripped(finished):
    last, best = (read_checkpoint(finished.save_dir / "weights" / name) for name in ("last.pt", "best.pt"))
    assert last.training["state"]["epoch"] == 2 and last.training["ema_updates"] > 0
    assert {"model_state", "optimizer", "scaler", "generators", "config", "hyp"} <= set(last.training)
    assert all(tensor.dtype != torch.float16 for tensor in last.training["model_state"].values())
    assert best.training is None
    assert best.names == ["disc", "triangle", "square", "star"]
    sizes = [(finished.save_dir / "weights" / name).stat().st_size for name in ("last.pt", "best.pt")]
    assert sizes[1] < sizes[0] / 4


def test_checkpoints_are_plain_values(finished):
    for name in ("last.pt", "best.pt"):
        torch.load(finished.save_dir / "weights" / name, weights_only=True)


def test_val_prints_what_training_printed_last(finished, data, tmp_path):
    written = json.loads((finished.save_dir / "metrics.json").read_text())
    for batch_size in (1, 5):
        validation = val.run(
            weights=finished.save_dir / "weights" / "best.pt",
            data=data,
            imgsz=64,
            batch_size=batch_size,
            workers=0,
            device="cpu",
            project=tmp_path,
            name="val",
        )
        assert validation.evaluation.metrics.row() == pytest.approx(finished.evaluation.metrics.row(), abs=1e-6)
        tables = [
            table_rows(one.evaluation.metrics, ["disc", "triangle", "square", "star"], per_class=True)
            for one in (finished, validation)
        ]
        # after two epochs nothing is found yet, by a wide margin: every figure is 0, whatever rounds
        assert tables[0] == tables[1]
    again = json.loads((validation.save_dir / "metrics.json").read_text())
    assert written.keys() == again.keys()


def states_of(folder):
    checkpoint = read_checkpoint(folder / "weights" / "last.pt")
    return {
        **{f"ema.{key}": value for key, value in checkpoint.state.items()},
        **{f"raw.{key}": value for key, value in checkpoint.training["model_state"].items()},
        **{
            f"momentum.{key}": value["momentum_buffer"]
            for key, value in checkpoint.training["optimizer"]["state"].items()
        },
    }


@pytest.fixture(scope="module")
def four_epochs(data, tmp_path_factory):
    return run_training(options(data, tmp_path_factory.mktemp("whole"), epochs=4)).save_dir


def test_two_and_two_epochs_equal_four(data, tmp_path, four_epochs):
    with pytest.raises(KeyboardInterrupt):
        run_training(options(data, tmp_path, epochs=4), hooks=[StopAfter(2)])
    assert len(rows_of(tmp_path / "run")[1]) == 2
    moved = (tmp_path / "run").rename(tmp_path / "moved elsewhere")  # a run continues wherever its folder went
    resumed = train.run(resume=str(moved / "weights" / "last.pt"), device="cpu").save_dir
    assert resumed == moved.resolve()
    left, right = states_of(four_epochs), states_of(resumed)
    assert left.keys() == right.keys() and len(left) > 700
    # one process, one number of threads, the same kernels on the same shapes: every sum has one order
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    assert (four_epochs / "results.csv").read_text() == (resumed / "results.csv").read_text()


def test_workers_do_not_change_a_run(data, tmp_path, four_epochs):
    other = run_training(options(data, tmp_path, epochs=4, workers=2)).save_dir
    # workers make the images, of whole numbers; the network runs in this process with as many threads as before
    assert (four_epochs / "results.csv").read_bytes() == (other / "results.csv").read_bytes()


def test_another_seed_is_another_run(data, tmp_path, finished):
    other = run_training(options(data, tmp_path, seed=1)).save_dir
    assert rows_of(other)[1][0][1:4] != rows_of(finished.save_dir)[1][0][1:4]


def test_finished_and_stripped_files_are_not_resumed(finished, tmp_path):
    weights = finished.save_dir / "weights"
    with pytest.raises(CheckpointError, match="its 2 epochs are done"):
        train.run(resume=str(weights / "last.pt"))
    with pytest.raises(CheckpointError, match="holds weights only"):
        train.run(resume=str(weights / "best.pt"))
    with pytest.raises(CheckpointError, match="no such file"):
        train.run(resume=str(tmp_path / "none.pt"))


def test_a_mistake_leaves_no_run_folder(data, tmp_path):
    for change in (dict(cfg="models/yolov5q.yaml"), dict(weights="none.pt"), dict(hyp="none.yaml"), dict(freeze=(99,))):
        with pytest.raises(UserError):
            run_training(options(data, tmp_path / "runs", **change))
    assert not (tmp_path / "runs").exists()


def test_a_run_is_resumed_from_another_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    first = run_training(options(data.name, tmp_path, epochs=1))
    monkeypatch.chdir(tmp_path)
    assert train.run(resume=str(first.save_dir), epochs=2, device="cpu").state.epoch == 2


def test_output_in_a_file_is_lines(data, tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            "train.py",
            "--cfg",
            SMALL["cfg"],
            "--data",
            str(data),
            "--img",
            "64",
            "--epochs",
            "1",
            "--workers",
            "0",
            "--device",
            "cpu",
            "--project",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    said = ended.stdout.splitlines()
    title = said.index("     Epoch   gpu_mem       box       obj       cls    labels  img_size")
    assert ended.returncode == 0 and len(said[title + 1]) == len(said[title]) and said[title + 1].split()[0] == "0/0"
    order = [
        "hyperparameters:",
        "Overriding",
        "Model Summary:",
        "Scaled weight_decay",
        "optimizer:",
        "AutoAnchor:",
        "Image sizes",
        "Starting training",
        "1 epochs completed",
        "Optimizer stripped",
        "Validating",
        "Results saved",
    ]
    places = [next(number for number, line in enumerate(said) if line.startswith(words)) for words in order]
    assert places == sorted(places)
    assert "\r" not in ended.stderr and len(ended.stderr.splitlines()) <= 6


def test_more_epochs_can_be_asked_for(data, tmp_path):
    first = run_training(options(data, tmp_path, epochs=1))
    second = train.run(resume=str(first.save_dir), epochs=2, device="cpu")
    assert [row[0] for row in rows_of(second.save_dir)[1]] == [0, 1]


def test_weights_start_a_new_training_and_never_its_optimizer(data, tmp_path, finished):
    last = finished.save_dir / "weights" / "last.pt"
    result = run_training(options(data, tmp_path, weights=str(last), cfg="", epochs=1))
    assert result.state.epoch == 1 and result.state.step == 3


@pytest.mark.parametrize(
    "flags",
    [
        dict(rect=True),
        dict(multi_scale=True),
        dict(image_weights=True, epochs=2),
        dict(quad=True),
        dict(single_cls=True),
        dict(cache="ram"),
        dict(optimizer="AdamW", cos_lr=True),
        dict(optimizer="Adam", label_smoothing=0.1),
        dict(noval=True),
        dict(batch_size=-1),
        dict(freeze=(3,)),
        dict(noautoanchor=False, cfg="models/hub/yolov5-p34.yaml"),
    ],
    ids=lambda flags: "-".join(flags),
)
def test_flags_train(data, tmp_path, flags):
    result = run_training(options(data, tmp_path, **{"epochs": 1, **flags}))
    assert np.isfinite(result.row()).all()
    if flags.get("single_cls"):
        assert read_checkpoint(result.save_dir / "weights" / "best.pt").names == ["item"]


def test_frozen_layers_do_not_move_and_the_others_do(data, tmp_path):
    """Numbers are those of the model without attention: 9 is SPPF, which stands behind CBAM as layer 10."""
    torch.manual_seed(0)
    frozen = run_training(options(data, tmp_path, freeze=(2, 9), epochs=1)).save_dir
    from models.yolo import Model

    torch.manual_seed(0)
    start = dict(Model(SMALL["cfg"], nc=4).named_parameters())
    end = read_checkpoint(frozen / "weights" / "last.pt").training["model_state"]
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert {int(name.split(".")[1]) for name in moved} == {
        layer for layer in range(26) if layer not in (2, 10, 12, 13, 16, 17, 20, 23)
    }


def test_save_period_nosave_and_patience(data, tmp_path):
    kept = run_training(options(data, tmp_path, epochs=3, save_period=1, name="kept")).save_dir / "weights"
    assert {path.name for path in kept.iterdir()} == {"last.pt", "best.pt", "epoch1.pt", "epoch2.pt", "epoch0.pt"}
    few = run_training(options(data, tmp_path, nosave=True, name="few")).save_dir / "weights"
    assert {path.name for path in few.iterdir()} == {"last.pt", "best.pt"}


@pytest.mark.parametrize("killed_at", [0, 1])
def test_a_kill_between_the_two_checkpoints_never_leaves_an_old_best_one(tmp_path, monkeypatch, killed_at):
    """last.pt is the older of the two then, so the epoch is trained again."""

    def save(trainer, path):
        path.write_bytes(f"epoch {trainer}".encode())

    def kill(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "all_finite", lambda model: True)
    keeper = saving.Checkpoints(tmp_path, save)
    report = SimpleNamespace(is_best=True, is_last=False, epoch=0)
    for epoch in range(killed_at):
        keeper.after_epoch(Named(epoch), report)
    monkeypatch.setattr(saving, "copy_atomically", kill)
    with pytest.raises(KeyboardInterrupt):
        keeper.after_epoch(Named(killed_at), report)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == {"best.pt": b"epoch %d" % killed_at, **({"last.pt": b"epoch 0"} if killed_at else {})}


class Named:
    """Stands for a trainer where only its name is looked at."""

    def __init__(self, epoch):
        self.name, self.components = f"{epoch}", SimpleNamespace(model=None, ema=SimpleNamespace(module=None))
        self.state = SimpleNamespace(epoch=epoch + 1, batches_done=0)

    def __str__(self):
        return self.name


class Poison(Hook):
    """Spoils a weight before the second epoch."""

    def before_epoch(self, trainer, epoch):
        if epoch == 1:
            with torch.no_grad():
                trainer.components.model.model[4].cv1.conv.weight[0] = float("nan")


def test_a_spoilt_weight_stops_the_run_and_is_never_saved(data, tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"epoch 1, batch 0: the loss is nan.*model\.4\.cv1\.conv\.weight is not finite"
    ):
        run_training(options(data, tmp_path), hooks=[Poison()])
    checkpoint = read_checkpoint(tmp_path / "run" / "weights" / "last.pt")
    assert checkpoint.training["state"]["epoch"] == 1
    assert all(
        torch.isfinite(tensor).all()
        for tensor in checkpoint.training["model_state"].values()
        if tensor.is_floating_point()
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(freeze=(40,)), "--freeze 40: the model without its attention has layers 0 to 24"),
        (dict(cfg="models/yolov5n_CBMA.yaml"), "CBAM"),
        (dict(data="nowhere.yaml"), "nowhere.yaml"),
        (dict(weights="yolov5s.pt"), "--download"),
        (dict(hyp="hyp.scratch-lo.yaml"), "hyp.scratch-low"),
        (dict(device="cuda:7"), "CUDA devices are available"),
    ],
)
def test_mistakes_are_named(data, tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run_training(dataclasses.replace(options(data, tmp_path), **changes))
    assert "\n" not in str(error.value)


def test_evolution_writes_its_generations(data, tmp_path):
    project = tmp_path / "train"
    assert train.run(**{**SMALL, "data": data, "project": project, "name": "run", "evolve": 2, "epochs": 1}) is None
    folder = tmp_path / "evolve" / "run"
    lines = (folder / "evolve.csv").read_text().splitlines()
    assert len(lines) == 3 and "lr0" in lines[0]
    evolved = yaml.safe_load((folder / "hyp_evolve.yaml").read_text())
    assert 1e-5 <= evolved["lr0"] <= 0.1
    assert (folder / "evolve.png").exists()


def test_the_command_line_ends_in_one_line(tmp_path):
    def error_of(*arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr.strip()

    assert "--entity" in error_of("--entity", "me") and "results.csv" in error_of("--entity", "me")
    assert "did you mean --epochs" in error_of("--epoch-s", "3")
    lines = error_of("--cfg", "models/yolov5n_CBMA.yaml", "--device", "cpu", "--project", str(tmp_path)).splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
