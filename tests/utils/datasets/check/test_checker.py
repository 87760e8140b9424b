"""The check of a dataset: planted faults of every kind are found where they are, and clean data is called clean."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from utils.config.flags import flag_fields, flag_names
from utils.datasets import check
from utils.datasets.check import box_fit, checker, class_balance, copies, duplicates
from utils.datasets.check.__main__ import script
from utils.datasets.check.findings import KINDS, Finding, sort_findings
from utils.datasets.check.inspection import _box_faults, inspect_image_and_labels, inspect_images
from utils.datasets.check.sheets import choose_samples
from utils.datasets.drawn_shapes import CLASSES, ShapesOptions, draw_dataset, draw_scene
from utils.datasets.label_store import LabelStore
from utils.datasets.row_reader import RowRules, read_rows
from utils.errors import ConfigError, DataError
from utils.files import ROOT
from utils.images import write_image
from utils.types import HeadGeometry, Labels

COUNTS = {"train": 40, "val": 16, "test": 8}
GOOD = "0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n"
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]  # of yolov5n, pixels
STRIDES = torch.tensor([8.0, 16.0, 32.0])
HEAD = checker.ReferenceHead(
    "yolov5n.yaml", HeadGeometry(torch.tensor(ANCHORS).view(3, 3, 2) / STRIDES.view(3, 1, 1), STRIDES, 80), True
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A clean dataset of 64 drawn images and its yaml; for copying, not for changing."""
    root = tmp_path_factory.mktemp("drawn") / "shapes"
    draw_dataset(root, ShapesOptions(seed=5, size=128, **COUNTS))
    return root


@pytest.fixture
def data(drawn, tmp_path):
    """A copy to break, with data.yaml beside it."""
    shutil.copytree(drawn, tmp_path / "set")
    write_yaml(tmp_path)
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """The default head is built once, and pages are drawn only in tests marked so."""
    if "heads" not in request.fixturenames:
        monkeypatch.setattr(checker, "_head", lambda config: HEAD)
    if "pages" not in request.fixturenames:
        request.getfixturevalue("no_check_pages")


@pytest.fixture
def heads():
    """The test looks at the anchors of a model."""


def write_yaml(folder, **changes):
    content = {
        "path": str(folder / "set"),
        **{split: f"images/{split}" for split in COUNTS},
        "names": list(CLASSES),
        **changes,
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def checked(data, **options):
    usual = {"data": data.parent / "data.yaml", "imgsz": 128, "project": data.parent / "runs", "workers": 2}
    return check.run(**{**usual, **options})


def found(report, kind, split=None):
    return [one for one in report.findings if one.kind == kind and split in (None, one.split)]


def only(report, kind, split=None):
    (one,) = found(report, kind, split)
    return one


def image(data, split, number):
    return data / "images" / split / f"{number:05d}.jpg"


def label(data, split, number):
    return data / "labels" / split / f"{number:05d}.txt"


def add(data, split, name, image, rows=GOOD):
    """Add an image and its labels; returns the image's path."""
    path = data / "images" / split / name
    write_image(path, image)
    if rows is not None:
        (data / "labels" / split / name).with_suffix(".txt").write_text(rows)
    return path


def scene(seed, size=128):
    return draw_scene(np.random.default_rng(seed), size)[0]


# clean data


def test_clean_data_is_called_clean_and_left_alone(data, pages):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.rglob("*") if path.is_file()}
    report = checked(data, ignore=["class-rare"])  # 64 images are few
    assert report.clean and not report.findings
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.rglob("*") if path.is_file()}
    assert after == before
    written = sorted(path.name for path in report.folder.iterdir())
    sheets = ["sheet_test.jpg", "sheet_train.jpg", "sheet_val.jpg"]
    assert written == ["check.html", "check.json", "check.png", "findings.csv", *sheets]
    assert cv2.imread(str(report.folder / "sheet_train.jpg")).shape == (4 * 412 + 6, 4 * 486 + 6, 3)
    page = cv2.imread(str(report.folder / "check.png"))
    assert page.shape == (1485, 1760, 3) and 0.5 < (page == 255).all(2).mean() < 0.98


def test_figures_are_those_of_the_files(data):
    report = checked(data)
    for split, count in COUNTS.items():
        rows = [line.split() for path in (data / "labels" / split).iterdir() for line in path.read_text().splitlines()]
        figures = report.content["splits"][split]
        assert (figures["pictures"], figures["usable"], figures["objects"]) == (count, count, len(rows))
        assert figures["objects_of_class"] == np.bincount([int(row[0]) for row in rows], minlength=4).tolist()
        assert figures["height_width_px"]["largest"] == [128, 128]
        widths = np.array([float(row[3]) for row in rows]) * 128
        assert figures["boxes"]["width_height_px"]["p50"][0] == pytest.approx(np.median(widths), abs=0.01)
    assert json.loads((report.folder / "check.json").read_text()) == report.content
    assert report.content["copies"]["pictures"] == {
        "train": {"train": 0},
        "val": {"train": 0, "val": 0},
        "test": {"train": 0, "val": 0, "test": 0},
    }


def test_nothing_depends_on_workers(data):
    label(data, "val", 1).write_text("9 0.5 0.5 0.2 0.2\nx\n")
    shutil.copy(image(data, "train", 4), image(data, "val", 6))
    files = [checked(data, workers=workers).folder for workers in (0, 1, 5)]
    for name in ("check.json", "findings.csv"):
        assert len({(folder / name).read_bytes() for folder in files}) == 1


# rows of labels


@pytest.mark.parametrize(
    "row, kind, words",
    [
        ("0 0.5 0.5 0.2", "row-format", "4 values"),
        ("0 0.5 0.5 0.2 abc", "row-format", "abc"),
        ("cat 0.5 0.5 0.2 0.2", "row-format", "'cat'"),
        ("0 0.5 nan 0.2 0.2", "row-format", "finite"),
        ("0 0.5 1.5 0.2 0.2", "row-outside", "1.5"),
        ("0 320 240 64 48", "row-outside", "320"),
        ("0 0.5 0.5 0 0.2", "row-no-size", "zero"),
        ("0 0.5 0.5 0.2 -0.2", "row-no-size", "negative"),
        ("1 0.3 0.3 0.2 0.2", "row-repeated", "repeats"),
        ("4 0.5 0.6 0.2 0.2", "class-unknown", "class 4 must be one of 0 to 3"),
        ("-1 0.5 0.6 0.2 0.2", "class-unknown", "class -1"),
        ("0.5 0.5 0.6 0.2 0.2", "row-format", "not a whole number"),
        ("0 0.98 0.5 0.2 0.2", "box-leaves-picture", "disc reaches 10 pixels beyond the right edge"),
        ("0 0.5 0.04 0.2 0.2", "box-leaves-picture", "8 pixels beyond the top edge"),
        ("0 0.505 0.5 0.4 0.4", "box-twice", "disc is drawn at the same place as in line 1 (overlap 0.98)"),
        ("2 0.505 0.5 0.4 0.4", "box-two-classes", "square and disc are drawn"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, kind, words):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    path = tmp_path / "images" / "a.jpg"
    write_image(path, scene(3))
    (tmp_path / "labels" / "a.txt").write_text(f"{GOOD}\n{row}\n")  # line 3 is empty
    (finding,) = inspect_image_and_labels(str(path), CLASSES).findings
    assert (finding.file, finding.line, finding.kind) == (str(tmp_path / "labels" / "a.txt"), 4, kind)
    assert words in finding.what


def test_boxes_that_end_at_the_edge_or_a_rounding_beyond_are_right(data):
    label(data, "train", 0).write_text("0 0.1 0.5 0.2 0.4\n1 0.9 0.5 0.2000004 0.6\n2 0.4 0.5 0.801 0.3\n")
    assert inspect_image_and_labels(str(image(data, "train", 0)), CLASSES).findings == ()


@pytest.mark.parametrize(
    "width, beyond, reported", [(128, 0.9, False), (128, 1.1, True), (10_000, 9.0, False), (10_000, 11.0, True)]
)
def test_a_pixel_and_a_thousandth_are_let_pass(width, beyond, reported):
    """`beyond` pixels behind the right edge of an image so wide."""
    labels = Labels(np.zeros(1, np.int64), np.array([[0.9 + beyond / width, 0.5, 0.2, 0.2]], np.float32))
    assert len(list(_box_faults("a.txt", labels, np.ones(1, np.int64), (100, width), CLASSES))) == reported


def test_lines_of_usable_rows_are_kept_behind_bad_ones(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("0 0.5 0.5 0.2 0.2\n\nx\n9 0.5 0.5 0.2 0.2\n1 0.4 0.4 0.1 0.1\n")
    rows = read_rows(str(file), RowRules(3))
    assert rows.lines.tolist() == [1, 5] and rows.cls.tolist() == [0, 1]
    assert [problem.line for problem in rows.problems] == [3, 4]
    assert [(one.line, one.value) for one in rows.unknown] == [(4, 9)]
    file.write_text("\n0 0.5 0.5 0.2 0.2\n\n1 0.4 0.4 0.1 0.1\n")
    assert read_rows(str(file), RowRules(3)).lines.tolist() == [2, 4]


def test_classes_counted_from_one_are_seen_through(data):
    for split, count in COUNTS.items():
        for number in range(count):
            file = label(data, split, number)
            file.write_text("".join(f"{int(line[0]) + 1}{line[1:]}\n" for line in file.read_text().splitlines()))
    fixes = {one.row()[4] for one in found(checked(data, no_duplicates=True), "class-unknown")}
    assert fixes == {"the labels seem to count classes from 1: subtract 1 from every class, in all files"}
    label(data, "train", 0).write_text("0 0.5 0.5 0.2 0.2\n")
    fixes = {one.row()[4] for one in found(checked(data, no_duplicates=True), "class-unknown")}
    assert fixes == {KINDS["class-unknown"].fix}


# images


def test_odd_images_are_distinguished(data):
    noise = np.random.default_rng(0).integers(0, 255, (128, 96, 3), np.uint8)
    places = {
        kind: data / "images/train" / f"{kind}.{suffix}"
        for kind, suffix in (
            ("picture-too-small", "png"),
            ("picture-blank", "png"),
            ("picture-thin", "png"),
            ("picture-grey", "jpg"),
            ("picture-turned", "jpg"),
            ("picture-unreadable", "jpg"),
            ("picture-damaged", "jpg"),
            ("picture-huge", "png"),
        )
    }
    write_image(places["picture-too-small"], noise[:1, :1])
    write_image(places["picture-blank"], np.full((64, 64, 3), 77, np.uint8))
    write_image(places["picture-thin"], np.tile(noise[:20], (1, 4, 1)))
    Image.fromarray(scene(900)[..., 0]).save(places["picture-grey"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(901)[:100]).save(places["picture-turned"], exif=exif)
    places["picture-unreadable"].write_bytes(b"not an image")
    buffer = io.BytesIO()
    Image.fromarray(scene(902)).save(buffer, "JPEG")
    places["picture-damaged"].write_bytes(buffer.getvalue()[:-800])
    huge = Image.new("P", (10_000, 5_000))
    huge.putpalette([255, 0, 0, 0, 0, 255])
    huge.paste(1, (0, 0, 5_000, 2_000))
    huge.save(places["picture-huge"])
    report = checked(data, ignore=["label-missing", "class-rare", "many-without-label"])
    assert {(one.kind, one.file) for one in report.findings} == {(kind, str(path)) for kind, path in places.items()}
    assert only(report, "picture-turned").what == "is EXIF-rotated (orientation 6); it is read upright, 100 x 128"
    assert only(report, "picture-too-small").what.startswith("1 x 1 pixels")
    figures = report.content["splits"]["train"]
    assert (figures["pictures"], figures["usable"]) == (48, 46)


def test_labels_and_images_without_each_other(data):
    label(data, "train", 0).unlink()
    label(data, "train", 1).write_text("\n")
    label(data, "train", 2).rename(label(data, "train", 2).with_name("00002.TXT"))
    (data / "labels/train/nobody.txt").write_text(GOOD)
    (data / "labels/train/classes.txt").write_text("disc\nsquare\n")
    image(data, "train", 3).rename(image(data, "train", 3).with_name("A3.jpg"))
    label(data, "train", 3).rename(label(data, "train", 3).with_name("a3.txt"))
    shutil.copy(image(data, "train", 4), data / "images/train/00005.png")
    (data / "images/train/phone.heic").write_bytes(b"x")
    label(data, "train", 6).unlink()
    label(data, "train", 6).mkdir()
    report = checked(data, no_duplicates=True)
    assert [os.path.basename(one.file) for one in found(report, "label-missing")] == [
        "00000.jpg",
        "00002.jpg",
        "A3.jpg",
    ]
    assert only(report, "label-empty").file == str(label(data, "train", 1))
    assert [(os.path.basename(one.file), one.fix) for one in found(report, "label-orphan")] == [
        ("a3.txt", "rename it to A3.txt: names differ in upper and lower case"),
        ("nobody.txt", ""),
    ]
    assert only(report, "label-shared").what == "is read for 00005.jpg and for 00005.png"
    assert only(report, "picture-other-format").file.endswith("phone.heic")
    assert only(report, "label-unreadable").file == str(label(data, "train", 6))


# lists and splits


def test_a_file_in_two_splits_or_twice_in_one(data):
    names = ("val/00000", "val/00001", "val/00001", "train/00007", "val/gone")
    (data / "list.txt").write_text("".join(f"./images/{name}.jpg\n" for name in names))
    os.symlink(image(data, "train", 8), data / "images/test/link.jpg")
    write_yaml(data.parent, val="list.txt")
    report = checked(data)
    (twice,) = found(report, "listed-twice")
    assert (twice.file, twice.split) == (str(image(data, "val", 1)), "val")
    assert [(one.file, one.what) for one in found(report, "in-two-splits")] == [
        (str(image(data, "train", 7)), "is in train and in val"),
        (str(data / "images/test/link.jpg"), f"is in train and in test (as {image(data, 'train', 8)})"),
    ]
    gone = only(report, "listed-missing")
    assert (gone.file, gone.line, gone.split) == (str(data / "list.txt"), 5, "val")
    assert report.content["splits"]["val"]["pictures"] == 3
    assert not [one for one in report.findings if one.kind.startswith(("leak", "copy"))]  # reported once, as one file
    assert report.content["copies"]["pictures"] == {
        "train": {"train": 0},
        "val": {"train": 1, "val": 1},
        "test": {"train": 1, "val": 0, "test": 0},
    }


def test_splits_that_are_empty_missing_or_without_labels(data):
    shutil.rmtree(data / "images/val")
    (data / "images/val").mkdir()
    shutil.rmtree(data / "labels/test")
    write_yaml(data.parent, train=["images/train", "images/more"])
    report = checked(data, no_duplicates=True)
    assert (only(report, "split-missing").file, only(report, "split-missing").split) == (
        str(data / "images/more"),
        "train",
    )
    assert only(report, "split-empty").file == str(data / "images/val")
    unlabelled = only(report, "split-unlabelled")
    assert unlabelled.split == "test" and str(label(data, "test", 0)) in unlabelled.what
    assert not found(report, "many-without-label") and not found(report, "class-not-measured")
    write_yaml(data.parent, train="images/none", val="images/val", test=None)
    with pytest.raises(DataError, match="no image to check"):
        checked(data)


# classes


def test_class_balance(data):
    rows = {"train": [0] * 60 + [1] * 60 + [3], "val": [0, 1, 2], "test": [0, 1, 3]}
    for split, classes in rows.items():
        for number in range(COUNTS[split]):
            mine = classes[number :: COUNTS[split]]
            text = "".join(f"{cls} 0.5 {0.1 + 0.2 * place} 0.2 0.1\n" for place, cls in enumerate(mine))
            label(data, split, number).write_text(text)
    write_yaml(data.parent, names=[*CLASSES, "cone"])
    report = checked(data, no_duplicates=True)
    assert only(report, "class-unused").what == "class 4 (cone) has no object in any split"
    assert only(report, "class-not-trained").what == "class 2 (square) has no object in train, 1 in val"
    assert {(one.split, one.what[:7]) for one in found(report, "class-not-measured")} == {
        ("val", "class 3"),
        ("test", "class 2"),
    }
    assert only(report, "class-rare").what == "class 3 (star) has 1 object in 1 image"
    assert only(report, "class-imbalance").what == "disc has 60 objects, star 1: 60 to 1"
    assert report.content["splits"]["train"]["objects_of_class"] == [60, 60, 0, 1, 0]
    assert report.content["splits"]["train"]["pictures_of_class"] == [40, 40, 0, 1, 0]


def test_many_images_without_labels(data):
    for number in range(5):
        label(data, "train", number).unlink()
    assert "5 of 40 images" in only(checked(data, no_duplicates=True), "many-without-label").what  # 12.5 %
    label(data, "train", 0).write_text("")
    assert not found(checked(data, no_duplicates=True), "many-without-label")  # 4 of 40: 10 %


# boxes against a head


def test_anchor_fit_against_the_literal_rule():
    """Every box and anchor in plain loops, on boxes of any shape and one without height."""
    rng = np.random.default_rng(0)
    xywhn = np.concatenate((np.full((400, 2), 0.5), np.exp(rng.uniform(-7, 0, (400, 2)))), 1).astype(np.float32)
    xywhn[7, 3] = 0
    labels = [Labels(np.zeros(200, np.int64), part) for part in np.split(xywhn, 2)]
    store = LabelStore.build(["a", "b"], [(480, 640), (100, 50)], labels)
    fit = box_fit.measure(store, HEAD.geometry, True, 320, threshold=4.0, least_side=3.0)
    expected, levels, sizes = [], [0, 0, 0], []
    for index, (_, _, w, h) in enumerate(xywhn.astype(float)):
        width, height = (w * 320, h * 240) if index < 200 else (w * 160, h * 320)
        sizes.append((width, height))
        best = []
        for anchors in ANCHORS:
            pairs = zip(anchors[::2], anchors[1::2], strict=True)
            best.append(min(max(width / a, a / width, height / b, b / height) if height else np.inf for a, b in pairs))
        levels = [count + (ratio < 4) for count, ratio in zip(levels, best, strict=True)]
        expected.append(min(best))
    np.testing.assert_allclose(fit.ratio, expected, rtol=1e-6)
    np.testing.assert_allclose(fit.wh, sizes, rtol=1e-6)
    assert fit.levels.tolist() == levels
    assert fit.tiny.tolist() == [min(size) < 3 for size in sizes] and fit.below.tolist() == [
        max(size) < 8 for size in sizes
    ]
    assert fit.figures()["no_anchor_share"] == pytest.approx(np.mean(np.array(expected) >= 4), abs=1e-6)


def test_boxes_too_small_or_too_long_are_named(data):
    text = "0 0.5 0.5 0.2 0.2\n0 0.2 0.2 0.02 0.02\n1 0.5 0.9 0.9 0.03\n"
    label(data, "train", 0).write_text(text)
    report = checked(data, no_duplicates=True)
    tiny, (also, long) = only(report, "box-tiny"), found(report, "box-no-anchor")
    assert (tiny.file, tiny.line, tiny.what) == (str(label(data, "train", 0)), 2, "2.6 x 2.6 pixels at --imgsz 128")
    assert (also.line, also.what.split()[-1]) == (2, "5.1")
    assert (long.line, long.what) == (
        3,
        "115.2 x 3.8 pixels at --imgsz 128 differ from the nearest anchor by a factor of 6.0",
    )
    assert not found(report, "boxes-tiny") and not found(report, "anchors-misfit")  # 1 of more than 100
    assert report.content["head"]["better_anchors_px"] is None
    for number in range(1, 30):
        label(data, "train", number).write_text(text)
    report = checked(data, no_duplicates=True)
    assert [only(report, kind).split for kind in ("boxes-tiny", "boxes-below-stride", "anchors-misfit")] == [
        "train"
    ] * 3
    assert np.shape(report.content["head"]["better_anchors_px"]) == (9, 2)
    assert not found(checked(data, no_duplicates=True, imgsz=640), "boxes-tiny")


def test_the_head_is_the_models(data, heads):
    report = checked(data, cfg="models/yolov5n.yaml", no_duplicates=True)
    assert report.content["head"]["model"] == "yolov5n.yaml" and report.content["head"]["strides"] == [8, 16, 32]
    assert np.reshape(report.content["head"]["anchors_px"], (3, 6)).tolist() == ANCHORS
    model = yaml.safe_load((ROOT / "models/yolov5n.yaml").read_text())
    (data.parent / "free.yaml").write_text(yaml.safe_dump({**model, "anchors": 3}))
    report = checked(data, cfg=str(data.parent / "free.yaml"), no_duplicates=True)
    assert report.content["head"]["anchors_px"] is None and not found(report, "box-no-anchor")
    assert report.content["splits"]["train"]["boxes"]["no_anchor_share"] is None


def test_the_head_of_official_weights(data, heads, real):
    report = checked(data, weights=str(real("weights/yolov5n.pt")), no_duplicates=True)
    assert np.reshape(report.content["head"]["anchors_px"], (3, 6)).tolist() == ANCHORS


# copies


def changed(image):
    """The same image brighter, at 85 % and compressed anew."""
    smaller = cv2.resize(cv2.add(image, np.full_like(image, 20)), None, fx=0.85, fy=0.85, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)


def test_planted_copies_are_found_and_nothing_else(data, pages):
    shutil.copy(image(data, "train", 5), data / "images/train/same.jpg")
    shutil.copy(label(data, "train", 5), data / "labels/train/same.txt")
    shutil.copy(image(data, "train", 6), data / "images/val/leak.jpg")
    (data / "labels/val/leak.txt").write_text(GOOD)
    add(data, "train", "near.jpg", changed(cv2.imread(str(image(data, "train", 7)))[..., ::-1].copy()))
    add(data, "test", "moved.png", changed(cv2.imread(str(image(data, "val", 3)))[..., ::-1].copy()))
    report = checked(data, ignore=["class-rare"])
    assert [one for one in found(report, "copy-same")] == [
        Finding(
            str(data / "images/train/same.jpg"),
            0,
            "copy-same",
            f"is the same file as {image(data, 'train', 5)} (train)",
            "train",
        )
    ]
    assert only(report, "leak-same").what == f"is the same file as {image(data, 'train', 6)} (train)"
    assert only(report, "copy-other-labels").file == str(data / "images/val/leak.jpg")
    near, moved = only(report, "copy-near"), only(report, "leak-near")
    assert (near.file, moved.file) == (str(data / "images/train/near.jpg"), str(data / "images/test/moved.png"))
    assert (
        f"{image(data, 'train', 7)} (train), similarity 0.99" in near.what
        and f"{image(data, 'val', 3)} (val)" in moved.what
    )
    assert {one.kind for one in report.findings} == {
        "copy-same",
        "leak-same",
        "copy-other-labels",
        "copy-near",
        "leak-near",
    }
    assert report.content["copies"]["pictures"] == {
        "train": {"train": 2},
        "val": {"train": 1, "val": 0},
        "test": {"train": 0, "val": 1, "test": 0},
    }
    assert (report.folder / "duplicates.jpg").is_file()


def test_unrelated_images_are_no_duplicates():
    """200 drawn scenes, 19,900 pairs: none is taken for another, in any of eight orientations."""
    coefs = np.stack([duplicates.coefficients(scene(seed, 64)) for seed in range(200)])
    for matches in duplicates.find_duplicates(coefs, np.arange(200) // 100, turned=True):
        assert (matches.index == -1).all()


def test_plain_and_dark_images_do_not_match():
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 4, (96, 96, 3), np.uint8) for _ in range(30)]
    plain = [np.full((96, 96, 3), level, np.uint8) for level in range(0, 250, 25)]
    ramp = np.linspace(0, 200, 96, dtype=np.float32)
    skies = [
        np.repeat((ramp[:, None] + 0 * ramp + rng.normal(0, 2, (96, 96)))[..., None], 3, 2)
        .clip(0, 255)
        .astype(np.uint8)
        for _ in range(20)
    ]  # one slope, other noise
    coefs = np.stack([duplicates.coefficients(image) for image in (*dark, *plain, *skies)])
    own, earlier = duplicates.find_duplicates(coefs, np.zeros(len(coefs), np.int64))
    assert (own.index == -1).all() and (earlier.index == -1).all()


def test_a_faint_pattern_makes_no_pair():
    """Two black images with one sensor's faint pattern are plain; the same pattern twenty times as strong is a pair."""
    pattern = scene(4, 96).astype(np.float32) / 255
    for strength, paired in ((3, False), (60, True)):
        coefs = np.stack([duplicates.coefficients((strength * pattern).round().astype(np.uint8))] * 2)
        assert duplicates.is_plain(coefs).tolist() == [not paired] * 2
        assert (duplicates.find_duplicates(coefs, np.zeros(2, np.int64))[0].index[1] == 0) == paired


@pytest.mark.parametrize(
    "orientation, change",
    [
        (0, lambda image: image),
        (1, lambda image: image[:, ::-1]),
        (2, lambda image: image[::-1, ::-1]),
        (3, lambda image: image[::-1]),
        (4, lambda image: image.transpose(1, 0, 2)),
        (5, np.rot90),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
    ],
)
def test_mirrored_and_turned_copies(orientation, change):
    """`orientation` is what turns the later image into the earlier one."""
    image = scene(11, 96)[:80]
    coefs = np.stack([duplicates.coefficients(np.ascontiguousarray(change(image))), duplicates.coefficients(image)])
    own, _ = duplicates.find_duplicates(coefs, np.zeros(2, np.int64), turned=True)
    assert own.index.tolist() == [-1, 0] and own.orientation[1] == orientation and own.similarity[1] > 0.999
    assert (duplicates.find_duplicates(coefs, np.zeros(2, np.int64))[0].index[1] == 0) == (orientation == 0)


def test_coefficients_are_the_cosine_transform():
    """Against OpenCV's transform of the 32 x 32 image; light and contrast leave the hash as it is."""
    gray = np.random.default_rng(1).integers(20, 200, (32, 32), np.uint8)
    rgb = np.repeat(gray[..., None], 3, 2)
    coefs = duplicates.coefficients(rgb)
    np.testing.assert_allclose(coefs, cv2.dct(gray.astype(np.float32))[:16, :16], rtol=2e-3, atol=0.5)
    bits = duplicates.hashes(coefs[None])[0]
    order = sorted(((u, v) for u in range(16) for v in range(16) if u + v), key=lambda place: (sum(place), place))[:64]
    assert int(bits) == sum(int(coefs[place] > 0) << number for number, place in enumerate(order))
    brighter = duplicates.coefficients((rgb.astype(int) + 40).astype(np.uint8))
    assert np.bitwise_count(duplicates.hashes(brighter[None])[0] ^ bits) <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_search_against_all_pairs(turned, monkeypatch):
    """Blocks of a few rows find what a loop over all pairs finds: the best earlier partner within and across groups."""
    for name, value in (("_ROWS", 7), ("_COLUMNS", 13), ("_FIRST_COLUMNS", 5), ("_PAIRS", 11)):
        monkeypatch.setattr(duplicates, name, value)
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 40, (12, 16, 16))
    noise = 4 * rng.normal(0, 1, (90, 1, 1)) * rng.normal(0, 1, (90, 16, 16))
    coefs = (seeds[rng.integers(0, 12, 90)] + noise).astype(np.float16)
    coefs[5] = 0  # plain
    group = np.sort(rng.integers(0, 3, 90))
    own, earlier = duplicates.find_duplicates(coefs, group, turned=turned)
    details = duplicates._details(coefs)
    for i in range(90):
        best = {True: (-1, 0.0), False: (-1, 0.0)}
        for j in range(i):
            for orientation in range(8 if turned else 1):
                view = duplicates.orient(coefs[i : i + 1], orientation)
                distance = bin(int(duplicates.hashes(view)[0]) ^ int(duplicates.hashes(coefs[j : j + 1])[0])).count("1")
                a, b = duplicates._details(view)[0], details[j]
                similarity = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-6))
                same = group[i] == group[j]
                near = distance <= duplicates.RADIUS and similarity >= 0.9
                if near and 5 not in (i, j) and similarity > best[same][1] + 1e-7:
                    best[same] = (j, similarity)
        for matches, same in ((own, True), (earlier, False)):
            assert matches.similarity[i] == pytest.approx(best[same][1], abs=1e-5)
            assert matches.index[i] == best[same][0]
    assert (own.index >= 0).sum() > 30 and (earlier.index >= 0).sum() > 30


def test_one_scene_many_times_stays_bounded():
    """1,500 images of one camera: each finds a partner, and no more than CANDIDATES pairs per image are compared."""
    rng = np.random.default_rng(3)
    coefs = (rng.normal(0, 40, (1, 16, 16)) + rng.normal(0, 1, (1500, 16, 16))).astype(np.float16)
    base, group = duplicates.hashes(coefs), np.zeros(1500, np.int64)
    compared = sum(len(images) for images, _ in duplicates._candidates(base, base, group, duplicates.RADIUS))
    assert compared <= 1500 * duplicates.CANDIDATES
    own, _ = duplicates.find_duplicates(coefs, group)
    assert own.index[0] == -1 and (own.index[1:] >= 0).all() and (own.index[1:] < np.arange(1, 1500)).all()


# the sheet, the files, the page and the command


def test_the_page_lists_every_kind_and_flag():
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", page)) == set(KINDS)
    flags = {name for each in flag_fields(check.CheckConfig) for name in flag_names(each)[:1]}
    assert flags <= set(re.findall(r"--[a-z-]+", page))
    for kind, entry in KINDS.items():
        (row,) = [line for line in page.splitlines() if line.startswith("| `") and f"`{kind}`" in line]
        assert entry.level in row


def test_the_sheet_shows_rare_classes_first():
    labels = [
        Labels(np.array(classes, np.int64), np.full((len(classes), 4), 0.3, np.float32))
        for classes in ([0, 0], [0], [0, 1], [0], [2], [0, 0], [0, 1], [0], [], [0])
    ]
    store = LabelStore.build([f"{number}.jpg" for number in range(10)], [(20, 20)] * 10, labels)
    assert choose_samples(store, 3, count=2) == [4, 2] and set(choose_samples(store, 3, count=4)[:3]) >= {4, 2}
    assert choose_samples(store, 3, {"9.jpg"}, count=2) == [9, 4]
    assert sorted(choose_samples(store, 3, count=16)) == list(range(10))


def test_findings_are_sorted_and_written(data):
    label(data, "val", 2).write_text("0 0.5 0.5 0.2\n")
    label(data, "train", 2).write_text('0 0.5 0.5 "a,b" 0.2\nx\n')
    report = checked(data, no_duplicates=True, ignore=["class-rare"])
    with open(report.folder / "findings.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["kind"], row["split"], row["line"], row["level"]) for row in rows] == [
        ("row-format", "train", "1", "fault"),
        ("row-format", "train", "2", "fault"),
        ("row-format", "val", "1", "fault"),
    ]
    assert list(rows[0]) == ["file", "line", "kind", "what", "fix", "level", "split"] and '"a,b"' in rows[0]["what"]
    assert all(row["fix"] == KINDS[row["kind"]].fix for row in rows)
    entry = report.content["findings"]["row-format"]
    assert (entry["count"], entry["by_split"]) == (3, {"train": 2, "val": 1})
    assert sort_findings(report.findings, ["row-format"]) == []


def test_single_steps_do_not_need_labels_or_images():
    assert duplicates.find_duplicates(np.zeros((0, 16, 16), np.float16), np.zeros(0, np.int64))[0].index.shape == (0,)
    assert copies.find_copies({}, {}, {}, similar=0.9) == [] and inspect_images([], CLASSES) == []
    assert not class_balance.explain_unknown([], 3)


def command(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "utils.datasets.check.__main__", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def test_exit_codes_and_words(data, monkeypatch, capsys):
    words = [str(data.parent / "data.yaml"), "--img", "128", "--project", str(data.parent / "runs"), "--no-duplicates"]
    assert script([*words, "--ignore", "class-rare"]) == 0
    assert "Clean: 0 faults, 0 warnings, 0 notes" in capsys.readouterr().out
    label(data, "train", 1).write_text("7 0.5 0.5 0.2 0.2\n")
    assert script([*words[1:], words[0]]) == 1
    printed = capsys.readouterr().out
    assert "fault   class-unknown               1" in printed
    assert "00001.txt:1: class 7 must be one of 0 to 3" in printed
    assert sorted(path.name for path in (data.parent / "runs").iterdir()) == ["exp", "exp2"]
    assert script([str(data.parent / "none.yaml")]) == 2
    assert "none.yaml: no such data yaml" in capsys.readouterr().err


def test_help_needs_no_torch_and_mistakes_are_one_line(tmp_path):
    blocked = (
        "import sys; sys.modules.update(torch=None, numpy=None, cv2=None)\n"
        "from utils.datasets.check.__main__ import script; script(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--imgsz" in done.stdout and "--ignore" in done.stdout
    code, _, printed = command("--ignore", "picture-gray", cwd=tmp_path)
    assert code == 2 and printed.count("\n") == 1 and "did you mean picture-grey" in printed
    code, _, printed = command("a.yaml", "b.yaml", cwd=tmp_path)
    assert code == 2 and "unrecognized argument b.yaml" in printed


def test_options_from_python(data):
    with pytest.raises(ConfigError, match="did you mean imgsz"):
        check.run(imgz=3)
    with pytest.raises(ConfigError, match="leave out the other"):
        check.run(cfg="a.yaml", weights="b.pt")
    assert not checked(data, no_duplicates=True).copies


def test_the_one_leak_of_real_data(real, tmp_path):
    """BCCD: two frames of one smear ended in train and in val; nothing else repeats."""
    (tmp_path / "bccd.yaml").write_text(
        yaml.safe_dump(
            {
                "path": str(real("bccd")),
                "train": "images/train",
                "val": "images/val",
                "test": "images/test",
                "names": ["RBC", "WBC", "Platelets"],
            }
        )
    )
    report = check.run(data=tmp_path / "bccd.yaml", imgsz=320, project=tmp_path)
    leak = only(report, "leak-near")
    assert os.path.basename(leak.file) == "BloodImage_00037.jpg"
    assert "train/BloodImage_00038.jpg (train), similarity 0.98" in leak.what
    assert {one.kind for one in report.findings} == {"leak-near", "box-twice"} and len(found(report, "box-twice")) == 7
    assert report.content["splits"]["train"]["objects_of_class"] == [2381, 214, 209]
