"""How the boxes of a dataset fit a head and an image size: which match an anchor, and which are too small."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.anchors import KEEP_ABOVE, check_anchors
from utils.datasets.check.findings import Finding
from utils.datasets.label_store import LabelStore
from utils.types import HeadGeometry

MANY_TINY = 0.01  # share of boxes under the least side from which it is reported
MANY_SMALL = 0.1  # share of boxes under the finest stride from which it is reported
_BLOCK = 65536


@dataclass(frozen=True)
class BoxFit:
    """The boxes of a split at an image size, compared with a head.

    Attributes:
        imgsz: Side of the network input in pixels.
        threshold: `anchor_t` of the loss.
        least_side: Pixels below which a side is tiny.
        wh: (m, 2) float64 pixels.
        ratio: (m,) factor by which the worse side differs from the best anchor's, inf for a box without size; empty if
            the head has no anchors of its own.
        levels: (nl,) boxes that match an anchor of each level.
        tiny: (m,) a side below `least_side`.
        below: (m,) both sides below the finest stride.
    """

    imgsz: int
    threshold: float
    least_side: float
    wh: np.ndarray
    ratio: np.ndarray
    levels: np.ndarray
    tiny: np.ndarray
    below: np.ndarray

    @property
    def without_anchor(self) -> np.ndarray:
        """(m,) whether no anchor matches the box; empty without anchors."""
        return self.ratio >= self.threshold

    def figures(self) -> dict[str, Any]:
        """Return shares and counts, fit for JSON; None if there is nothing to measure."""
        count = len(self.wh)
        share: dict[str, float | None] = {
            name: round(float(mask.mean()), 6) if len(mask) else None
            for name, mask in (("no_anchor", self.without_anchor), ("tiny", self.tiny), ("below_stride", self.below))
        }
        sides = (
            {
                f"p{percent}": [round(float(side), 2) for side in np.percentile(self.wh, percent, axis=0)]
                for percent in (1, 10, 50, 90, 99)
            }
            if count
            else {}
        )
        without = share["no_anchor"]
        best = None if without is None else 1 - without
        return {
            "boxes": count,
            "no_anchor_share": share["no_anchor"],
            "best_possible_recall": best,
            "tiny_share": share["tiny"],
            "below_stride_share": share["below_stride"],
            "boxes_of_level": self.levels.tolist(),
            "width_height_px": sides,
        }


def measure(
    store: LabelStore,
    geometry: HeadGeometry,
    has_anchors: bool,
    imgsz: int,
    threshold: float = 4.0,
    least_side: float = 3.0,
) -> BoxFit:
    """Return how the boxes of a split fit a head.

    Args:
        store: The labels.
        geometry: The head.
        has_anchors: Whether its anchors are its own; otherwise training fits them first.
        imgsz: Side of the network input in pixels.
        threshold: `anchor_t` of the loss.
        least_side: Pixels at `imgsz` below which a side is tiny.

    Returns:
        The fit.
    """
    wh = store.boxes_px(imgsz)
    stride = float(geometry.strides.min())
    anchors = geometry.anchors_px.detach().cpu().numpy().astype(np.float64)
    ratio, levels = np.zeros(0), np.zeros(geometry.levels, np.int64)
    if has_anchors:
        parts = [_ratios(wh[start : start + _BLOCK], anchors) for start in range(0, len(wh), _BLOCK)]
        by_level = np.concatenate(parts) if parts else np.zeros((0, geometry.levels))
        ratio, levels = by_level.min(1, initial=np.inf), (by_level < threshold).sum(0)
    tiny, below = np.any(wh < least_side, axis=1), np.all(wh < stride, axis=1)
    return BoxFit(imgsz, threshold, least_side, wh, ratio, levels, np.asarray(tiny), np.asarray(below))


def _ratios(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(m, 2) boxes and (nl, na, 2) anchors to (m, nl): max(w/a_w, a_w/w, h/a_h, a_h/h) of each level's best anchor."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = wh[:, None, None] / anchors
        worse = np.maximum(ratio, 1 / ratio).max(-1)
    return worse.min(-1)


def box_findings(
    split: str, fit: BoxFit, store: LabelStore, lines: np.ndarray, files: list[str], stride: float, head: str, yaml: str
) -> Iterator[Finding]:
    """Yield one finding per share that is too large, and one note per box.

    Args:
        split: Name of the split.
        fit: How its boxes fit.
        store: Its labels.
        lines: (m,) line of each label row.
        files: Label file per image.
        stride: Finest stride of the head in pixels.
        head: Name of the model whose anchors these are.
        yaml: The data yaml.

    Yields:
        Findings about the data yaml and about label files.
    """
    if not len(fit.wh):
        return
    at = f"at --imgsz {fit.imgsz}"
    if fit.tiny.mean() > MANY_TINY:
        what = f"{split}: {_share_text(fit.tiny)} boxes have a side under {fit.least_side:g} pixels {at}"
        yield Finding(yaml, 0, "boxes-tiny", what, split)
    if fit.below.mean() > MANY_SMALL:
        small = _share_text(fit.below)
        what = f"{split}: {small} boxes are smaller both ways than the finest stride, {stride:g} pixels, {at}"
        yield Finding(yaml, 0, "boxes-below-stride", what, split)
    misfit = fit.without_anchor
    if len(misfit) and 1 - misfit.mean() <= KEEP_ABOVE:
        yield Finding(
            yaml, 0, "anchors-misfit", f"{split}: {_share_text(misfit)} boxes have no anchor of {head} {at}", split
        )
    image_of = store.image_of
    for index in np.flatnonzero(fit.tiny):
        yield Finding(
            files[image_of[index]], int(lines[index]), "box-tiny", f"{_size(fit.wh[index])} pixels {at}", split
        )
    for index in np.flatnonzero(misfit):
        what = (
            f"{_size(fit.wh[index])} pixels {at} differ from the nearest anchor by a factor of {fit.ratio[index]:.1f}"
        )
        yield Finding(files[image_of[index]], int(lines[index]), "box-no-anchor", what, split)


def better_anchors(fits: Mapping[str, BoxFit], geometry: HeadGeometry) -> list[list[float]] | None:
    """Return the anchors that AutoAnchor would fit to the train split.

    Args:
        fits: split -> how its boxes fit.
        geometry: The head.

    Returns:
        (nl * na, 2) pixels, or None to keep the head's.
    """
    fit = fits.get("train")
    if fit is None or not len(fit.ratio) or 1 - fit.without_anchor.mean() > KEEP_ABOVE:
        return None
    new = check_anchors(fit.wh, geometry, fit.threshold, fit.imgsz).new_anchors_px
    return None if new is None else [[round(float(side), 1) for side in anchor] for anchor in new]


def _share_text(mask: np.ndarray) -> str:
    return f"{int(mask.sum())} of {len(mask)} ({mask.mean():.1%})"


def _size(wh: np.ndarray) -> str:
    return f"{wh[0]:.1f} x {wh[1]:.1f}"
