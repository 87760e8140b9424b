"""Average precision as utils.metrics.average_precision computes it, of any number of resamplings of the images at once.

A resampling says how often each image occurs. The curve of utils.metrics.average_precision, sampled at recalls i/100, is a step function
up to its last detection: between two correct detections its envelope is the precision at the later one, so of a
class with N labels, H_j correct and D_j detections in all up to the j-th correct one,

    envelope_j = max over k >= j of H_k / D_k
    AP = 0.01 * (sum_j envelope_j * (ceil(100 H_j / N) - ceil(100 H_(j-1) / N)) - envelope_1 / 2 + tail)

where ceil(100 H / N) counts the recalls below H / N and `tail` sums the straight line from the last detection down to
(1, 0). An image drawn w times adds w to every H and D behind it: H is a running sum over the correct detections, D
a matrix product of (detections between two correct ones, images) with (images, resamplings).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import iou_matrix
from utils.metrics.average_precision import IOU_THRESHOLDS, ImageResult, match, ranking
from utils.statistics.types import MatchedDetections

AT_75 = 5  # place of IoU 0.75 in IOU_THRESHOLDS
OVERALL = ("mAP50-95", "mAP50", "AP75")
BLOCK = 1 << 21  # values held at once by one array
WALKED = 1024  # resamplings walked through together: (10, WALKED) float32 stays in a processor's near cache
EXACT_FLOAT32 = 100_000  # more labels than this and 100 H needs float64


@dataclass(frozen=True)
class AveragePrecision:
    """AP of every class. ap: (nc, 10) at IOU_THRESHOLDS; labels: (nc,). Classes without labels hold zeros and stay out of
    means.
    """

    ap: np.ndarray
    labels: np.ndarray

    def _mean(self, values: np.ndarray) -> float:
        return float(values[self.labels > 0].mean()) if self.labels.any() else 0.0

    @property
    def map(self) -> float:
        return self._mean(self.ap.mean(1))

    @property
    def map50(self) -> float:
        return self._mean(self.ap[:, 0])

    @property
    def ap75(self) -> float:
        return self._mean(self.ap[:, AT_75])

    @property
    def per_class(self) -> np.ndarray:
        """(nc,) AP50-95, nan where a class has no labels."""
        return np.where(self.labels > 0, self.ap.mean(1), np.nan)


def matches_of(results: Sequence[ImageResult], nc: int) -> MatchedDetections:
    """Match the detections of `results` (in the order of the data set) and rank them, as DetectionAccumulator does."""
    labels = np.zeros((len(results), nc), np.int32)
    found = [(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int32), np.zeros((0, len(IOU_THRESHOLDS)), bool))]
    for place, result in enumerate(results):
        labels_cls = np.asarray(result.labels_cls).astype(np.int64)
        if len(labels_cls) and not 0 <= labels_cls.min() <= labels_cls.max() < nc:
            wrong = np.unique(labels_cls).tolist()
            raise ValueError(f"matches_of: expected label classes in 0..{nc - 1}, got {wrong} in {result.path}")
        labels[place] = np.bincount(labels_cls, minlength=nc)
        found.append(_matched(result, place, labels_cls, nc))
    image, conf, cls, correct = (np.concatenate(parts) for parts in zip(*found))
    rank = ranking(conf)
    return MatchedDetections(image[rank], conf[rank].astype(np.float32), cls[rank], correct[rank], labels)


def _matched(result: ImageResult, place: int, labels_cls: np.ndarray, nc: int) -> tuple[np.ndarray, ...]:
    """Image, confidence, class and correctness of one image's detections; those of classes that the data lacks left out."""
    xyxy, conf, cls = (
        np.asarray(part) for part in (result.detections.xyxy, result.detections.conf, result.detections.cls)
    )
    known = (cls >= 0) & (cls < nc)
    xyxy, conf, cls = xyxy[known].astype(np.float64), conf[known].astype(np.float64), cls[known].astype(np.int32)
    overlap = iou_matrix(np.asarray(result.labels_xyxy, np.float64).reshape(-1, 4), xyxy)
    return np.full(len(cls), place, np.int32), conf, cls, match(cls, labels_cls, overlap)


def average_precision(matches: MatchedDetections, weights: np.ndarray | None = None) -> AveragePrecision:
    """AP of a data set in which image i stands weights[i] times, (images,) whole numbers; once each without weights.

    Equal to DetectionAccumulator's figures, to rounding.
    """
    weights = np.ones(matches.images, np.int64) if weights is None else np.asarray(weights)
    ap = resampled_ap(matches, weights[None], np.float64)[0]
    return AveragePrecision(np.nan_to_num(ap), weights @ matches.labels)


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `metrics_of`."""
    return (*OVERALL, *(f"class/{name}" for name in names))


def metrics_of(ap: np.ndarray) -> np.ndarray:
    """(R, 3 + nc) mAP50-95, mAP50, AP75 and every class's AP50-95, from `resampled_ap`'s (R, nc, 10).

    A class without labels is nan and stays out of the means; without any label they are nan.
    """
    there = ~np.isnan(ap[:, :, 0])
    classes = ap.mean(2)
    known = np.where(there[..., None], np.stack((classes, ap[:, :, 0], ap[:, :, AT_75]), -1), 0)
    count = there.sum(1)[:, None]
    means = np.where(count > 0, known.sum(1) / np.maximum(count, 1), np.nan)
    return np.concatenate((means, classes), 1)


def resampled_ap(matches: MatchedDetections, weights: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """AP (R, nc, 10) of R resamplings; weights (R, images) whole numbers, how often each image occurs.

    nan where a class has no labels. In float32 good to about 1e-6, in float64 to rounding.
    """
    if weights.shape[1:] != (matches.images,):
        raise ValueError(f"resampled_ap: expected weights (R, {matches.images}), got {weights.shape}")
    labels = weights.astype(np.float64) @ matches.labels
    if labels.size and labels.max() > EXACT_FLOAT32:
        dtype = np.float64
    ap = np.zeros((len(weights), matches.nc, len(IOU_THRESHOLDS)), dtype)
    for c, ranked in enumerate(_by_class(matches)):
        for start in range(0, len(weights) if len(ranked.image) else 0, WALKED):
            part = slice(start, start + WALKED)
            ap[part, c] = _class_ap(
                ranked, np.ascontiguousarray(weights[part].T, dtype), labels[part, c].astype(dtype)
            ).T
    ap[labels == 0] = np.nan
    return ap


@dataclass(frozen=True)
class _Ranked:
    """One class's correct detections by falling confidence, and what lies before each.

    image (P,); correct (P, 10); thresholds: P slices of those at which each is correct; between (n,): of every detection,
    the number of the first correct one at its rank or behind it, P if none; of_image (n,): its image.
    """

    image: np.ndarray
    correct: np.ndarray
    thresholds: list[slice]
    between: np.ndarray
    of_image: np.ndarray

    def detections(self, weights: np.ndarray) -> np.ndarray:
        """(P + 1, R) detections up to each correct one, and in all; weights (images, R)."""
        images, rows = len(weights), len(self.image) + 1
        found = np.empty((rows, weights.shape[1]), weights.dtype)
        step = max(1, BLOCK // images)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            mine = slice(*np.searchsorted(self.between, (start, stop)))
            cells = (self.between[mine] - start) * images + self.of_image[mine]
            counts = np.bincount(cells, minlength=(stop - start) * images).reshape(stop - start, images)
            np.matmul(counts.astype(weights.dtype), weights, out=found[start:stop])
        for before, row in zip(found, found[1:]):  # row by row: many times faster than numpy's cumsum along this axis
            row += before
        return found


def _by_class(matches: MatchedDetections) -> Iterator[_Ranked]:
    order = matches.cls.argsort(kind="stable")
    ends = np.searchsorted(matches.cls[order], np.arange(matches.nc + 1))
    for start, stop in zip(ends, ends[1:]):
        mine = order[start:stop]
        hits = matches.correct[mine].any(1)
        between = hits.cumsum() - hits
        image, correct = matches.image[mine].astype(np.int64), matches.correct[mine][hits]
        first = correct.argmax(1)
        spans = [slice(*ends) for ends in zip(first.tolist(), (first + correct.sum(1)).tolist())]
        yield _Ranked(image[hits], correct, spans, between, image)


def _class_ap(ranked: _Ranked, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(10, R) AP of one class, walking from the last correct detection to the first; weights (images, R), labels (R,).

    `hundred` is 100 H, exact, so that ceil(100 H / N) is; the envelope is of 100 times the precision.
    """
    labels = np.maximum(labels, 1)
    detections = ranked.detections(weights)
    np.maximum(detections, 1, out=detections)
    drawn = weights[ranked.image] * weights.dtype.type(100)  # (P, R)
    hundred = ranked.correct.T.astype(weights.dtype) @ drawn
    below = np.ceil(hundred / labels)
    total = _tail(hundred, below, detections[-1], labels)
    envelope, scratch = np.zeros_like(hundred), np.empty_like(hundred)
    for row in range(len(drawn) - 1, -1, -1):
        at = ranked.thresholds[row]
        here, highest, above, room = hundred[at], envelope[at], below[at], scratch[at]
        np.divide(here, detections[row], out=room)
        np.maximum(highest, room, out=highest)
        here -= drawn[row]
        np.divide(here, labels, out=room)
        np.ceil(room, out=room)
        above -= room
        above *= highest
        total[at] += above
        above[...] = room
    return 0.0001 * (total - envelope / 2)


def _tail(hundred: np.ndarray, below: np.ndarray, detections: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(10, R) sum of 100 times the precision at the recalls from the last detection's to 1, where the line ends at 0."""
    missed = 1 - hundred / (100 * labels)
    left = 100 - below
    line = np.divide(left * (left + 1) / 200, missed, out=np.zeros_like(missed), where=missed > 0)
    return hundred / detections * line


def interleaved(baseline: MatchedDetections, variant: MatchedDetections) -> MatchedDetections:
    """Both models' detections in one ranking, as of twice as many images: first the baseline's, then the variant's.

    Weights (1 - z, z) draw the mixture that takes the images with z = 1 from the variant.
    """
    conf = np.concatenate((baseline.conf, variant.conf))
    rank = (-conf).argsort(kind="stable")
    parts = (
        np.concatenate((baseline.image, variant.image + baseline.images)),
        conf,
        np.concatenate((baseline.cls, variant.cls)),
        np.concatenate((baseline.correct, variant.correct)),
    )
    return MatchedDetections(*(part[rank] for part in parts), np.concatenate((baseline.labels, variant.labels)))
