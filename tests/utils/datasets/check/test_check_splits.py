"""The check of a dataset looks at whatever the data yaml names: splits of one's own, links, and what cameras write."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from utils.boxes import iou_matrix
from utils.datasets import check
from utils.datasets.check import checker
from utils.datasets.check.__main__ import script
from utils.datasets.check.findings import KINDS, format_table
from utils.datasets.check.inspection import SAME_BOX, _overlapping_pairs
from utils.datasets.label_files import list_images
from utils.datasets.labels import read_labels
from utils.datasets.row_reader import RowRules, read_rows
from utils.errors import DataError
from utils.types import HeadGeometry

ROWS = "0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n"


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Any head will do, so none is built; pages are drawn only if a test looks at them."""
    if "pages" not in request.fixturenames:
        request.getfixturevalue("no_check_pages")
    geometry = HeadGeometry(torch.tensor([[[4.0, 4.0], [2.0, 2.0]]]), torch.tensor([8.0]), 2)
    monkeypatch.setattr(checker, "_head", lambda config: checker.ReferenceHead("head.yaml", geometry, True))


@pytest.fixture
def data(tmp_path):
    """train, val and holdout of 3, 2 and 2 images, all different."""
    for seed, (split, name) in enumerate(
        (split, name) for split, names in (("train", "abc"), ("val", "de"), ("holdout", "fg")) for name in names
    ):
        add(tmp_path, split, f"{name}.png", seed)
    return tmp_path


def add(data, split, name, seed, **options):
    for kind in ("images", "labels"):
        (data / kind / split).mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = data / "images" / split / name
    Image.fromarray(tiles.repeat(8, 0).repeat(8, 1)).save(path, **options)
    (data / "labels" / split / name).with_suffix(".txt").write_text(ROWS)
    return path


def checked(data, **keys):
    content = {"path": str(data), "train": "images/train", "val": "images/val", "names": ["one", "two"], **keys}
    (data / "data.yaml").write_text(yaml.safe_dump(content))
    return check.run(data=str(data / "data.yaml"), imgsz=64, project=data / "runs", workers=0)


def kinds(report):
    return sorted((one.kind, one.split) for one in report.findings if not one.kind.startswith("class-"))


def test_a_leak_into_a_split_of_ones_own_is_found(data, pages):
    """`val.py --task holdout` measures on it, so what was trained on must not be in it."""
    copied = data / "images" / "holdout" / "again.png"
    copied.write_bytes((data / "images" / "train" / "b.png").read_bytes())
    (data / "labels" / "holdout" / "again.txt").write_text(ROWS)
    report = checked(data, holdout="images/holdout")
    assert kinds(report) == [("leak-same", "holdout")]
    content = json.loads((report.folder / "check.json").read_text())
    assert {name: split["pictures"] for name, split in content["splits"].items()} == {
        "train": 3,
        "val": 2,
        "holdout": 3,
    }
    assert content["copies"]["pictures"]["holdout"] == {"train": 1, "val": 0, "holdout": 0}
    assert (report.folder / "sheet_holdout.jpg").is_file() and (report.folder / "check.png").is_file()
    titles, first = (line.split() for line in format_table(report.findings, data)[:2])
    assert titles == ["level", "kind", "train", "val", "test", "holdout", "all", "first"]
    assert first[:3] == ["fault", "leak-same", "1"]


@pytest.mark.parametrize(
    "keys",
    [
        {"author": "nobody"},
        {"license": "terms.txt"},
        {"root": "."},
        {"base": "images/.."},
        {"later": "images/later"},
        {"spare": "spare"},
    ],
)
def test_other_keys_are_no_splits(data, keys):
    """Words, texts, the dataset's own folder, folders that are not there or hold no image."""
    (data / "terms.txt").write_text("CC BY 4.0\n")
    (data / "spare").mkdir()
    report = checked(data, **keys)
    assert list(report.splits) == ["train", "val"] and not kinds(report)


def test_many_splits_are_drawn(data, pages):
    """There are more splits than colors and kinds of lines."""
    more = {f"part{number}": f"images/part{number}" for number in range(6)}
    for seed, split in enumerate(more, 20):
        add(data, split, f"{split}.png", seed)
    report = checked(data, **more)
    assert list(report.splits) == ["train", "val", *more]
    assert (report.folder / "check.png").stat().st_size > 10_000


def test_a_broken_link_is_reported(data):
    """A training leaves it out; the check must not be silent about it."""
    (data / "images" / "train" / "lost.png").symlink_to("gone.png")
    report = checked(data)
    (one,) = (one for one in report.findings if one.kind == "picture-unreadable")
    assert (
        one.file.endswith("lost.png")
        and one.what == "is a link to gone.png, which is not there"
        and one.split == "train"
    )
    with open(report.folder / "findings.csv", newline="") as stream:
        assert [row["kind"] for row in csv.DictReader(stream) if row["file"].endswith("lost.png")] == [
            "picture-unreadable"
        ]


@pytest.mark.parametrize(("orientation", "reported"), [(0, False), (1, False), (3, True), (6, True), (99, False)])
def test_only_rotating_orientations_are_reported(data, orientation, reported):
    """Cameras write 0 for "unknown"; an image that is not EXIF-rotated is no reason for a warning."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    add(data, "train", "z.jpg", 50, exif=exif)
    assert (("picture-turned", "train") in kinds(checked(data))) is reported


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--split val set.yaml", "--split"),
        ("set.yaml other.yaml", "other.yaml"),
        ("set.yaml --data other.yaml", "set.yaml"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(words, named, capsys):
    """Not the data yaml, which is right where it stands."""
    with pytest.raises(SystemExit):
        script(words.split())
    assert f"unrecognized argument {named} " in capsys.readouterr().err


def test_pairs_overlapping_pairs_do_not_depend_on_blocks():
    corners = np.random.default_rng(0).uniform(0, 40, (700, 2))
    boxes = np.concatenate((corners, corners + 60), 1)
    overlap = iou_matrix(boxes, boxes)
    expected = {
        (later, earlier) for later in range(700) for earlier in range(later) if overlap[later, earlier] >= SAME_BOX
    }
    found = list(_overlapping_pairs(boxes))
    assert {(later, earlier) for later, earlier, _ in found} == expected and len(found) == len(expected) > 1000
    assert all(overlap[later, earlier] == share for later, earlier, share in found)


def test_a_crowd_is_compared_in_little_memory():
    boxes = np.random.default_rng(0).uniform(0, 4000, (6000, 4))
    boxes[:, 2:] = boxes[:, :2] + 20
    tracemalloc.start()
    list(_overlapping_pairs(boxes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * 2**20  # the whole matrix of float64 alone is 275 MiB


def test_an_image_in_place_of_a_list_is_reported(data):
    """Read as a list of names, it would only be reported as empty."""
    report = checked(data, train="images/train/a.png")
    (one,) = (one for one in report.findings if one.kind == "split-empty")
    assert one.what == "train: is an image; give its folder, or a .txt list that names it"
    with pytest.raises(DataError, match=r"a\.png: is an image; give its folder"):
        list_images(data / "images" / "train" / "a.png")


@pytest.mark.parametrize(
    ("class_text", "kind"),
    [
        ("1.5", "row-format"),
        ("nan", "row-format"),
        ("inf", "row-format"),
        ("2", "class-unknown"),
        ("-1", "class-unknown"),
        ("1e300", "class-unknown"),
    ],
)
def test_a_kind_that_claims_to_stop_training_stops_it(data, class_text, kind):
    """A class that is no integer costs its row; one that the yaml does not have ends the run."""
    label = data / "labels" / "train" / "a.txt"
    label.write_text(f"{ROWS}{class_text} 0.5 0.5 0.1 0.1\n")
    (one,) = (one for one in checked(data).findings if one.file == str(label))
    assert (one.kind, one.line) == (kind, 3) and ("training stops here" in KINDS[kind].fix) is (kind == "class-unknown")
    if kind == "class-unknown":
        with pytest.raises(DataError, match=r"a\.txt:3 class"):
            read_labels(data / "images" / "train", 2)
    else:
        assert len(read_rows(str(label), RowRules(2)).cls) == 2
