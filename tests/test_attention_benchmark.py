"""benchmarks/attention.py compares each block with a literal form that returns the same, and makes its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from blocks.instances import BLOCKS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_block_returns_what_its_literal_form_returns(tmp_path):
    """The program refuses to time what differs by more than 1e-4 of the largest value."""
    kept = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / "attention.py", "--maps", "8x32", "--seconds", "0"]
    done = subprocess.run([*command, "--results", kept], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(kept.read_text())
    assert sorted(figures) == sorted(f"{name} 8x32" for name in BLOCKS)
    assert len(done.stdout.splitlines()) == 2 + len(BLOCKS)
    assert all(min(each["forward"]) > 0 for each in figures.values())
