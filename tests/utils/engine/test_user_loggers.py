"""`--logger`: a user's class gets a training's settings, figures and results; its errors end nothing."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from small_data import drawn_yaml
from small_models import TINY

import train
from utils.checkpoint import read_checkpoint
from utils.config import from_options
from utils.config.compare_options import CompareConfig
from utils.engine.user_loggers import LoggedResult, UserLoggers, absolute_references, load_logger_class
from utils.errors import ConfigError, UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
RECORDER = '''
import json
import pathlib


class Recorder:
    """Writes what it is called with beside the run's files."""

    def start(self, run):
        self.file = run.folder / "calls.jsonl"
        self.write("start", run.first_epoch, run.epochs, run.config["epochs"], run.hyp["lr0"], list(run.names))

    def after_epoch(self, epoch, figures):
        self.write("epoch", epoch, sorted(figures), figures["train/box_loss"])

    def finish(self, result):
        self.write("finish", result.best.name, result.best.is_file(), dict(result.figures), len(result.images))

    def close(self):
        self.write("close")

    def write(self, *values):
        with self.file.open("a") as stream:
            stream.write(json.dumps(values) + "\\n")


class Fails(Recorder):
    def after_epoch(self, epoch, figures):
        raise ValueError(f"no network in epoch {epoch}")


class NotMade(Recorder):
    def __init__(self):
        import a_package_that_is_not_there


class Nothing:
    pass
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=8, val=4)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECORDER)
    return path


def trained(data, tmp_path, **options):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    small = dict(
        cfg=str(tmp_path / "tiny.yaml"), imgsz=64, epochs=2, batch_size=8, workers=0, device="cpu", noautoanchor=True
    )
    return train.run(**{**small, "data": str(data), "project": str(tmp_path), "name": "run", **options})


def calls(folder):
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def test_a_logger_gets_settings_figures_and_results_and_again_when_resumed(data, tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = trained(data, tmp_path, logger="mine.py:Recorder")
    start, first, second, finish, close = calls(result.save_dir)
    assert start[:4] == ["start", 0, 2, 2] and start[4] == 0.01 and len(start[5]) == 4
    assert [first[:2], second[:2]] == [["epoch", 0], ["epoch", 1]]
    header, *rows = [
        [cell.strip() for cell in line.split(",")]
        for line in (result.save_dir / "results.csv").read_text().splitlines()
    ]
    assert first[2] == sorted(header[1:]) and "epoch" not in first[2]
    assert [each[3] for each in (first, second)] == pytest.approx([float(row[1]) for row in rows], rel=1e-3)
    assert finish[1:3] == ["best.pt", True] and finish[4] > 0 and close == ["close"]
    assert finish[3]["metrics/mAP_0.5"] == pytest.approx(result.metrics.map50)
    assert result.best == result.save_dir / "weights" / "best.pt" and result.best.is_file()
    saved = read_checkpoint(result.save_dir / "weights" / "last.pt").training["config"]["logger"]
    assert list(saved) == [f"{file}:Recorder"]  # its name, not the object

    monkeypatch.chdir(Path(__file__).parent)  # a resumed run finds it from any folder
    resumed = train.run(resume=str(result.save_dir / "weights" / "last.pt"), epochs=3, device="cpu")
    again = calls(resumed.save_dir)[5:]
    assert again[0][:3] == ["start", 2, 3] and again[1][:2] == ["epoch", 2] and again[-1] == ["close"]


def test_an_error_is_a_line_with_its_place_and_the_training_goes_on(data, tmp_path, file, caplog):
    result = trained(data, tmp_path, logger=[f"{file}:Fails", f"{file}:Recorder"], noval=True)
    line = RECORDER.splitlines().index('        raise ValueError(f"no network in epoch {epoch}")') + 1
    warnings = [text for text in caplog.text.splitlines() if "--logger" in text]
    for epoch, text in enumerate(warnings[:2]):
        assert f"{file}:{line}: ValueError: no network in epoch {epoch}; the training goes on" in text
    assert f"{file}:Fails: 2 of 5 calls failed" in warnings[2] and len(warnings) == 3
    assert [each[0] for each in calls(result.save_dir)].count("epoch") == 2  # the other logger's
    assert len((result.save_dir / "results.csv").read_text().splitlines()) == 3
    of_first = next(each for each in calls(result.save_dir) if each[0] == "epoch")
    assert "metrics/precision" not in of_first[2]  # --noval: that epoch was not validated


@pytest.mark.parametrize("error, words", [(SystemExit(3), "SystemExit: 3; the"), (RuntimeError(), "RuntimeError; the")])
def test_a_logger_that_exits_does_not_end_the_training(caplog, error, words):
    class Exits:
        def close(self):
            raise error

    UserLoggers([("Exits", Exits())]).end()
    assert words in caplog.text and "1 of 1 calls failed" in caplog.text


@pytest.mark.parametrize(
    "reference, words",
    [
        ("mine.py", "expected module:Class or path/to/file.py:Class"),
        ("gone.py:Recorder", "gone.py: no such file"),
        ("{file}:Recoder", "has no Recoder (did you mean Recorder"),
        ("{file}:Nothing", "Nothing has none of the methods start, after_epoch, finish, close"),
        ("{file}:NotMade", "No module named 'a_package_that_is_not_there'; pip install a_package_that_is_not_there"),
        ("no_such_module:Recorder", "No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_loaded_ends_the_run_before_its_first_step(data, tmp_path, file, reference, words):
    with pytest.raises(UserError) as found:
        trained(data, tmp_path, logger=reference.format(file=file))
    assert words in str(found.value) and "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_file_with_a_mistake_is_named_with_its_line(tmp_path):
    (tmp_path / "wrong.py").write_text("import json\n\nclass A\n    pass\n")
    with pytest.raises(ConfigError, match=r"wrong\.py:3: SyntaxError"):
        load_logger_class(f"{tmp_path / 'wrong.py'}:A")
    (tmp_path / "raises.py").write_text("import json\n\nvalue = 1 / 0\n")
    with pytest.raises(ConfigError, match=r"raises\.py:3: ZeroDivisionError: division by zero"):
        load_logger_class(f"{tmp_path / 'raises.py'}:A")


def test_a_module_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "a_logger_of_mine.py").write_text(RECORDER)
    monkeypatch.syspath_prepend(tmp_path)
    loggers = UserLoggers.of(["a_logger_of_mine:Recorder"])
    loggers.finish(LoggedResult(tmp_path, tmp_path / "best.pt", {}, [], []))  # fails: start was not called
    loggers.end()
    sys.modules.pop("a_logger_of_mine")
    assert absolute_references(["a_logger_of_mine:Recorder", "b.py:C"])[0] == "a_logger_of_mine:Recorder"
    assert Path(absolute_references(["b.py:C"])[0].rpartition(":")[0]).is_absolute()


def test_a_result_lists_the_files_of_its_run_folder(tmp_path):
    metrics = {"precision": 0.1, "recall": 0.2, "map50": 0.3, "map": 0.4, "fitness": 0.39}
    (tmp_path / "metrics.json").write_text(json.dumps({"images": 3, "yolov5": metrics}))
    for name in ("results.csv", "results.png", "val_batch0_pred.jpg", "events.out", "hyp.yaml"):
        (tmp_path / name).write_text("")
    result = LoggedResult.of(tmp_path)
    assert result.figures == {
        "metrics/precision": 0.1,
        "metrics/recall": 0.2,
        "metrics/mAP_0.5": 0.3,
        "metrics/mAP_0.5:0.95": 0.4,
    }
    assert [path.name for path in result.images] == ["results.png", "val_batch0_pred.jpg"]
    assert [path.name for path in result.files] == ["hyp.yaml", "results.csv", "metrics.json"]


def test_a_study_gives_its_loggers_to_every_training():
    study = from_options(CompareConfig, cfg=["a.yaml", "b.yaml"], logger=["mine.py:Recorder", "other:Second"])
    assert study.training_config("b.yaml", 0).logger == ("mine.py:Recorder", "other:Second")
