"""The recall of an assignment: counted object by object, judged by AutoAnchor, and the anchors that a training gets."""

import logging
import types

import numpy as np
import pytest
import torch

import utils.assignment_recall as module
from utils.anchors import anchor_recall, check_anchors
from utils.assignment_recall import AssignmentRecall
from utils.config import Hyperparameters
from utils.dynamic_assignment import ASSIGNERS, first_choice
from utils.engine.build import fit_anchors
from utils.types import HeadGeometry

COCO_PX = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]], np.float32
)
STRIDES = torch.tensor([8.0, 16, 32])


def head(anchors_px=COCO_PX):
    return HeadGeometry(torch.as_tensor(anchors_px).view(3, 3, 2) / STRIDES.view(-1, 1, 1), STRIDES, 3)


def objects(count=60, images=9, seed=0, sides=(0.01, 0.5)):
    """Objects of images of several forms; some images have none."""
    generator = np.random.default_rng(seed)
    xywhn = np.concatenate(
        (generator.random((count, 2)), sides[0] * (sides[1] / sides[0]) ** generator.random((count, 2))), 1
    )
    return types.SimpleNamespace(
        sizes=generator.integers(80, 700, (images, 2)).astype(np.int32),
        xywhn=xywhn.astype(np.float32),
        image_of=np.sort(generator.choice(images, count, p=np.array([0] + [1] * (images - 1)) / (images - 1))),
    )


def literal_recall(rule, placed, imgsz, anchors_px):
    """One image at a time; the owner of a pair is overwritten by each row that follows."""
    pairs = np.zeros(len(placed.xywhn), int)
    anchors = torch.as_tensor(anchors_px).view(3, 3, 2) / STRIDES.view(-1, 1, 1)
    maps = [torch.zeros(1, 3, imgsz // s, imgsz // s, 6) for s in (8, 16, 32)]
    for image in range(len(placed.sizes)):
        own = np.flatnonzero(placed.image_of == image)
        height, width = placed.sizes[image] / max(placed.sizes[image])
        rows = [
            [0, n, x * width, y * height, w * width, h * height] for n, (x, y, w, h) in enumerate(placed.xywhn[own])
        ]
        targets = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
        for masked in first_choice(rule)(maps, targets, anchors, 4.0):
            found = masked.compact().rows
            owner = {}
            for anchor, row, column, number in zip(found.anchor, found.row, found.column, found.cls, strict=True):
                owner[int(anchor), int(row), int(column)] = int(number)
            for number in owner.values():
                pairs[own[number]] += 1
    return (pairs > 0).mean(), pairs.mean()


@pytest.mark.parametrize("at_once", (1, 4, 128))
@pytest.mark.parametrize("rule", ASSIGNERS)
def test_recall_equals_its_definition(rule, at_once, monkeypatch):
    monkeypatch.setattr(module, "_IMAGES_AT_ONCE", at_once)
    placed = objects()
    expected = literal_recall(rule, placed, 160, COCO_PX)
    assert 0.3 < expected[0] < 1 and expected[1] > 0.5
    assert AssignmentRecall(rule, 4.0, placed, 160, head())(COCO_PX) == pytest.approx(expected)


def test_a_crowd_fits_in_shape_and_shares_its_pairs():
    """Two objects at one place: the later one takes all pairs of v5's rule; a third one is apart."""
    place = [0.4, 0.3, 0.1, 0.1]
    placed = types.SimpleNamespace(
        sizes=np.array([[320, 320]]), xywhn=np.array([place, place, [0.7, 0.7, 0.1, 0.1]]), image_of=np.zeros(3, int)
    )
    assert anchor_recall(np.full((3, 2), 32.0), COCO_PX, 4.0)[0] == 1
    recall = AssignmentRecall("v5", 4.0, placed, 320, head())
    assert recall(COCO_PX)[0] == pytest.approx(2 / 3) and str(recall) == "recall of the assignment (v5)"


def test_of_many_objects_some_images_are_taken(monkeypatch):
    placed = objects(600, images=200)
    whole = AssignmentRecall("v5", 4.0, placed, 160, head())
    monkeypatch.setattr(module, "_LARGEST_SAMPLE", 200)
    part = AssignmentRecall("v5", 4.0, placed, 160, head())
    counts = [sum(len(batch) for batch in recall.batches) for recall in (whole, part)]
    assert counts[0] == 600 and 120 < counts[1] < 280
    assert part(COCO_PX)[0] == pytest.approx(whole(COCO_PX)[0], abs=0.1)


class Judge:
    """A recall of 0.4 for the model's anchors, and of `best` for others."""

    def __init__(self, best):
        self.best = best

    def __call__(self, anchors_px):
        return (0.4, 3.0) if np.array_equal(anchors_px, COCO_PX) else (self.best, 5.0)

    def __str__(self):
        return "recall of a judge"


@pytest.mark.parametrize("best", (0.409, 0.9))
def test_a_judge_decides_whether_new_anchors_are_taken(best, caplog):
    """Shapes alone are a perfect fit, so without the judge the anchors would stay; a gain below a hundredth is none."""
    caplog.set_level(logging.INFO, "yolo")
    boxes = np.repeat(COCO_PX, 5, 0) * np.float32(1.1)
    assert check_anchors(boxes, head()).bpr == 1
    report = check_anchors(boxes, head(), generations=2, recall=Judge(best))
    assert report.bpr == 0.4 and (report.new_anchors_px is not None) == (best == 0.9)
    assert "AutoAnchor: 3.00 positives/target, 0.400 recall of a judge. Anchors are a poor fit" in caplog.text
    said = "5.00 positives/target, 0.900 recall with new anchors" if best == 0.9 else "the best found have 0.409 recall"
    assert said in caplog.text


@pytest.mark.parametrize("fit", ("ratio", "assign"))
def test_a_training_judges_its_anchors_as_the_recipe_says(fit, caplog):
    """By shape 40 of 40 objects fit, at one place; of an assignment most of them get nothing, and no anchors help."""
    caplog.set_level(logging.INFO, "yolo")
    store = types.SimpleNamespace(sizes=np.array([[320, 320]]), xywhn=np.full((40, 4), 0.3), image_of=np.zeros(40, int))
    dataset = types.SimpleNamespace(store=store, box_sizes=np.full((40, 2), 96.0))
    data = types.SimpleNamespace(train=types.SimpleNamespace(dataset=dataset))
    network = types.SimpleNamespace(head=types.SimpleNamespace(placeholder_anchors=False), geometry=head())
    fit_anchors(network, data, Hyperparameters(anchor_fit=fit), types.SimpleNamespace(imgsz=320, seed=0))
    if fit == "ratio":
        assert "1.000 Best Possible Recall (BPR). Current anchors are a good fit" in caplog.text
    else:
        assert "0.025 recall of the assignment (v5). Anchors are a poor fit" in caplog.text
        assert "the best found have 0.025 recall, the model's anchors stay" in caplog.text
