"""The positive anchors of each object, the interface of every rule that finds them, and v5's rule (`assign`).

An object is assigned to every anchor whose width and height are within a factor `anchor_t` of its own, in the cell that
contains its center and in the neighbors nearer than half a cell.

Loops run over head levels only. On an accelerator nothing waits for the device: the assignment keeps one row per
(neighbor, anchor, object) and a mask, instead of reading back how many rows are valid. On the CPU, where this is free,
invalid rows are dropped first.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from utils.types import Assignment, HeadGeometry

# Offsets (x, y) in cells from an object's center to a point in each cell that may be assigned to it: its own, left,
# above, right, below. Their order decides which object is the target of a cell that is assigned to several.
_NEIGHBORS = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))


class MaskedAssignment(NamedTuple):
    """Rows of one level that may be positive, in any order that the rule fixes, and a mask (K,) of those that are."""

    rows: Assignment
    valid: Tensor

    def compact(self) -> "MaskedAssignment":
        """Only the valid rows. Needs their number on the host: a synchronization on an accelerator."""
        keep = self.valid.nonzero().squeeze(1)
        rows = {field.name: getattr(self.rows, field.name)[keep] for field in fields(Assignment)}
        return MaskedAssignment(Assignment(**rows), self.valid[keep])


class Assigner(Protocol):
    """A rule that finds the positive anchors of a batch."""

    def __call__(
        self, raw_maps: Sequence[Tensor], targets: Tensor, anchors: Tensor, anchor_t: float
    ) -> list[MaskedAssignment]:
        """Return the rows of each level.

        Args:
            raw_maps: (B, na, H, W, 5+nc) per level, of any float type; read without gradient.
            targets: (M, 6) float32 rows: index of the image in the batch, class id, xywh normalized.
            anchors: (nl, na, 2) float32 widths and heights in cells.
            anchor_t: Ratios of an object's and an anchor's width or height must be below this.

        Returns:
            One per level; its indices are inside the map in rows that are not valid, too.
        """


def assign(
    targets: Tensor, shapes: Sequence[tuple[int, int]], geometry: HeadGeometry, anchor_t: float = 4.0
) -> list[Assignment]:
    """Return the positive anchors and their targets, one Assignment per head level.

    Args:
        targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized.
        shapes: (H, W) of each level's map, in cells.
        geometry: Of the head.
        anchor_t: Ratios of an object's and an anchor's width or height must be below this.

    Returns:
        One Assignment per level, rows in v6.1's order (neighbor, anchor, object).
    """
    return [
        _candidates(targets, anchors, shape, anchor_t).compact().rows
        for anchors, shape in zip(geometry.anchors, shapes, strict=True)
    ]


def v5_positives(
    raw_maps: Sequence[Tensor], targets: Tensor, anchors: Tensor, anchor_t: float
) -> list[MaskedAssignment]:
    """Return the positives by v5's rule, an `Assigner` that looks at the maps' sizes only.

    Args:
        raw_maps: (B, na, H, W, 5+nc) per level.
        targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized.
        anchors: (nl, na, 2) widths and heights in cells.
        anchor_t: Ratios of an object's and an anchor's width or height must be below this.

    Returns:
        One per level, with a row for every (neighbor, anchor, object) in v6.1's order.
    """
    return [
        _candidates(targets, of_level, (raw_map.shape[2], raw_map.shape[3]), anchor_t)
        for of_level, raw_map in zip(anchors, raw_maps, strict=True)
    ]


def _candidates(targets: Tensor, anchors: Tensor, shape: tuple[int, int], anchor_t: float) -> MaskedAssignment:
    """Every (neighbor, anchor, object) of one level; targets (M, 6), anchors (na, 2) in cells."""
    height, width = shape
    image, cls = targets[:, 0].long(), targets[:, 1].long()
    x, y = targets[:, 2] * width, targets[:, 3] * height
    size = torch.stack((targets[:, 4] * width, targets[:, 5] * height), 1)  # (M, 2)

    ratio = size / anchors[:, None]  # (na, M, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t  # (na, M)
    near = torch.stack(
        (
            torch.ones_like(x, dtype=torch.bool),
            _near_start(x),
            _near_start(y),
            _near_start(width - x),
            _near_start(height - y),
        )
    )  # (5, M)
    column = torch.stack([(x + step).long() for step, _ in _NEIGHBORS]).clamp(0, width - 1)  # (5, M)
    row = torch.stack([(y + step).long() for _, step in _NEIGHBORS]).clamp(0, height - 1)

    full = (len(_NEIGHBORS), len(anchors), len(targets))
    offset_and_size = torch.cat((torch.stack((x - column, y - row), 2), size.expand(full[0], -1, -1)), 2)  # (5, M, 4)
    rows = Assignment(
        image=image.expand(full).reshape(-1),
        anchor=torch.arange(full[1], device=targets.device)[:, None].expand(full).reshape(-1),
        row=row[:, None].expand(full).reshape(-1),
        column=column[:, None].expand(full).reshape(-1),
        xywh=offset_and_size[:, None].expand(*full, 4).reshape(-1, 4),
        anchor_wh=anchors[:, None].expand(*full, 2).reshape(-1, 2),
        cls=cls.expand(full).reshape(-1),
        label=torch.arange(full[2], device=targets.device).expand(full).reshape(-1),
    )
    return MaskedAssignment(rows, (near[:, None] & fits).reshape(-1))


def _near_start(position: Tensor) -> Tensor:
    """Whether a coordinate, in cells from one border, is in the near half of its cell, beyond the first cell."""
    return (position % 1 < 0.5) & (position > 1)


def decode(logits: Tensor, anchor_wh: Tensor) -> Tensor:
    """Return the boxes that raw outputs stand for.

    Args:
        logits: (K, 4) raw x, y, w, h.
        anchor_wh: (K, 2) width and height of the anchors in grid units.

    Returns:
        (K, 4) xywh in grid units: the center relative to the left top corner of the cell, -0.5..1.5; sides of up to 4
        anchors.
    """
    return torch.cat((logits[:, :2].sigmoid() * 2 - 0.5, (logits[:, 2:].sigmoid() * 2).square() * anchor_wh), 1)
