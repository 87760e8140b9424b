"""benchmarks/gpu_checks.py runs to its end where there is no GPU."""

import json
import subprocess
import sys

import pytest

from utils.files import ROOT

PROGRAM = ROOT / "benchmarks" / "gpu_checks.py"


@pytest.mark.slow
def test_the_device_program_runs_on_a_cpu(tmp_path):
    command = [sys.executable, PROGRAM, "--device", "cpu", "--quick", "--output", tmp_path]
    done = subprocess.run([*command, "--minutes", "20"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    passed = {row["section"] for row in rows if row["status"] == "passed"}
    assert passed >= {"variants", "nms", "resume", "loader", "blocks", "speed"}
    assert {row["name"] for row in rows if row["section"] == "waits"} == {"training step"}
    assert "| resume | 1 + 1 epochs against 2 | passed | 0 |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_what_time_does_not_allow_is_listed(tmp_path):
    command = [sys.executable, PROGRAM, "--device", "cpu", "--quick", "--output", tmp_path]
    assert subprocess.run([*command, "--minutes", "0", "--parts", "nms", "speed"]).returncode == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["section"], row["status"], row["note"]) for row in rows] == [
        ("nms", "not run", "time was up"),
        ("speed", "not run", "time was up"),
    ]
