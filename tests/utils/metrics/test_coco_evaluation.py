"""COCO's evaluation against pycocotools: random sets with crowds, ties and empty classes, equal to the last bits."""

import contextlib
import io

import numpy as np
import pytest

from utils.metrics import coco_evaluation
from utils.metrics.coco_evaluation import CocoDetections, CocoLabels, coco_curves

pytest.importorskip("pycocotools")

LIMITS = (1, 10, 100, 300)
VIEWS = tuple((area, limit) for area in range(4) for limit in LIMITS)


def annotations(image, cls, xywh, **columns):
    rows = zip(
        image.tolist(), cls.tolist(), xywh.tolist(), *(column.tolist() for column in columns.values()), strict=True
    )
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": cls,
            "bbox": box,
            "area": box[2] * box[3],
            **dict(zip(columns, rest, strict=True)),
        }
        for number, (image, cls, box, *rest) in enumerate(rows, 1)
    ]


def reference(labels, found, images, nc):
    """Precision (10, 101, nc, 4, 4) and recall (10, nc, 4, 4) by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = COCO(), COCO()
    head = {"images": [{"id": index} for index in range(images)], "categories": [{"id": c} for c in range(nc)]}
    crowd = labels.crowd.astype(int)
    truth.dataset = head | {"annotations": annotations(labels.image, labels.cls, labels.xywh, iscrowd=crowd)}
    results.dataset = head | {
        "annotations": annotations(found.image, found.cls, found.xywh, score=found.score, iscrowd=0 * found.cls)
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results.createIndex()
        evaluator = COCOeval(truth, results, "bbox")
        evaluator.params.maxDets = list(LIMITS)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def random_set(seed):
    """Labels and detections with equal scores, equal boxes, crowds, images and classes without either."""
    rng = np.random.default_rng(seed)
    images, nc = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    count = int(rng.integers(0, 40))
    scale = rng.choice([20.0, 60.0, 300.0], count)[:, None]
    boxes = np.concatenate((rng.uniform(0, 60, (count, 2)), rng.uniform(2, 1.2 * scale, (count, 2))), 1)
    boxes = boxes.round(rng.integers(0, 2))  # whole pixels: equal overlaps
    labels = CocoLabels(rng.integers(0, images, count), rng.integers(0, nc, count), boxes, rng.random(count) < 0.15)
    copies = int(rng.integers(0, 8))
    source = np.repeat(np.arange(count), copies)
    jitter = rng.normal(0, rng.choice([0.0, 1.0, 4.0]), (len(source), 4)).round()
    xywh = np.maximum(boxes[source] + jitter, 0)
    cls = np.where(rng.random(len(source)) < 0.8, labels.cls[source], rng.integers(0, nc, len(source)))
    score = rng.random(len(source)).round(int(rng.integers(1, 4)))
    return labels, CocoDetections(labels.image[source], cls, xywh, score), images, nc


def assert_same(labels, found, images, nc):
    precision, recall = reference(labels, found, images, nc)
    curves = coco_curves(labels, found, nc, VIEWS)
    for (area, limit), view in curves.items():
        np.testing.assert_allclose(view.precision, precision[..., area, LIMITS.index(limit)], rtol=0, atol=1e-12)
        np.testing.assert_allclose(view.recall, recall[..., area, LIMITS.index(limit)], rtol=0, atol=1e-12)
    return curves


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_equals_pycocotools_on_random_sets(first):
    means = []
    for seed in range(first, first + 50):
        labels, found, images, nc = random_set(seed)
        curves = assert_same(labels, found, images, nc)
        means.append(curves[0, 300].precision.mean())
    assert np.ptp(means) > 0.5  # the sets are neither all missed nor all found


def test_equals_pycocotools_on_the_reference_detections(golden):
    arrays = golden("metrics.npz")
    tables = []
    for name in ("ground_truth", "detections"):
        image, cls, *xyxy = arrays[name].T[:6].astype(np.float64)
        xywh = np.stack((xyxy[0], xyxy[1], xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]), 1)
        tables.append((image.astype(int), cls.astype(int), xywh))
    labels = CocoLabels(*tables[0], np.zeros(len(tables[0][0]), bool))
    found = CocoDetections(*tables[1], arrays["detections"][:, 6].astype(np.float64))
    curves = assert_same(labels, found, 60, 5)
    valid = curves[0, 300].precision[curves[0, 300].precision > -1]
    assert valid.mean() == pytest.approx(float(arrays["coco_map"]), abs=1e-6)


def test_equals_pycocotools_on_a_crowd_beyond_the_limits():
    rng = np.random.default_rng(0)
    boxes = np.concatenate((rng.uniform(0, 30, (6, 2)), rng.uniform(20, 60, (6, 2))), 1)
    labels = CocoLabels(np.zeros(6, int), np.zeros(6, int), boxes, np.arange(6) == 5)
    near = np.maximum(boxes[rng.integers(0, 6, 700)] + rng.normal(0, 4, (700, 4)), 1)
    found = CocoDetections(np.zeros(700, int), np.zeros(700, int), near, rng.random(700).round(2))
    assert_same(labels, found, 1, 1)


def test_parts_of_the_pairs_make_no_difference(monkeypatch):
    labels, found, _, nc = random_set(8)
    assert len(found.cls) > 30
    whole = coco_curves(labels, found, nc, VIEWS)
    monkeypatch.setattr(coco_evaluation, "_PAIRS_AT_ONCE", 7)
    for view, curves in coco_curves(labels, found, nc, VIEWS).items():
        assert np.array_equal(curves.precision, whole[view].precision)
        assert np.array_equal(curves.recall, whole[view].recall)


def test_the_rounds_do_not_grow_with_images_and_classes(monkeypatch):
    rounds = []
    first_free = coco_evaluation._first_free
    monkeypatch.setattr(coco_evaluation, "_first_free", lambda *args: rounds.append(1) or first_free(*args))
    images, nc = 400, 5  # two labels of one class and three detections of it in each image
    image, cls = np.arange(images), np.arange(images) % nc
    box = np.array([[10.0, 10, 50, 50], [30, 10, 50, 50], [11, 10, 50, 50]])
    labels = CocoLabels(
        np.repeat(image, 2), np.repeat(cls, 2), np.tile(box[:2], (images, 1)), np.zeros(2 * images, bool)
    )
    found = CocoDetections(
        np.repeat(image, 3), np.repeat(cls, 3), np.tile(box, (images, 1)), np.tile([0.9, 0.8, 0.7], images)
    )
    curves = coco_curves(labels, found, nc, ((0, 300), (0, 1), (2, 300)))
    assert len(rounds) == 2 * 3  # two ranges of areas
    np.testing.assert_array_equal(curves[0, 300].recall[0], np.ones(nc))
    np.testing.assert_array_equal(curves[0, 1].recall[0], np.full(nc, 0.5))
