"""The real command, really killed behind its last epoch, and resumed."""

import os
import signal
import subprocess
import sys

import pytest
from small_data import drawn_yaml

from utils.files import ROOT

pytestmark = pytest.mark.slow
PLUGIN = """
import importlib, os, signal

if os.environ.get("KILL_AT"):
    module, name = os.environ["KILL_AT"].split(":")
    held = importlib.import_module(module)
    assert hasattr(held, name), f"{module} has no {name}"
    setattr(held, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
if os.environ.get("STOP_AFTER"):
    stopping = importlib.import_module("utils.engine.optim").EarlyStopping
    stopping.has_waited = lambda self, state: state.epoch >= int(os.environ["STOP_AFTER"])
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """run(folder, *resume, **environment) starts a training of three epochs, or resumes it; returns how it ended."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "killing.py").write_text(PLUGIN)
    data = drawn_yaml(folder, train=16, val=4)
    flags = f"--cfg models/yolov5n.yaml --data {data} --img 64 --epochs 3 --batch-size 8 --workers 0 --device cpu"
    flags += f" --noautoanchor --plugin {folder / 'killing.py'} --name run --project"

    def run(project, *resume, **environment):
        arguments = resume or (*flags.split(), str(project))
        return subprocess.run(
            [sys.executable, "train.py", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return run


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert command(folder).returncode == 0
    return folder / "run"


def files(run):
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if "tfevents" not in path.name}


@pytest.mark.parametrize(
    "place",
    [
        "utils.engine.training_stages:strip",
        "utils.engine.training_stages:evaluate_weights",
        "utils.engine.validation:draw_figures",
        "utils.plots.curves:plot_results",
    ],
)
def test_a_killed_training_is_resumed_to_the_same_files(command, whole, tmp_path, place):
    killed = command(tmp_path, KILL_AT=place)
    assert killed.returncode == -signal.SIGKILL
    resumed = command(tmp_path, "--resume", str(tmp_path / "run"))
    assert resumed.returncode == 0 and "Traceback" not in resumed.stderr
    assert files(tmp_path / "run") == files(whole)
    assert (tmp_path / "run" / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_kill_after_an_early_stop_is_resumed(command, whole, tmp_path):
    killed = command(tmp_path, KILL_AT="utils.engine.training_stages:strip", STOP_AFTER="2")
    assert killed.returncode == -signal.SIGKILL
    resumed = command(tmp_path, "--resume", str(tmp_path / "run"), STOP_AFTER="2")
    assert resumed.returncode == 0 and "Optimizer stripped" in resumed.stdout
    assert "Starting training" not in resumed.stdout
    assert files(tmp_path / "run") == files(whole)
    assert (tmp_path / "run" / "results.csv").read_text().splitlines() == (
        (whole / "results.csv").read_text().splitlines()[:3]
    )
