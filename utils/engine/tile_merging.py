"""Boxes of several views of one image, its tiles and the whole of it, merged: one box for one object.

Two things go wrong at the borders of tiles. An object in the part that two tiles share is found twice: the two boxes
overlap by nearly all of their area. And an object that a border cuts is found as a fragment, besides whole in a view
that shows all of it: their IoU may be small, but the fragment lies within the other box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.config import Slicing
from utils.engine.image_tiles import ImageTile
from utils.types import Detections

MAX_CANDIDATES = 30_000  # the most confident ones per image that are merged
PAIRS_AT_ONCE = 1_000_000  # of boxes that are compared, so that memory does not grow with their square
BORDER_PIXELS = 3.0  # a box that ends so near to a tile's border, or
BORDER_SHARE = 0.05  # by this share of its own side, is cut by it


@dataclass(frozen=True)
class _Boxes:
    """Boxes of all views, by falling confidence; equally confident ones in the order of the views.

    xyxy: (n, 4) float64; conf: (n,) float64; cls: (n,); view: (n,); is_cut: (n,) bool, whether a tile's border cuts it.
    """

    xyxy: np.ndarray
    conf: np.ndarray
    cls: np.ndarray
    view: np.ndarray
    is_cut: np.ndarray

    def __len__(self) -> int:
        return len(self.conf)

    def __getitem__(self, rows: np.ndarray) -> "_Boxes":
        return _Boxes(self.xyxy[rows], self.conf[rows], self.cls[rows], self.view[rows], self.is_cut[rows])


def merge_views(
    found: Sequence[Detections],
    tiles: Sequence[ImageTile],
    shape: tuple[int, int],
    slicing: Slicing,
    agnostic: bool = False,
    max_det: int = 300,
) -> Detections:
    """Return one record for the detections of several views of an image.

    Args:
        found: Per view, in pixels of the image, on the CPU.
        tiles: Where each view lies in the image; the whole image is a view too.
        shape: (height, width) of the image in pixels.
        slicing: How boxes are merged.
        agnostic: Whether boxes of different classes may be of one object.
        max_det: Largest number of detections.

    Returns:
        Detections by falling confidence. A box that overlaps none is as it was.
    """
    boxes = _gathered(found, tiles, shape)
    groups = np.zeros_like(boxes.cls) if agnostic else boxes.cls
    if slicing.match == "border":
        kept = _without_fragments(boxes, groups, slicing.threshold)
        boxes, groups = boxes[kept], groups[kept]
    merge = {"nms": _suppressed, "wbf": _fused}[slicing.merge]
    boxes = merge(boxes, groups, slicing, max_det)
    boxes = boxes[np.argsort(-boxes.conf, kind="stable")[:max_det]]
    return Detections(
        torch.from_numpy(boxes.xyxy.astype(np.float32)),
        torch.from_numpy(boxes.conf.astype(np.float32)),
        torch.from_numpy(boxes.cls.astype(np.int64)),
    )


def _gathered(found: Sequence[Detections], tiles: Sequence[ImageTile], shape: tuple[int, int]) -> _Boxes:
    xyxy = np.concatenate([one.xyxy.numpy() for one in found]).astype(np.float64)
    conf = np.concatenate([one.conf.numpy() for one in found]).astype(np.float64)
    cls = np.concatenate([one.cls.numpy() for one in found])
    view = np.repeat(np.arange(len(found)), [len(one) for one in found])
    is_cut = _is_cut(xyxy, np.array(tiles, np.float64).reshape(-1, 4)[view], shape)
    order = np.argsort(-conf, kind="stable")[:MAX_CANDIDATES]
    return _Boxes(xyxy, conf, cls, view, is_cut)[order]


def _is_cut(xyxy: np.ndarray, borders: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether each box ends at a border of its view that is not an edge of the image."""
    height, width = shape
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
    near = np.abs(xyxy - borders) <= np.maximum(BORDER_PIXELS, BORDER_SHARE * sides)
    is_inside = borders != np.array([0, 0, width, height])
    return (near & is_inside).any(1)


def _overlaps(boxes: np.ndarray, box: np.ndarray, match: str) -> np.ndarray:
    """(n,) IoU of boxes (n, 4) with one, or with "ios" the intersection over the smaller; 0 for boxes without area."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = sides.clip(min=0).prod(1)
    areas, area = (boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod()
    whole = np.minimum(areas, area) if match == "ios" else areas + area - common
    return common / whole.clip(min=1e-9)


def _without_fragments(boxes: _Boxes, groups: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes without those that a border cuts, if another view shows what they are a part of.

    That is a box of the same class that no border cuts, that is no smaller and holds more than `threshold` of the
    fragment. How confident the two are does not matter, since a fragment may well look more like its class.
    """
    kept = ~boxes.is_cut
    for group in np.unique(groups):
        whole = np.flatnonzero(~boxes.is_cut & (groups == group))
        cut = np.flatnonzero(boxes.is_cut & (groups == group))
        rows = max(PAIRS_AT_ONCE // max(len(whole), 1), 1)
        for part in (cut[start : start + rows] for start in range(0, len(cut), rows)):
            kept[part] = ~_are_parts(boxes[part], boxes[whole], threshold)
    return np.flatnonzero(kept)


def _are_parts(cut: _Boxes, whole: _Boxes, threshold: float) -> np.ndarray:
    """(n,) whether each of n boxes lies by more than a share within a box of another view that is no smaller."""
    low = np.maximum(cut.xyxy[:, None, :2], whole.xyxy[None, :, :2])
    sides = (np.minimum(cut.xyxy[:, None, 2:], whole.xyxy[None, :, 2:]) - low).clip(min=0)
    cut_area, whole_area = ((boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).prod(1) for boxes in (cut, whole))
    holds = sides[..., 0] * sides[..., 1] > threshold * cut_area[:, None]
    holds &= (whole_area >= cut_area[:, None]) & (cut.view[:, None] != whole.view)
    return holds.any(1)


def _suppressed(boxes: _Boxes, groups: np.ndarray, slicing: Slicing, max_det: int) -> _Boxes:
    """The boxes that suppression keeps: none overlaps a more confident one of its class from another view.

    Boxes of one view have been through suppression already, by their IoU.
    """
    remaining, kept = np.arange(len(boxes)), np.zeros(0, np.int64)
    while len(remaining) and len(kept) < max_det:
        best, remaining = remaining[0], remaining[1:]
        kept = np.append(kept, best)
        same = (groups[remaining] == groups[best]) & (boxes.view[remaining] != boxes.view[best])
        over = _overlaps(boxes.xyxy[remaining], boxes.xyxy[best], slicing.match) > slicing.threshold
        remaining = remaining[~(same & over)]
    return boxes[kept]


def _fused(boxes: _Boxes, groups: np.ndarray, slicing: Slicing, _max_det: int) -> _Boxes:
    """Weighted boxes fusion (Solovyev, Wang and Gabruseva, 2021, section 3).

    From the most confident box on, each joins the fused box of its class that it overlaps most, if by more than the
    threshold, or begins one. A fused box is the mean of its members, weighted by confidence. Its own confidence is
    the highest of them, not their mean as between models: a tile that shows an object well is right about it, and a
    view that shows it small or cut has no say.
    """
    fused = np.zeros((len(boxes), 4))
    members: list[list[int]] = []
    owner = np.zeros(len(boxes), np.int64)  # class of each fused box
    for row in range(len(boxes)):
        count = len(members)
        same = np.flatnonzero(owner[:count] == groups[row])
        overlaps = _overlaps(fused[same], boxes.xyxy[row], slicing.match)
        if len(same) and overlaps.max() > slicing.threshold:
            place = int(same[overlaps.argmax()])
            members[place].append(row)
            weights = boxes.conf[members[place]]
            fused[place] = weights @ boxes.xyxy[members[place]] / weights.sum()
        else:
            fused[count], owner[count] = boxes.xyxy[row], groups[row]
            members.append([row])
    first = np.array([rows[0] for rows in members], np.int64)
    best = boxes[first]
    return _Boxes(fused[: len(members)], best.conf, best.cls, best.view, best.is_cut)
