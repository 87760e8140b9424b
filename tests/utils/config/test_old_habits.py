"""Flags and hyperparameter files of other versions of YOLOv5 and of its forks: read, or answered with what they are."""

import logging
import re

import pytest

from utils.config import DetectConfig, Hyperparameters, TrainConfig, ValConfig, from_options, parse
from utils.config.compare_options import CompareConfig
from utils.errors import ConfigError
from utils.files import ROOT
from utils.log import _warned

CLASSES = {"train": TrainConfig, "val": ValConfig, "detect": DetectConfig, "compare": CompareConfig}
HYP = (ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text()


def message_of(config_class, argv, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(config_class, argv, prog="x.py")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("x.py: error: ").removesuffix(" (see --help)\n")


@pytest.mark.parametrize("script", CLASSES)
def test_each_old_flag_is_answered(script, capsys):
    """None is a flag of ours, or a prefix that v6.1 takes; each answer names flags that are there."""
    known = {f"--{name.replace('_', '-')}" for config in CLASSES.values() for name in config.__dataclass_fields__}
    retired = CLASSES[script].retired()
    for index, (flag, advice) in enumerate(retired.items()):
        argv = ["--device", "cpu", f"{flag}=1"] if index % 2 else [flag]
        assert message_of(CLASSES[script], argv, capsys) == f"{flag}: {advice}"
        assert {word for word in re.findall(r"--[\w-]+", advice)} <= known, advice
    assert len(retired) > 20


@pytest.mark.parametrize(
    "script, argv, expected",
    [
        ("train", "--adam", "--adam: is --optimizer Adam here"),
        ("train", "--linear-lr", "--linear-lr: a line is the default here"),
        ("train", "--cache-images", "--cache-images: is --cache here"),
        ("train", "--notest", "--notest: is --noval here"),
        ("compare", "--cfg a.yaml b.yaml --adam", "--adam: is --optimizer Adam here"),
        ("val", "--merge", "--merge: NMS with merged boxes is not here"),
        ("detect", "--output out", "--output: the results of a run go to --project/--name"),
        (
            "train",
            "--img-size 640 480 --batch 4",
            "unrecognized argument 480: --img-size takes one value, got 640 480; one size serves training and "
            "validation, so give the first; val.py --imgsz validates at another",
        ),
        (
            "train",
            "--imgsz 640 640",
            "unrecognized argument 640: --imgsz takes one value, got 640 640; one size serves",
        ),
        ("compare", "--epochs 3 --img 96 64", "unrecognized argument 64: --img takes one value, got 96 64; one size"),
        ("val", "--imgsz 640 480", "unrecognized argument 480: --imgsz takes one value, got 640 480; the shorter side"),
        ("train", "--epochs 3 4", "unrecognized argument 4: --epochs takes one value, got 3 4"),
        ("train", "epochs=3", "unrecognized argument epochs=3; flags are written with dashes: --epochs 3"),
        ("train", "model=a.pt", "unrecognized argument model=a.pt; --model: is --weights for a checkpoint"),
        ("train", "batch=3", "unrecognized argument batch=3; flags are written with dashes: --batch 3"),
        ("train", "--batch_size 3", "unrecognized argument --batch_size (did you mean --batch-size"),
    ],
)
def test_old_habits_are_answered_with_what_to_write(script, argv, expected, capsys):
    assert message_of(CLASSES[script], argv.split(), capsys).startswith(expected)


def test_two_sizes_are_still_height_and_width_in_detection():
    assert parse(DetectConfig, ["--img-size", "640", "480"]).imgsz == (640, 480)


@pytest.mark.parametrize(
    "argv, field", [("--batch 4", "batch_size"), ("--opt Adam", "optimizer"), ("--multi", "multi_scale")]
)
def test_prefixes_that_v6_1_takes_are_no_old_flags(argv, field):
    assert field in parse(TrainConfig, argv.split()).given


def test_the_same_answers_are_given_to_callers_from_python():
    with pytest.raises(ConfigError, match="^adam: is --optimizer Adam here$"):
        from_options(TrainConfig, adam=True)
    with pytest.raises(ConfigError, match="^linear_lr: a line is the default"):
        from_options(TrainConfig, linear_lr=True)
    with pytest.raises(ConfigError, match=r"--imgsz: expected a whole number, got \(640, 640\); one size serves"):
        from_options(TrainConfig, imgsz=(640, 640))


# ---- hyperparameter files ----


@pytest.fixture
def hyp(tmp_path):
    """Return a function that writes v6.1's file with changes, and returns its path."""

    def write(*added: str, without: str = "") -> str:
        lines = [line for line in HYP.splitlines() if not without or not line.startswith(f"{without}:")]
        path = tmp_path / "h.yaml"
        path.write_text("\n".join([*lines, *added]) + "\n")
        return str(path)

    _warned.clear()
    return write


def test_giou_is_box(hyp, caplog):
    with caplog.at_level(logging.INFO, "yolo"):
        found = Hyperparameters.load(hyp("giou: 0.07", without="box"))
    assert found == Hyperparameters.load().replace(box=0.07)
    assert "giou is read as box" in caplog.text and "not given" not in caplog.text
    with pytest.raises(ConfigError, match=r"h\.yaml: giou: is box here, which is given too; leave one out$"):
        Hyperparameters.load(hyp("giou: 0.07"))


def test_unknown_keys_of_forks_are_all_named(hyp):
    path = hyp("loss_ota: 1", "paste_in: 0.15", "mosiac: 0.5")
    with pytest.raises(ConfigError) as caught:
        Hyperparameters.load(path)
    assert str(caught.value) == (
        f"{path}: loss_ota (did you mean close_mosaic, obj_loss, cls_loss?), paste_in (did you mean box_paste, assign, "
        "copy_paste?), mosiac (did you mean mosaic, mosaic9, close_mosaic?): "
        "no such hyperparameters; --hyp-unknown ignore leaves out keys of other programs"
    )


def test_unknown_keys_are_ignored_with_one_line_if_asked(hyp, caplog):
    path = hyp("loss_ota: 1", "zzzz: 2", "lr0: 0.02", without="lr0")
    config = parse(TrainConfig, ["--hyp", path, "--hyp-unknown", "ignore"])
    with caplog.at_level(logging.INFO, "yolo"):
        found = Hyperparameters.load(config.hyp, config.hyp_unknown)
        Hyperparameters.load(config.hyp, config.hyp_unknown)
    assert found == Hyperparameters.load().replace(lr0=0.02)
    assert [record.getMessage() for record in caplog.records] == [
        f"WARNING: {path}: not known here and ignored: loss_ota (did you mean close_mosaic, obj_loss, cls_loss?), zzzz"
    ]


def test_a_thousand_unknown_keys_are_one_short_line(hyp):
    path = hyp(*(f"{'k' * 300}{index}: 1" for index in range(1000)), '"\\x1b[2J": 1')
    with pytest.raises(ConfigError) as caught:
        Hyperparameters.load(path)
    assert len(str(caught.value)) < len(path) + 800 and str(caught.value).isprintable()
