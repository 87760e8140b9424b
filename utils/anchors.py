"""AutoAnchor: do a head's anchors suit the boxes of a data set, and if not, which would?

An anchor can answer for a box when neither side differs by a factor of `threshold` or more (the rule
of the loss). The closeness of a box and an anchor is min(w/a_w, a_w/w, h/a_h, a_h/h), 0..1; it is computed
as exp(-distance), where distance is the larger of |ln w - ln a_w| and |ln h - ln a_h|: no division a pair.
"""

import math
from dataclasses import dataclass

import numpy as np

from utils.log import LOGGER
from utils.types import HeadGeometry

KEEP_ABOVE = 0.98  # best possible recall at which a model's own anchors stay
_LARGEST_SAMPLE = 10_000  # boxes that the search looks at
_SMALLEST_SIDE = 2.0  # pixels: no anchor is smaller, and boxes smaller both ways do not shape anchors
_LLOYD_ITERATIONS = 30
_MUTATED_SHARE, _MUTATION_SIGMA, _MUTATION_RANGE = 0.9, 0.1, (0.3, 3.0)


@dataclass(frozen=True)
class AnchorReport:
    """How anchors suit a data set.

    bpr: best possible recall, the share of boxes that some anchor can answer for; anchors_above: mean number of
    anchors that can; new_anchors_px: (nl * na, 2) better ones in pixels by rising area, None to keep the model's.
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
) -> AnchorReport:
    """Measure a head's anchors on the boxes, and search for better ones where the recall is 0.98 or less.

    wh_px: (n, 2) widths and heights in pixels at the training size `imgsz`; generator: for the search, a fresh
    one of seed 0 by default. The boxes of the report are all of them, however small.
    """
    wh_px = np.asarray(wh_px, np.float32).reshape(-1, 2)
    if not len(wh_px):
        LOGGER.info("AutoAnchor: there are no boxes to measure, the model's anchors stay")
        return AnchorReport(0.0, 0.0)
    current = geometry.anchors_px.detach().cpu().numpy().reshape(-1, 2)
    bpr, above = recall(wh_px, current, threshold)
    found = f"AutoAnchor: {above:.2f} anchors/target, {bpr:.3f} Best Possible Recall (BPR)."
    if bpr > KEEP_ABOVE:
        LOGGER.info(f"{found} Current anchors are a good fit to dataset")
        return AnchorReport(bpr, above)
    LOGGER.info(f"{found} Anchors are a poor fit to dataset, attempting to improve...")
    generator = generator or np.random.default_rng(0)
    new = kmeans_anchors(wh_px, len(current), imgsz, threshold, generations, generator)
    new_bpr, new_above = recall(wh_px, new, threshold)
    if new_bpr <= bpr:
        LOGGER.info(f"AutoAnchor: the best found have {new_bpr:.3f} BPR, the model's anchors stay")
        return AnchorReport(bpr, above)
    LOGGER.info(
        f"AutoAnchor: {new_above:.2f} anchors/target, {new_bpr:.3f} BPR with new anchors "
        + ", ".join(f"{width:.0f},{height:.0f}" for width, height in new)
    )
    return AnchorReport(bpr, above, new)


def recall(wh_px: np.ndarray, anchors_px: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return (best possible recall 0..1, mean number of anchors a box that can answer for it)."""
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
    """Return (n, 2) float32 anchors in pixels by rising area, fitted to the boxes: k-means, then an evolution.

    wh_px: (m, 2) pixels at the training size `imgsz`, m at least 1, which may be less than n. Above 10,000
    boxes a random sample is looked at. Raises ValueError without a box.
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
    """(n, 2) to (2, n) natural logarithms; a side of 0 becomes -inf, which is far from every anchor."""
    with np.errstate(divide="ignore"):
        return np.log(np.ascontiguousarray(sizes.T, np.float32))


def _distances(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Logarithms (2, m) and (2, n) to (n, m): the larger of the two sides' differences."""
    width = np.abs(boxes[0] - anchors[0, :, None])
    height = np.abs(boxes[1] - anchors[1, :, None])
    return np.maximum(width, height, out=width)


def _fitness(boxes: np.ndarray, anchors: np.ndarray, threshold: float) -> float:
    """Mean closeness of the boxes (2, m) to their best anchors (2, n), all logarithms; 0 where none can answer."""
    nearest = _distances(boxes, anchors).min(0)
    return float(np.where(nearest < math.log(threshold), np.exp(-nearest), 0).mean())


def _cluster(boxes: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """(n, 2) k-means centres of boxes (m, 2) in units of their standard deviation; k-means++ starts (Arthur 2007).

    Where distinct boxes are fewer than n, the rest are boxes scaled at random.
    """
    distinct = np.unique(boxes, axis=0)
    if len(distinct) <= n:
        more = generator.choice(distinct, n - len(distinct)) * generator.uniform(0.7, 1.4, (n - len(distinct), 2))
        return np.concatenate((distinct, more)).clip(min=_SMALLEST_SIDE)
    scale = boxes.std(0) + 1e-9
    points = boxes / scale
    centres = points[generator.integers(len(points), size=1)]
    while len(centres) < n:
        remaining = _squared(points, centres).min(1).astype(np.float64)
        centres = np.concatenate((centres, points[generator.choice(len(points), 1, p=remaining / remaining.sum())]))
    for _ in range(_LLOYD_ITERATIONS):
        member = _squared(points, centres).argmin(1)
        counts = np.bincount(member, minlength=n)
        sums = np.stack([np.bincount(member, points[:, side], minlength=n) for side in range(2)], 1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return centres * scale


def _squared(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(m, 2) and (n, 2) to (m, n) squared distances."""
    return ((points[:, None] - centres[None]) ** 2).sum(2)


def _evolve(
    boxes: np.ndarray, anchors: np.ndarray, threshold: float, generations: int, generator: np.random.Generator
) -> np.ndarray:
    """(n, 2) anchors after `generations` random changes of which every improvement was kept."""
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
