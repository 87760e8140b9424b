"""The command lines: v6.1's flags, defaults and prefixes, pinned; and what a mistake prints."""

import errno
import subprocess
import sys

import pytest

import train
from utils.cli import run_script
from utils.config import DetectConfig, ExportConfig, HeatmapConfig, TrainConfig, ValConfig, parse
from utils.config.flags import build_parser
from utils.errors import ConfigError, UserError
from utils.files import ROOT

# v6.1's flag and default; ROOT stands for the project's folder. What differs is said beside it.
TRAIN = {
    "--weights": "",  # v6.1: ROOT/yolov5s.pt
    "--cfg": "",
    "--data": "ROOT/data/shapes.yaml",  # v6.1: coco128.yaml
    "--hyp": "ROOT/data/hyps/hyp.scratch-low.yaml",
    "--hyp-unknown": "refuse",  # ours
    "--epochs": 300,
    "--batch-size": 16,
    "--imgsz": 640,
    "--img": 640,
    "--img-size": 640,
    "--rect": False,
    "--resume": False,
    "--nosave": False,
    "--noval": False,
    "--noautoanchor": False,
    "--evolve": None,
    "--cache": None,
    "--image-weights": False,
    "--device": "",
    "--multi-scale": False,
    "--single-cls": False,
    "--optimizer": "auto",
    "--sync-bn": False,
    "--workers": 8,
    "--project": "ROOT/runs/train",
    "--name": "exp",
    "--exist-ok": False,
    "--quad": False,
    "--cos-lr": False,
    "--label-smoothing": 0.0,
    "--patience": 100,
    "--freeze": (0,),
    "--save-period": -1,
    "--local_rank": -1,
    "--local-rank": -1,
    # ours
    "--seed": 0,
    "--deterministic": False,
    "--amp": None,
    "--no-amp": None,
    "--amp-type": "auto",
    "--download": False,
    "--rect-pad": 0.5,
    "--max-bad-images": "1%",
    "--save-minutes": 10.0,
    "--on-nan": "stop",
    "--labels": "skip",
    "--no-cache-labels": False,
    "--logger": (),
    "--plugin": (),
    "--font": "",
    "--lang": "en",
    "--compile": False,
    "--profile-steps": 0,
    "--attention-start": "",
    "--transfer": "layers",
    "--require-transfer": 0.0,
    "--teacher": "",
}
VAL = {
    "--data": "ROOT/data/shapes.yaml",
    "--weights": ("ROOT/yolov5s.pt",),
    "--batch-size": 32,
    "--imgsz": 640,
    "--img": 640,
    "--img-size": 640,
    "--conf-thres": 0.001,
    "--iou-thres": 0.6,
    "--task": "val",
    "--device": "",
    "--workers": 8,
    "--single-cls": False,
    "--augment": False,
    "--verbose": False,
    "--save-txt": False,
    "--save-hybrid": False,
    "--save-conf": False,
    "--save-json": False,
    "--project": "ROOT/runs/val",
    "--name": "exp",
    "--exist-ok": False,
    "--half": False,
    "--dnn": False,
    # ours
    "--max-det": 300,
    "--download": False,
    "--rect-pad": 0.5,
    "--square": False,
    "--labels": "skip",
    "--no-cache-labels": False,
    "--plugin": (),
    "--font": "",
    "--lang": "en",
    "--compile": False,
    "--confusion-conf": 0.25,
    "--confusion-iou": 0.45,
    "--slice": 0,
    "--overlap": 0.2,
    "--slice-merge": "nms",
    "--slice-match": "border",
    "--slice-thres": 0.5,
    "--slice-only": False,
}
DETECT = {
    "--weights": ("ROOT/yolov5s.pt",),
    "--source": "ROOT/data/images",
    "--data": "ROOT/data/shapes.yaml",
    "--imgsz": (640, 640),
    "--img": (640, 640),
    "--img-size": (640, 640),
    "--conf-thres": 0.25,
    "--iou-thres": 0.45,
    "--max-det": 1000,
    "--device": "",
    "--view-img": False,
    "--save-txt": False,
    "--save-conf": False,
    "--save-crop": False,
    "--nosave": False,
    "--classes": None,
    "--agnostic-nms": False,
    "--augment": False,
    "--visualize": False,
    "--update": False,
    "--project": "ROOT/runs/detect",
    "--name": "exp",
    "--exist-ok": False,
    "--line-thickness": None,
    "--hide-labels": False,
    "--hide-conf": False,
    "--half": False,
    "--dnn": False,
    # ours
    "--stream-timeout": 60.0,
    "--batch-size": 1,
    "--save-counts": False,
    "--save-frames": False,
    "--vid-stride": 1,
    "--stream-buffer": False,
    "--save-csv": False,
    "--save-json": False,
    "--download": False,
    "--plugin": (),
    "--font": "",
    "--lang": "en",
    "--compile": False,
    "--profile-steps": 0,
    "--slice": 0,
    "--overlap": 0.2,
    "--slice-merge": "nms",
    "--slice-match": "border",
    "--slice-thres": 0.5,
    "--slice-only": False,
    "--heatmap": "",
}
EXPORT = {
    "--data": "ROOT/data/shapes.yaml",  # v6.1: coco128.yaml
    "--weights": ("ROOT/yolov5s.pt",),
    "--imgsz": (640, 640),
    "--img": (640, 640),
    "--img-size": (640, 640),
    "--batch-size": 1,
    "--device": "cpu",
    "--half": False,
    "--inplace": False,
    "--optimize": False,
    "--int8": "",  # v6.1: a switch; bare, it calibrates on --data
    "--dynamic": False,
    "--simplify": False,
    "--opset": 20,  # v6.1: 12
    "--verbose": False,
    "--workspace": 4,
    "--nms": False,
    "--agnostic-nms": False,
    "--topk-per-class": 100,
    "--topk-all": 100,
    "--iou-thres": 0.45,
    "--conf-thres": 0.25,
    "--include": ("torchscript", "onnx"),
    # ours
    "--runtime-check": True,
    "--no-runtime-check": True,
    "--debug-parity": False,
    "--check-image": "",
    "--calibration-images": 128,
    "--output": "",
    "--download": False,
    "--plugin": (),
}
HEATMAP = {
    "--weights": ("ROOT/yolov5s.pt",),
    "--source": "ROOT/data/images",
    "--method": "layercam",
    "--layer": None,
    "--target": "box",
    "--box": 1,
    "--query": None,
    "--sanity": False,
    "--deletion": False,
    "--steps": 32,
    "--draws": 3,
    "--seed": 0,
    "--save-npy": False,
    "--imgsz": (640, 640),
    "--img": (640, 640),
    "--img-size": (640, 640),
    "--conf-thres": 0.25,
    "--iou-thres": 0.45,
    "--max-det": 1000,
    "--classes": None,
    "--agnostic-nms": False,
    "--device": "",
    "--project": "ROOT/runs/heatmap",
    "--name": "exp",
    "--exist-ok": False,
    "--vid-stride": 1,
    "--download": False,
    "--plugin": (),
    "--font": "",
}
CLOUD = ("--bucket", "--entity", "--upload_dataset", "--bbox_interval", "--artifact_alias")


def rooted(default):
    if isinstance(default, tuple):
        return tuple(rooted(item) for item in default)
    return str(ROOT / default[5:]) if isinstance(default, str) and default.startswith("ROOT/") else default


CONFIGS = (
    (TrainConfig, TRAIN), (ValConfig, VAL), (DetectConfig, DETECT), (ExportConfig, EXPORT), (HeatmapConfig, HEATMAP),
)  # fmt: skip


@pytest.mark.parametrize("config_class, flags", CONFIGS)
def test_flags_and_defaults_are_pinned(config_class, flags):
    parser = build_parser(config_class)
    known = {text: action.dest for action in parser._actions for text in action.option_strings if text.startswith("--")}
    hidden = set({TrainConfig: CLOUD, ExportConfig: ("--train",)}.get(config_class, ()))
    assert set(known) - {"--help"} == set(flags) | hidden
    config = parse(config_class, [])
    for text, default in flags.items():
        value = getattr(config, known[text])
        assert value == rooted(default) and type(value) is type(rooted(default)), text


@pytest.mark.parametrize(
    "argv, expected",
    [
        (
            "--batch 4 --img 320 --weights a.pt --device cpu --name x",
            dict(batch_size=4, imgsz=320, weights="a.pt", device="cpu", name="x"),
        ),
        ("--batch-size=-1 --imgs 96", dict(batch_size=-1, imgsz=96)),
        ("--cache --resume --evolve", dict(cache="ram", resume=True, evolve=300)),
        ("--cache disk --resume a/last.pt --evolve 5", dict(cache="disk", resume="a/last.pt", evolve=5)),
        ("--hyp h.yaml --freeze 0 1 2 --opt Adam", dict(hyp="h.yaml", freeze=(0, 1, 2), optimizer="Adam")),
        ("--label 0.1 --de cpu", dict(label_smoothing=0.1, device="cpu")),  # prefixes that newer flags share
        ("--lab=0.2 --nos --nov --noa", dict(label_smoothing=0.2, nosave=True, noval=True, noautoanchor=True)),
        (
            "--labels strict --no-amp --plugin a.py --plugin b.py",
            dict(labels="strict", amp=False, plugin=("a.py", "b.py")),
        ),
        ("--amp --seed 3 --deterministic --download", dict(amp=True, seed=3, deterministic=True, download=True)),
        ("--local_rank 0", dict(local_rank=0)),
        (
            "--local-rank=1 --multi --single --cos --exist --quad --rect --pat 5",
            dict(
                local_rank=1,
                multi_scale=True,
                single_cls=True,
                cos_lr=True,
                exist_ok=True,
                quad=True,
                rect=True,
                patience=5,
            ),
        ),
    ],
)
def test_train_flags_are_understood(argv, expected):
    config = parse(TrainConfig, argv.split())
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("given, expected", [("0.5", 0.5), ("1", 1.0), ("auto", "auto")])
def test_the_confidence_of_detection_is_a_number_or_auto(given, expected):
    found = parse(DetectConfig, ["--conf-thres", given]).conf_thres
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("given", ["1.5", "Auto", "nan", "-0.1", ""])
def test_other_confidences_are_refused(given, capsys):
    with pytest.raises(SystemExit):
        parse(DetectConfig, ["--conf-thres", given])
    assert "--conf-thres" in capsys.readouterr().err


def test_val_and_detect_flags_are_understood():
    config = parse(
        ValConfig,
        ["--weights", "a.pt", "b.pt", "--conf", "0.3", "--iou", "0.5", "--task", "speed", "--batch", "1", "--save-h"],
    )
    assert (config.weights, config.task, config.batch_size) == (("a.pt", "b.pt"), "speed", 1)
    assert (config.conf_thres, config.iou_thres) == (0.3, 0.5)
    assert config.save_hybrid and config.save_txt
    config = parse(
        DetectConfig,
        [
            "--source",
            "0",
            "--img",
            "320",
            "416",
            "--conf",
            ".5",
            "--iou",
            ".4",
            "--classes",
            "0",
            "2",
            "--max",
            "5",
            "--line",
            "1",
            "--save-cr",
        ],
    )
    assert (config.source, config.imgsz, config.conf_thres, config.iou_thres) == ("0", (320, 416), 0.5, 0.4)
    assert (config.classes, config.max_det, config.line_thickness) == ((0, 2), 5, 1)
    assert config.save_crop and not config.save_csv


@pytest.mark.parametrize(
    "argv, words",
    [
        ("--epochs 0", ("--epochs 0", "at least 1")),
        ("--epochs x", ("--epochs", "'x'")),
        ("--batchsize 4", ("--batchsize", "did you mean --batch-size")),
        ("--batch_size 4", ("--batch_size", "did you mean --batch-size")),
        ("--optimizer SDG", ("SDG", "SGD")),
        ("--e 3", ("ambiguous", "--epochs")),
        ("--label", ("--label-smoothing",)),
        ("stray", ("stray",)),
        *((f"{flag} x", (flag, "cloud")) for flag in CLOUD),
        ("--upload_dataset", ("--upload_dataset", "cloud")),
        ("--entity=me", ("--entity", "TensorBoard")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, argv, words):
    with pytest.raises(SystemExit) as ended:
        parse(TrainConfig, argv.split(), prog="train.py")
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("train.py: error: ")
    assert all(word in printed.err for word in words), printed.err


def test_help_shows_every_flag_and_its_default(capsys):
    for config_class, flags in ((TrainConfig, TRAIN), (ValConfig, VAL), (DetectConfig, DETECT)):
        with pytest.raises(SystemExit) as ended:
            parse(config_class, ["--help"], description="Does a thing.")
        text = capsys.readouterr().out
        assert ended.value.code == 0 and "Does a thing." in text
        assert all(name in text for name in flags)
        assert "(default: data/shapes.yaml)" in text and "(default: exp)" in text and str(ROOT) not in text
        assert not any(name in text for name in CLOUD)


def test_a_script_ends_with_its_exit_code(capsys):
    def fails_with(error):
        def main(config):
            raise error

        return run_script(main, train.parse_opt, argv=[])

    seen = []
    assert run_script(seen.append, train.parse_opt, argv=["--epochs", "2"]) == 0 and seen[0].epochs == 2
    assert fails_with(ConfigError("a.yaml:3: wrong\nin two lines")) == 2
    assert capsys.readouterr().err == "error: a.yaml:3: wrong in two lines\n"
    assert fails_with(UserError("x")) == 2
    capsys.readouterr()
    assert fails_with(OSError(errno.ENOSPC, "No space left on device", "a/results.csv")) == 2
    assert (
        capsys.readouterr().err
        == "error: a/results.csv: No space left on device; make room, or choose another --project\n"
    )
    with pytest.raises(OSError):
        fails_with(OSError(errno.EIO, "Input/output error"))
    assert fails_with(KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError):
        fails_with(ZeroDivisionError())


def test_configuration_is_imported_at_once():
    """The scripts' --help must answer in 0.3 s, Python itself included. Processor time, the best of three."""
    code = (
        "import time; start = time.process_time(); import utils.cli, utils.config\n"
        "spent = time.process_time() - start\n"
        "import sys; print(spent, [name for name in ('torch', 'numpy', 'cv2', 'yaml') if name in sys.modules])"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        spent, heavy = done.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        times.append(float(spent))
    assert min(times) < 0.2
