"""COCO's evaluation of boxes: greedy matching and precision-recall curves, for all images and classes at once.

The rules are those of COCOeval (github.com/cocodataset/cocoapi), which tests/utils/metrics/test_coco_evaluation.py
compares with to the last bit. Per image, class, IoU threshold and range of areas, detections by falling score each take
the label they overlap most among those not yet taken; a label outside the range, or a crowd, takes a detection only if
no other label does, and takes it out of the count. So most detections, which overlap no label by 0.5, need no matching:
only their rank matters. That, and rounds that match one detection of every image and class at a time, make it fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.metrics.average_precision import AP_RECALLS, IOU_THRESHOLDS

AREAS = ("all", "small", "medium", "large")
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # square pixels, ends included
_PAIRS_AT_ONCE = 1 << 20  # of detections and labels whose overlap is computed; bounds the memory
_TINY = np.spacing(1)
_UNMATCHED, _HIT, _IGNORED = range(3)


@dataclass(frozen=True)
class CocoLabels:
    """The labels of all images.

    Attributes:
        image: (m,) int64, position of the image in the dataset.
        cls: (m,) int64 class ids.
        xywh: (m, 4) float64: left, top, width and height in native pixels.
        crowd: (m,) bool: the box holds any number of objects.
    """

    image: np.ndarray
    cls: np.ndarray
    xywh: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class CocoDetections:
    """The detections of all images: `image`, `cls` and `xywh` as of CocoLabels, and `score` (n,) float64."""

    image: np.ndarray
    cls: np.ndarray
    xywh: np.ndarray
    score: np.ndarray

    def chosen(self, rows: np.ndarray) -> "CocoDetections":
        """Return the detections of some rows, an index or a mask."""
        return CocoDetections(self.image[rows], self.cls[rows], self.xywh[rows], self.score[rows])


@dataclass(frozen=True)
class CocoCurves:
    """Of one range of areas and one limit of detections; -1 for a class without labels in the range.

    Attributes:
        precision: (10, 101, nc) at IOU_THRESHOLDS and AP_RECALLS.
        recall: (10, nc), the largest that is reached.
    """

    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class _RankedDetections:
    """Detections by image, class and falling score, and where they stand among all of their class.

    Attributes:
        found: The detections, at most as many per image and class as the largest limit.
        group: (n,) image and class as one number, rising.
        rank: (n,) place among those of its image and class.
        order: (n,) indices of the detections by class and falling score.
        place: (n,) place of each detection in `order`.
        starts: (nc + 1,) where each class begins in `order`.
    """

    found: CocoDetections
    group: np.ndarray
    rank: np.ndarray
    order: np.ndarray
    place: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _Pairs:
    """Overlapping pairs of one image and class, by rising detection: indices `found` and `label`, and `iou`, all (p,).

    round: (p,) how many detections of its image and class that have a pair stand before the pair's.
    """

    found: np.ndarray
    label: np.ndarray
    iou: np.ndarray
    round: np.ndarray


def coco_curves(
    labels: CocoLabels, detections: CocoDetections, nc: int, views: tuple[tuple[int, int], ...]
) -> dict[tuple[int, int], CocoCurves]:
    """Return COCO's curves for some ranges of areas and limits of detections.

    Args:
        labels: Of all images, class ids in 0..nc-1.
        detections: Of all images, class ids in 0..nc-1.
        nc: Number of classes.
        views: Pairs of an index into AREA_RANGES and a number of detections per image and class. Matching is done with
            the largest of these numbers.

    Returns:
        The curves of each pair.
    """
    group = labels.image * nc + labels.cls
    order = group.argsort(kind="stable")
    labels, group = (
        CocoLabels(labels.image[order], labels.cls[order], labels.xywh[order], labels.crowd[order]),
        group[order],
    )
    ranked = _ranked(detections, nc, max(limit for _, limit in views))
    pairs = _overlapping(ranked, labels, group)
    curves = {}
    for area in dict.fromkeys(area for area, _ in views):
        ignored = labels.crowd | _outside(labels.xywh, area)
        inside = ~_outside(ranked.found.xywh, area)
        candidates, states = _matched(pairs, ignored, labels.crowd)
        by_place = ranked.place[candidates].argsort()
        candidates, states = candidates[by_place], states[by_place]
        counts = np.bincount(labels.cls[~ignored], minlength=nc)
        for limit in (limit for each, limit in views if each == area):
            kept = ranked.rank[candidates] < limit
            counted = inside & (ranked.rank < limit)
            curves[area, limit] = _curves(ranked, counted, candidates[kept], states[kept], counts)
    return curves


def _outside(xywh: np.ndarray, area: int) -> np.ndarray:
    lowest, highest = AREA_RANGES[area]
    size = xywh[:, 2] * xywh[:, 3]
    return (size < lowest) | (size > highest)


def _ranked(detections: CocoDetections, nc: int, limit: int) -> _RankedDetections:
    group = detections.image * nc + detections.cls
    order = np.lexsort((-detections.score, group))
    group = group[order]
    rank = np.arange(len(group)) - _first_of_each(group)
    kept = rank < limit
    found = detections.chosen(order[kept])
    by_class = np.lexsort((-found.score, found.cls))
    place = np.empty_like(by_class)
    place[by_class] = np.arange(len(by_class))
    starts = np.concatenate(([0], np.bincount(found.cls, minlength=nc).cumsum()))
    return _RankedDetections(found, group[kept], rank[kept], by_class, place, starts)


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """(n,) index of the first of the equal values beside each one."""
    is_first = np.diff(values, prepend=-1) != 0
    return np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))


def _overlapping(ranked: _RankedDetections, labels: CocoLabels, label_group: np.ndarray) -> _Pairs:
    """All pairs of a detection and a label of its image and class that overlap by the least threshold or more."""
    first = np.searchsorted(label_group, ranked.group, "left")
    count = np.searchsorted(label_group, ranked.group, "right") - first
    rows = np.flatnonzero(count)
    parts = [_pairs_of(part, first, count, ranked.found, labels) for part in _in_parts(rows, count[rows])]
    found, label, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_first = np.diff(found, prepend=-1) != 0
    number = is_first.cumsum() - 1  # of the detection among those with a pair
    return _Pairs(found, label, iou, number - number[_first_of_each(ranked.group[found])])


def _in_parts(rows: np.ndarray, count: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in parts with some _PAIRS_AT_ONCE pairs each; at least one part."""
    part = count.cumsum() // _PAIRS_AT_ONCE
    yield from np.split(rows, np.flatnonzero(np.diff(part)) + 1)


def _pairs_of(
    rows: np.ndarray, first: np.ndarray, count: np.ndarray, found: CocoDetections, labels: CocoLabels
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = count[rows]
    row = np.repeat(rows, sizes)
    label = np.arange(len(row)) + np.repeat(first[rows] - (sizes.cumsum() - sizes), sizes)
    iou = _iou(found.xywh[row], labels.xywh[label], labels.crowd[label])
    kept = iou >= IOU_THRESHOLDS[0]
    return row[kept], label[kept], iou[kept]


def _iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (p,) of boxes a and b (p, 4) xywh; of a crowd, the share of `a` that it covers. Rounded as by pycocotools."""
    a_left, a_top, a_width, a_height = a.T
    b_left, b_top, b_width, b_height = b.T
    width = np.minimum(a_width + a_left, b_width + b_left) - np.maximum(a_left, b_left)
    height = np.minimum(a_height + a_top, b_height + b_top) - np.maximum(a_top, b_top)
    shared = width * height
    area = a_width * a_height
    union = np.where(crowd, area, area + b_width * b_height - shared)
    return np.divide(shared, union, out=np.zeros(len(a)), where=(width > 0) & (height > 0))


def _matched(pairs: _Pairs, ignored: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The detections (k,) that have a pair, and what became of each at every threshold, (k, 10).

    Args:
        pairs: The overlapping pairs.
        ignored: (m,) labels that do not count.
        crowd: (m,) labels that take any number of detections.

    Returns:
        Indices of the detections, and _UNMATCHED, _HIT or _IGNORED.
    """
    # Of each detection's pairs the first that is still free is the one to take: labels that count before those that do
    # not, then by falling IoU, of equal ones the last.
    order = np.lexsort((-pairs.label, -pairs.iou, ignored[pairs.label], pairs.found, pairs.round))
    found, label, iou = pairs.found[order], pairs.label[order], pairs.iou[order]
    starts = np.flatnonzero(np.diff(found, prepend=-1))
    candidates = found[starts]
    states = np.zeros((len(starts), len(IOU_THRESHOLDS)), np.int8)
    taken = np.zeros((len(ignored), len(IOU_THRESHOLDS)), bool)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    ends = np.append(starts, len(found))
    rounds = np.searchsorted(pairs.round[order][starts], np.arange(pairs.round.max(initial=-1) + 2))
    for begin, end in zip(rounds[:-1], rounds[1:], strict=True):
        rows = slice(ends[begin], ends[end])
        free = (iou[rows, None] >= thresholds) & ~taken[label[rows]]
        best = _first_free(free, starts[begin:end] - starts[begin])
        row, threshold = np.nonzero(best < len(free))
        chosen = label[rows][best[row, threshold]]
        states[begin + row, threshold] = np.where(ignored[chosen], _IGNORED, _HIT)
        taken[chosen, threshold] = ~crowd[chosen]
    return candidates, states


def _first_free(free: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(k, 10) the first row of `free` (p, 10) that is set from each start to the next, p if none is."""
    return np.minimum.reduceat(np.where(free, np.arange(len(free))[:, None], len(free)), starts)


def _curves(
    ranked: _RankedDetections, counted: np.ndarray, candidates: np.ndarray, states: np.ndarray, labels: np.ndarray
) -> CocoCurves:
    """The curves of all classes.

    Args:
        ranked: The detections.
        counted: (n,) whether each counts if it is unmatched.
        candidates: (k,) detections that may be matched, by class and falling score.
        states: (k, 10) what became of them.
        labels: (nc,) number of labels that count.
    """
    nc, cls, place = len(labels), ranked.found.cls[candidates], ranked.place[candidates]
    hit = states == _HIT
    # A matched detection counts if its label does, whatever its own area.
    surplus = np.where(states == _UNMATCHED, 0, hit - counted[candidates, None].astype(np.int8))
    first = np.searchsorted(place, ranked.starts)  # of each class among the candidates
    hits, extra = _sums_from(hit, first, cls), _sums_from(surplus, first, cls)
    before = _sums_before(counted[ranked.order])
    seen = (before[place + 1] - before[ranked.starts[cls]])[:, None] + extra
    bests = np.zeros((len(IOU_THRESHOLDS), labels.sum()))  # precision at each hit, class after class
    offset = np.concatenate(([0], labels.cumsum()))
    row, threshold = np.nonzero(hit)
    number = hits[row, threshold]
    bests[threshold, offset[cls[row]] + number - 1] = number / (seen[row, threshold] + _TINY)
    precision = np.full((len(IOU_THRESHOLDS), len(AP_RECALLS), nc), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), nc), -1.0)
    total = _sums_before(hit)[first]
    for c in np.flatnonzero(labels):
        # the precision at a recall is the best at that recall or beyond
        best = np.maximum.accumulate(bests[:, offset[c] : offset[c + 1]][:, ::-1], 1)[:, ::-1]
        precision[:, :, c] = best[:, np.searchsorted(np.arange(1, labels[c] + 1) / labels[c], AP_RECALLS)]
        recall[:, c] = (total[c + 1] - total[c]) / labels[c]
    return CocoCurves(precision, recall)


def _sums_before(values: np.ndarray) -> np.ndarray:
    """Sums (n + 1, ...) of the first 0 to n rows."""
    sums = np.zeros((len(values) + 1, *values.shape[1:]), np.int32)
    np.cumsum(values, 0, np.int32, out=sums[1:])
    return sums


def _sums_from(values: np.ndarray, first: np.ndarray, cls: np.ndarray) -> np.ndarray:
    """Sums (k, 10) from the first row of a row's class to that row."""
    sums = _sums_before(values)
    return sums[1:] - sums[first[cls]]
