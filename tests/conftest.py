"""Shared by all tests: where reference figures and real data lie, and skipping by name without them."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("YOLO_TEST_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("YOLO_TEST_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(ROOT))


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not at {path}")
    return path


@pytest.fixture(scope="session")
def golden():
    """golden("nms.npz") -> its arrays; golden("models.json") -> its content; skips where absent."""

    def load(name: str):
        path = _there(GOLDEN / name)
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def fill():
    """The module that fills models with the weights of the reference figures; skips where absent."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden_fill", _there(GOLDEN / "fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real():
    """real("weights/yolov5n.pt") -> its path; skips where absent."""
    return lambda name: _there(DATA / name)


@pytest.fixture(autouse=True)
def plain_logger():
    """Each test finds the project's logger as an importing program would: a script that a test runs sets it up."""
    logger = logging.getLogger("yolo")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [], True
    yield
    logger.handlers, logger.level, logger.propagate = before
