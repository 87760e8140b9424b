"""detect.py, val.py and utils.profile with an exported file: its checkpoint's figures, and refusals in one line."""

import json

import numpy as np
import pytest
import torch
from exported_files import NAMES, exported, saved, spread_model

import detect
import val
from utils.cli import run_guarded
from utils.images import write_image
from utils.profile import __main__ as profile


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(spread_model(), tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture(scope="module")
def script(checkpoint, tmp_path_factory):
    """A TorchScript file, which needs no further package."""
    return exported(checkpoint, "torchscript", tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five images, most of them wider than high, so that squares and rectangles differ."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for index, (height, width) in enumerate([(64, 64), (40, 90), (30, 90), (64, 96), (90, 40)]):
        write_image(root / "images" / f"{index}.jpg", rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        (root / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.4 0.5\n1 0.2 0.3 0.2 0.2\n2 0.7 0.7 0.3 0.3\n")
    yaml = root / "small.yaml"
    yaml.write_text(f"path: '{root.as_posix()}'\ntrain: images\nval: images\nnames: {json.dumps(NAMES)}\n")
    return yaml


def validated(weights, data, folder, **options):
    fixed = dict(data=str(data), batch_size=4, workers=0, device="cpu", project=str(folder), conf_thres=0.3)
    return val.run(weights=str(weights), **fixed, **options)


def detections_of(result):
    return {one.path: one.detections.rows() for one in result.evaluation.results}


def test_validation_equals_the_checkpoints_on_squares(checkpoint, script, data, tmp_path, blank_figures):
    file = validated(script, data, tmp_path)
    torch_square = validated(checkpoint, data, tmp_path, imgsz=64, square=True)
    torch_rect = validated(checkpoint, data, tmp_path, imgsz=64)
    assert file.evaluation.input_shape == (4, 3, 64, 64)
    assert json.loads((file.save_dir / "metrics.json").read_text())["settings"]["imgsz"] == 64
    found, expected = detections_of(file), detections_of(torch_square)
    assert sum(map(len, found.values())) > 20
    for path, rows in expected.items():  # by falling confidence; which of two equal ones is first, rounding decides
        assert rows.shape == found[path].shape and torch.allclose(rows[:, 4], found[path][:, 4], atol=1e-4)
        apart = (rows[:, None, :4] - found[path][None, :, :4]).abs().amax(2).amin(1)
        assert apart.max() < 0.01  # pixels
    assert file.evaluation.row() == pytest.approx(torch_square.evaluation.row(), abs=2e-3)
    others = detections_of(torch_rect)
    assert any(others[path].shape != rows.shape for path, rows in found.items())


def test_detections_are_those_of_the_checkpoint_in_the_same_shape(checkpoint, script, data, tmp_path):
    square = data.parent / "images" / "0.jpg"
    files = {}
    for name, weights, more in (("file", script, {}), ("torch", checkpoint, {"imgsz": (64, 64)})):
        folder = detect.run(
            weights=(str(weights),), source=str(square), project=str(tmp_path), name=name, nosave=True, save_json=True,
            device="cpu", conf_thres=0.1, **more,
        ).save_dir  # fmt: skip
        files[name] = json.loads((folder / "predictions.json").read_text())
    assert len(files["file"]) == len(files["torch"]) > 5
    for one, other in zip(files["file"], files["torch"], strict=True):
        assert one["name"] == other["name"] and one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)
        assert [one[key] for key in ("x1", "y1", "x2", "y2")] == pytest.approx(
            [other[key] for key in ("x1", "y1", "x2", "y2")], abs=0.02
        )


@pytest.mark.parametrize(
    "run, options, words",
    [
        ("val", {"imgsz": 96}, "--imgsz 96 96: "),
        ("val", {"half": True}, "--half: "),
        ("val", {"augment": True}, "--augment: "),
        ("val", {"compile": True}, "--compile: "),
        ("val", {"dnn": True}, "--dnn: OpenCV runs .onnx files"),
        ("val", {"task": "study"}, "--task study: "),
        ("detect", {"imgsz": (96, 64)}, "--imgsz 96 64: "),
        ("detect", {"visualize": True}, "--visualize: "),
        ("detect", {"update": True}, "--update: "),
        ("detect", {"half": True}, "--half: "),
    ],
)
def test_what_makes_no_sense_for_a_file_is_one_line(run, options, words, script, data, tmp_path, capsys):
    def call():
        if run == "val":
            return validated(script, data, tmp_path / "runs", **options)
        source = str(data.parent / "images")
        return detect.run(
            weights=(str(script),), source=source, project=str(tmp_path / "runs"), device="cpu", **options
        )

    assert run_guarded(call) == 2
    error = capsys.readouterr().err
    assert words in error and "small.torchscript" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_classes_that_are_not_the_datasets_are_refused(script, data, tmp_path, capsys):
    other = tmp_path / "two.yaml"
    other.write_text(data.read_text().replace(json.dumps(NAMES), "[a, b]"))
    assert run_guarded(lambda: validated(script, other, tmp_path)) == 2
    assert "knows 3 classes" in capsys.readouterr().err


def test_the_profile_of_a_file(script, checkpoint, tmp_path, capsys):
    assert profile.main(["--weights", str(script), "--rounds", "1", "--device", "cpu"]) == 0
    line = capsys.readouterr().out
    assert "ms per image of 64x64; this runtime gives no times of layers here" in line and line.count("\n") == 1
    assert profile.main(["--weights", str(script), "--imgsz", "96", "--device", "cpu"]) == 2
    assert "takes images of 64x64 alone" in capsys.readouterr().err


def test_the_operators_of_an_onnx_file(checkpoint, tmp_path, capsys):
    file = exported(checkpoint, "onnx", tmp_path)
    assert profile.main(["--weights", str(file), "--rounds", "2", "--device", "cpu"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("%")]
    assert "Conv" in {row[0] for row in rows}
    assert sum(float(row[3].rstrip("%")) for row in rows) == pytest.approx(100, abs=2)
    times = [float(row[2]) for row in rows]
    assert times == sorted(times, reverse=True)
