"""docs/python.md and docs/loggers.md: every block of code is run."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from small_data import drawn_yaml
from small_models import TINY

import train
from utils.files import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python(?: (\w+)=(\w+))?\n(.*?)^```$", re.M | re.S)


def blocks(page):
    """[(key, value, code)] of a page's blocks of Python."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def test_every_block_of_python_is_found():
    for page, count in (("python.md", 11), ("loggers.md", 4)):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert len(blocks(page)) == text.count("```python") == count


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(real, tmp_path):
    for name in ("bus.jpg", "zidane.jpg"):
        (tmp_path / name).write_bytes(real(f"images/{name}").read_bytes())
    (tmp_path / "best.pt").write_bytes(real("weights/yolov5n.pt").read_bytes())
    drawn_yaml(tmp_path, train=8, val=4).rename(tmp_path / "my.yaml")
    lines = []
    for key, value, code in blocks("python.md"):
        if key == "needs":
            code = f"try:\n    import {value}\nexcept ImportError:\n    pass\nelse:\n" + re.sub(
                "^", "    ", code, flags=re.M
            )
        code = code.replace("/home/me/yolov5-attention", str(ROOT))
        lines.append(
            re.sub(r"(train|val|detect)\.run\(", r'\1.run(project="out", ', code)
        )  # not into this clone's runs
    (tmp_path / "page.py").write_text("\n".join(lines), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "image 1/1: 1080x810 4 persons, 1 bus" in done.stdout
    assert "weight: no such option (did you mean weights" in done.stdout
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["bus.jpg", "image2.jpg", "zidane.jpg"]
    assert "mAP@.5:.95" in done.stdout  # train.run and val.run log as their commands


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=8, val=4)


def trained_with(example, data, folder, **options):
    """Train two epochs, resume for a third, with a logger of the page; return the run folder."""
    code = next(code for key, value, code in blocks("loggers.md") if (key, value) == ("example", example))
    (folder / f"{example}_logger.py").write_text(code, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    small = dict(
        cfg=str(folder / "tiny.yaml"), imgsz=64, epochs=1, batch_size=8, workers=0, device="cpu", noautoanchor=True
    )
    first = train.run(
        **small, data=str(data), project=str(folder / "runs"), logger=f"{folder / example}_logger.py:Logger", **options
    )
    return train.run(resume=str(first.save_dir / "weights" / "last.pt"), epochs=2, device="cpu")


@pytest.fixture
def no_warnings(caplog):
    """A logger's errors are warnings, so there must be none."""
    yield
    assert [each.getMessage() for each in caplog.get_records("call") if "--logger" in each.getMessage()] == []


def figures_of(result):
    header, *rows = (result.save_dir / "results.csv").read_text().splitlines()
    names = [name.strip() for name in header.split(",")]
    return [dict(zip(names, map(float, row.split(",")), strict=True)) for row in rows]


@pytest.mark.usefixtures("blank_figures", "no_warnings")
def test_the_logger_of_json_lines(data, tmp_path):
    result = trained_with("json", data, tmp_path)
    rows = [json.loads(line) for line in (result.save_dir / "epochs.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1] and rows[0]["model"].endswith("tiny.yaml")
    for row, expected in zip(rows, figures_of(result), strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert set(json.loads((result.save_dir / "best.json").read_text())) > {"metrics/mAP_0.5"}


@pytest.mark.oracle
@pytest.mark.usefixtures("blank_figures", "no_warnings")
def test_the_logger_of_mlflow(data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="docs/loggers.md's example needs mlflow (requirements-oracle.txt)")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    result = trained_with("mlflow", data, tmp_path)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])  # the resumed one is the same
    assert run.info.status == "FINISHED" and run.data.params["lr0"] == "0.01" and run.data.params["epochs"] == "1"
    history = client.get_metric_history(run.info.run_id, "train/box_loss")
    assert [each.step for each in history] == [0, 1]
    expected = [row["train/box_loss"] for row in figures_of(result)]
    assert [each.value for each in history] == pytest.approx(expected, rel=1e-3)
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"best.pt", "results.csv", "opt.yaml"} <= names


@pytest.mark.slow
@pytest.mark.usefixtures("no_warnings")  # it reads the images
def test_the_logger_of_wandb_offline(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: docs/loggers.md's example is not run")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = trained_with("wandb", data, tmp_path)
    runs = list((result.save_dir / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(any(run.glob("*.wandb")) for run in runs)  # before and after the resume, one id
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures", "no_warnings")
def test_the_logger_of_clearml_offline(data, tmp_path, monkeypatch):
    pytest.importorskip("clearml", reason="clearml is not installed: docs/loggers.md's example is not run")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    trained_with("clearml", data, tmp_path)
    assert [*(tmp_path / "cache").rglob("metrics.jsonl")]
