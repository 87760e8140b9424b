"""The converter: small files of each format become the rows that they must, and nothing is lost without a count."""

import base64
import io
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from utils.datasets import check
from utils.datasets.convert import run
from utils.datasets.convert.__main__ import script
from utils.datasets.convert.image_finder import ImageAmbiguous, ImageFinder
from utils.datasets.convert.outlines import (
    clip_outline,
    coco_counts,
    ellipse,
    join_parts,
    mask_from_counts,
    mask_outlines,
)
from utils.datasets.convert.safe_xml import iter_elements
from utils.datasets.convert.split_assignment import assign_splits, split_in_name
from utils.datasets.drawn_shapes import draw_scene
from utils.datasets.row_reader import RowRules, read_rows
from utils.errors import ConfigError, DataError


def draw(path, width=100, height=80, seed=0, **options):
    """An image file of noise, so that no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.as_posix().encode()[-20:]]).integers(
        0, 256, (height, width, 3), np.uint8
    )
    Image.fromarray(pixels).save(path, **options)
    return path


def voc(path, objects="", size=(100, 80), filename=None, head=""):
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"{head}<annotation><filename>{filename or path.stem + '.png'}</filename>\n"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def voc_object(name, xmin, ymin, xmax, ymax, more=""):
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>\n"


def coco(path, annotations, categories=((7, "dog"), (3, "cat")), images=(("a.png", 100, 80),)):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": index, "file_name": name, "width": width, "height": height}
            for index, (name, width, height) in enumerate(images, 1)
        ],
        "annotations": [{"id": index, "image_id": 1, **one} for index, one in enumerate(annotations, 1)],
        "categories": [{"id": index, "name": name} for index, name in categories],
    }
    path.write_text(json.dumps(content))


def labelme(path, *shapes, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    usual = {"imagePath": f"{path.stem}.png", "imageHeight": 80, "imageWidth": 100, "imageData": None}
    path.write_text(json.dumps({"version": "5.5.0", "flags": {}, "shapes": list(shapes), **usual, **content}))


def shape(label, kind, points, **more):
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def cvat(path, images, labels=("dog", "cat")):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "".join(f"<label><name>{name}</name></label>" for name in labels)
    head = f"<version>1.1</version><meta><task><labels>{names}</labels></task></meta>"
    path.write_text(f"<?xml version='1.0' encoding='utf-8'?>\n<annotations>{head}\n{images}</annotations>")


def converted(kind, source, **options):
    output = source.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    return run(format=kind, source=source, output=output, **{"split": [1], **options})


def rows(report, name="a", split="train"):
    return (report.folder / "labels" / split / f"{name}.txt").read_text().splitlines()


def counts(report):
    return {kind: entry["count"] for kind, entry in report.content["remarks"].items()}


@pytest.fixture
def source(tmp_path):
    """A folder with one image a.png of 100 x 80."""
    draw(tmp_path / "in" / "a.png")
    return tmp_path / "in"


# VOC


def test_voc_boxes_become_rows_and_classes_are_sorted(source):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60) + voc_object("cat", "0", "0", "50.5", "8e1"))
    report = converted("voc", source)
    assert report.clean and not counts(report)
    assert rows(report) == ["1 0.250000 0.500000 0.300000 0.500000", "0 0.252500 0.500000 0.505000 1.000000"]
    assert yaml.safe_load(report.data.read_text()) == {
        "path": str(report.folder.resolve()),
        "train": "images/train",
        "nc": 2,
        "names": ["cat", "dog"],
    }
    assert (report.folder / "images" / "train" / "a.png").read_bytes() == (source / "a.png").read_bytes()
    one_based = converted("voc", source, one_based=True)
    assert rows(one_based)[0] == "1 0.245000 0.493750 0.310000 0.512500"  # 9..40 of 100, 19..60 of 80


def test_voc_flags_parts_outlines_and_rotated_boxes(source):
    part = "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    polygon = "<polygon><x1>10</x1><y1>8</y1><x2>50</x2><y2>8</y2><x3>30</x3><y3>40</y3></polygon>"
    robox = "<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle></robndbox>"
    voc(
        source / "a.xml",
        voc_object("dog", 10, 20, 40, 60, "<difficult>1</difficult>")
        + voc_object("dog", 10, 20, 40, 60, f"<difficult>0</difficult>{part}")
        + voc_object("dog", 10, 8, 50, 40, polygon)
        + f"<object><name>dog</name>{robox}</object>",
    )
    report = converted("voc", source)
    assert rows(report) == [
        "0 0.250000 0.500000 0.300000 0.500000",
        "0 0.100000 0.100000 0.500000 0.100000 0.300000 0.500000",
        "0 0.550000 0.375000 0.550000 0.625000 0.450000 0.625000 0.450000 0.375000",
    ]
    assert counts(report) == {"difficult": 1} and report.clean
    assert report.content["splits"]["train"]["outlines"] == 2
    kept = converted("voc", source, difficult=True, boxes=True)
    assert rows(kept) == [
        "0 0.250000 0.500000 0.300000 0.500000",
        "0 0.300000 0.300000 0.400000 0.400000",
        "0 0.500000 0.500000 0.100000 0.250000",
    ]
    assert counts(kept) == {"repeated": 1}


def test_boxes_beyond_the_edge_are_clipped_and_faulty_ones_are_left_out_with_their_line(source):
    voc(
        source / "a.xml",
        voc_object("dog", -10, 70, 40, 90)  # line 3
        + voc_object("dog", 60, 60, 20, 40)  # corners exchanged
        + voc_object("dog", 100, 0, 120, 20)  # touches the edge from outside
        + voc_object("dog", 30, 30, 30, 50)  # no width
        + voc_object("dog", 30, "nan", 40, 50)
        + voc_object("", 30, 30, 40, 50)
        + "<object><name>dog</name></object>",
    )
    report = converted("voc", source)
    assert rows(report) == ["0 0.200000 0.937500 0.400000 0.125000", "0 0.400000 0.625000 0.400000 0.250000"]
    assert counts(report) == {
        "object-broken": 3,
        "object-outside": 1,
        "object-no-size": 1,
        "clipped": 1,
        "corners-exchanged": 1,
    }
    assert not report.clean
    places = {(one.kind, one.line) for one in report.remarks.remarks}
    assert {("clipped", 3), ("corners-exchanged", 4), ("object-outside", 5), ("object-no-size", 6)} < places
    assert report.remarks.first("clipped").what == "dog in a.png: 10.0 pixels beyond the edge"
    table = (report.folder / "remarks.csv").read_text().splitlines()
    assert len(table) == 1 + 7 and f"{source / 'a.xml'},3,clipped," in "\n".join(table)


def test_images_without_objects_are_background_and_those_without_annotation_only_if_asked(source):
    draw(source / "b.png")
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60))
    voc(source / "b.xml")
    draw(source / "c.png")
    report = converted("voc", source)
    assert rows(report, "b") == [] and not (report.folder / "images" / "train" / "c.png").exists()
    assert counts(report) == {"not-annotated": 1} and report.content["splits"]["train"]["background"] == 1
    taken = converted("voc", source, background=True)
    assert rows(taken, "c") == [] and taken.content["splits"]["train"]["background"] == 2 and not counts(taken)


def test_sets_with_lists_keep_their_splits(tmp_path):
    root = tmp_path / "VOC2012"
    for number, stem in enumerate(("one", "two", "three", "four")):
        draw(root / "JPEGImages" / f"{stem}.jpg", seed=number)
        voc(root / "Annotations" / f"{stem}.xml", voc_object("dog", 10, 20, 40, 60))
    for split, stems in {"train": "one", "val": "two\n", "test": "three", "trainval": "one\ntwo"}.items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)
    report = converted("voc", root, split=None)
    placed = sorted(path.relative_to(report.folder).as_posix() for path in (report.folder / "images").rglob("*.jpg"))
    assert placed == ["images/test/three.jpg", "images/train/one.jpg", "images/val/two.jpg"]
    assert counts(report) == {"not-listed": 1}
    anew = converted("voc", root, split=[0.5, 0.25, 0.25])
    assert {split: one["images"] for split, one in anew.content["splits"].items()} == {"train": 2, "val": 1, "test": 1}


def test_folders_named_after_splits_are_kept_as_splits(tmp_path):
    for split in ("train", "valid"):
        draw(tmp_path / "in" / split / "x.png")
        voc(tmp_path / "in" / split / "x.xml", voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", tmp_path / "in", split=None)
    assert {split: one["images"] for split, one in report.content["splits"].items()} == {"train": 1, "val": 1}


# COCO


def test_coco_rows_categories_in_the_order_of_their_ids_and_crowds(source):
    box = {"category_id": 7, "bbox": [10, 20, 30, 40]}
    triangle = {"category_id": 3, "bbox": [10, 8, 40, 32], "segmentation": [[10, 8, 50, 8, 30, 40]]}
    coco(source / "x.json", [box, {**box, "iscrowd": 1}, box, triangle, {**box, "category_id": 9}])
    report = converted("coco", source / "x.json")
    assert rows(report) == [
        "1 0.250000 0.500000 0.300000 0.500000",
        "0 0.100000 0.100000 0.500000 0.100000 0.300000 0.500000",
    ]
    assert counts(report) == {"object-broken": 1, "crowd": 1, "repeated": 1}
    assert [(one["id"], one["name"], one["class"]) for one in report.content["categories"]] == [
        ("3", "cat", 0),
        ("7", "dog", 1),
    ]
    assert rows(converted("coco", source / "x.json", boxes=True))[1] == "0 0.300000 0.300000 0.400000 0.400000"


def test_coco_parts_and_masks_become_one_outline(source):
    mask = np.zeros((80, 100), bool)
    mask[20:60, 10:40] = True
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate(([False], flat)))).tolist()
    lengths = np.diff([0, *changes, flat.size]).tolist()
    parts = [[0, 0, 10, 0, 10, 10, 0, 10], [30, 0, 40, 0, 40, 10, 30, 10]]
    one = {"category_id": 3, "bbox": [10, 20, 30, 40], "segmentation": {"size": [80, 100], "counts": lengths}}
    bad = {**one, "bbox": [1, 2, 3, 4], "segmentation": {"size": [80, 100], "counts": lengths[:-1]}}
    coco(source / "x.json", [one, {"category_id": 3, "bbox": [0, 0, 40, 10], "segmentation": parts}, bad])
    report = converted("coco", source)
    first, second, third = rows(report)
    points = np.array(first.split()[1:], float).reshape(-1, 2)
    assert sorted(map(tuple, points)) == [(0.1, 0.25), (0.1, 0.75), (0.4, 0.25), (0.4, 0.75)]
    assert second == (
        "0 0.000000 0.000000 0.100000 0.000000 0.300000 0.000000 0.400000 0.000000 0.400000 0.125000 0.300000 0.125000 "
        "0.300000 0.000000 0.100000 0.000000 0.100000 0.125000 0.000000 0.125000"
    )
    assert third == "0 0.025000 0.050000 0.030000 0.050000"
    assert counts(report) == {"outline-broken": 1, "parts-joined": 1}


def test_coco_files_of_a_folder_are_one_dataset(tmp_path):
    for number, split in enumerate(("train", "val")):
        draw(tmp_path / "in" / f"{split}2017" / "a.png")
        box = {"category_id": 5 + number, "bbox": [10, 20, 30, 40]}
        categories = ((0, "animals"), (5, "cat"), (6, "dog")) if number == 0 else ((6, "cat"), (9, "bird"))
        path = tmp_path / "in" / "annotations" / f"instances_{split}2017.json"
        coco(path, [box], categories, [(f"{split}2017/a.png", 100, 80)])
    content = json.loads((path.parent / "instances_train2017.json").read_text())
    for entry in content["categories"][1:]:
        entry["supercategory"] = "animals"
    (path.parent / "instances_train2017.json").write_text(json.dumps(content))
    (path.parent / "captions_val2017.json").write_text('{"annotations": [], "images": []}')
    report = converted("coco", tmp_path / "in", split=None)
    assert report.content["classes"] == ["cat", "dog", "bird"]  # cat is 5 here and 6 there
    assert rows(report, "a", "train") == ["0 0.250000 0.500000 0.300000 0.500000"]
    names = sorted(path.name for path in (report.folder / "labels").rglob("*.txt"))
    assert names == ["a.txt", "val2017-a.txt"]
    assert rows(report, "val2017-a", "val") == ["0 0.250000 0.500000 0.300000 0.500000"]
    assert counts(report) == {"category-unused": 1, "file-skipped": 1}


# labelme


def test_labelme_shapes(source):
    square = Image.fromarray(np.full((9, 11), 255, np.uint8))
    stream = io.BytesIO()
    square.save(stream, "PNG")
    labelme(
        source / "a.json",
        shape("dog", "rectangle", [[40, 60], [10, 20]]),
        shape("cat", "polygon", [[10, 8], [50, 8], [30, 40]]),
        shape("cat", "circle", [[50, 40], [50, 48]]),
        shape("cat", "mask", [[20, 30], [30, 38]], mask=base64.b64encode(stream.getvalue()).decode()),
        shape("cat", "line", [[1, 1], [5, 5]]),
        shape("dog", "rectangle", [[0, 0], [10, 8]], group_id=1),
        shape("dog", "polygon", [[20, 0], [30, 0], [30, 8]], group_id=1),
        shape("cat", "rectangle", [[60, 0], [70, 8]], group_id=1),
        shape("dog", "rectangle", [[60, 0]]),
    )
    report = converted("labelme", source)
    found = read_rows(str(report.folder / "labels" / "train" / "a.txt"), RowRules(2))
    assert found.cls.tolist() == [1, 0, 0, 0, 1, 0] and not found.problems
    expected = [
        (0.25, 0.5, 0.3, 0.5),
        (0.3, 0.3, 0.4, 0.4),
        (0.5, 0.5, 0.16, 0.2),
        (0.255, 0.43125, 0.11, 0.1125),  # 20..31 of 100, 30..39 of 80: every pixel counts
        (0.15, 0.05, 0.3, 0.1),
        (0.65, 0.05, 0.1, 0.1),
    ]
    assert np.abs(found.xywhn - np.array(expected)).max() < 1e-6
    assert rows(report)[0] == "1 0.250000 0.500000 0.300000 0.500000"
    assert len(rows(report)[2].split()) == 1 + 2 * 32
    assert counts(report) == {"object-broken": 1, "no-area": 1, "parts-joined": 1}


def test_labelme_images_are_found_by_their_last_name_or_taken_out_of_the_file(source):
    data = (source / "a.png").read_bytes()
    labelme(source / "a.json", shape("dog", "rectangle", [[10, 20], [40, 60]]), imagePath="..\\..\\etc\\a.png")
    labelme(
        source / "sub" / "b.json",
        shape("dog", "rectangle", [[10, 20], [40, 60]]),
        imagePath="D:\\gone\\b.jpg",
        imageData=base64.b64encode(data).decode(),
        imageHeight=None,
        imageWidth=None,
    )
    report = converted("labelme", source)
    assert rows(report) == rows(report, "b") == ["0 0.250000 0.500000 0.300000 0.500000"]
    assert (report.folder / "images" / "train" / "b.png").read_bytes() == data
    assert counts(report) == {"image-embedded": 1} and not list(report.folder.glob(".*"))


# CVAT


def test_cvat_shapes_and_order_of_labels(source):
    shapes = (
        '<box label="dog" xtl="10" ytl="20" xbr="40" ybr="60" occluded="1"/>\n'
        '<box label="dog" xtl="40" ytl="35" xbr="60" ybr="45" rotation="90.0"/>\n'
        '<polygon label="cat" points="10,8;50,8;30,40"/>\n'
        '<ellipse label="cat" cx="50" cy="40" rx="10" ry="8"/>\n'
        '<mask label="cat" rle="0, 2, 1, 3" left="20" top="30" width="3" height="2"/>\n'
        '<polyline label="cat" points="1,1;2,2"/><points label="cat" points="1,1"/><tag label="cat"/>\n'
        '<polygon label="cat" points="10,8;50"/>\n'
    )
    draw(source / "deep" / "b.png")
    cvat(
        source / "annotations.xml",
        f'<image id="0" name="a.png" width="100" height="80">\n{shapes}</image>\n'
        '<image id="1" name="deep/b.png" width="100" height="80"/>',
    )
    report = converted("cvat", source)
    assert report.content["classes"] == ["dog", "cat"]
    assert rows(report)[:3] == [
        "0 0.250000 0.500000 0.300000 0.500000",
        "0 0.550000 0.375000 0.550000 0.625000 0.450000 0.625000 0.450000 0.375000",
        "1 0.100000 0.100000 0.500000 0.100000 0.300000 0.500000",
    ]
    found = read_rows(str(report.folder / "labels" / "train" / "a.txt"), RowRules(2))
    assert np.abs(found.xywhn[3:] - np.array([(0.5, 0.5, 0.2, 0.2), (0.215, 0.3875, 0.03, 0.025)])).max() < 1e-6
    assert rows(report, "b") == []
    assert counts(report) == {"object-broken": 1, "no-area": 3}
    assert report.remarks.first("object-broken").line == 10


def test_cvat_subsets_are_splits_and_video_exports_are_named(source):
    draw(source / "b.png")
    box = '<box label="dog" xtl="10" ytl="20" xbr="40" ybr="60"/>'
    images = "".join(
        f'<image name="{name}.png" subset="{subset}" width="100" height="80">{box}</image>'
        for name, subset in (("a", "Train"), ("b", "Validation"))
    )
    cvat(source / "x.xml", images)
    report = converted("cvat", source, split=None)
    assert rows(report, "a", "train") == rows(report, "b", "val") and len(rows(report)) == 1
    cvat(source / "x.xml", '<track id="0" label="dog"/>')
    with pytest.raises(DataError, match='is "CVAT for video"; export it as "CVAT for images 1.1"'):
        converted("cvat", source)


# images, names, splits


def test_names_that_clash_stay_apart(tmp_path):
    places = ("a/1.png", "b/1.png", "b/1.jpg", "c/images/1.PNG")
    for place in places:
        path = draw(tmp_path / "in" / place)
        if path.suffix != ".jpg":
            voc(path.with_suffix(".xml"), voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", tmp_path / "in", background=True)
    images = sorted(path.name for path in (report.folder / "images" / "train").iterdir())
    assert images == ["1.png", "b-1-png.png", "b-1.jpg", "c-images-1.PNG"]
    assert sorted(path.name for path in (report.folder / "labels" / "train").iterdir()) == [
        "1.txt",
        "b-1-png.txt",
        "b-1.txt",
        "c-images-1.txt",
    ]
    origins = dict(line.split(",")[:2] for line in (report.folder / "images.csv").read_text().splitlines()[1:])
    assert origins["images/train/b-1-png.png"] == str(tmp_path / "in" / "b" / "1.png")
    for name, origin in origins.items():
        assert (report.folder / name).read_bytes() == Path(origin).read_bytes()


def test_an_image_that_several_could_be_is_not_guessed(tmp_path):
    for folder in ("a", "b"):
        draw(tmp_path / folder / "1.png")
    (tmp_path / "c.heic").write_bytes(b"")
    finder = ImageFinder([tmp_path])
    assert finder.find(["x\\A\\1.PNG"], tmp_path / "x.json") == tmp_path / "a" / "1.png"
    assert finder.find(["1"], tmp_path / "b" / "1.xml") == tmp_path / "b" / "1.png"
    with pytest.raises(ImageAmbiguous, match="could both be meant"):
        finder.find(["1.png"], tmp_path / "x.json")
    with pytest.raises(DataError, match="c.heic is a HEIC file, which is not read"):
        finder.find(["c.jpg"], tmp_path / "x.json")


def test_exif_rotation_is_undone_if_the_annotation_counts_stored_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: 100 x 80 stored, 80 x 100 upright
    for name, size in (("stored", (100, 80)), ("upright", (80, 100))):
        draw(tmp_path / "in" / f"{name}.jpg", exif=exif)
        voc(tmp_path / "in" / f"{name}.xml", voc_object("dog", 10, 20, 40, 60), size)
    exif[0x0112] = 3  # upside down: the size cannot tell how it was annotated
    draw(tmp_path / "in" / "half.jpg", exif=exif)
    voc(tmp_path / "in" / "half.xml", voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", tmp_path / "in")
    assert rows(report, "half") == ["0 0.250000 0.500000 0.300000 0.500000"]
    # stored (x, y) of 100 x 80 is upright (80 - y, x) of 80 x 100: x 20..60, y 10..40
    assert rows(report, "stored") == ["0 0.500000 0.250000 0.500000 0.300000"]
    assert rows(report, "upright") == ["0 0.312500 0.400000 0.375000 0.400000"]
    assert counts(report) == {"exif-rotated": 1, "exif-undone": 1}


@pytest.mark.parametrize(
    ("stated", "row", "kinds"),
    [
        ((100, 80), "0 0.250000 0.500000 0.300000 0.500000", {}),
        ((0, 0), "0 0.250000 0.500000 0.300000 0.500000", {}),
        ((200, 160), "0 0.125000 0.250000 0.150000 0.250000", {"size-scaled": 1}),
        ((50, 50), "0 0.250000 0.500000 0.300000 0.500000", {"size-wrong": 1}),  # the box would leave it
    ],
)
def test_sizes_that_annotations_state(source, stated, row, kinds):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60), stated)
    report = converted("voc", source)
    assert rows(report) == [row] and counts(report) == kinds


def test_an_image_of_another_shape_than_stated_is_left_out(source):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60), (100, 100))
    draw(source / "b.png")
    voc(source / "b.xml", voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", source)
    assert not (report.folder / "labels" / "train" / "a.txt").exists() and len(rows(report, "b")) == 1
    taken = converted("voc", source, background=True)  # it shows objects, so it is no background
    assert [path.name for path in (taken.folder / "images" / "train").iterdir()] == ["b.png"]
    assert report.remarks.first("size-differs").what == "a.xml says 100 x 100, the image is 100 x 80"


def test_names_give_the_order_and_leave_others_out(source):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60) + voc_object("cat", 10, 20, 40, 60))
    (source / "names.txt").write_text("bird\ndog\n")
    report = converted("voc", source, names=[str(source / "names.txt")])
    assert rows(report) == ["1 0.250000 0.500000 0.300000 0.500000"] and counts(report) == {"class-left-out": 1}
    voc(source / "a.xml", voc_object("Dog", 10, 20, 40, 60) + voc_object("dog ", 10, 20, 40, 61))
    alike = converted("voc", source)
    assert alike.content["classes"] == ["Dog", "dog"] and counts(alike) == {"names-alike": 1}
    with pytest.raises(ConfigError, match="--names: 'dog' is given twice"):
        converted("voc", source, names=["dog", "dog"])


def test_splits_follow_from_the_seed_and_the_bytes_alone():
    digests = [bytes([number]) * 16 for number in range(20)]
    splits = dict(zip(digests, assign_splits(digests, (0.8, 0.1, 0.1), 0), strict=True))
    assert Counter(splits.values()) == {"train": 16, "val": 2, "test": 2}
    assert assign_splits(digests[::-1], (0.8, 0.1, 0.1), 0) == [splits[digest] for digest in digests[::-1]]
    again = assign_splits([*digests, digests[3]], (0.8, 0.1, 0.1), 0)
    assert again[-1] == again[3] and Counter(again[:-1]) == {"train": 16, "val": 2, "test": 2}
    assert assign_splits(digests, (0.8, 0.1, 0.1), 1) != [splits[digest] for digest in digests]
    more = dict(zip(digests, assign_splits([*digests, b"x" * 16], (0.8, 0.1, 0.1), 0), strict=False))
    assert sum(more[digest] != splits[digest] for digest in digests) <= 2  # only at the borders
    assert Counter(assign_splits(digests[:3], (0.8, 0.1, 0.1), 0)) == {"train": 1, "val": 1, "test": 1}
    assert set(assign_splits(digests, (1,), 0)) == {"train"}
    with pytest.raises(DataError, match="2 different images cannot be divided into train, val, test"):
        assign_splits(digests[:2], (0.8, 0.1, 0.1), 0)


def test_the_known_split_of_five_images_stays():
    """Another release divides the same images alike."""
    splits = assign_splits([bytes([number]) for number in range(5)], (0.6, 0.2, 0.2), 7)
    assert splits == ["train", "val", "train", "train", "test"]


def test_split_names():
    names = ("instances_train2017", "valid", "Validation", "TEST", "trainval", "train_val", "contest", "dev")
    assert [split_in_name(name) for name in names] == ["train", "val", "val", "test", "", "", "", "val"]


# safety


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(source, tmp_path):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", source)
    before = {path: path.read_bytes() for path in report.folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="exists already, and nothing is overwritten"):
        run(format="voc", source=source, output=report.folder)
    assert {path: path.read_bytes() for path in report.folder.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="1 different images cannot be divided"):
        run(format="voc", source=source, output=tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in", "out"]
    assert run(format="voc", source=source, output=tmp_path / "empty", split=[1]).data.is_file()


def test_links_lead_to_the_sources(source):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60))
    report = converted("voc", source, link=True)
    link = report.folder / "images" / "train" / "a.png"
    assert link.is_symlink() and os.path.samefile(link, source / "a.png")


def test_entities_are_refused_and_other_files_go_on(source):
    levels = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY b0 "x">{levels}]>'
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60))
    voc(source / "b.xml", voc_object("&b8;", 10, 20, 40, 60), head=bomb)
    (source / "secret.txt").write_text("top secret")
    outside = f'<!DOCTYPE a [<!ENTITY f SYSTEM "file://{source}/secret.txt">]>'
    voc(source / "c.xml", voc_object("&f;", 10, 20, 40, 60), head=outside)
    (source / "d.xml").write_text("<annotation><object>")
    (source / "e.xml").write_text("<x>" * 60)
    report = converted("voc", source)
    reasons = {Path(one.file).name: one.what for one in report.remarks.remarks}
    assert set(reasons) == {"b.xml", "c.xml", "d.xml", "e.xml"} and counts(report) == {"annotation-unreadable": 4}
    assert "declares an entity" in reasons["b.xml"] and "declares an entity" in reasons["c.xml"]
    assert reasons["d.xml"] == "line 1: not well-formed XML: no element found"
    assert "nested too deeply" in reasons["e.xml"]
    assert report.content["classes"] == ["dog"]
    draw(source / "d.png")
    assert len(list((converted("voc", source, background=True).folder / "images" / "train").iterdir())) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb2312", "utf-16", "windows-1252"])
def test_xml_in_other_encodings(tmp_path, encoding):
    name = "café" if encoding == "windows-1252" else "自行车"
    declared = encoding.replace("-sig", "")
    path = tmp_path / "a.xml"
    path.write_bytes(
        f"<?xml version='1.0' encoding='{declared}'?><annotation><n>{name}</n></annotation>".encode(encoding)
    )
    assert [element.text for element in iter_elements(path)] == ["", name]


def test_paths_in_files_do_not_leave_the_folders(tmp_path):
    draw(tmp_path / "outside.png")
    inside = draw(tmp_path / "in" / "a.png")
    names = ["../outside.png", "/etc/passwd", str(tmp_path / "outside.png"), "C:\\outside.png", "..", ""]
    images = [(name, 100, 80) for name in [*names, "../../x/a.png"]]
    coco(tmp_path / "in" / "x.json", [{"category_id": 3, "image_id": 7, "bbox": [1, 2, 3, 4]}], images=images)
    report = converted("coco", tmp_path / "in")
    assert counts(report) == {"image-missing": 6}
    files = [path for path in report.folder.rglob("*.png")]
    assert [path.read_bytes() for path in files] == [inside.read_bytes()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "outside.png"]


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("voc", "x.xml", "<annotations/>", "is a CVAT file, not VOC; convert it with the format cvat"),
        ("cvat", "x.xml", "<annotation/>", "is a VOC file, not CVAT; convert it with the format voc"),
        ("coco", "x.json", '{"shapes": []}', "no object can be converted"),
        ("coco", "x.json", "[" * 100000, "not valid JSON: RecursionError"),
        ("labelme", "x.json", "{", "line 1: not valid JSON"),
        ("voc", "x.json", "{}", "holds no .xml file"),
    ],
)
def test_sources_of_another_kind_are_named(tmp_path, kind, name, text, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(text)
    with pytest.raises(DataError, match=message):
        converted(kind, tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_missing_images_name_the_remedy(tmp_path):
    voc(tmp_path / "in" / "a.xml", voc_object("dog", 10, 20, 40, 60))
    draw(tmp_path / "pictures" / "A.JPG")
    with pytest.raises(DataError, match="no image can be converted; first: .*a.xml: no image a; name the folder"):
        converted("voc", tmp_path / "in")
    report = converted("voc", tmp_path / "in", images=tmp_path / "pictures")
    assert rows(report, "A") == ["0 0.250000 0.500000 0.300000 0.500000"]


def test_command_line(source, capsys):
    voc(source / "a.xml", voc_object("dog", 10, 20, 40, 60) + voc_object("dog", -5, 20, 40, 60))
    output = source.parent / "out"
    assert script(["voc", str(source), "--output", str(output), "--split", "1"]) == 0
    printed = capsys.readouterr().out
    assert (
        "    0         -         2  dog" in printed
        and "clipped                      1  a.xml:4: dog in a.png" in printed
    )
    assert script(["--output", str(output), "voc", str(source)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    voc(source / "b.xml", voc_object("dog", 10, 20, 40, 60))
    assert script(["voc", str(source), "--output", f"{output}2", "--split", "1"]) == 1
    for argv in ([], ["voc"], ["pascal", "x"], ["voc", "x", "--output", "y", "--split", "0.5", "0.1"]):
        with pytest.raises(SystemExit) as ended:
            script(argv)
        assert ended.value.code == 2


def test_the_checker_finds_nothing_in_a_converted_dataset(tmp_path, no_check_pages):
    for number in range(12):
        stem = tmp_path / "in" / "ab"[number % 2] / f"{number}"
        Image.fromarray(draw_scene(np.random.default_rng(number), 128)[0]).save(draw(stem.with_suffix(".png")))
        voc(
            stem.with_suffix(".xml"),
            voc_object("dog", 10, 20, 60, 70) + voc_object("cat", 50, 60, 140, 120),
            (128, 128),
        )
    report = converted("voc", tmp_path / "in", split=[0.5, 0.25, 0.25])
    assert counts(report) == {"clipped": 12}
    found = check.run(data=report.data, imgsz=128, workers=0, project=tmp_path / "runs", ignore=["class-rare"])
    assert found.clean and not found.findings
    assert {split: one["usable"] for split, one in found.content["splits"].items()} == {"train": 6, "val": 3, "test": 3}
    assert [one["objects_of_class"] for one in found.content["splits"].values()] == [[6, 6], [3, 3], [3, 3]]


# outlines


def test_joined_parts_enclose_the_sum_of_their_areas():
    square = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
    parts = [square, square + (10, 0), square + (0, 20)]
    assert abs(area(join_parts(parts))) == 3 * 16
    assert len(join_parts(parts)) == 12 + 4


def area(points):
    x, y = points.T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def test_clipped_outlines_are_what_is_inside():
    triangle = np.array([(0.5, -0.5), (1.5, 0.5), (-0.5, 0.5)])
    clipped = clip_outline(triangle)
    assert abs(area(clipped)) == pytest.approx(0.5)  # it covers the upper half of the square
    assert clipped.min() == 0 and clipped.max(0).tolist() == [1, 0.5]
    assert clip_outline(triangle + 5).shape == (0, 2)
    apex = clip_outline(np.array([(0.2, 0.5), (0.4, 0.5), (0.9, -0.5)]))  # bounds are those of the visible part
    assert apex.max(0) == pytest.approx([0.65, 0.5])


def test_masks_reach_as_far_as_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((60, 70), bool)
        for _ in range(4):
            x, y, w, h = rng.integers(1, 30, 4)
            mask[y : y + h, x : x + w] = True
        outline = join_parts(mask_outlines(mask))
        ys, xs = np.nonzero(mask)
        assert outline.min(0).tolist() == [xs.min(), ys.min()]
        assert outline.max(0).tolist() == [xs.max() + 1, ys.max() + 1]
    yy, xx = np.mgrid[:200, :200]
    disc = (xx - 100) ** 2 + (yy - 90) ** 2 <= 60**2
    (outline,) = mask_outlines(disc)
    assert len(outline) < 120 and abs(area(outline)) == pytest.approx(disc.sum(), rel=0.01)


def test_run_lengths_are_those_of_pycocotools():
    mask_tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((37, 53)) < rng.random()
        code = mask_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        lengths = coco_counts(code["counts"].decode())
        assert np.array_equal(mask_from_counts(lengths, (37, 53), by_column=True), mask)
    for text in ("~~~", "\x00", "P" * 40, "o"):
        assert mask_from_counts(coco_counts(text), (37, 53), by_column=True) is None
    assert mask_from_counts([10**18, -(10**18) + 6], (2, 3), by_column=False) is None


def test_circles_have_exact_bounds():
    points = ellipse((50, 40), (10, 8))
    assert points.min(0) == pytest.approx([40, 32]) and points.max(0) == pytest.approx([60, 48])


# a real set


def test_real_voc_files_give_the_counts_of_an_independent_reader(real, tmp_path):
    source, images = real("cards/voc"), real("cards/images")
    report = run(format="voc", source=source, images=images, output=tmp_path / "cards")
    expected = {"train": Counter(), "val": Counter()}
    for path in source.rglob("*.xml"):
        for one in ElementTree.parse(path).getroot().iter("object"):
            expected[path.parent.name][one.findtext("name")] += 1
    names = report.content["classes"]
    assert names == ["ace", "jack", "king", "nine", "queen", "ten"] and report.clean
    for split, number in (("train", 296), ("val", 67)):
        figures = report.content["splits"][split]
        assert figures["images"] == number == len(list((report.folder / "images" / split).iterdir()))
        assert dict(zip(names, figures["objects_of_class"], strict=True)) == expected[split]
    assert report.content["objects"] == 670 and counts(report) == {"size-scaled": 51}
    order = ["nine", "ten", "jack", "queen", "king", "ace"]  # of the labels that lie beside the images
    for path in sorted((report.folder / "labels").rglob("*.txt")):
        ours = np.loadtxt(path, ndmin=2)
        theirs = np.loadtxt(real("cards") / path.relative_to(report.folder), ndmin=2)
        assert [names[int(row[0])] for row in ours] == [order[int(row[0])] for row in theirs]
        assert np.abs(ours[:, 1:] - theirs[:, 1:]).max() < 2e-6
