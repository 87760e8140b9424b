"""Labels: where they are looked for, what each kind of bad row costs, and when a cache is believed."""

import csv
import os
import zipfile

import numpy as np
import pytest

from utils.config import SplitOptions
from utils.config.label_reading import LabelReading
from utils.datasets import label_cache, labels
from utils.datasets.label_files import label_path, list_images
from utils.datasets.label_store import LabelStore, Texts
from utils.datasets.labels import read_labels
from utils.datasets.row_reader import RowRules, read_rows
from utils.errors import ConfigError, DataError
from utils.images import write_image
from utils.types import Labels

GOOD = "1 0.5 0.5 0.2 0.3\n"


def _rows(tmp_path, text, reading="skip", **rules):
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    return read_rows(str(file), RowRules(**{"nc": 3, "reading": LabelReading.of(reading), **rules}))


def _image(path, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((height, width, 3), 100, np.uint8))


@pytest.fixture
def dataset(tmp_path):
    """dataset(texts) makes images/train/<key>.png with those label files (None: no file); returns the image folder."""

    def make(texts, split="train"):
        for name, text in texts.items():
            _image(tmp_path / "images" / split / f"{name}.png")
            file = tmp_path / "labels" / split / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                file.write_text(text, encoding="utf-8")
        return tmp_path / "images" / split

    return make


# one row


@pytest.mark.parametrize(
    "row, reason",
    [
        ("1 0.5 0.5 0.2", "4 values"),
        ("1 0.5 0.5 0.2 0.3 0.9", "6 values"),
        ("1 0.5 0.5 0.2 0.3 0.9 0.1 0.1", "8 values"),
        ("1", "1 values"),
        ("1 0.5 0.5 0.2 abc", "abc"),
        ("1 0.5 0.5 nan 0.2", "finite"),
        ("1 0.5 inf 0.2 0.2", "finite"),
        ("cat 0.5 0.5 0.2 0.2", "'cat' is not a number"),
        ("0.5 0.5 0.5 0.2 0.2", "not a whole number"),
        ("nan 0.5 0.5 0.2 0.2", "not a whole number"),
        ("inf 0.5 0.5 0.2 0.2", "not a whole number"),
        ("1 -0.1 0.5 0.2 0.2", "-0.1 is outside"),
        ("1 0.5 0.5 -0.2 0.2", "negative"),
        ("1 0.5 1.1 0.2 0.2", "1.1 is outside"),
        ("1 320 240 50 60", "320 is outside"),
        ("1 0.5 0.5 0 0.2", "zero"),
        ("1 0.5 0.5 0.2 0", "zero"),
        (GOOD.strip(), "repeats"),
    ],
)
def test_a_bad_row_costs_that_row_only(tmp_path, row, reason):
    rows = _rows(tmp_path, f"{GOOD}\n{row}\n0 0.25 0.25 0.1 0.1\n")
    assert rows.cls.tolist() == [1, 0]
    assert np.allclose(rows.xywhn, [[0.5, 0.5, 0.2, 0.3], [0.25, 0.25, 0.1, 0.1]])
    (problem,) = rows.problems
    assert problem.line == 3 and reason in problem.reason and problem.action == "row dropped"


@pytest.mark.parametrize("policy", ["skip", "clip", "strict"])
@pytest.mark.parametrize("cls", ["3", "-1", "80", "1e300"])
def test_a_class_outside_the_yaml_stops_the_run_and_names_the_line(dataset, cls, policy):
    folder = dataset({"a": f"{GOOD}{cls} 0.5 0.5 0.1 0.1\n0 0.2 0.2 0.1 0.1\n"})
    with pytest.raises(DataError, match=rf"a\.txt:2 class {cls} must be one of 0 to 2; correct the label or nc"):
        read_labels(folder, 3, SplitOptions(labels=policy))


def test_clean_rows_and_their_spelling(tmp_path):
    rows = _rows(tmp_path, "\ufeff2.0\t0.5 0.5 1 1.0\r\n\r\n  0 1e-1 .25 0.2 0.1   \n")
    assert rows.cls.tolist() == [2, 0] and rows.cls.dtype == np.int64 and rows.xywhn.dtype == np.float32
    assert (
        np.allclose(rows.xywhn, [[0.5, 0.5, 1, 1], [0.1, 0.25, 0.2, 0.1]]) and not rows.problems and rows.segments == []
    )
    assert len(_rows(tmp_path, "").cls) == len(_rows(tmp_path, " \n\n").cls) == 0


def test_a_tiny_overshoot_is_always_set_to_the_edge(tmp_path):
    for policy in ("skip", "clip", "strict"):
        rows = _rows(tmp_path, "0 -0.0005 0.5 0.2 0.2\n0 0.5 1.0009 0.1 1.001\n", reading=policy)
        assert np.allclose(rows.xywhn, [[0, 0.5, 0.2, 0.2], [0.5, 1, 0.1, 1]]) and not rows.problems
    assert len(_rows(tmp_path, "0 0.5 1.0011 0.1 0.1\n").cls) == 0


def test_clip_cuts_boxes_to_the_picture(tmp_path):
    rows = _rows(
        tmp_path, "0 1.02 0.5 0.2 0.2\n1 0.5 0.5 1.4 0.2\n2 1.5 0.5 0.2 0.2\n0 0.5 0.5 -0.2 0.1\n", reading="clip"
    )
    assert rows.cls.tolist() == [0, 1]
    assert np.allclose(rows.xywhn, [[0.96, 0.5, 0.08, 0.2], [0.5, 0.5, 1, 0.2]], atol=1e-6)
    assert [(problem.line, problem.action, problem.rows) for problem in rows.problems] == [
        (1, "clipped", 2),
        (3, "row dropped", 1),
        (4, "row dropped", 1),
    ]


def test_boxes_whose_edges_leave_the_picture_stay_as_they_are(tmp_path):
    rows = _rows(tmp_path, "0 0.05 0.5 0.3 0.2\n")
    assert np.allclose(rows.xywhn, [[0.05, 0.5, 0.3, 0.2]]) and not rows.problems


# polygons


def test_polygons_become_bounds_and_keep_their_points(tmp_path):
    rows = _rows(tmp_path, "1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n2 0.5 0.5 0.9 0.5 0.7 0.9\n0 0.5 0.5 0.2 0.4\n")
    assert rows.cls.tolist() == [1, 2, 0] and not rows.problems
    assert np.allclose(rows.xywhn, [[0.3, 0.4, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4], [0.5, 0.5, 0.2, 0.4]])
    assert [len(segment) for segment in rows.segments] == [4, 3, 4]
    assert np.allclose(rows.segments[2], [[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.4, 0.7]])  # a box row's corners


@pytest.mark.parametrize(
    "row, reason",
    [
        ("0 0.1 0.1 0.2 0.2 0.3", "6 values"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 values"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.5", "1.5 is outside"),
        ("0 0.1 0.1 0.5 0.1 0.9 0.1", "zero"),
        ("0 0.1 0.1 0.5 x 0.9 0.1", "x"),
        ("0 0.1 0.1 0.5 nan 0.9 0.1", "finite"),
    ],
)
def test_a_bad_polygon_costs_that_polygon_only(tmp_path, row, reason):
    rows = _rows(tmp_path, f"1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n{row}\n")
    assert rows.cls.tolist() == [1] and len(rows.segments) == 1
    assert rows.problems[0].line == 2 and reason in rows.problems[0].reason


def test_clip_cuts_polygons(tmp_path):
    rows = _rows(tmp_path, "1 0.5 0.2 1.5 0.2 1.5 0.6 0.5 0.6\n", reading="clip")
    assert np.allclose(rows.xywhn, [[0.75, 0.4, 0.5, 0.4]]) and rows.segments[0].max() == 1
    assert rows.problems[0].action == "clipped"


# where labels and images are


@pytest.mark.parametrize(
    "image, label",
    [
        ("/d/images/a.jpg", "/d/labels/a.txt"),
        ("/d/images/train/a.b.jpeg", "/d/labels/train/a.b.txt"),
        ("/d/images/images/a.JPG", "/d/images/labels/a.txt"),
        ("/images/x/images/y/a.png", "/images/x/labels/y/a.txt"),
        ("images/a.png", "labels/a.txt"),
        ("/d/myimages/a.png", "/d/myimages/a.txt"),
        ("/d/scans/a.png", "/d/scans/a.txt"),
    ],
)
def test_label_path(image, label):
    assert label_path(image.replace("/", os.sep)) == label.replace("/", os.sep)


def test_images_of_folders_and_lists(tmp_path, monkeypatch):
    for name in ("b.png", "sub/a.JPG", ".hidden.png", ".cache/c.png"):
        _image(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("x")
    found = [os.path.join(tmp_path, "images", name) for name in ("b.png", "sub/a.JPG")]
    assert list_images(tmp_path / "images") == found
    listed = tmp_path / "列表.txt"
    listed.write_text(f"./images/b.png\n\n{found[1]}\nimages/b.png\n", encoding="utf-8")
    assert list_images(listed) == sorted([found[0], found[1], found[0]])
    assert list_images([tmp_path / "images" / "sub", listed]) == sorted([*found, *found])
    monkeypatch.chdir(tmp_path)
    assert "images/b.png" in list_images(listed)  # a plain relative path hangs from the working folder first
    with pytest.raises(DataError, match="gone: no such folder"):
        list_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no image"):
        list_images(tmp_path / "empty")


def test_a_folder_linked_into_itself_is_read_once(tmp_path):
    _image(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    assert len(list_images(tmp_path / "images")) == 1


# whole datasets


def test_every_kind_of_image_is_counted_and_named(dataset, tmp_path, caplog):
    folder = dataset(
        {"a": GOOD, "b": None, "c": "", "d": "1 0.5 0.5 0.2\n" + GOOD, "é图": "2 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n"}
    )
    _image(folder / "tiny.png", 9, 30)
    (folder / "broken.jpg").write_bytes(b"nonsense")
    with caplog.at_level("INFO", "yolo"):
        store = read_labels(folder, 3, report_dir=tmp_path / "run", split="train")
    assert len(store) == 5 and store.sizes.tolist() == [[20, 30]] * 5
    assert store.summary == "3 found, 1 missing, 1 empty, 2 corrupt, 1 row dropped"
    assert (
        "train: 3 found, 1 missing, 1 empty, 2 corrupt, 1 row dropped" in caplog.text
        and "labels_train.csv" in caplog.text
    )
    assert [len(store.labels(index)) for index in range(5)] == [1, 0, 0, 1, 2]
    assert store.paths[4].endswith("é图.png") and store.labels(4).cls.tolist() == [2, 0]
    assert store.class_counts(3).tolist() == [1, 2, 1]
    with open(tmp_path / "run" / "labels_train.csv", encoding="utf-8") as stream:
        report = list(csv.DictReader(stream))
    assert {(os.path.basename(row["file"]), row["line"], row["action"]) for row in report} == {
        ("d.txt", "1", "row dropped"),
        ("tiny.png", "", "image left out"),
        ("broken.jpg", "", "image left out"),
    }
    assert (folder / "broken.jpg").read_bytes() == b"nonsense"


def test_strict_stops_with_the_first_problems(dataset, tmp_path):
    folder = dataset({"a": "0 2 0.5 0.1 0.1\n", "b": GOOD})
    for _ in range(2):  # from the files, then from the cache
        with pytest.raises(DataError, match=r"1 problems with --labels strict: .*a\.txt:1 2 is outside"):
            read_labels(folder, 3, SplitOptions(labels="strict"), report_dir=tmp_path / "run")
    assert "run stopped" in (tmp_path / "run" / "labels_data.csv").read_text()
    with pytest.raises(ConfigError, match="did you mean strict"):
        read_labels(folder, 3, SplitOptions(labels="strikt"))


def test_no_labels_at_all_explains_where_they_belong(dataset):
    folder = dataset({"a": None, "b": None})
    with pytest.raises(
        DataError, match=r"none of 2 images has a usable label.*a\.png has its labels in .*labels.train.a\.txt"
    ):
        read_labels(folder, 3)
    assert len(read_labels(folder, 3, require=False)) == 2


def test_a_class_error_in_a_data_set_stops_it(dataset):
    with pytest.raises(DataError, match=r"b\.txt:1 class 7"):
        read_labels(dataset({"a": GOOD, "b": "7 0.5 0.5 0.1 0.1\n"}), 3)


def test_single_class_takes_every_object_as_class_0(dataset):
    store = read_labels(dataset({"a": GOOD, "b": "7 0.5 0.5 0.1 0.1\n"}), 1, SplitOptions(single_cls=True))
    assert store.cls.tolist() == [0, 0]


def test_images_without_an_images_folder_have_labels_beside_them(tmp_path):
    _image(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "a.txt").write_text(GOOD)
    assert read_labels(tmp_path / "x", 3).cls.tolist() == [1]


# the cache


def _scans(monkeypatch):
    calls = []
    original = labels.scan_image
    monkeypatch.setattr(labels, "scan_image", lambda *args: calls.append(args[0]) or original(*args))
    return calls


def test_cache_is_believed_only_while_nothing_changed(dataset, tmp_path, monkeypatch):
    folder = dataset({"a": GOOD, "b": None, "é": "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n0 5 5 5 5\n"})
    calls = _scans(monkeypatch)

    def scans(nc=3, names=(), **options):
        calls.clear()
        scans.store = read_labels(folder, nc, SplitOptions(**options), names=names)
        return len(calls)

    assert scans() == 3 and scans() == 0
    cached = scans.store
    assert scans(cache_labels=False) == 3
    # what was read from a file is what was written to it
    for name in ("sizes", "offsets", "cls", "xywhn", "points", "point_offsets", "problems", "summary"):
        assert np.array_equal(getattr(cached, name), getattr(scans.store, name)), name
    assert list(cached.paths) == list(scans.store.paths) and len(cached.problems) == 1
    assert scans(nc=4) == 3 and scans(nc=4) == 0  # more classes
    assert scans(nc=4, names=["a", "b", "c", "d"]) == 3 and scans(nc=4, names=["a", "b", "c", "e"]) == 3
    assert scans(labels="clip") == 3 and scans(single_cls=True) == 3 and scans() == 3 and scans() == 0
    label = tmp_path / "labels" / "train" / "a.txt"
    before = label.stat().st_mtime_ns
    label.write_text(GOOD.replace("0.5", "0.4"))  # the same length, another time
    os.utime(label, ns=(before + 1, before + 1))
    assert scans() == 3 and scans.store.xywhn[0, 0] == np.float32(0.4)
    (tmp_path / "labels" / "train" / "b.txt").write_text(GOOD)  # a label where there was none
    assert scans() == 3 and len(scans.store.labels(1)) == 1
    _image(folder / "c.png", 40, 30)  # one image more
    assert scans() == 4 and scans() == 0
    _image(folder / "c.png", 50, 30)  # the same name, another image
    assert scans() == 4 and scans.store.sizes[2].tolist() == [50, 30]
    (folder / "c.png").unlink()
    assert scans() == 3 and scans() == 0
    monkeypatch.setattr(label_cache, "VERSION", label_cache.VERSION + 1)
    assert scans() == 3


def test_cache_is_a_plain_archive_and_damage_is_survived(dataset, tmp_path, monkeypatch):
    folder = dataset({"a": GOOD})
    calls = _scans(monkeypatch)
    read_labels(folder, 3)
    file = tmp_path / "labels" / "train.cache.npz"
    with zipfile.ZipFile(file) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(file, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    whole = file.read_bytes()
    for content in (b"", b"PK\3\4 nonsense", whole[: len(whole) // 2], b"\x93NUMPY"):
        file.write_bytes(content)
        assert read_labels(folder, 3).cls.tolist() == [1]
    assert len(calls) == 5 and file.stat().st_size == len(whole)


def test_splits_do_not_share_a_cache(dataset, tmp_path):
    train, val = dataset({"a": GOOD, "b": GOOD}), dataset({"c": GOOD}, "val")
    lists = [tmp_path / "train.txt", tmp_path / "val.txt"]
    for file, names in zip(lists, ("./images/train/a.png", "./images/train/b.png"), strict=True):
        file.write_text(names)
    sources = (train, val, *lists, [train, val], [train, lists[0]], tmp_path / "images")
    places = [label_cache.cache_file(source) for source in sources]
    assert len(set(places)) == len(places)
    expected = ["train.cache.npz", "val.cache.npz", "train.txt.cache.npz", "val.txt.cache.npz"]
    assert [place.name for place in places[:4]] == expected


def test_a_folder_that_cannot_be_written_only_costs_the_cache(dataset, monkeypatch, caplog):
    folder = dataset({"a": GOOD})

    def refuse(path, write):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(label_cache, "write_atomically", refuse)
    with caplog.at_level("INFO", "yolo"):
        assert len(read_labels(folder, 3)) == 1
    assert "labels are not cached: Permission denied" in caplog.text


# the store


def _store():
    square = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]], np.float32)
    return LabelStore.build(
        ["a", "ü", "c"],
        [(10, 20), (30, 15), (8, 8)],
        [
            Labels(np.array([0, 2]), np.array([[0.5, 0.5, 0.5, 0.2], [0.2, 0.2, 0.1, 0.1]], np.float32)),
            Labels.none(),
            Labels(np.array([1, 1]), np.full((2, 4), 0.25, np.float32), (square, square[:2])),
        ],
    )


def test_store_gives_back_what_it_was_built_from():
    store = _store()
    assert len(store) == 3 and list(store.paths) == ["a", "ü", "c"] and store.paths[-1] == "c" and len(store.points)
    assert store.labels(0).cls.tolist() == [0, 2] and store.labels(0).segments == () and len(store.labels(1)) == 0
    assert [len(segment) for segment in store.labels(2).segments] == [3, 2]
    assert store.class_counts(4).tolist() == [1, 2, 1, 0] and store.image_of.tolist() == [0, 0, 2, 2]
    assert np.allclose(store.boxes_px(), [[10, 2], [2, 1], [2, 2], [2, 2]])
    assert np.allclose(store.boxes_px(40)[0], [20, 4])
    assert store.as_single_class().cls.tolist() == [0] * 4 and store.cls.tolist() == [0, 2, 1, 1]
    with pytest.raises(IndexError):
        store.paths[3]
    with pytest.raises(ValueError, match="expected sizes"):
        LabelStore(Texts(["a"]), store.sizes, store.offsets, store.cls, store.xywhn, store.points, store.point_offsets)


def test_bytes_of_the_label_store():
    """Per image 24 and its path, per object 24 (goal: 120 and 24); with outlines 8 more per object, and 8 per point."""
    count, each = 50, 12
    labels = [Labels(np.zeros(each, np.int64), np.full((each, 4), 0.5, np.float32)) for _ in range(count)]
    paths = [f"images/{index:06}.jpg" for index in range(count)]
    store = LabelStore.build(paths, [(480, 640)] * count, labels)
    arrays = [store.sizes, store.offsets, store.cls, store.xywhn, store.points, store.paths._bytes, store.paths._ends]
    assert store.point_offsets.strides == (0,) and store.point_offsets.shape == (count * each + 1,)
    per_image = 24 + len(paths[0])
    assert sum(array.nbytes for array in arrays) == 2 * 8 + count * per_image + 24 * count * each
    assert per_image <= 120


def test_real_labels(real, tmp_path):
    store = read_labels(real("coco_val128") / "images", 80, SplitOptions(cache_labels=False))
    assert len(store) == 128 and len(store.cls) == 898 and np.count_nonzero(store.class_counts(80)) == 73
    assert not store.problems and store.summary.endswith("0 corrupt")


def test_a_scan_in_processes_equals_one_in_threads(tmp_path, monkeypatch):
    """Chunks of clear images, and of images with problems, polygons, no label file or no sound image."""
    monkeypatch.setattr(labels, "CHUNK", 3)
    folder = tmp_path / "images"
    (tmp_path / "labels").mkdir()
    folder.mkdir()
    texts = ["0 .5 .5 .2 .2\n1 .4 .4 .1 .1\n", "", "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n", "0 .1 .1 .9 .1 .5 .8\n", None]
    for index in range(11):
        write_image(folder / f"{index:02d}.png", np.full((12 + index, 16, 3), index, np.uint8))
        text = texts[index % len(texts)]
        if text is not None:
            (tmp_path / "labels" / f"{index:02d}.txt").write_text(text)
    (folder / "05.png").write_bytes(b"no image")
    options = SplitOptions(cache_labels=False)
    in_threads = read_labels(folder, 2, options)
    monkeypatch.setattr(labels, "PROCESSES_FROM", 1)
    in_processes = read_labels(folder, 2, options)
    assert len(in_threads) == 10 and len(in_threads.problems) == 3 and in_threads.points.shape == (6, 2)
    for name in ("sizes", "offsets", "cls", "xywhn", "points", "point_offsets"):
        assert np.array_equal(getattr(in_processes, name), getattr(in_threads, name)), name
    for name in ("summary", "problems"):
        assert getattr(in_processes, name) == getattr(in_threads, name)
    assert list(in_processes.paths) == list(in_threads.paths)


def test_an_error_in_a_scanning_process_is_raised_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images/a.png", np.zeros((12, 16, 3), np.uint8))
    (tmp_path / "labels/a.txt").mkdir()
    (tmp_path / "labels/a.txt").rmdir()
    (tmp_path / "labels/a.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    monkeypatch.setattr(labels, "PROCESSES_FROM", 1)
    with pytest.raises(DataError, match=r"a\.txt: .*git-lfs"):
        read_labels(tmp_path / "images", 1, SplitOptions(cache_labels=False))
