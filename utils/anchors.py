"""AutoAnchor: whether a head's anchors fit the boxes of a dataset, and better ones if they do not.

An anchor fits a box if neither side differs by a factor of `threshold` or more (the rule of the loss). The closeness of
a box and an anchor is min(w/a_w, a_w/w, h/a_h, a_h/h), 0..1; it is computed as exp(-distance), distance being the
larger of |ln w - ln a_w| and |ln h - ln a_h|, which takes no division per pair.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.log import LOGGER
from utils.types import HeadGeometry

# From (m, 2) anchors in pixels to a recall of the boxes, 0..1, and the mean number of what fits a box.
Recall = Callable[[np.ndarray], tuple[float, float]]

KEEP_ABOVE = 0.98  # best possible recall above which a model's own anchors stay
# By which another recall than that of shapes must rise: crowds and tiny objects, which no anchors help, lower it.
_LEAST_GAIN = 0.01
_LARGEST_SAMPLE = 10_000  # boxes that the search uses
_SMALLEST_SIDE = 2.0  # pixels: no anchor has a smaller side; boxes with both sides smaller are not used for the search
_LLOYD_ITERATIONS = 30
_MUTATED_SHARE, _MUTATION_SIGMA, _MUTATION_RANGE = 0.9, 0.1, (0.3, 3.0)


@dataclass(frozen=True)
class AnchorReport:
    """How well a head's anchors fit a dataset.

    Attributes:
        bpr: Best possible recall, the share 0..1 of boxes that at least one anchor fits; of another recall if that
            is what the anchors are judged by.
        anchors_above: Mean number of anchors that fit a box, or what the other recall counts.
        new_anchors_px: (nl * na, 2) better anchors in pixels by rising area; None to keep the model's.
    """

    bpr: float
    anchors_above: float
    new_anchors_px: np.ndarray | None = None


def check_anchors(
    wh_px: np.ndarray,
    geometry: HeadGeometry,
    threshold: float = 4.0,
    imgsz: int = 640,
    generator: np.random.Generator | None = None,
    generations: int = 1000,
    recall: Recall | None = None,
) -> AnchorReport:
    """Return how well a head's anchors fit the boxes; if the recall is 0.98 or less, better ones are searched.

    Args:
        wh_px: (n, 2) widths and heights of all boxes, however small, in pixels at the training size.
        geometry: Of the head.
        threshold: An anchor fits a box if no side differs by this factor or more.
        imgsz: The training size in pixels.
        generator: For the search; by default one with seed 0.
        generations: Number of random changes that the search tries.
        recall: What anchors are judged by instead of the share of boxes that at least one fits. Its text says what it
            counts. The search itself knows shapes only.

    Returns:
        The recall of the head's anchors on all boxes, and new anchors if they have a higher one (by more than 0.01 if
        `recall` is given).
    """
    wh_px = np.asarray(wh_px, np.float32).reshape(-1, 2)
    if not len(wh_px):
        LOGGER.info("AutoAnchor: there are no boxes to measure, the model's anchors stay")
        return AnchorReport(0.0, 0.0)
    current = geometry.anchors_px.detach().cpu().numpy().reshape(-1, 2)
    judge = recall or (lambda anchors_px: anchor_recall(wh_px, anchors_px, threshold))
    counted, name = ("anchors", "Best Possible Recall (BPR)") if recall is None else ("positives", str(recall))
    bpr, above = judge(current)
    found = f"AutoAnchor: {above:.2f} {counted}/target, {bpr:.3f} {name}."
    if bpr > KEEP_ABOVE:
        LOGGER.info(f"{found} Current anchors are a good fit to dataset")
        return AnchorReport(bpr, above)
    LOGGER.info(f"{found} Anchors are a poor fit to dataset, attempting to improve...")
    generator = generator or np.random.default_rng(0)
    new = kmeans_anchors(wh_px, len(current), imgsz, threshold, generations, generator)
    new_bpr, new_above = judge(new)
    short, least = ("BPR", 0.0) if recall is None else ("recall", _LEAST_GAIN)
    if new_bpr <= bpr + least:
        LOGGER.info(f"AutoAnchor: the best found have {new_bpr:.3f} {short}, the model's anchors stay")
        return AnchorReport(bpr, above)
    LOGGER.info(
        f"AutoAnchor: {new_above:.2f} {counted}/target, {new_bpr:.3f} {short} with new anchors "
        + ", ".join(f"{width:.0f},{height:.0f}" for width, height in new)
    )
    return AnchorReport(bpr, above, new)


def anchor_recall(wh_px: np.ndarray, anchors_px: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return the best possible recall and the mean number of anchors that fit a box.

    Args:
        wh_px: (n, 2) widths and heights of the boxes in pixels, n at least 1.
        anchors_px: (m, 2) widths and heights of the anchors in pixels.
        threshold: An anchor fits a box if no side differs by this factor or more.

    Returns:
        The share of boxes that at least one anchor fits, 0..1, and the mean number of anchors per box.
    """
    fits = _distances(_logarithms(wh_px), _logarithms(anchors_px)) < math.log(threshold)
    return float(fits.any(0).mean()), float(fits.sum(0).mean())


def kmeans_anchors(
    wh_px: np.ndarray,
    n: int,
    imgsz: int,
    threshold: float = 4.0,
    generations: int = 1000,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Return anchors fitted to the boxes by k-means and then an evolution.

    Args:
        wh_px: (m, 2) widths and heights of the boxes in pixels at the training size, m at least 1, possibly less than
            n. Of more than 10,000 boxes a random sample is used.
        n: Number of anchors.
        imgsz: The training size in pixels, for the log.
        threshold: An anchor fits a box if no side differs by this factor or more.
        generations: Number of random changes that the evolution tries.
        generator: By default one with seed 0.

    Returns:
        (n, 2) float32 pixels by rising area.

    Raises:
        ValueError: There is no box.
    """
    generator = generator or np.random.default_rng(0)
    boxes = np.asarray(wh_px, np.float32).reshape(-1, 2)
    if not len(boxes):
        raise ValueError("kmeans_anchors: expected at least one box, got none")
    tiny = float((boxes < 3).any(1).mean())
    if tiny > 0.01:
        LOGGER.info(f"AutoAnchor: {tiny:.1%} of the boxes are less than 3 pixels wide or high at {imgsz} pixels")
    boxes = boxes[(boxes >= _SMALLEST_SIDE).any(1)] if (boxes >= _SMALLEST_SIDE).any() else boxes
    if len(boxes) > _LARGEST_SAMPLE:
        boxes = generator.choice(boxes, _LARGEST_SAMPLE, replace=False)
    boxes = boxes.clip(min=_SMALLEST_SIDE)
    anchors = _evolve(boxes, _cluster(boxes, n, generator), threshold, generations, generator)
    return anchors[np.argsort(anchors.prod(1), kind="stable")].astype(np.float32)


def _logarithms(sizes: np.ndarray) -> np.ndarray:
    """Natural logarithms (2, n) of sizes (n, 2); a side of 0 becomes -inf, which is far from every anchor."""
    with np.errstate(divide="ignore"):
        return np.log(np.ascontiguousarray(sizes.T, np.float32))


def _distances(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Distances (n, m) of logarithms (2, m) and (2, n): the larger of the two sides' differences."""
    width = np.abs(boxes[0] - anchors[0, :, None])
    height = np.abs(boxes[1] - anchors[1, :, None])
    return np.maximum(width, height, out=width)


def _fitness(boxes: np.ndarray, anchors: np.ndarray, threshold: float) -> float:
    """Mean closeness of the boxes (2, m) to their best anchors (2, n), all logarithms; 0 for boxes that none fits."""
    nearest = _distances(boxes, anchors).min(0)
    return float(np.where(nearest < math.log(threshold), np.exp(-nearest), 0).mean())


def _cluster(boxes: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Centers (n, 2) of k-means over boxes (m, 2) in units of their standard deviation; k-means++ starts (Arthur 2007).

    If there are fewer than n distinct boxes, the rest are boxes scaled at random.
    """
    distinct = np.unique(boxes, axis=0)
    if len(distinct) <= n:
        more = generator.choice(distinct, n - len(distinct)) * generator.uniform(0.7, 1.4, (n - len(distinct), 2))
        return np.concatenate((distinct, more)).clip(min=_SMALLEST_SIDE)
    scale = boxes.std(0) + 1e-9
    points = boxes / scale
    centers = points[generator.integers(len(points), size=1)]
    while len(centers) < n:
        remaining = _squared_distances(points, centers).min(1).astype(np.float64)
        centers = np.concatenate((centers, points[generator.choice(len(points), 1, p=remaining / remaining.sum())]))
    for _ in range(_LLOYD_ITERATIONS):
        member = _squared_distances(points, centers).argmin(1)
        counts = np.bincount(member, minlength=n)
        sums = np.stack([np.bincount(member, points[:, side], minlength=n) for side in range(2)], 1)
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
    return centers * scale


def _squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distances (m, n) of points (m, 2) and centers (n, 2)."""
    return ((points[:, None] - centers[None]) ** 2).sum(2)


def _evolve(
    boxes: np.ndarray, anchors: np.ndarray, threshold: float, generations: int, generator: np.random.Generator
) -> np.ndarray:
    """Anchors (n, 2) after `generations` random changes, of which every improvement was kept."""
    boxes = _logarithms(boxes)
    best = _fitness(boxes, _logarithms(anchors), threshold)
    for _ in range(generations):
        changed = generator.random(anchors.shape) < _MUTATED_SHARE
        step = changed * generator.random() * generator.standard_normal(anchors.shape) * _MUTATION_SIGMA
        candidate = (anchors * (1 + step).clip(*_MUTATION_RANGE)).clip(min=_SMALLEST_SIDE)
        fitness = _fitness(boxes, _logarithms(candidate), threshold)
        if fitness > best:
            best, anchors = fitness, candidate
    return anchors
