"""The confusion matrix on cases counted by hand, and its matching against a literal oracle."""

import numpy as np
import torch

from utils.metrics.confusion import ConfusionMatrix, greedy_pairs
from utils.types import Detections

BOXES = torch.tensor([[0.0, 0, 10, 10], [100, 100, 130, 130], [200, 0, 220, 40]])
NO_LABELS = (np.zeros(0, int), np.zeros((0, 4)))


def detections(xyxy, conf, cls) -> Detections:
    boxes = torch.as_tensor(xyxy, dtype=torch.float32).view(-1, 4)
    return Detections(boxes, torch.tensor(conf), torch.tensor(cls, dtype=torch.int64))


def counted(found, cls, xyxy, nc=2):
    confusion = ConfusionMatrix(nc)
    confusion.update(found, cls, xyxy)
    return confusion.matrix.tolist()


def test_right_wrong_missed_and_invented():
    found = detections(torch.cat((BOXES[:2], torch.tensor([[300.0, 300, 320, 320]]))), [0.9, 0.8, 0.7], [0, 0, 1])
    # box 0 right; box 1 is a 1 called 0, once; nothing overlaps box 2 (missed) or the last prediction (background)
    assert counted(found, np.array([0, 1, 1]), BOXES.numpy()) == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_an_image_without_predictions_counts_its_objects_as_missed():
    assert counted(Detections.none(), np.array([0, 1, 1]), BOXES.numpy()) == [[0, 0, 0], [0, 0, 0], [1, 2, 0]]


def test_an_image_without_objects_counts_its_predictions_as_invented():
    found = detections(BOXES, [0.9, 0.8, 0.7], [0, 1, 1])
    assert counted(found, *NO_LABELS) == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_an_empty_image_counts_nothing():
    assert counted(Detections.none(), *NO_LABELS) == [[0] * 3] * 3


def test_unsure_predictions_do_not_count_and_the_threshold_is_exclusive():
    found = detections(BOXES[:2], [0.25, 0.2], [0, 1])
    assert counted(found, np.array([0]), BOXES[:1].numpy()) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_two_predictions_of_one_object_are_one_hit_and_one_invention():
    close = torch.tensor([[0.0, 0, 10, 9]])
    found = detections(torch.cat((close, BOXES[:1])), [0.9, 0.8], [1, 0])
    assert counted(found, np.array([0]), BOXES[:1].numpy()) == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_images_add_up_and_shares_are_of_the_true_class():
    confusion = ConfusionMatrix(2)
    confusion.update(detections(BOXES[:1], [0.9], [0]), np.array([0]), BOXES[:1].numpy())
    confusion.update(Detections.none(), np.array([0, 0, 0]), BOXES.numpy())
    assert confusion.normalized().tolist() == [[0.25, 0, 0], [0, 0, 0], [0.75, 0, 0]]


def test_greedy_matching_equals_a_literal_oracle():
    rng = np.random.default_rng(1)
    pairs = 0
    for _ in range(300):
        overlap = rng.uniform(0, 1, (rng.integers(0, 8), rng.integers(0, 8))).round(1)  # ties included
        before, expected = overlap.copy(), []
        for _, row, column in sorted(((-v, r, c) for (r, c), v in np.ndenumerate(overlap) if v > 0.3)):
            if row not in {r for r, _ in expected} and column not in {c for _, c in expected}:
                expected.append((row, column))
        assert set(zip(*greedy_pairs(overlap, 0.3), strict=True)) == set(expected)
        assert (overlap == before).all()
        pairs += len(expected)
    assert pairs > 500
