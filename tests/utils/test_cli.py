"""How scripts end: signals, a closed output and too few open files are one line and an exit code of their own."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from utils.cli import run_guarded
from utils.errors import Interruption
from utils.files import ROOT

WAITS = """
import sys, time
sys.path.insert(0, {root!r})
from utils.cli import run_guarded
def work():
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("closed", flush=True)
sys.exit(run_guarded(work))
"""
WRITES = """
import sys
sys.path.insert(0, {root!r})
from utils import log
from utils.cli import run_guarded
log.configure()
def work():
    for number in range(100_000):
        {write}
sys.exit(run_guarded(work))
"""


def started(code, **options):
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_signal_is_an_orderly_end(number, code, line):
    process = started(WAITS.format(root=str(ROOT)))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, "closed\n", f"{line}\n")


def test_a_hangup_that_is_ignored_stays_ignored():
    process = started(WAITS.format(root=str(ROOT)), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.parametrize("write", ["log.LOGGER.info(str(number))", "print(number)"])
def test_a_closed_output_is_one_line(write):
    process = started(WRITES.format(root=str(ROOT), write=write))
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "the reader of the output has closed it\n" and process.wait(20) == 141


def test_too_few_open_files_are_one_line(capsys):
    def work():
        raise OSError(errno.EMFILE, "Too many open files", "a.jpg")

    assert run_guarded(work) == 2
    assert capsys.readouterr().err == (
        "error: a.jpg: Too many open files; raise the limit (ulimit -n 1024), or lower --workers\n"
    )


def test_a_required_package_that_is_missing_is_one_line(capsys):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    assert run_guarded(missing, "torch") == 2
    line = f"error: torch is not installed for {sys.executable}; pip install -r requirements.txt\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ModuleNotFoundError):
        run_guarded(missing, "models.nothing")


@pytest.mark.parametrize(
    "command",
    [
        "train.py",
        "val.py",
        "detect.py --source x",
        "export.py",
        "compare.py --cfg x",
        "heatmap.py --source x",
        "-m utils.checkpoint show x",
        "-m utils.profile --cfg x",
        "-m utils.transfer --cfg x --weights y --output z.pt",
        "-m utils.datasets.check data/shapes.yaml",
        "-m models.zoo list",
    ],
)
def test_a_command_says_in_one_line_that_torch_is_missing(command, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    first, *others = command.split()
    script = [first] if first == "-m" else [str(ROOT / first)]
    done = subprocess.run(
        [sys.executable, *script, *others], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == f"error: torch is not installed for {sys.executable}; pip install -r requirements.txt\n"


def test_an_interruption_keeps_its_signal_and_message(capsys):
    def work():
        raise Interruption.of(Interruption("ended by SIGTERM", signal.SIGTERM), " in epoch 3; go on")

    assert run_guarded(work) == 143 and capsys.readouterr().err == "ended by SIGTERM in epoch 3; go on\n"
    assert str(Interruption.of(KeyboardInterrupt())) == "interrupted"
