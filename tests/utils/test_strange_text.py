"""What strangers put into names, paths and files is printed on one line, and a file that is not there is named so."""

import logging

import numpy as np
import pytest
from PIL import Image

import detect
from models.registry import load_plugin
from models.yolo import Model
from utils.checkpoint import checkpoint_of, find_weights, read_checkpoint, write_checkpoint
from utils.compare.plan import open_study
from utils.config import DatasetSpec, Hyperparameters, TrainConfig
from utils.config.compare_options import CompareConfig
from utils.datasets.prepare import ensure
from utils.datasets.row_reader import RowRules, read_rows
from utils.engine.resume import resume_file
from utils.errors import UserError, cut, nearest, shown
from utils.images import image_size, inspect_image, read_image
from utils.metrics.average_precision import _table_row
from utils.plots.annotate import text_patch
from utils.plots.canvas import axis_label
from utils.plots.error_plots import plot_confusion
from utils.plots.label_statistics import plot_labels

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 3868129\n"
NAMES = ["\x1b[2J\nsecond line\u202e", "$\\frac{$ costs $", "猫", "x" * 500, "plain"]


def failure(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


# ---- values ----


@pytest.mark.parametrize(
    "value, text",
    [
        (3, "3"),
        ("a\x1b[0m\nb", "'a\\x1b[0m\\nb'"),
        ("猫", "'猫'"),
        ([1, [2, {"a": None}]], "[1, [2, {'a': None}]]"),
        ("x" * 10**6, "'" + "x" * 196 + "..."),
        (1 << 5000, "<a whole number of 5001 bits>"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, ...]"),
    ],
)
def test_values_are_shown_as_python_writes_them_up_to_a_limit(value, text):
    assert shown(value) == text and len(text) <= 200


def test_what_unfolds_without_end_is_shown_in_no_time():
    value = ["lol"]
    for _ in range(60):
        value = [value] * 9
    assert len(shown(value)) <= 200
    assert cut("\u202eabc\udc80\x00") == "\\u202eabc\\udc80\\x00" and cut("x" * 10, 5) == "xx..."
    assert cut("\u0646\u200c\u0647") == "\u0646\u200c\u0647"  # a joiner that Persian needs
    assert len(nearest("abc", ["abc" + "d" * 90 + "e" * 10_000])) < 300


# ---- class names ----


def test_class_names_are_one_line_in_tables_and_plots(tmp_path):
    assert _table_row(NAMES[0], 1, 2, (0.5,)).startswith("\\x1b[2J\\nsecond line\\u202e          1")
    assert len(_table_row(NAMES[3], 1, 2, (0.5,))) == 60 + 22 + 11
    assert [axis_label(name) for name in NAMES[1:3]] == [r"\$\frac{\$ costs \$", "猫"]
    plot_labels(np.arange(5), np.full((5, 4), 0.3), NAMES, tmp_path)
    plot_confusion(np.ones((6, 6)), NAMES, tmp_path / "matrix.png")
    assert (tmp_path / "labels.jpg").stat().st_size > 0 and (tmp_path / "matrix.png").stat().st_size > 0
    line, plain = (
        text_patch(NAMES[0], 20, (0, 0, 0), (255, 255, 255)),
        text_patch("plain", 20, (0, 0, 0), (255, 255, 255)),
    )
    assert line.shape[0] == plain.shape[0]


def test_detection_prints_the_class_names_of_a_checkpoint_on_one_line(tmp_path, caplog, capsys):
    model = Model("yolov5n.yaml", nc=2)
    names = ["\x1b[2Jone", "two\nlines"]
    write_checkpoint(checkpoint_of(model, names=names), tmp_path / "w.pt")
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO, "yolo"):
        detect.run(
            weights=str(tmp_path / "w.pt"),
            source=str(tmp_path / "a.png"),
            imgsz=64,
            conf_thres=0.0,
            max_det=20,
            project=str(tmp_path),
            name="out",
            save_txt=True,
        )
    printed = "".join(record.getMessage() for record in caplog.records) + capsys.readouterr().out
    assert ("\\x1b[2Jone" in printed or "two\\nlines" in printed) and "\x1b[2J" not in printed


# ---- git-lfs pointers ----


def test_a_git_lfs_pointer_is_named_wherever_a_file_is_read(tmp_path):
    readers = {
        "w.pt": read_checkpoint,
        "d.yaml": DatasetSpec.load,
        "h.yaml": Hyperparameters.load,
        "m.yaml": Model,
        "s.yaml": lambda path: open_study(CompareConfig(study=str(path))),
        "a.jpg": read_image,
        "b.png": image_size,
        "c.tif": inspect_image,
        "a.txt": lambda path: read_rows(str(path), RowRules(3)),
        "v.mp4": lambda path: detect.run(weights=str(tiny), source=str(path), imgsz=64, project=str(tmp_path)),
        "p.py": load_plugin,
    }
    tiny = write_checkpoint(checkpoint_of(Model("yolov5n.yaml", nc=1), names=["a"]), tmp_path / "tiny.pt")
    for name, read in readers.items():
        path = tmp_path / name
        path.write_text(POINTER)
        message = failure(read, path)
        assert str(path) in message, message
        assert "a git-lfs pointer, which stands for a file of 3868129 bytes that is not here; fetch it with" in message


# ---- paths ----


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 4000 + "b", "a\0b"], ids=["name", "path", "null"])
def test_a_path_that_the_system_refuses_is_one_line(name, tmp_path):
    spec = DatasetSpec.load({"train": name, "names": ["a"]})
    messages = [
        failure(find_weights, name),
        failure(read_checkpoint, name),
        failure(lambda: ensure(spec, ["train"])),
        failure(lambda: open_study(CompareConfig(study=name))),
        failure(lambda: resume_file(TrainConfig(resume=name))),
        failure(load_plugin, name),
    ]
    assert all(message.isprintable() for message in messages), messages
