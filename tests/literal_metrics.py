"""Matching and AP written point by point, images to try them on, and the images of the reference figures."""

import numpy as np
import torch

from utils.metrics.average_precision import IOU_THRESHOLDS, DetectionAccumulator
from utils.types import Detections


def reference_images(arrays):
    """The images of metrics.npz: (Detections, label classes, label xyxy) each."""
    truth, found = arrays["ground_truth"], arrays["detections"]
    for image in range(60):
        labels, rows = truth[truth[:, 0] == image], torch.from_numpy(found[found[:, 0] == image])
        yield Detections(rows[:, 2:6], rows[:, 6], rows[:, 1].long()), labels[:, 1].astype(int), labels[:, 2:6]


def literal_match(detections_cls, labels_cls, iou):
    """Pair lists and loops, as the reference's description reads."""
    correct = np.zeros((len(detections_cls), 10), bool)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        pairs = [
            (label, d)
            for label in range(len(labels_cls))
            for d in range(len(detections_cls))
            if labels_cls[label] == detections_cls[d] and iou[label, d] >= threshold
        ]
        best_label = {}
        for label, d in sorted(pairs, key=lambda pair: -iou[pair]):
            best_label.setdefault(d, label)
        taken = set()
        for d in sorted(best_label):
            if best_label[d] not in taken:
                taken.add(best_label[d])
                correct[d, column] = True
    return correct


def literal_ap(correct, conf, labels):
    """AP of one class at one threshold, point by point."""
    points, hits = [(0.0, 1.0)], 0
    for rank, d in enumerate(sorted(range(len(conf)), key=lambda d: -conf[d]), 1):
        hits += bool(correct[d])
        points.append((hits / labels, hits / rank))
    points.append((1.0, 0.0))
    recalls = [r for r, _ in points]
    precisions = [max(p for _, p in points[k:]) for k in range(len(points))]
    samples = [np.interp(x / 100, recalls, precisions) for x in range(101)]
    return sum((a + b) / 2 for a, b in zip(samples, samples[1:], strict=False)) / 100


def random_images(count=12, nc=4, seed=3):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        labels = rng.integers(0, 5)
        xy = rng.uniform(0, 300, (labels, 2))
        boxes = np.concatenate((xy, xy + rng.uniform(20, 120, (labels, 2))), 1)
        copies = np.array([[0, 0, 200, 200.0]] * 9)
        if labels:
            copies = boxes[rng.integers(0, labels, 9)]
        copies = copies + rng.normal(0, 6, (9, 4))
        cls = rng.integers(0, nc - 1, labels)  # the last class has no labels
        conf = np.sort(rng.uniform(0, 1, 9))[::-1].copy()
        found = Detections(torch.from_numpy(copies), torch.from_numpy(conf), torch.from_numpy(rng.integers(0, nc, 9)))
        images.append((found, cls, boxes))
    return images


def accumulated(images, nc) -> DetectionAccumulator:
    accumulator = DetectionAccumulator(nc)
    for image in images:
        accumulator.update(*image)
    return accumulator
