"""Trainings killed at exact moments and continued, the short form of tests/kills.py, and kills that come in a row."""

import signal
import subprocess
import sys

import pytest
from kills import Bench, Kill, differences, go_on

from utils.checkpoint import read_checkpoint
from utils.files import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("kills"), 0, {})
    bench.prepare()
    return bench


@pytest.mark.parametrize("workers", ["0", "2"])
def test_each_kind_of_moment_once(workers):
    command = [sys.executable, "tests/kills.py", "--kills", "7", "--workers", workers, "--seed", "3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0 and "7 of 7 equal" in ended.stdout, ended.stdout


def test_a_continued_training_is_killed_and_the_one_after_it(bench):
    again = [Kill("step", 1), Kill("half a write", 3)]
    found, output = go_on(bench, "twice", bench.child("twice", Kill("batch", 2)), again)
    assert found == [], output
    assert output.count("resuming ") >= 2


def test_before_anything_is_saved_it_is_started_again(bench):
    found, output = go_on(bench, "early", bench.child("early", Kill("half a write", 1)), [])
    assert found == [], output


def test_of_two_that_continue_at_once_one_is_refused(bench):
    code, output = bench.child("race", Kill("batch", 7)).run()
    assert code == -signal.SIGKILL, output
    processes = [bench.resume("race").start() for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], outputs
    refused = next(text for text, process in zip(outputs, processes, strict=True) if process.returncode == 2)
    assert "another training uses this folder now" in refused.splitlines()[-1] and "Traceback" not in refused
    assert differences(bench.folder / "race", bench.folder / "whole") == []


@pytest.mark.parametrize("kill", [Kill("strip", 1), Kill("strip", 2), Kill("figure", 5)], ids=str)
def test_a_training_that_stopped_early_is_killed_behind_its_epochs(tmp_path_factory, kill):
    bench = Bench(tmp_path_factory.mktemp("early"), 0, {"patience": 1, "epochs": 12})
    whole, counts = bench.prepare()
    state = read_checkpoint(whole / "weights" / "last.pt").training["state"]
    assert state["epoch"] < 12
    found, output = go_on(bench, "run", bench.child("run", kill), [])
    assert found == [], output
