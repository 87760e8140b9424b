"""Datasets as annotation tools export them, through train.py, val.py, compare.py and the dataset checker.

Layouts are written by hand: Roboflow's `../train/images`, CVAT's lists, key points, and class names in the rows.
"""

import json

import numpy as np
import pytest
import torch
import yaml

import compare
import train
import val
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.config.compare_options import CompareConfig
from utils.datasets import check
from utils.engine import training
from utils.errors import DataError
from utils.images import write_image

TINY = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [59, 119, 116, 90]],
    "backbone": [[-1, 1, "Conv", [8, 6, 8, 0]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[0, 1, 2], 1, "Detect", ["nc", "anchors"]]],
}
ROWS = "0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n"
POSE = "0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 2 0.5 0.5 1\n"  # 14 values: no polygon
IN_FORMS = {"boxes": ROWS, "names": "cat 0.5 0.5 0.4 0.4\ndog 0.3 0.3 0.2 0.2\n", "pose": POSE}
BOXES = {"boxes": 2, "names": 2, "pose": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = Model(TINY)
    model.names = ["cat", "dog"]
    return write_checkpoint(checkpoint_of(model), tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture
def cfg(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


def fill(images, labels, text):
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        pixels = np.random.default_rng(number + len(str(images))).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        write_image(images / f"{number}.jpg", pixels)
        (labels / f"{number}.txt").write_text(text)


def roboflow(root, form="boxes"):
    for split in ("train", "valid", "test"):
        fill(root / split / "images", root / split / "labels", IN_FORMS[form])
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (root / "data.yaml").write_text(f"{paths}\nnc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  license: CC BY 4.0\n")
    return root / "data.yaml"


def cvat(root, form="boxes", line="data/obj_{}_data/{}.jpg"):
    for split in ("train", "valid"):
        fill(root / f"obj_{split}_data", root / f"obj_{split}_data", IN_FORMS[form])
        (root / f"{split}.txt").write_text("".join(f"{line.format(split, number)}\n" for number in range(3)))
    (root / "data.yaml").write_text("train: train.txt\nval: valid.txt\nnames: {0: cat, 1: dog}\n")
    return root / "data.yaml"


def windows(root, form="boxes"):
    return cvat(root, form, "C:\\work\\obj_{}_data\\{}.jpg")


def validated(data, weights, tmp_path, **options):
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "project": tmp_path / "val", **options}
    return val.run(data=str(data), weights=str(weights), **settings).evaluation


EXPORTS = pytest.mark.parametrize("layout", [roboflow, cvat, windows])


@EXPORTS
@pytest.mark.parametrize(
    ("form", "labels"), [("boxes", "skip"), ("names", "names"), ("pose", "skip"), ("pose", "boxes")]
)
def test_val_reads_an_export(layout, form, labels, tmp_path, weights, blank_figures):
    evaluation = validated(layout(tmp_path / "set", form), weights, tmp_path, labels=labels)
    assert len(evaluation.results) == 3
    for result in evaluation.results:
        assert result.labels_cls.tolist() == [0, 1][: BOXES[form]]
        assert np.allclose(result.labels_xyxy[0], [19.2, 19.2, 44.8, 44.8], atol=1e-3)


@EXPORTS
def test_train_reads_an_export(layout, tmp_path, cfg, blank_figures):
    data = layout(tmp_path / "set", "names")
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "epochs": 1, "batch_size": 2, "noautoanchor": True}
    result = train.run(data=str(data), cfg=str(cfg), labels="names", project=tmp_path / "train", **settings)
    saved = yaml.safe_load((result.save_dir / "opt.yaml").read_text())
    assert saved["labels"] == "names" and (result.save_dir / "weights" / "last.pt").is_file()


@EXPORTS
def test_compare_reads_an_export(layout, tmp_path, weights, caplog):
    from utils.compare.preparation import resolve_paths
    from utils.compare.provenance import data_facts

    config = CompareConfig(data=str(layout(tmp_path / "set", "names")), weights=(str(weights),), labels="names")
    config, spec, _ = resolve_paths(config)
    facts = data_facts(config, spec, "val")
    assert (facts["images"], facts["by_class"]) == (3, {"cat": 3, "dog": 3})


@EXPORTS
def test_check_reads_an_export_and_says_what_it_did(layout, tmp_path, no_check_pages):
    data = layout(tmp_path / "set", "pose")
    report = check.run(data=str(data), imgsz=64, project=tmp_path / "check", workers=0, no_duplicates=True)
    kinds = {(one.kind, one.split) for one in report.findings}
    assert {("paths-moved", "train"), ("paths-moved", "val"), ("rows-keypoints", "train")} <= kinds
    assert report.content["splits"]["train"]["objects_of_class"] == [3, 0]
    (note,) = (one for one in report.findings if one.kind == "rows-keypoints")
    rows = 9 if layout is roboflow else 6
    assert f"all {rows} rows of 14 values are boxes with 3 key points x y v behind them" in note.what


def test_check_names_class_names_and_class_numbers(tmp_path, no_check_pages):
    data = roboflow(tmp_path / "set", "names")
    options = {"imgsz": 64, "project": tmp_path / "check", "workers": 0, "no_duplicates": True}
    found = [one for one in check.run(data=str(data), **options).findings if one.kind == "row-class-name"]
    assert len(found) == 18 and "--labels names" in found[0].row()[4]
    assert not [one for one in check.run(data=str(data), labels="names", **options).findings if one.level == "fault"]
    for file in (tmp_path / "set").rglob("*.txt"):
        file.write_text("3 0.5 0.5 0.4 0.4\n7 0.3 0.3 0.2 0.2\n")
    found = [one for one in check.run(data=str(data), **options).findings if one.kind == "class-unknown"]
    assert len(found) == 18 and "category ids of where they come from (3, 7)" in found[0].row()[4]


@pytest.mark.parametrize("broken", ["folder", "list"])
def test_wrong_paths_are_found_before_a_model_is_built(broken, tmp_path, cfg, weights, monkeypatch):
    def never(*args, **options):
        raise AssertionError("a model is built before the paths are known to be right")

    if broken == "folder":
        data, words = roboflow(tmp_path / "set"), "val images are missing: looked for .*valid.images"
        (tmp_path / "set" / "valid").rename(tmp_path / "set" / "other")
    else:
        data = cvat(tmp_path / "set", line="data/gone/{}{}.jpg")
        words = r"(train|valid)\.txt: 0 of 3 images named in (train|valid)\.txt exist, first: line 1 data/gone/"
    monkeypatch.setattr(training, "build_detector", never)
    monkeypatch.setattr("utils.engine.validation.evaluate_weights", never)
    monkeypatch.setattr("utils.compare.preparation.check_networks", never)
    monkeypatch.setattr("utils.datasets.check.checker.Model", never)
    with pytest.raises(DataError, match=words):
        train.run(data=str(data), cfg=str(cfg), device="cpu", project=tmp_path / "train")
    with pytest.raises(DataError, match=words):
        validated(data, weights, tmp_path)
    with pytest.raises(DataError, match=words):
        compare.run(data=str(data), cfg=[str(cfg)], device="cpu", project=tmp_path / "compare")
    assert not list(tmp_path.glob("*/exp*"))


def test_the_checker_reports_a_list_without_images_as_that(tmp_path):
    data = cvat(tmp_path / "set", line="data/gone/{}{}.jpg")
    with pytest.raises(DataError, match=r"no image to check; .*train\.txt: train: 0 of 3 images named in train\.txt"):
        check.run(data=str(data), project=tmp_path / "check")


def test_a_list_of_another_machine_is_reported_with_the_line_it_begins_with(tmp_path, no_check_pages):
    data = windows(tmp_path / "set")
    report = check.run(data=str(data), imgsz=64, project=tmp_path / "check", workers=0, no_duplicates=True)
    (one,) = (one for one in report.findings if one.kind == "paths-moved" and one.split == "val")
    assert one.file == str(tmp_path / "set" / "valid.txt") and "line 1 C:\\work\\obj_valid_data\\0.jpg" in one.what
    assert json.loads((report.folder / "check.json").read_text())["splits"]["val"]["usable"] == 3
