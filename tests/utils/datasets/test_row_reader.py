"""What rows mean: polygons of three points, key points, oriented boxes, class names, class numbers from elsewhere."""

import csv

import numpy as np
import pytest

from utils.config import SplitOptions
from utils.config.label_reading import LabelReading
from utils.datasets import class_numbers
from utils.datasets.label_problems import Problem, grouped
from utils.datasets.labels import read_labels
from utils.datasets.long_rows import LongRows, in_common
from utils.datasets.row_reader import RowRules, interpret, read_rows
from utils.errors import ConfigError, DataError
from utils.images import write_image

NAMES = ("cat", "traffic light", "Dog")
TRIANGLE, SQUARE, BOX = "0 0.1 0.1 0.3 0.1 0.2 0.4", "1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6", "2 0.5 0.5 0.2 0.4"


def rows_of(tmp_path, text, labels="skip", nc=3, names=NAMES, keypoints=None):
    (tmp_path / "a.txt").write_text(text)
    return read_rows(str(tmp_path / "a.txt"), RowRules(nc, names, LabelReading.of(labels), keypoints))


@pytest.fixture
def split(tmp_path):
    """split(texts, ...) reads a split of one 20 x 30 image per label text."""

    def read(texts, labels="skip", nc=3, **options):
        for number, text in enumerate(texts):
            for kind in ("images", "labels"):
                (tmp_path / kind).mkdir(exist_ok=True)
            write_image(tmp_path / "images" / f"{number}.png", np.full((20, 30, 3), 100, np.uint8))
            (tmp_path / "labels" / f"{number}.txt").write_text(text)
        single = options.pop("single_cls", False)
        settings = {"names": NAMES, "report_dir": tmp_path / "run", "split": "train", **options}
        return read_labels(tmp_path / "images", nc, SplitOptions(labels=labels, single_cls=single), **settings)

    return read


def people(count, seed=0, dims=3, points=17):
    """Rows of persons, boxes with key points in them; the last point of each was not labeled. Returns rows, boxes."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.4, (count, 2))
    boxes = np.concatenate((rng.uniform(size / 2, 1 - size / 2), size), 1).round(6)
    rows = []
    for box in boxes:
        spots = box[:2] + (rng.random((points, 2)) - 0.5) * box[2:]
        numbers = np.concatenate((spots, np.full((points, 1), 2)), 1)[:, :dims]
        numbers[-1] = 0
        rows.append("0 " + " ".join(f"{value:.6f}" for value in (*box, *numbers.ravel())))
    return rows, boxes


# polygons


def test_a_triangle_is_a_polygon_whatever_stands_beside_it(tmp_path):
    for text, boxes in (
        (TRIANGLE, [[0.2, 0.25, 0.2, 0.3]]),
        (f"{TRIANGLE}\n{BOX}", [[0.2, 0.25, 0.2, 0.3], [0.5, 0.5, 0.2, 0.4]]),
        (f"{BOX}\n{TRIANGLE}\n{SQUARE}", [[0.5, 0.5, 0.2, 0.4], [0.2, 0.25, 0.2, 0.3], [0.3, 0.4, 0.4, 0.4]]),
    ):
        rows = rows_of(tmp_path, text)
        assert np.allclose(rows.xywhn, boxes) and not rows.problems
    assert [len(segment) for segment in rows.segments] == [4, 3, 4]
    assert np.allclose(rows.segments[1], [[0.1, 0.1], [0.3, 0.1], [0.2, 0.4]])
    assert rows_of(tmp_path, BOX).segments == []


@pytest.mark.parametrize("count", [7, 9, 11, 21, 201])
def test_any_odd_number_from_seven_is_a_polygon(tmp_path, count):
    angles = np.linspace(0, 2 * np.pi, (count - 1) // 2, endpoint=False)
    points = np.stack((0.5 + 0.25 * np.cos(angles), 0.5 + 0.25 * np.sin(angles)), 1)
    rows = rows_of(tmp_path, f"0 {' '.join(map(str, points.ravel()))}\n{BOX}\n")
    assert len(rows.segments[0]) == len(points)
    assert np.allclose(rows.xywhn[0, 2:], np.ptp(points, axis=0)) and not rows.problems


@pytest.mark.parametrize(("more", "words"), [(1, "a box and one more, such as a confidence"), (3, "a box and 3 more")])
def test_an_even_number_of_values_names_the_remedy(tmp_path, more, words):
    row = f"{BOX}{' 0.9' * more}"
    (problem,) = rows_of(tmp_path, row).problems
    assert words in problem.reason and "--labels boxes reads the box" in problem.reason
    assert np.allclose(rows_of(tmp_path, row, "boxes").xywhn, [[0.5, 0.5, 0.2, 0.4]])


# key points and oriented boxes


def test_key_points_that_cannot_be_polygons_are_read_as_their_boxes(split, tmp_path, caplog):
    rows, boxes = people(12)
    with caplog.at_level("INFO", "yolo"):
        store = split(["\n".join(rows[start : start + 3]) for start in range(0, 12, 3)])
    assert np.allclose(store.xywhn, boxes, atol=1e-6) and len(store.points) == 0
    what = "all 12 rows of 56 values are boxes with 17 key points x y v behind them; the boxes are read"
    assert what in caplog.text and store.summary.endswith("12 rows read as the box in front")
    (row,) = csv.DictReader((tmp_path / "run" / "labels_train.csv").open())
    assert (row["line"], row["reason"], row["action"]) == ("1", what, "box read")


@pytest.mark.parametrize("dims", [2, 3])
def test_key_points_or_polygons_is_for_the_user_to_say(split, dims):
    rows, boxes = people(12, dims=dims, points=4)  # 13 or 17 values
    if dims == 3:
        rows = [row.replace(" 2.000000", " 1.000000") for row in rows]
    width = 5 + 4 * dims
    remedy = rf"all 12 rows of {width} values may be boxes with 4 key points or polygons of {(width - 1) // 2} points"
    with pytest.raises(DataError, match=rf"train: .*0\.txt:1 {remedy}: --labels boxes .*kpt_shape: \[4, {dims}\]"):
        split(["\n".join(rows)])
    assert np.allclose(split(["\n".join(rows)], "boxes").xywhn, boxes, atol=1e-6)
    assert np.allclose(split(["\n".join(rows)], keypoints=(4, dims)).xywhn, boxes, atol=1e-6)
    if dims == 2:
        polygons = split(["\n".join(rows)], "polygons")
        assert len(polygons.cls) == 12 and len(polygons.points) == 12 * 6
        assert not np.allclose(polygons.xywhn, boxes, atol=1e-2)


def test_a_bad_row_does_not_hide_what_the_others_are(tmp_path):
    rows, _ = people(40)
    text = "\n".join([*rows, "0 " + "0.9 " * 55, BOX])
    found = rows_of(tmp_path, text).long
    assert found.keypoints() == (17, 3) and found.triples == 40 and found.count == 41
    assert interpret(found, RowRules(3)).rules.reading.shape == "boxes"


@pytest.mark.parametrize("points", [3, 4, 5, 8])
@pytest.mark.parametrize("place", [0.05, 0.3, 0.5, 0.9])
def test_polygons_are_not_mistaken_for_key_points(points, place):
    """Small ones in the middle have a first corner and a second that look like a box around all others."""
    rng, rows = np.random.default_rng(points), []
    for line in range(9):
        angles = np.sort(rng.uniform(0, 2 * np.pi, points))
        middle, radius = place + rng.uniform(-0.02, 0.02, 2), rng.uniform(0.01, 0.03)
        corners = middle + radius * np.stack((np.cos(angles), np.sin(angles)), 1)
        rows.append((line, corners.ravel()))
    assert in_common("a.txt", rows).keypoints() is None


def turned(angle, width=0.3, height=0.1):
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    return 0.5 + half @ np.array([[cosine, sine], [-sine, cosine]])


def test_oriented_boxes_become_their_outer_boxes_with_a_note(split, caplog):
    corners = [turned(angle) for angle in (0.3, 0.7, 0.0)]
    text = "\n".join(f"0 {' '.join(f'{value:.6f}' for value in each.ravel())}" for each in corners)
    with caplog.at_level("INFO", "yolo"):
        store = split([text])
    assert np.allclose(store.xywhn[:, 2:], [np.ptp(each, axis=0) for each in corners], atol=1e-5)
    assert "NOTE: train: " in caplog.text
    assert "all 3 rows of 9 values are oriented boxes; their outer boxes are read" in caplog.text
    assert "WARNING: " not in caplog.text
    caplog.clear()
    split([f"{text}\n{TRIANGLE}\n{TRIANGLE.replace('0.4', '0.5')}"])  # some polygons: then all are
    assert "oriented" not in caplog.text


def test_long_rows_add_up_in_any_grouping():
    rows, _ = people(6)
    numbers = [(line, np.array(row.split()[1:], float)) for line, row in enumerate(rows)]
    parts = [in_common("a", numbers[:2]), in_common("b", numbers[2:]), LongRows()]
    assert sum(parts, LongRows()) == in_common("a", numbers) == LongRows() + in_common("a", numbers)


# names and numbers of classes


def test_names_are_named_and_read_if_asked(split, tmp_path):
    text = "cat 0.5 0.5 0.2 0.2\ntraffic light 0.2 0.2 0.1 0.1\nDOG 0.1 0.1 0.3 0.1 0.2 0.4\n"
    with pytest.raises(DataError, match=r"begins with the class name 'cat': --labels names reads names"):
        split([text])
    store = split([text], "names")
    assert store.cls.tolist() == [0, 1, 2]
    assert np.allclose(store.xywhn, [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1], [0.2, 0.25, 0.2, 0.3]])
    reasons = [problem.reason for problem in rows_of(tmp_path, text).problems]
    assert [reason.split(":")[0] for reason in reasons] == [
        "begins with the class name 'cat'",
        "begins with the class name 'traffic light'",
        "begins with the class name 'DOG'",
    ]
    assert split([text], "names", nc=1, single_cls=True).cls.tolist() == [0, 0, 0]


def test_a_name_that_is_a_number_is_a_name(tmp_path):
    assert rows_of(tmp_path, BOX, "names", names=("2", "1", "0")).cls.tolist() == [0]
    assert rows_of(tmp_path, BOX, names=("2", "1", "0")).cls.tolist() == [2]


def test_a_name_that_the_yaml_does_not_have_stops_the_run(split):
    with pytest.raises(DataError, match=r"0\.txt:1 class 'cta' must be one of the names .*did you mean cat"):
        split(["cta 0.5 0.5 0.2 0.2"], "names")


@pytest.mark.parametrize(
    ("used", "nc", "words"),
    [
        ({1, 2, 3}, 3, "count classes from 1"),
        ({1, 3}, 3, "count classes from 1"),
        ({0, 1, 3}, 3, ""),
        ({2, 4}, 3, ""),
        ({2, 4, 9}, 3, "category ids of where they come from (2, 4, 9)"),
        ({3, 10**6}, 3, ""),
        ({3, 7}, 2, "category ids of where they come from (3, 7)"),
        ({3, 7, 9}, 2, ""),
        ({-1, 3}, 3, ""),
        ({1, 44, 90}, 80, "COCO's category ids"),
        ({1, 12, 90}, 80, ""),  # 12 is no id of COCO's
        (set(range(1, 81)), 80, "count classes from 1"),
        (set(range(1, 81)) - class_numbers.COCO_GAPS, 80, "COCO's category ids"),
        ({1, 80}, 80, "count classes from 1"),
        (set(), 3, ""),
    ],
)
def test_class_numbers_from_elsewhere_are_named(used, nc, words):
    found = class_numbers.explain(used, nc)
    assert words in found and bool(words) == bool(found)


def test_coco_has_80_classes_and_ten_gaps():
    assert len(set(range(1, 91)) - class_numbers.COCO_GAPS) == class_numbers.COCO_CLASSES


def test_the_error_about_a_class_says_what_the_numbers_are(split):
    texts = [f"{number} 0.5 0.5 0.2 0.2" for number in (1, 2, 3)]
    with pytest.raises(DataError, match=r"2\.txt:1 class 3 must be one of 0 to 2; the labels seem to count .* from 1"):
        split(texts)
    with pytest.raises(DataError, match=r"class 7 must be one of 0 to 2 \(2 such rows\); .*ids .*\(7, 9\)"):
        split([text.replace("1 ", "7 ").replace("2 0.5", "9 0.5") for text in texts[:2]] + [""])


@pytest.mark.parametrize("text", ["1e20", "-1", "1e300", "4294967296"])
def test_a_class_that_is_no_class_number_stops_single_cls_too(split, text):
    with pytest.raises(DataError, match=rf"0\.txt:1 class {text} must be 0 to 2147483647"):
        split([f"{text} 0.5 0.5 0.2 0.2"], nc=1, single_cls=True)
    assert split(["2147483647 0.5 0.5 0.2 0.2"], nc=1, single_cls=True).cls.tolist() == [0]


# reports


def test_tokens_are_cut_and_escaped(tmp_path):
    long = "x" * 5000
    text = f"{long} 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 {long}\n0 0.5 0.5 \x1b[2J 0.2\n" + f"9{'0' * 300} 0.5 0.5 0.2 0.2\n"
    reasons = [problem.reason for problem in rows_of(tmp_path, text).problems]
    assert all(len(reason) < 120 and "\x1b" not in reason for reason in reasons)
    assert reasons[0].startswith("class 'xxxxxx") and reasons[0].endswith("... is not a number")
    assert reasons[2] == r"'\x1b[2J' is not a number"


@pytest.mark.parametrize(
    "row", ["0,0.5,0.5,0.2,0.2", "0;0.5;0.5;0.2;0.2", "0 0,5 0,5 0,2 0,2", "0, 0.5, 0.5, 0.2, 0.2"]
)
def test_commas_are_named(tmp_path, row):
    (problem,) = rows_of(tmp_path, row).problems
    assert problem.reason.endswith("is not a number: write spaces between values and points in decimals")


def test_equal_problems_of_a_file_are_one(split):
    bad = "0 0.5 0.5 0.2\n"
    store = split([BOX + "\n" + bad * 9 + "0 2 0.5 0.1 0.1\n", bad * 2])
    assert [(problem.line, problem.rows) for problem in store.problems] == [(2, 9), (11, 1), (1, 2)]
    assert store.problems[0].reason.endswith("(so do 8 more rows, lines: 3, 4, 5, 6, 7, ...)")
    assert store.problems[2].reason.endswith("(so does 1 more row, line: 2)")
    assert "12 rows dropped" in store.summary
    assert grouped([Problem("a", 1, "x", "clipped"), Problem("a", 2, "x", "row dropped")])[1].rows == 1


# the flag and the cache


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("skip", LabelReading()),
        ("strict,names", LabelReading("strict", by_name=True)),
        ("boxes, clip", LabelReading("clip", "boxes")),
        ("polygons", LabelReading(shape="polygons")),
    ],
)
def test_words_of_the_flag(text, reading):
    assert LabelReading.of(text) == reading


@pytest.mark.parametrize(
    ("text", "words"),
    [("box", "did you mean boxes"), ("skip,clip", "skip and clip contradict"), ("boxes,polygons", "contradict")],
)
def test_words_that_cannot_be(text, words):
    with pytest.raises(ConfigError, match=words):
        LabelReading.of(text)


def test_the_cache_is_of_one_way_of_reading(split):
    rows, boxes = people(12, dims=2, points=4)
    text = ["\n".join(rows)]
    for _ in range(2):  # from the files, then from the cache
        assert np.allclose(split(text, "boxes").xywhn, boxes, atol=1e-6)
        assert not np.allclose(split(text, "polygons").xywhn, boxes, atol=1e-2)
        with pytest.raises(DataError, match="may be boxes"):
            split(text)
        assert np.allclose(split(text, keypoints=(4, 2)).xywhn, boxes, atol=1e-6)
