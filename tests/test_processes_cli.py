"""torchrun for real: two processes against one, a resume by one, and processes, launchers and flags that fail."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_data import drawn_yaml

from utils.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
SECONDS = 300


def command(folder: Path, name: str, *more: str, processes: int = 2) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    flags = [
        "--data",
        folder / "small.yaml",
        "--cfg",
        ROOT / "models" / "yolov5n.yaml",
        "--imgsz",
        64,
        "--device",
        "cpu",
    ]
    flags += [
        "--workers",
        0,
        "--batch-size",
        8,
        "--epochs",
        2,
        "--project",
        folder / "runs",
        "--name",
        name,
        "--exist-ok",
    ]
    return [sys.executable, *launcher, str(ROOT / "train.py"), *map(str, flags), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments, **options), env=environment(), capture_output=True, text=True, timeout=SECONDS
    )


def results(folder: Path, name: str) -> list[list[float]]:
    with (folder / "runs" / name / "results.csv").open() as stream:
        return [[float(cell) for cell in row] for row in list(csv.reader(stream))[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a data yaml with 21 training images, and of the runs of one and of two processes."""
    path = tmp_path_factory.mktemp("several")
    drawn_yaml(path, train=21, val=9)
    assert run(path, "one", processes=1).returncode == 0
    two = run(path, "two", "--sync-bn")
    assert two.returncode == 0, two.stderr
    lines = [line for line in two.stdout.splitlines() if line.startswith("Logging results to")]
    assert len(lines) == 1  # one process prints
    return path


def test_two_processes_give_the_results_of_one(folder):
    one, two = results(folder, "one"), results(folder, "two")
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, rel=2e-3, abs=2e-4)
    ours, theirs = (read_checkpoint(folder / "runs" / name / "weights" / "last.pt").state for name in ("one", "two"))
    assert list(ours) == list(theirs)  # global batch norm has the names of batch norm


def test_a_training_of_two_is_continued_by_one(folder):
    last = folder / "runs" / "two" / "weights" / "last.pt"
    finished = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--resume", str(last), "--epochs", "3", "--device", "cpu"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert finished.returncode == 0, finished.stderr
    assert "trained by 2 processes so far and by 1 from here" in finished.stdout
    assert len(results(folder, "two")) == 3


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--cache", "ram"), "error: --cache ram: each of 2 processes would hold all images"),
        (("--evolve", "2"), "error: --evolve: runs in one process"),
        (("--resume", "missing.pt"), "error: --resume missing.pt"),
        (("--freeze", "99"), "error: --freeze 99"),
        (("--rect", "--data", "missing.yaml"), "error: missing.yaml"),
    ],
)
def test_a_flag_that_does_not_fit_is_one_line_and_leaves_nothing(folder, flags, words):
    failed = run(folder, "refused", *flags)
    lines = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert failed.returncode == 1 and len(lines) == 1 and lines[0].startswith(words), failed.stderr
    assert not (folder / "runs" / "refused").exists()


def started(folder: Path, name: str) -> tuple[subprocess.Popen, list[int]]:
    """A training of two processes after its first epoch, and the ids of its processes."""
    process = subprocess.Popen(
        command(folder, name, "--epochs", "200"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not (folder / "runs" / name / "weights" / "last.pt").exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [int(each) for each in children]


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number, code", [(signal.SIGKILL, 1), (signal.SIGTERM, 1)])
def test_a_process_that_dies_ends_the_others(folder, number, code):
    process, children = started(folder, f"died{number}")
    os.kill(children[1], number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code and not any(map(is_running, children))
    own = [line for line in error.splitlines() if "another process was killed" in line or "SIGTERM" in line]
    assert own and "Traceback" not in error.split("torch/distributed")[0], error


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_processes_without_their_launcher_stop(folder):
    process, children = started(folder, "orphans")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    until = time.monotonic() + 60
    while any(map(is_running, children)):
        assert time.monotonic() < until
        time.sleep(0.2)
