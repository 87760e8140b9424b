"""Average precision of many resamplings of the images at once, equal to that of utils.metrics.average_precision.

A resampling gives how often each image occurs. The precision-recall curve, sampled at recalls i/100, is a step function
up to its last detection: between two correct detections its envelope is the precision at the later one. So for a class
with N labels, H_j correct and D_j detections in all up to the j-th correct one,

    envelope_j = max over k >= j of H_k / D_k
    AP = 0.01 * (sum_j envelope_j * (ceil(100 H_j / N) - ceil(100 H_(j-1) / N)) - envelope_1 / 2 + tail)

where ceil(100 H / N) counts the recalls below H / N and `tail` sums the straight line from the last detection down to
(1, 0). An image drawn w times adds w to every H and D behind it: H is a running sum over the correct detections, D is
a matrix product of (detections between two correct ones, images) with (images, resamplings).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import iou_matrix
from utils.metrics.average_precision import IOU_THRESHOLDS, ImageResult, match, ranking
from utils.statistics.types import MatchedDetections

AT_75 = 5  # index of IoU 0.75 in IOU_THRESHOLDS
OVERALL = ("mAP50-95", "mAP50", "AP75")
MAX_VALUES = 1 << 21  # in one array of a block
RESAMPLINGS_PER_PASS = 1024  # (10, 1024) float32 stays in a processor's near cache
EXACT_FLOAT32 = 100_000  # with more labels than this, 100 H needs float64
_Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # image (n,), conf (n,), cls (n,), correct (n, 10)


@dataclass(frozen=True)
class AveragePrecision:
    """AP of every class; classes without labels hold zeros and do not enter the means.

    Attributes:
        ap: (nc, 10) at IOU_THRESHOLDS, 0..1.
        labels: (nc,) number of labels.
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
        """AP50-95 (nc,) per class, nan for classes without labels."""
        return np.where(self.labels > 0, self.ap.mean(1), np.nan)


def matches_of(results: Sequence[ImageResult], nc: int) -> MatchedDetections:
    """Return the detections matched with the labels and ranked, as DetectionAccumulator does it.

    Args:
        results: All images in the order of the dataset.
        nc: Number of classes; detections of others are ignored.

    Returns:
        By falling confidence.

    Raises:
        ValueError: A label's class is outside 0..nc-1.
    """
    labels = np.zeros((len(results), nc), np.int32)
    found: list[_Columns] = [
        (np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int32), np.zeros((0, len(IOU_THRESHOLDS)), bool))
    ]
    for index, result in enumerate(results):
        labels_cls = np.asarray(result.labels_cls).astype(np.int64)
        if len(labels_cls) and not 0 <= labels_cls.min() <= labels_cls.max() < nc:
            wrong = np.unique(labels_cls).tolist()
            raise ValueError(f"matches_of: expected label classes in 0..{nc - 1}, got {wrong} in {result.path}")
        labels[index] = np.bincount(labels_cls, minlength=nc)
        found.append(_matched(result, index, labels_cls, nc))
    image, conf, cls, correct = (np.concatenate(columns) for columns in zip(*found, strict=True))
    rank = ranking(conf)
    return MatchedDetections(image[rank], conf[rank].astype(np.float32), cls[rank], correct[rank], labels)


def _matched(result: ImageResult, index: int, labels_cls: np.ndarray, nc: int) -> _Columns:
    """Image, confidence, class and correctness of one image's detections of known classes."""
    found = result.detections
    xyxy, conf, cls = (np.asarray(values) for values in (found.xyxy, found.conf, found.cls))
    known = (cls >= 0) & (cls < nc)
    xyxy, conf, cls = xyxy[known].astype(np.float64), conf[known].astype(np.float64), cls[known].astype(np.int32)
    overlap = iou_matrix(np.asarray(result.labels_xyxy, np.float64).reshape(-1, 4), xyxy)
    return np.full(len(cls), index, np.int32), conf, cls, match(cls, labels_cls, overlap)


def average_precision(matches: MatchedDetections, weights: np.ndarray | None = None) -> AveragePrecision:
    """Return the AP of a dataset, or of a resampling of its images; equal to DetectionAccumulator's to rounding.

    Args:
        matches: The matched detections of the dataset.
        weights: (images,) whole numbers, how often each image occurs; once each by default.

    Returns:
        AP per class.

    Raises:
        ValueError: There are not as many weights as images.
    """
    weights = np.ones(matches.images, np.int64) if weights is None else np.asarray(weights)
    ap = resampled_ap(matches, weights[None], np.float64)[0]
    return AveragePrecision(np.nan_to_num(ap), weights @ matches.labels)


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of `metrics_of`."""
    return (*OVERALL, *(f"class/{name}" for name in names))


def metrics_of(ap: np.ndarray) -> np.ndarray:
    """Return mAP50-95, mAP50, AP75 and AP50-95 per class (R, 3 + nc) of `resampled_ap`'s (R, nc, 10).

    A class without labels is nan and does not enter the means; without any label they are nan.
    """
    there = ~np.isnan(ap[:, :, 0])
    classes = ap.mean(2)
    known = np.where(there[..., None], np.stack((classes, ap[:, :, 0], ap[:, :, AT_75]), -1), 0)
    count = there.sum(1)[:, None]
    means = np.where(count > 0, known.sum(1) / np.maximum(count, 1), np.nan)
    return np.concatenate((means, classes), 1)


def resampled_ap(matches: MatchedDetections, weights: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Return the AP of many resamplings of the images.

    Args:
        matches: The matched detections of the dataset.
        weights: (R, images) whole numbers, how often each image occurs in each of R resamplings.
        dtype: np.float32, exact to about 1e-6, or np.float64, exact to rounding.

    Returns:
        (R, nc, 10), 0..1; nan for classes without labels in a resampling.

    Raises:
        ValueError: There are not as many columns of weights as images.
    """
    if weights.shape[1:] != (matches.images,):
        raise ValueError(f"resampled_ap: expected weights (R, {matches.images}), got {weights.shape}")
    labels = weights.astype(np.float64) @ matches.labels
    if labels.size and labels.max() > EXACT_FLOAT32:
        dtype = np.float64
    ap: np.ndarray = np.zeros((len(weights), matches.nc, len(IOU_THRESHOLDS)), dtype)
    for c, ranked in enumerate(_by_class(matches)):
        for start in range(0, len(weights) if len(ranked.image) else 0, RESAMPLINGS_PER_PASS):
            rows = slice(start, start + RESAMPLINGS_PER_PASS)
            ap[rows, c] = _class_ap(
                ranked, np.ascontiguousarray(weights[rows].T, dtype), labels[rows, c].astype(dtype)
            ).T
    ap[labels == 0] = np.nan
    return ap


@dataclass(frozen=True)
class _Ranked:
    """One class's P correct detections by falling confidence, and its n detections.

    Attributes:
        image: (P,) index of the image.
        correct: (P, 10) bool.
        thresholds: P slices of the thresholds at which each is correct.
        between: (n,) index of the first correct detection at or behind each detection, P if there is none.
        of_image: (n,) index of the image.
    """

    image: np.ndarray
    correct: np.ndarray
    thresholds: list[slice]
    between: np.ndarray
    of_image: np.ndarray

    def detections(self, weights: np.ndarray) -> np.ndarray:
        """Return the number of detections (P + 1, R) up to each correct one, and in all; weights are (images, R)."""
        found = np.empty((len(self.image) + 1, weights.shape[1]), weights.dtype)
        total = np.zeros(weights.shape[1], weights.dtype)
        # Whole numbers, so that the sum is exact; a product with a matrix of (P + 1, images) is nearly all zeros.
        ends = np.searchsorted(self.between, np.arange(len(found)), side="right").tolist()
        images, start = self.of_image.tolist(), 0
        for row, stop in enumerate(ends):
            for image in images[start:stop]:
                total += weights[image]
            found[row] = total
            start = stop
        return found


def _by_class(matches: MatchedDetections) -> Iterator[_Ranked]:
    order = matches.cls.argsort(kind="stable")
    ends = np.searchsorted(matches.cls[order], np.arange(matches.nc + 1))
    for start, stop in zip(ends, ends[1:], strict=False):
        of_class = order[start:stop]
        hits = matches.correct[of_class].any(1)
        between = hits.cumsum() - hits
        image, correct = matches.image[of_class].astype(np.int64), matches.correct[of_class][hits]
        first = correct.argmax(1)
        spans = [slice(*ends) for ends in zip(first.tolist(), (first + correct.sum(1)).tolist(), strict=True)]
        yield _Ranked(image[hits], correct, spans, between, image)


def _class_ap(ranked: _Ranked, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AP (10, R) of one class, from the last correct detection to the first; weights (images, R), labels (R,).

    `hundred` is 100 H, exact, so that ceil(100 H / N) is exact; the envelope is of 100 times the precision.
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
        here, highest, above, buffer = hundred[at], envelope[at], below[at], scratch[at]
        np.divide(here, detections[row], out=buffer)
        np.maximum(highest, buffer, out=highest)
        here -= drawn[row]
        np.divide(here, labels, out=buffer)
        np.ceil(buffer, out=buffer)
        above -= buffer
        above *= highest
        total[at] += above
        above[...] = buffer
    return 0.0001 * (total - envelope / 2)


def _tail(hundred: np.ndarray, below: np.ndarray, detections: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum (10, R) of 100 times the precision from the last detection's recall to 1, where the line ends at 0."""
    missed = 1 - hundred / (100 * labels)
    left = 100 - below
    line = np.divide(left * (left + 1) / 200, missed, out=np.zeros_like(missed), where=missed > 0)
    return hundred / detections * line


def interleave(baseline: MatchedDetections, variant: MatchedDetections) -> MatchedDetections:
    """Return both models' detections in one ranking, as of twice as many images: the baseline's, then the variant's.

    Weights (1 - z, z) draw the mixture that takes the images with z = 1 from the variant.

    Args:
        baseline: Of the dataset.
        variant: Of the same images and labels.

    Returns:
        Of 2 x images.
    """
    conf = np.concatenate((baseline.conf, variant.conf))
    rank = (-conf).argsort(kind="stable")
    return MatchedDetections(
        image=np.concatenate((baseline.image, variant.image + baseline.images))[rank],
        conf=conf[rank],
        cls=np.concatenate((baseline.cls, variant.cls))[rank],
        correct=np.concatenate((baseline.correct, variant.correct))[rank],
        labels=np.concatenate((baseline.labels, variant.labels)),
    )
