"""Shared by all tests: where reference figures and real data lie, skipping by name without them, and markers."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

# The workers share the cores, so each computes in one thread unless told otherwise; torch and numpy read this when they
# are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("YOLO_TEST_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("YOLO_TEST_DATA", ROOT.parent / "shared" / "data"))
MARKER_OF_FIXTURE = {"golden": "data", "fill": "data", "real": "data", "chromium": "browser"}
EXPORT = ("utils/export/", "utils/runtimes/", "export_", "exported_graphs", "deployment")  # tests of exported files
sys.path.insert(0, str(ROOT))


def pytest_configure():
    """Take signals as a terminal's program does: what runs in the background or under nohup inherits ignored ones."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whoever asks for reference data or for a browser is marked so, and whatever runs exported files."""
    for item in items:
        for name in {MARKER_OF_FIXTURE[fixture] for fixture in item.fixturenames if fixture in MARKER_OF_FIXTURE}:
            item.add_marker(name)
        path = item.path.relative_to(ROOT / "tests").as_posix()
        if path.startswith(EXPORT[:2]) or any(word in item.path.name for word in EXPORT[2:]):
            item.add_marker("export")


def _there(path: Path, variable: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there ({variable} names its folder); see Reference data in CONTRIBUTING.md")
    return path


@pytest.fixture(scope="session")
def golden():
    """golden("nms.npz") -> its arrays; golden("models.json") -> its content; skips where absent."""

    def load(name: str):
        path = _there(GOLDEN / name, "YOLO_TEST_GOLDEN")
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def fill():
    """The module that fills models with the weights of the reference figures; skips where absent."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden_fill", _there(GOLDEN / "fill.py", "YOLO_TEST_GOLDEN"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real():
    """real("weights/yolov5n.pt") -> its path; skips where absent."""
    return lambda name: _there(DATA / name, "YOLO_TEST_DATA")


@pytest.fixture(autouse=True)
def plain_logger():
    """Each test finds the project's logger as an importing program would: a script that a test runs sets it up."""
    logger = logging.getLogger("yolo")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [], True
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def blank_figures(monkeypatch):
    """Figures are saved as empty files: most of a short training is drawing them."""
    from utils.plots import canvas

    monkeypatch.setattr(canvas, "write_figure", lambda _, file, *rest: Path(file).write_bytes(b""))


@pytest.fixture
def pages():
    """The test of the data check looks at the pages and sheets, so they are drawn."""


@pytest.fixture
def no_check_pages(monkeypatch):
    """The data check draws no pages and no sheets."""
    for target in ("overview_page.plot_page", "sheets.sample_sheet", "sheets.pair_sheet"):
        monkeypatch.setattr(f"utils.datasets.check.{target}", lambda *args, **kwargs: None)


@pytest.fixture(scope="session")
def measured_variants():
    """The catalogue's figures of all variants, which take seconds."""
    from models.zoo import catalogue

    return catalogue.measure_variants()


@pytest.fixture
def measured_once(measured_variants, monkeypatch):
    """The same, and what asks the catalogue for them gets these."""
    monkeypatch.setattr("models.zoo.catalogue.measure_variants", lambda progress=False: measured_variants)
    return measured_variants


@pytest.fixture(scope="session")
def chromium():
    """Return visit(page, scheme, *steps) -> the result of tests/browser.py; skips if there is no Chromium."""
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("no Chromium: PySide6 is not installed (it is in requirements-browser.txt)")
    loading = [sys.executable, "-c", "from PySide6 import QtWebEngineWidgets"]
    loads = subprocess.run(loading, capture_output=True, text=True, timeout=60)
    if loads.returncode:
        pytest.skip(f"no Chromium: PySide6 does not load here: {loads.stderr.strip().splitlines()[-1]}")

    def visit(page, scheme, *steps):
        command = [sys.executable, str(ROOT / "tests" / "browser.py"), str(page), scheme]
        done = subprocess.run(command, input=json.dumps(steps), capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["loaded"], done.stderr
        return result

    return visit
