"""AutoAnchor: recall equals its definition, good anchors stay, bad ones are replaced by better ones."""

import logging

import numpy as np
import pytest
import torch

from utils.anchors import anchor_recall, check_anchors, kmeans_anchors
from utils.assignment import assign
from utils.types import HeadGeometry

COCO_PX = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]], np.float32
)


def head(anchors_px=COCO_PX):
    strides = torch.tensor([8.0, 16, 32])
    return HeadGeometry(torch.as_tensor(anchors_px).view(3, 3, 2) / strides.view(-1, 1, 1), strides, 2)


def boxes_around(centers, count, spread, seed=0):
    generator = np.random.default_rng(seed)
    centers = np.asarray(centers, np.float32)[generator.integers(len(centers), size=count)]
    return (centers * np.exp(generator.normal(0, spread, centers.shape))).astype(np.float32)


def plain_recall(wh, anchors, threshold):
    """Best possible recall and anchors per target, box by box."""
    able = [sum(max(w / a, a / w, h / b, b / h) < threshold for a, b in anchors.tolist()) for w, h in wh.tolist()]
    return np.mean([count > 0 for count in able]), np.mean(able)


def plain_closeness(wh, anchors, threshold):
    best = [max(min(w / a, a / w, h / b, b / h) for a, b in anchors.tolist()) for w, h in wh.tolist()]
    return np.mean([closeness if closeness > 1 / threshold else 0 for closeness in best])


def test_recall_equals_its_definition():
    wh = np.random.default_rng(0).uniform(1, 640, (300, 2)).astype(np.float32)
    for threshold in (1.5, 2.0):
        expected = plain_recall(wh, COCO_PX, threshold)
        assert 0.1 < expected[0] < 0.9
        assert anchor_recall(wh, COCO_PX, threshold) == pytest.approx(expected)


def test_recall_is_the_share_that_the_loss_can_assign():
    wh = np.random.default_rng(1).uniform(1, 600, (200, 2)).astype(np.float32)
    bpr, above = anchor_recall(wh, COCO_PX, 3.0)
    targets = torch.zeros(200, 6)
    targets[:, 2:4], targets[:, 4:] = 0.005, torch.from_numpy(wh) / 640  # in the corner: no neighbor cells
    targets[:, 1] = torch.arange(200)
    matched = torch.cat([a.cls for a in assign(targets, ((80, 80), (40, 40), (20, 20)), head(), 3.0)])
    assert len(matched.unique()) / 200 == pytest.approx(bpr) and bpr < 1
    assert len(matched) / 200 == pytest.approx(above)


def test_fitting_anchors_stay(caplog):
    caplog.set_level(logging.INFO, "yolo")
    report = check_anchors(boxes_around(COCO_PX, 500, 0.3), head())
    assert report.bpr > 0.98 and report.new_anchors_px is None
    figures = f"{report.anchors_above:.2f} anchors/target, {report.bpr:.3f} Best Possible Recall (BPR)"
    assert f"AutoAnchor: {figures}. Current anchors are a good fit" in caplog.text


def test_unfit_anchors_are_replaced_by_better_ones(caplog):
    caplog.set_level(logging.INFO, "yolo")
    wh = boxes_around([[4, 200], [300, 6], [12, 12]], 800, 0.2)
    report = check_anchors(wh, head(), generations=200, generator=np.random.default_rng(3))
    assert report.bpr < 0.5
    assert report.new_anchors_px.shape == (9, 2) and report.new_anchors_px.dtype == np.float32
    assert anchor_recall(wh, report.new_anchors_px, 4.0)[0] > 0.99
    areas = report.new_anchors_px.prod(1)
    assert (areas[1:] >= areas[:-1]).all()
    assert "poor fit" in caplog.text and "with new anchors" in caplog.text
    again = check_anchors(wh, head(), generations=200, generator=np.random.default_rng(3))
    # one process, one seed: the same steps on the same numbers
    np.testing.assert_array_equal(again.new_anchors_px, report.new_anchors_px)


def test_no_better_anchors_keep_the_models(caplog):
    caplog.set_level(logging.INFO, "yolo")
    wh = np.concatenate((boxes_around(COCO_PX, 95, 0.1), np.full((5, 2), 0.01, np.float32)))
    report = check_anchors(wh, head(), generations=5)
    assert report.bpr == pytest.approx(0.95) and report.new_anchors_px is None
    assert "the model's anchors stay" in caplog.text


def test_clusters_are_found_and_the_evolution_improves_on_them():
    centers = np.array([[10, 12], [40, 30], [90, 200]], np.float32)
    wh = boxes_around(centers, 600, 0.02)
    np.testing.assert_allclose(
        kmeans_anchors(wh, 3, 640, generations=0, generator=np.random.default_rng(0)), centers, rtol=0.05
    )
    wide = boxes_around(centers, 600, 0.8)
    start, end = (kmeans_anchors(wide, 6, 640, 4.0, generations, np.random.default_rng(0)) for generations in (0, 300))
    assert plain_closeness(wide, end, 4.0) > plain_closeness(wide, start, 4.0) + 0.005


@pytest.mark.parametrize("count", (1, 4, 9))
def test_fewer_boxes_than_anchors(count):
    wh = np.random.default_rng(0).uniform(5, 50, (count, 2)).astype(np.float32)
    anchors = kmeans_anchors(wh, 9, 640, generations=20)
    assert anchors.shape == (9, 2) and np.isfinite(anchors).all() and anchor_recall(wh, anchors, 4.0)[0] == 1
    same = kmeans_anchors(np.repeat(wh[:1], 50, axis=0), 9, 640, generations=20)
    assert anchor_recall(wh[:1], same, 4.0)[0] == 1


def test_no_boxes_and_boxes_without_size(caplog):
    caplog.set_level(logging.INFO, "yolo")
    assert check_anchors(np.zeros((0, 2)), head()).new_anchors_px is None
    assert "no boxes" in caplog.text
    assert check_anchors(np.zeros((3, 2)), head(), generations=2).bpr == 0
    with pytest.raises(ValueError, match="at least one box"):
        kmeans_anchors(np.zeros((0, 2)), 9, 640)


def test_many_boxes_are_sampled_and_left_untouched():
    wh = boxes_around(COCO_PX, 30_000, 0.5)
    before = wh.copy()
    assert anchor_recall(wh, kmeans_anchors(wh, 9, 640, generations=3), 4.0)[0] > 0.9
    np.testing.assert_array_equal(wh, before)
