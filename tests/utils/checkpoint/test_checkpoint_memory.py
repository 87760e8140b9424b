"""Reading a file costs no more than its size in memory twice: measured in a process of its own, on files of 64 MiB."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.checkpoint.record import Checkpoint
from utils.checkpoint.store import write_checkpoint
from utils.files import ROOT

SIZE = 64 * 2**20
SLACK = 12 * 2**20  # what the interpreter takes for the description, and pages that the allocator keeps
MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
from utils.checkpoint import read_checkpoint
from utils.checkpoint.description import describe
from utils.checkpoint.tools import differences

def memory(key):
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith(key))

def peak(function, *arguments):
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak begins anew from here
    before = memory("VmRSS")
    kept = function(*arguments)
    return memory("VmHWM") - before

small, path = sys.argv[2:]
read_checkpoint(small), describe(small)  # so that what is imported late is there
print(peak(describe, path), peak(read_checkpoint, path), peak(differences, path, path))
"""


def write(path: Path, sizes: list[int], dtype: torch.dtype, training: bool = False) -> Path:
    """A file whose tensors have `sizes` bytes; with training, half of them are the optimizer's."""
    tensors = {
        f"model.{index}.weight": torch.ones(size // dtype.itemsize, dtype=dtype) for index, size in enumerate(sizes)
    }
    half = len(sizes) // 2
    state = dict(list(tensors.items())[half:]) if training else tensors
    moments = {"optimizer": dict(list(tensors.items())[:half])} if training else None
    return write_checkpoint(Checkpoint({"nc": 1}, ["a"], state, (8.0,), training=moments), path)


def official(path: Path, sizes: list[int]) -> Path:
    """Modules in half precision in a pickled model, as an official file holds them: one average, one model."""
    import types

    package, module = types.ModuleType("models.yolo"), torch.nn.Module
    kinds = {name: type(name, (module,), {"__module__": "models.yolo"}) for name in ("Model", "Detect")}
    for name, kind in kinds.items():
        setattr(package, name, kind)
    model = kinds["Model"]()
    model.layers = torch.nn.ParameterList(torch.ones(size // 2, dtype=torch.float16) for size in sizes)
    model.head = kinds["Detect"]()
    model.head.register_buffer("anchors", torch.ones(1, 3, 2))
    model.yaml, model.names = {"nc": 1}, ["a"]
    before = sys.modules.get("models.yolo")
    sys.modules["models.yolo"] = package
    try:
        torch.save({"model": model, "ema": None}, path)
    finally:
        sys.modules["models.yolo"] = before
    return path


def peaks(path: Path, small: Path) -> tuple[int, ...]:
    """Bytes above what the process had before, at most, in `describe`, in reading, in `differences` with itself."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(ROOT), str(small), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.fixture()
def small(tmp_path):
    return write(tmp_path / "small.pt", [64], torch.float32)


PARTS = [SIZE // 64] * 64
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc, which only Linux has"
)


@needs_linux
@pytest.mark.parametrize("sizes", ([SIZE], PARTS), ids=("one tensor", "64 tensors"))
def test_a_file_in_half_precision(sizes, small, tmp_path):
    seen, read, compared = peaks(write(tmp_path / "a.pt", sizes, torch.float16), small)
    assert seen < SLACK and 2 * SIZE - SLACK < read < 2 * SIZE + SLACK  # it becomes float32
    if len(sizes) > 1:
        assert compared < 2 * SLACK  # it holds one tensor of each file, in double precision


@needs_linux
def test_a_training_file(small, tmp_path):
    seen, read, _ = peaks(write(tmp_path / "a.pt", PARTS, torch.float32, training=True), small)
    assert seen < SLACK and SIZE - SLACK < read < SIZE + SLACK


@needs_linux
def test_an_official_file(small, tmp_path):
    seen, read, _ = peaks(official(tmp_path / "b.pt", PARTS), small)
    assert seen < SLACK and 2 * SIZE - SLACK < read < 2 * SIZE + SLACK
