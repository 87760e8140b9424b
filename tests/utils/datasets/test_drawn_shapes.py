"""The drawn dataset: the same from the same seed, labeled as drawn, made once; and data that is not there."""

import io
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest

from utils.config import DatasetSpec, Hyperparameters, SplitOptions
from utils.datasets import drawn_shapes as shapes
from utils.datasets import prepare
from utils.datasets.drawn_shapes import (
    CLASSES,
    MANIFEST,
    ShapesOptions,
    cut_to_unit,
    draw_dataset,
    draw_large_scene,
    draw_scene,
    is_drawn,
)
from utils.datasets.labels import read_labels
from utils.datasets.prepare import ensure, unpack
from utils.errors import ConfigError, DataError
from utils.files import ROOT
from utils.images import read_image

SMALL = {"generator": "shapes", "seed": 3, "train": 4, "val": 2, "test": 1, "size": 64}


def _spec(root, **changes):
    spec = DatasetSpec(
        None,
        root,
        (root / "images/train",),
        (root / "images/val",),
        (root / "images/test",),
        len(CLASSES),
        CLASSES,
        None,
        dict(SMALL),
    )
    return replace(spec, **changes)


def _content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_seed_decides_every_byte(tmp_path):
    first, second = (draw_dataset(tmp_path / name, ShapesOptions.read(SMALL)) for name in ("a", "b"))
    assert _content(first) == _content(second) and len(_content(first)) == 2 * 7 + 1
    other = draw_dataset(tmp_path / "c", ShapesOptions.read({**SMALL, "seed": 4}))
    assert all(_content(other)[name] != raw for name, raw in _content(first).items() if name.endswith(".jpg"))
    assert len({raw for name, raw in _content(first).items() if name.endswith(".jpg")}) == 7  # no image twice


def test_scenes_look_as_promised():
    scenes = [draw_scene(np.random.default_rng([1, number]), 128) for number in range(40)]
    classes = np.concatenate([cls for _, cls, _ in scenes])
    assert set(classes.tolist()) == {0, 1, 2, 3} and np.bincount(classes).min() > 15
    for image, cls, outlines in scenes:
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and image.std() > 5
        assert len(cls) == len(outlines) <= 6
        for outline in outlines:
            assert outline.min() >= 0 and outline.max() <= 1
            assert (np.ptp(outline, axis=0) * 128 > 3).all()


def test_outlines_lie_where_the_objects_are():
    """Inside an outline the image is nearer to one color than outside of it: compare with a shifted outline."""
    inside, shifted = [], []
    for number in range(12):
        image, _, outlines = draw_scene(np.random.default_rng([2, number]), 128)
        for outline in outlines:
            for offset, spreads in ((0, inside), (40, shifted)):
                mask = np.zeros((128, 128), np.uint8)
                cv2.fillPoly(mask, [np.round(outline * 128).astype(np.int32)], 1)
                mask = np.roll(cv2.erode(mask, np.ones((5, 5), np.uint8)), offset, 1).astype(bool)
                if mask.sum() > 60:
                    spreads.append(image[mask].std(0).mean())
    assert np.median(inside) < 0.75 * np.median(shifted)


def test_cut_to_unit_against_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(30):
        name = CLASSES[rng.integers(4)]
        outline = shapes._outline(rng, name, rng.uniform(0.1, 0.4)) + rng.uniform(0, 1, 2)
        mask = np.zeros((1200, 1200), np.uint8)  # the unit square is its middle 400 pixels
        cv2.fillPoly(mask, [np.round(outline * 400 * 16 + 400 * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        rows, columns = np.nonzero(mask[400:800, 400:800])
        cut = cut_to_unit(outline)
        expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 400
        assert np.allclose(np.concatenate((cut.min(0), cut.max(0))), expected, atol=0.01)
        assert abs(cv2.contourArea(cut.astype(np.float32)) - len(rows) / 400**2) < 0.01
    square = np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])
    assert np.array_equal(cut_to_unit(square)[np.lexsort(cut_to_unit(square).T)], square[np.lexsort(square.T)])
    assert len(cut_to_unit(square + 2)) == 0


def test_drawn_labels_are_read_without_complaint(tmp_path):
    for segments in (False, True):
        spec = _spec(tmp_path / f"s{segments}", generate={**SMALL, "segments": segments})
        ensure(spec)
        store = read_labels(spec.paths("train"), spec.nc, SplitOptions(labels="strict", cache_labels=False))
        assert len(store) == 4 and not store.problems and (len(store.points) > 0) == segments
    boxes = read_labels(_spec(tmp_path / "sFalse").paths("train"), 4, SplitOptions(cache_labels=False))
    assert np.allclose(boxes.xywhn, store.xywhn, atol=2e-6)


def test_drawing_happens_once_and_again_when_the_yaml_changes(tmp_path):
    root = tmp_path / "shapes"
    ensure(_spec(root))
    stamp = (root / MANIFEST).stat().st_mtime_ns
    ensure(_spec(root))
    ensure(_spec(root, nc=1, names=("item",)), ("train", "val", "test"))
    assert (root / MANIFEST).stat().st_mtime_ns == stamp
    ensure(_spec(root, generate={**SMALL, "train": 5}))
    assert len(list((root / "images/train").iterdir())) == 5 and is_drawn(
        root, ShapesOptions.read({**SMALL, "train": 5})
    )
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]  # nothing left lying about


def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def stop(path, image):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure(_spec(tmp_path / "shapes"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own_is_left_alone(tmp_path):
    root = tmp_path / "shapes"
    root.mkdir()
    (root / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="was not drawn by this program"):
        ensure(_spec(root))
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
    ensure(_spec(root))  # a whole dataset of the user's is used as it is
    assert not (root / MANIFEST).exists() and (root / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sead": 1}, "did you mean seed"),
        ({"train": "many"}, "train: expected int"),
        ({"train": -1}, "at least 0"),
        ({"generator": "circles"}, "unknown generator"),
        ({"size": 8}, "at least 32"),
        ({"segments": 1}, "segments: expected bool"),
    ],
)
def test_mistakes_under_generate_are_named(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        ensure(_spec(tmp_path / "shapes", generate={**SMALL, **change}))


def test_other_names_than_the_shapes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="names must be"):
        ensure(_spec(tmp_path / "shapes", names=("a", "b", "c", "d")))


# data that is not there


@pytest.mark.parametrize(
    "download, words",
    [
        (None, "correct `path:`"),
        ("https://example.org/d.zip", "--download fetches it from https://example.org/d.zip"),
        ("bash data/scripts/get.sh", "never run"),
        ("import os\nos.system('x')", "never run"),
    ],
)
def test_missing_data_says_what_was_looked_for_and_how_to_get_it(tmp_path, download, words):
    spec = _spec(tmp_path / "none", generate=None, download=download)
    with pytest.raises(DataError) as error:
        ensure(spec)
    message = str(error.value)
    assert "\n" not in message and str(tmp_path / "none" / "images" / "train") in message and words in message
    assert list(tmp_path.iterdir()) == []


def _archive(names, links=()):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc")
    return stream.getvalue()


@pytest.mark.parametrize("top", ["", "coco128/", "other/"])
def test_download_unpacks_a_zip_only_when_asked(tmp_path, monkeypatch, top):
    def fetch(address, path, **_):
        assert address == "https://example.org/d.zip"
        path.write_bytes(_archive([f"{top}images/train/a.png", f"{top}images/val/b.png", f"{top}labels/train/a.txt"]))
        return path

    monkeypatch.setattr(prepare, "fetch", fetch)
    spec = _spec(tmp_path / "coco128", generate=None, download="https://example.org/d.zip")
    ensure(spec, download=True)
    assert (spec.root / "images/train/a.png").is_file() and [path.name for path in tmp_path.iterdir()] == ["coco128"]
    with pytest.raises(DataError, match="incomplete; move it away"):
        ensure(spec, ("test",), download=True)


@pytest.mark.parametrize(
    "names, links",
    [(["../evil"], []), (["/evil"], []), (["a/../../evil"], []), (["C:/evil"], []), (["..\\evil"], []), ([], ["link"])],
)
def test_archives_that_reach_outside_are_refused(tmp_path, names, links):
    (tmp_path / "a.zip").write_bytes(_archive(["fine", *names], links))
    with pytest.raises(DataError, match=r"a\.zip: refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_archives_are_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"a\.zip: is not a readable zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


# the files in data/


@pytest.mark.parametrize(
    "name, classes",
    [
        ("shapes", 4),
        ("coco", 80),
        ("coco128", 80),
        ("VOC", 20),
        ("VisDrone", 10),
        ("Argoverse", 8),
        ("GlobalWheat2020", 1),
        ("Objects365", 365),
        ("SKU-110K", 1),
        ("xView", 60),
    ],
)
def test_data_yamls_load(name, classes):
    spec = DatasetSpec.load(ROOT / "data" / f"{name}.yaml")
    assert spec.nc == classes == len(set(spec.names)) and spec.paths("train") and spec.paths("val")
    assert spec.root.name == name
    assert spec.download is None or spec.download.endswith(".zip")


def test_hyperparameter_files_load():
    files = {
        path.stem.removeprefix("hyp."): Hyperparameters.load(path).as_dict()
        for path in (ROOT / "data/hyps").glob("*.yaml")
    }
    own = {"shapes", "small", "modern"}
    assert files.keys() == {"scratch-low", "scratch-med", "scratch-high", "VOC", "Objects365"} | own
    assert files["scratch-low"] == Hyperparameters().as_dict()
    assert {key for key in files["scratch-high"] if files["scratch-high"][key] != files["scratch-low"][key]} == {
        "lrf",
        "cls",
        "obj",
        "scale",
        "mixup",
        "copy_paste",
    }
    assert files["VOC"]["warmup_momentum"] == 0.59032 and files["Objects365"]["cls_pw"] == 0.825


def test_sample_images_are_small_and_readable():
    images = sorted((ROOT / "data" / "images").iterdir())
    assert len(images) == 2
    assert all(path.stat().st_size < 60_000 and read_image(path)[1] == (320, 320) for path in images)


LARGE = {"generator": "large-shapes", "seed": 3, "train": 2, "val": 1, "test": 0, "size": 480}


def test_large_scenes_have_many_small_objects_and_crops_to_train_on(tmp_path):
    root = draw_dataset(tmp_path / "a", ShapesOptions.read(LARGE))
    assert is_drawn(root, ShapesOptions.read(LARGE)) and not is_drawn(root, ShapesOptions.read(SMALL))
    sizes = {path.parent.name: read_image(path)[1] for path in root.rglob("*.jpg")}
    assert sizes == {"train": (80, 80), "val": (320, 480)}
    image, classes, outlines = draw_large_scene(np.random.default_rng(0), (640, 960))
    again = draw_large_scene(np.random.default_rng(0), (640, 960))[0]
    assert image.shape == (640, 960, 3) and np.array_equal(image, again)
    crowded, more = draw_large_scene(np.random.default_rng(0), (640, 960), crowding=4.0)[1:]
    assert len(classes) == len(outlines) and len(crowded) == len(more) > 2 * len(classes)
    sides = np.array([np.ptp(outline, axis=0) * (960, 640) for outline in (*outlines, *more)])
    areas = sides.prod(1)
    assert 0.7 < (areas < 32**2).mean() < 0.95 and (areas > 96**2).any() and sides.max(1).min() > 4


@pytest.mark.parametrize("size", (100, 385))
def test_sizes_that_large_scenes_cannot_have_are_named(size):
    with pytest.raises(ConfigError, match=f"multiple of 6, at least 384, got {size}"):
        ShapesOptions.read({**LARGE, "size": size})
