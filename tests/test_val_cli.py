"""val.py from its command line: what it prints, writes and refuses."""

import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import val
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.cli import run_guarded
from utils.datasets.splits import open_split
from utils.engine.validation_files import COCO_IDS, category_ids, write_metrics
from utils.files import ROOT
from utils.images import write_image
from utils.metrics.average_precision import table_rows
from utils.statistics.tide import error_kinds
from utils.types import LossParts

TINY = {  # three levels and a head, nothing else
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [59, 119, 116, 90]],
    "backbone": [[-1, 1, "Conv", [8, 6, 8, 0]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[0, 1, 2], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A network with random weights that is sure of what it sees, so that there are boxes to write."""
    torch.manual_seed(0)
    model = Model(TINY)
    model.names = ["square", "disc"]
    with torch.no_grad():
        for convolution in model.head.m:
            convolution.bias.view(model.geometry.anchors_per_level, -1)[:, 4] += 5
    return write_checkpoint(checkpoint_of(model), tmp_path_factory.mktemp("weights") / "random.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six images of two network inputs, two of one name in different folders, one without labels."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = ("1.jpg", "2.jpg", "a/same.jpg", "b/same.jpg", "wide é.jpg", "empty.jpg")
    for name, (height, width) in zip(names, [(64, 64), (64, 64), (61, 95), (64, 96), (47, 97), (33, 64)], strict=True):
        image, label = root / "images" / name, (root / "labels" / name).with_suffix(".txt")
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        label.write_text("" if name == "empty.jpg" else "0 0.5 0.5 0.4 0.5\n1 0.2 0.3 0.2 0.2\n")
    yaml = root / "tiny.yaml"
    yaml.write_text(f"path: '{root.as_posix()}'\ntrain: images\nval: images\nnames: [square, disc]\n", encoding="utf-8")
    return yaml


def options_of(weights, data, folder) -> dict:
    return dict(
        weights=str(weights), data=str(data), imgsz=64, batch_size=4, workers=0, device="cpu", project=str(folder)
    )


@pytest.fixture(scope="module")
def complete(weights, data, tmp_path_factory):
    """A run with all its files."""
    return val.run(
        **options_of(weights, data, tmp_path_factory.mktemp("runs")), save_txt=True, save_conf=True, save_json=True
    )


@pytest.fixture
def options(weights, data, tmp_path, monkeypatch) -> dict:
    """The same without images, which cost most of a run's time."""
    without_pictures(monkeypatch)
    return options_of(weights, data, tmp_path / "runs")


def without_pictures(monkeypatch) -> None:
    monkeypatch.setattr("utils.engine.validation.draw_figures", lambda *_: None)
    monkeypatch.setattr("utils.engine.validation_files.DRAWN_BATCHES", 0)


def test_help_answers_at_once():
    times = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, ROOT / "val.py", "--help"], capture_output=True, text=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert (
        done.returncode == 0 and "--save-hybrid" in done.stdout and "--task {train,val,test,speed,study}" in done.stdout
    )
    assert min(times) < 0.6  # processor time, which other work on the machine hardly changes; torch alone takes longer


def test_abbreviations_and_defaults_are_v61s():
    config = val.parse_opt(["--img", "320", "--batch", "8", "--conf", "0.01", "--iou", "0.5"])
    assert (config.imgsz, config.batch_size, config.conf_thres, config.iou_thres, config.task) == (
        320,
        8,
        0.01,
        0.5,
        "val",
    )
    config = val.parse_opt([])
    assert (config.imgsz, config.batch_size, config.conf_thres, config.iou_thres, config.max_det) == (
        640,
        32,
        0.001,
        0.6,
        300,
    )


def test_a_run_leaves_its_files_and_unpacks_as_v61s(complete):
    figures, class_map, times = complete
    assert len(figures) == 7 and class_map.shape == (2,) and len(times) == 3 and min(times) > 0
    files = {file.name for file in complete.save_dir.iterdir()}
    curves = {"F1_curve.png", "P_curve.png", "R_curve.png", "PR_curve.png"}
    assert {"metrics.json", "confusion_matrix.png", "errors.png"} | curves <= files
    assert {f"val_batch{number}_{kind}.jpg" for number in range(2) for kind in ("labels", "pred")} <= files


def test_metrics_json_holds_both_evaluators(complete):
    content = json.loads((complete.save_dir / "metrics.json").read_text(encoding="utf-8"))
    metrics, coco = complete.evaluation.metrics, complete.evaluation.coco
    assert (content["images"], content["labels"]) == (6, 10)
    assert (
        content["yolov5"]["map"] == metrics.map and content["coco"]["ap"] == coco.ap and "ap_small" in content["coco"]
    )
    assert [one["name"] for one in content["classes"]] == ["square", "disc"]
    assert content["classes"][1]["ap_by_iou"] == metrics.ap[1].tolist()
    assert np.sum(content["confusion_matrix"]["counts"]) == complete.evaluation.confusion.matrix.sum() > 10
    assert (
        content["settings"]["imgsz"] == 64
        and content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    )


def test_metrics_json_says_null_for_what_is_no_number(complete, tmp_path):
    broken = dataclasses.replace(complete.evaluation, losses=LossParts(float("nan"), float("inf"), 1.0))
    content = json.loads(write_metrics(broken, ("square", "disc"), tmp_path, {}).read_text())
    assert content["losses"] == {"box": None, "obj": None, "cls": 1.0}


def figures_printed(text: str) -> list[str]:
    """The lines of val.py that hold figures, without times and paths."""
    lines = [line for line in text.splitlines() if re.search(r"\d", line)]
    return [line for line in lines if not re.search("Speed:|saved to|labels|images.* found|Scanning|cache", line)]


def test_printed_digits_do_not_depend_on_batch_size_or_workers(options, caplog):
    printed = []
    for batch, workers in ((1, 0), (7, 0), (32, 0), (1, 4), (7, 4)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "yolo"):
            val.run(**{**options, "batch_size": batch, "workers": workers}, verbose=True)
        printed.append(figures_printed("\n".join(record.getMessage() for record in caplog.records)))
    assert len(printed[0]) >= 14 and {"all", "square", "disc"} <= {line.split()[0] for line in printed[0]}
    # Another batch is other kernels, which move a confidence by 1e-7 of itself. A right box and a wrong one are 4e-5
    # apart, overlaps 5e-4 from where they count.
    assert all(other == printed[0] for other in printed[1:])


def test_each_class_has_the_confidence_of_its_best_f1(complete, options, caplog):
    content = json.loads((complete.save_dir / "metrics.json").read_text(encoding="utf-8"))
    curves, metrics = complete.evaluation.curves, complete.evaluation.metrics
    for row, one in enumerate(content["classes"]):
        smoothed = [curves.f1[row].take(range(place - 50, place + 51), mode="clip").mean() for place in range(1000)]
        place = round(999 * one["best_f1_confidence"])  # of equal means rounding decides which is the first
        assert smoothed[place] == pytest.approx(max(smoothed), rel=1e-12)
        assert one["best_f1_confidence"] == pytest.approx(place / 999) and one["best_f1"] == curves.f1[row, place] > 0
        assert (one["best_f1_precision"], one["best_f1_recall"]) == (
            curves.precision[row, place],
            curves.recall[row, place],
        )
    assert content["yolov5"]["best_f1_confidence"] == metrics.confidence
    with caplog.at_level(logging.INFO, "yolo"):
        val.run(**options, verbose=True)
    lines = [record.getMessage() for record in caplog.records]
    table = lines[next(number for number, line in enumerate(lines) if "Best F1" in line) :][:4]
    assert [line.split()[0] for line in table] == ["Best", "all", "square", "disc"]
    assert float(table[2].split()[2]) == pytest.approx(content["classes"][0]["best_f1_confidence"], rel=5e-3)


def test_a_class_that_is_never_found_has_no_best_f1(options):
    result = val.run(**options, conf_thres=1.0)
    classes = json.loads((result.save_dir / "metrics.json").read_text())["classes"]
    assert [one["best_f1_confidence"] for one in classes] == [None, None]


def test_confusion_matrix_at_thresholds_of_choice(complete, options):
    """Counted again by hand for what needs no pairing: how many detections there are over the threshold."""

    def matrix(result):
        content = json.loads((result.save_dir / "metrics.json").read_text(encoding="utf-8"))
        return content["confusion_matrix"]

    default, strict = matrix(complete), matrix(val.run(**options, confusion_conf=0.26, confusion_iou=0.7))
    loose = matrix(val.run(**options, confusion_conf=0.1, confusion_iou=0.2))
    assert (default["conf_thres"], default["iou_thres"]) == (0.25, 0.45)
    assert (strict["conf_thres"], strict["iou_thres"]) == (0.26, 0.7)
    for content, threshold in ((default, 0.25), (strict, 0.26), (loose, 0.1)):
        sure = sum(int((one.detections.conf > threshold).sum()) for one in complete.evaluation.results)
        assert np.sum(content["counts"][:2]) == sure > 0
    pairs = [np.sum(np.array(content["counts"])[:2, :2]) for content in (loose, strict)]
    assert pairs[0] > pairs[1]
    assert matrix(val.run(**options, conf_thres=0.5))["conf_thres"] == 0.5, (
        "what --conf-thres left out cannot be counted"
    )


def test_errors_by_kind(complete, options, caplog):
    with caplog.at_level(logging.INFO, "yolo"):
        content = json.loads((val.run(**options).save_dir / "metrics.json").read_text())["errors"]
    results = complete.evaluation.results
    every, sure = error_kinds(results, 2), error_kinds(results, 2, 0.25)
    assert content["conf_thres"] == 0.25
    assert [(one["kind"], one["count"]) for one in content["kinds"]] == [row[:2] for row in sure.rows()]
    assert [one["map50_cost"] for one in content["kinds"]] == pytest.approx(every.costs.tolist())
    assert sum(one["count"] for one in content["kinds"]) > 10 and every.counts.sum() > sure.counts.sum()
    assert np.sum(list(content["counts_by_class"].values())) == sure.counts.sum()
    lines = [record.getMessage() for record in caplog.records]
    start = next(number for number, line in enumerate(lines) if "Errors (TIDE)" in line)
    assert [line.split()[0] for line in lines[start + 1 : start + 7]] == [one["kind"] for one in content["kinds"]]


def test_label_files_hold_the_detections(complete):
    folder = complete.save_dir / "labels"
    assert {"1.txt", "2.txt", "same.txt", "same_2.txt", "wide é.txt"} <= {file.name for file in folder.iterdir()}
    one = next(one for one in complete.evaluation.results if one.path.endswith("1.jpg"))
    rows = np.loadtxt(folder / "1.txt", ndmin=2)
    assert rows.shape == (len(one.detections), 6) and len(rows) > 0
    xyxy = one.detections.xyxy.numpy() / 64
    np.testing.assert_allclose(rows[:, 1], (xyxy[:, 0] + xyxy[:, 2]) / 2, atol=1e-5)
    np.testing.assert_allclose(rows[:, 4], xyxy[:, 3] - xyxy[:, 1], atol=1e-5)
    np.testing.assert_allclose(rows[:, 5], one.detections.conf, atol=1e-5)


def test_a_second_run_into_the_same_folder_replaces_its_files(options):
    first = val.run(**options, save_txt=True, exist_ok=True)
    before = (first.save_dir / "labels" / "1.txt").read_text()
    second = val.run(**options, save_txt=True, exist_ok=True)
    assert val.run(**options).save_dir.name == "exp2"
    assert second.save_dir == first.save_dir and (first.save_dir / "labels" / "1.txt").read_text() == before
    assert len(before.splitlines()[0].split()) == 5
    nothing = val.run(**options, save_txt=True, exist_ok=True, conf_thres=1.0)
    assert not list((nothing.save_dir / "labels").iterdir())


def test_hybrid_files_hold_the_labels_too(options):
    result = val.run(**options, save_hybrid=True, save_conf=True)
    rows = np.loadtxt(result.save_dir / "labels" / "1.txt", ndmin=2)
    certain = rows[rows[:, 5] == 1]
    labels = [[0, 0.5, 0.5, 0.4, 0.5], [1, 0.2, 0.3, 0.2, 0.2]]
    np.testing.assert_allclose(certain[certain[:, 0].argsort(), :5], labels, atol=1e-5)


def test_coco_results(complete):
    records = json.loads((complete.save_dir / "random_predictions.json").read_text())
    assert len(records) == sum(len(one.detections) for one in complete.evaluation.results) > 0
    assert {record["image_id"] for record in records} == {1, 2, "same", "wide é", "empty"}
    one = next(one for one in complete.evaluation.results if one.path.endswith("1.jpg"))
    record = next(record for record in records if record["image_id"] == 1)
    left, top, right, bottom = one.detections.xyxy[0].tolist()
    assert record["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
    assert set(record) == {"image_id", "category_id", "bbox", "score"}
    assert category_ids(["square", "disc"]) == (0, 1)


def test_cocos_own_class_numbers():
    assert len(COCO_IDS) == 80 and (COCO_IDS[0], COCO_IDS[11], COCO_IDS[79]) == (1, 13, 90)
    names = ["person", *map(str, range(78)), "toothbrush"]
    assert category_ids(names) == COCO_IDS and category_ids(names[::-1]) == tuple(range(80))


def test_one_class_test_time_augmentation_and_verbose(options, capsys):
    result = val.run(**options, single_cls=True, augment=True, verbose=True)
    assert result.evaluation.metrics.labels.tolist() == [10] and result.evaluation.confusion.matrix.shape == (2, 2)


def test_the_speed_task_times_each_file_at_detection_thresholds(options, weights, tmp_path):
    other = shutil.copy(weights, tmp_path / "other.pt")
    result = val.run(**{**options, "weights": (str(weights), str(other))}, task="speed")
    for name in ("random", "other"):
        content = json.loads((result.save_dir / name / "metrics.json").read_text())
        assert content["settings"]["conf_thres"] == 0.25 and content["speed_ms_per_image"]["inference"] > 0
        assert content["settings"]["rect_pad"] == 0


def test_the_border_of_validation_images(options, monkeypatch):
    """Of 64 x 96 pixels at imgsz 64, which are 43 x 64, with a largest stride of 32."""
    opened = []

    def opening(*arguments, **named):
        opened.append(open_split(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr("utils.engine.evaluator.open_split", opening)
    for given in ({}, {"rect_pad": 0}, {"rect_pad": 2}, {"task": "speed"}, {"task": "speed", "rect_pad": 2}):
        val.run(**options, **given)
    place = [Path(path).name for path in opened[0].store.paths].index("same.jpg", 3)
    assert [tuple(dataset.shapes[place].tolist()) for dataset in opened] == [
        (64, 96),
        (64, 64),
        (128, 128),
        (64, 64),
        (128, 128),
    ]


def test_the_study_task_goes_through_sizes(options, monkeypatch):
    monkeypatch.setattr("utils.engine.validation.STUDY_SIZES", (64, 96))
    result = val.run(**options, task="study")
    table = np.loadtxt(result.save_dir / "study_tiny_random.txt")
    assert table.shape == (2, 10) and (table[:, 7:] > 0).any()
    assert (result.save_dir / "study.png").stat().st_size > 1000 and (result.save_dir / "study.zip").stat().st_size > 50


def test_a_split_that_the_data_lack_is_named(options, capsys):
    assert run_guarded(lambda: val.run(**options, task="test")) == 2
    assert "no `test:` given" in capsys.readouterr().err


def test_a_split_of_ones_own_name(options, data, tmp_path, capsys):
    folder = data.parent
    (tmp_path / "two.txt").write_text(
        f"{folder / 'images' / '1.jpg'}\n{folder / 'images' / '2.jpg'}\n", encoding="utf-8"
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        data.read_text(encoding="utf-8") + f"holdout: {tmp_path / 'two.txt'}\nlicense: CC BY 4.0\nyear: 2024\n",
        encoding="utf-8",
    )
    result = val.run(**{**options, "data": str(own)}, task="holdout")
    assert [Path(one.path).name for one in result.evaluation.results] == ["1.jpg", "2.jpg"]
    assert val.parse_opt(["--task", "holdout"]).task == "holdout"
    capsys.readouterr()
    for wrong in ("holdot", "licence", "year", "images/holdout"):
        assert run_guarded(lambda task=wrong: val.run(**{**options, "data": str(own)}, task=task)) == 2
        error = capsys.readouterr().err
        assert f"no `{wrong}:` given" in error and "train, val, holdout" in error and error.count("\n") == 1
        assert ("did you mean holdout" in error) == (wrong == "holdot" or wrong == "images/holdout")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dnn": True}, "--dnn: OpenCV runs .onnx files"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml"),
        ({"imgzs": 64}, "imgsz"),
        ({"task": "vall"}, "val"),
    ],
)
def test_mistakes_end_in_one_line(options, change, words, capsys):
    assert run_guarded(lambda: val.run(**{**options, **change})) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_weights_of_other_classes_are_refused_before_anything_is_read(options, data, tmp_path, capsys):
    other = tmp_path / "three.yaml"
    other.write_text(data.read_text(encoding="utf-8").replace("[square, disc]", "[a, b, c]"), encoding="utf-8")
    assert run_guarded(lambda: val.run(**{**options, "data": str(other)})) == 2
    assert "knows 2 classes" in capsys.readouterr().err


def test_half_without_cuda_goes_on_in_single_precision(options, caplog):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    plain, half = val.run(**options), val.run(**options, half=True)
    assert half.evaluation.row() == plain.evaluation.row()  # the same kernels on the same numbers


def test_real_weights_on_real_pictures_whatever_the_batch(real, tmp_path, monkeypatch):
    """yolov5n.pt on the first 8 images of coco_val128 at 320."""
    without_pictures(monkeypatch)
    folder = real("coco_val128")
    names = ["person", *map(str, range(1, 79)), "toothbrush"]
    listed = tmp_path / "some.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted((folder / "images").glob("*.jpg"))[:8]))
    data = tmp_path / "some.yaml"
    data.write_text(f"path: {folder}\ntrain: {listed}\nval: {listed}\nnc: 80\nnames: {json.dumps(names)}\n")
    options = options_of(real("weights/yolov5n.pt"), data, tmp_path)
    rows = [
        val.run(**{**options, "imgsz": 320, "batch_size": batch}, no_cache_labels=True).evaluation for batch in (1, 7)
    ]
    assert rows[0].metrics.map50 > 0.4 and rows[0].coco.ap > 0.3
    printed = [
        (table_rows(one.metrics, names, per_class=True), f"{one.coco.ap:.3g} {one.coco.ap75:.3g}") for one in rows
    ]
    # Kernels move a confidence by 8e-6 of itself. A right box and a wrong one are 1e-3 apart, overlaps 1e-4 from
    # where they count.
    assert printed[0] == printed[1] and len(printed[0][0]) > 10
