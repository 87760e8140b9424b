"""TIDE: the kinds of a detector's errors, and the mAP that each kind costs.

Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, arXiv
2008.08115, sections 2.2 to 2.4. With t_f = 0.5 and t_b = 0.1, a false positive whose largest IoU is `own` with labels
of its class and `other` with the rest is

    duplicate       own >= t_f (its label has a more confident detection)
    classification  other >= t_f
    localisation    own >= t_b
    both            other >= t_b
    background      neither

and a label that no detection found is missed, unless a classification or localisation error overlaps it. The paper's
definitions overlap if a detection overlaps labels of both sorts; here the first line that fits decides. An oracle
repairs all errors of one kind (section 2.3): the class, or the box, of an error becomes its label's, and of several
detections that then match a label the most confident stays; other false positives are removed; missed labels no longer
count. The kind's cost is mAP at IoU 0.5 with the oracle minus mAP without. Costs do not add up to 1 - mAP.

Matching, ranking and AP are this project's (utils.metrics.average_precision), so that mAP is the mAP50 that val.py
prints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import iou_matrix
from utils.metrics.average_precision import IOU_THRESHOLDS, ImageResult, match, ranking
from utils.statistics.precision import average_precision
from utils.statistics.types import MatchedDetections

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
CORRECT = -1
FOREGROUND_IOU = IOU_THRESHOLDS[0]
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class ErrorKinds:
    """The errors of a detector over a dataset.

    Attributes:
        counts: (6, nc) in the order of KINDS, by class of the detection or of the missed label.
        costs: (6,) mAP50 that the repair of each kind adds, 0..1.
        false_positives: mAP50 that the removal of all false positives adds.
        false_negatives: mAP50 that is added if all labels without a detection no longer count.
        map50: Without repairs.
        confidence: Less confident detections were left out.
        images: Number of images.
    """

    counts: np.ndarray
    costs: np.ndarray
    false_positives: float
    false_negatives: float
    map50: float
    confidence: float
    images: int

    def rows(self) -> list[tuple[str, int, float]]:
        """Return kind, count and cost, one row per kind."""
        return [
            (kind, int(count), float(cost))
            for kind, count, cost in zip(KINDS, self.counts.sum(1), self.costs, strict=True)
        ]

    def lines(self) -> list[str]:
        """Return the lines of the table for a console, costs in points of mAP50."""
        lines = [f"{'errors by kind (TIDE)':>24}{'count':>11}{'mAP50 cost':>13}"]
        lines += [f"{kind:>24}{count:>11}{100 * cost:>13.2f}" for kind, count, cost in self.rows()]
        false = (("all false positives", self.false_positives), ("all false negatives", self.false_negatives))
        return lines + [f"{name:>24}{'':>11}{100 * cost:>13.2f}" for name, cost in false]


@dataclass(frozen=True)
class _Found:
    """All detections by falling confidence, and all labels.

    Attributes:
        cls: (n,) class ids.
        kind: (n,) CORRECT or an index into KINDS.
        label: (n,) index of the label that a correct detection found, or that a classification or localisation error
            overlaps.
        labels_cls: (m,) class ids.
        missed: (m,) bool.
    """

    cls: np.ndarray
    kind: np.ndarray
    label: np.ndarray
    labels_cls: np.ndarray
    missed: np.ndarray


def error_kinds(results: Sequence[ImageResult], nc: int, confidence: float = 0.0) -> ErrorKinds:
    """Return the errors of each kind and their costs.

    Args:
        results: All images in the order of the dataset.
        nc: Number of classes; detections of others are ignored.
        confidence: Detections below are left out. With 0, as in the paper, AP ranks them all, and most of the counted
            detections are ones that an application would not show: for counts, give the application's confidence.

    Returns:
        Counts per kind and class, costs per kind.
    """
    found = _found(results, nc, confidence)
    counts = np.stack(
        [np.bincount(found.cls[found.kind == kind], minlength=nc) for kind in range(MISSED)]
        + [np.bincount(found.labels_cls[found.missed], minlength=nc)]
    )
    labels = np.bincount(found.labels_cls, minlength=nc)
    correct = found.kind == CORRECT
    plain = _map50(found.cls, correct, labels, labels)
    repaired = [_map50(*_corrected(found, kind), labels, labels) for kind in (CLASSIFICATION, LOCALISATION)]
    for kind in (BOTH, DUPLICATE, BACKGROUND):
        stays = found.kind != kind
        repaired.append(_map50(found.cls[stays], correct[stays], labels, labels))
    repaired.append(_map50(found.cls, correct, labels - counts[MISSED], labels))
    hits = np.bincount(found.cls[correct], minlength=nc)
    only_hits = _map50(found.cls[correct], correct[correct], labels, labels)
    all_found = _map50(found.cls, correct, hits, labels)
    return ErrorKinds(
        counts, np.array(repaired) - plain, only_hits - plain, all_found - plain, plain, confidence, len(results)
    )


def _found(results: Sequence[ImageResult], nc: int, confidence: float) -> _Found:
    columns: list[tuple[np.ndarray, ...]] = []
    labels_cls, missed = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    before = 0
    for result in results:
        conf = np.asarray(result.detections.conf).astype(np.float64)
        cls = np.asarray(result.detections.cls).astype(np.int64)
        kept = (cls >= 0) & (cls < nc) & (conf >= confidence)
        xyxy = np.asarray(result.detections.xyxy)[kept].astype(np.float64)
        true_cls = np.asarray(result.labels_cls).astype(np.int64)
        overlap = iou_matrix(np.asarray(result.labels_xyxy, np.float64).reshape(-1, 4), xyxy)
        kind, label = _kinds(cls[kept], true_cls, overlap)
        covered = label[np.isin(kind, (CORRECT, CLASSIFICATION, LOCALISATION))]
        columns.append((conf[kept], cls[kept], kind, label + before))
        labels_cls.append(true_cls)
        missed.append(~np.isin(np.arange(len(true_cls)), covered))
        before += len(true_cls)
    empty = np.zeros(0, np.int64)
    confs, classes, kinds, labels = map(np.concatenate, zip(*columns, strict=True)) if columns else (empty,) * 4
    rank = ranking(confs)
    return _Found(classes[rank], kinds[rank], labels[rank], np.concatenate(labels_cls), np.concatenate(missed))


def _kinds(cls: np.ndarray, labels_cls: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind (n,) and label (n,) of one image's detections, by falling confidence; overlap (m, n)."""
    kind, label = np.full(len(cls), BACKGROUND), np.zeros(len(cls), np.int64)
    if not len(cls) or not len(labels_cls):
        return kind, label
    same = labels_cls[:, None] == cls[None]
    own, other = np.where(same, overlap, -1), np.where(same, -1, overlap)
    own_iou, other_iou = own.max(0), other.max(0)
    fits = (
        own_iou >= FOREGROUND_IOU,
        other_iou >= FOREGROUND_IOU,
        own_iou >= BACKGROUND_IOU,
        other_iou >= BACKGROUND_IOU,
    )
    kind = np.select(fits, (DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH), BACKGROUND)
    kind[match(cls, labels_cls, overlap)[:, 0]] = CORRECT
    return kind, np.where(kind == CLASSIFICATION, other.argmax(0), own.argmax(0))


def _corrected(found: _Found, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Class and correctness of the detections that stay if errors of `kind` get their label's class and box."""
    correct = (found.kind == CORRECT) | (found.kind == kind)
    rows = np.flatnonzero(correct)
    first = np.unique(found.label[rows], return_index=True)[1]  # rows are by falling confidence
    stays = ~correct
    stays[rows[first]] = True
    cls = found.cls.copy()
    cls[rows] = found.labels_cls[found.label[rows]]
    return cls[stays], correct[stays]


def _map50(cls: np.ndarray, correct: np.ndarray, counted: np.ndarray, labels: np.ndarray) -> float:
    """mAP over the classes with labels, of detections by falling confidence; `counted` (nc,) labels are to be found.

    A class without counted labels has AP 1, or 0 if it has a detection.
    """
    there = labels > 0
    if not there.any():
        return 0.0
    flags = np.zeros((len(cls), len(IOU_THRESHOLDS)), bool)
    flags[:, 0] = correct
    falling = -np.arange(len(cls), dtype=np.float32)
    ap = average_precision(MatchedDetections(np.zeros(len(cls), np.int32), falling, cls, flags, counted[None])).ap[:, 0]
    no_detection = np.bincount(cls, minlength=len(labels)) == 0
    return float(np.where(counted > 0, ap, no_detection)[there].mean())
