"""COCO's figures: the reference, cases worked out by hand, and empty datasets."""

import dataclasses

import numpy as np
import pytest
import torch

from utils.metrics.average_precision import ImageResult
from utils.metrics.coco import coco_metrics, explain_difference
from utils.types import Detections


def image(index, labels_cls, labels_xyxy, xyxy=(), conf=(), cls=()) -> ImageResult:
    found = Detections(
        torch.tensor(xyxy, dtype=torch.float64).view(-1, 4),
        torch.tensor(conf, dtype=torch.float64),
        torch.tensor(cls, dtype=torch.int64),
    )
    labels = np.array(labels_cls, int), np.array(labels_xyxy, float).reshape(-1, 4)
    return ImageResult(index, f"{index}.jpg", (480, 640), found, *labels)


def reference_results(arrays):
    truth, found = arrays["ground_truth"], arrays["detections"]
    for index in range(60):
        labels, rows = truth[truth[:, 0] == index], found[found[:, 0] == index]
        yield image(index, labels[:, 1], labels[:, 2:], rows[:, 2:6].tolist(), rows[:, 6].tolist(), rows[:, 1].tolist())


def test_equals_the_reference_figures(golden, capsys):
    arrays = golden("metrics.npz")
    metrics = coco_metrics(list(reference_results(arrays)), 5)
    assert metrics.ap == pytest.approx(float(arrays["coco_map"]), abs=1e-6)
    assert metrics.ap50 == pytest.approx(float(arrays["coco_map50"]), abs=1e-6)
    np.testing.assert_allclose(metrics.ap_by_iou, np.nan_to_num(arrays["coco_ap_iou_by_class"]), atol=1e-6)
    assert metrics.ap75 == pytest.approx(np.nanmean(arrays["coco_ap_iou_by_class"][5]), abs=1e-6)
    assert metrics.class_ap.shape == (5,) and metrics.class_ap[4] == 0
    assert capsys.readouterr().out == ""


def test_sizes_are_those_of_boxes_in_native_pixels():
    small, medium, large = [0, 0, 20, 20], [50, 50, 100, 100], [200, 100, 400, 400]
    metrics = coco_metrics([image(0, [0, 0, 0], [small, medium, large], [small, large], [0.9, 0.8], [0, 0])], 1)
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == (pytest.approx(1), 0, pytest.approx(1))
    assert metrics.ar == pytest.approx(2 / 3) and metrics.ar1 == pytest.approx(1 / 3)
    assert (metrics.ar_small, metrics.ar_medium, metrics.ar_large) == (1, 0, 1)


def test_a_size_without_objects_is_none():
    metrics = coco_metrics([image(0, [0], [[0, 0, 20, 20]], [[0, 0, 20, 20]], [0.5], [0])], 1)
    assert metrics.ap == pytest.approx(1) and metrics.ap_large is None and metrics.ar_medium is None


def test_the_limits_count():
    box = [10.0, 10, 60, 60]
    wrong = [[300.0 + k, 300, 301 + k, 302] for k in range(150)]
    metrics = coco_metrics([image(0, [0], [box], [*wrong, box], [0.9] * 150 + [0.1], [0] * 151)], 1)
    assert (
        metrics.ar100 == 0 and metrics.ar == 1 and metrics.ap100 == 0 and metrics.ap == pytest.approx(1 / 151, rel=1e-3)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "results",
    [
        [],
        [image(0, [], [])],
        [image(0, [1], [[0, 0, 9, 9]])],
        [image(0, [], [], [[0, 0, 9, 9]], [0.5], [1])],
        [image(0, [1], [[0, 0, 9, 9]], [[0, 0, 9, 9]], [0.5], [7])],
    ],
)
def test_nothing_there_or_nothing_found_gives_zeros(results):
    metrics = coco_metrics(results, 3)
    figures = dataclasses.asdict(metrics)
    assert not figures.pop("ap_by_iou").any()
    assert all(value in (0, None) for value in figures.values())


def test_a_difference_worth_a_word_is_explained():
    assert explain_difference(0.343, 0.344) is None
    line = explain_difference(0.214, 0.160)
    assert "0.214" in line and "0.160" in line and "(1, 0)" in line
    assert "(1, 0)" not in explain_difference(0.1, 0.2)
