"""Rules that choose among the anchors that can predict an object: ATSS, SimOTA and task alignment (TAL).

The head decodes a center only within -0.5..1.5 cells of its cell, and sides of less than 4 anchors. So an object can be
predicted from four cells of each level: the one that contains its center, the nearer neighbor in x, the nearer one in
y, and the one between these two. v5's rule takes the first three of them for every anchor of fitting sides; the rules
here choose, per object, among 4 cells x anchors x levels. A pair of a cell and an anchor that the decoder cannot bring
to the object is never positive: its loss could not fall.

    atss    the 9 nearest anchors per level; of these, IoU with the object at least mean + standard deviation, cell
            center inside the object; no prediction is read                            arXiv 1912.02424, algorithm 1
    simota  cost = class cross-entropy + 3 (-ln IoU); the k cheapest, k the sum of the 10 largest IoUs, at least 1
                                                                                       arXiv 2107.08430, section 2.1
    tal     t = s^1 u^6 of score s and IoU u; the 13 largest t, cell center inside     arXiv 2108.07755

A pair belongs to one object: the one of the highest IoU, with simota of the lowest cost. An object that is left without
a pair gets the free one of the anchor nearest in shape; if none is within `anchor_t`, the nearest that the decoder can
bring to the object (v5 leaves such an object out). Only in a crowd, if all its pairs are taken, it may get none.

Differences to the papers, all because anchors here have one shape each and objectness is a logit of its own:
the score s is objectness x class score, by which suppression ranks at inference, and objectness alone if there is one
class; atss' mean and deviation are those of the anchors in the four cells, also of shapes that do not fit.

Loops run over levels only; everything is of (objects, pairs), pairs being 4 x anchors x levels, so nothing waits for an
accelerator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.assignment import Assigner, MaskedAssignment, decode, v5_positives
from utils.boxes import paired_iou
from utils.types import Assignment

ATSS_NEAREST = 9  # per level
SIMOTA_BOX_WEIGHT, SIMOTA_OVERLAPS = 3.0, 10
TAL_SCORE_POWER, TAL_OVERLAP_POWER, TAL_LARGEST = 1.0, 6.0, 13
_CELLS = 4
_LARGEST_RATIO = 4.0  # of a decoded side to its anchor's
_NEAREST_OFFSET, _FARTHEST_OFFSET = -0.5, 1.5  # of a decoded center from its cell's left top corner, in cells


class _AnchorPairs(NamedTuple):
    """Each of M objects with the anchors of the four cells around its center, P = levels x cells x anchors, in cells.

    Attributes:
        image, cls: (M,) int64.
        level, anchor: (P,) int64.
        cell: (M, P, 2) int64 row and column, inside the map.
        xywh: (M, P, 4) the object's box, its center relative to the left top corner of the cell.
        anchor_wh: (P, 2).
        key: (M, P) int64, one number per cell and anchor of the batch.
        exists: (M, P) whether the decoder can bring the anchor's center to the object's.
        reachable: (M, P) whether it also can bring the sides to the object's: may be positive.
        closeness: (M, P) 0..1, of the sides: the smallest of w / w_a, w_a / w, h / h_a, h_a / h.
        keys: Number of keys.
    """

    image: Tensor
    cls: Tensor
    level: Tensor
    anchor: Tensor
    cell: Tensor
    xywh: Tensor
    anchor_wh: Tensor
    key: Tensor
    exists: Tensor
    reachable: Tensor
    closeness: Tensor
    keys: int

    @property
    def center_inside(self) -> Tensor:
        """(M, P) whether the center of the cell is inside the object."""
        return ((self.xywh[..., :2] - 0.5).abs() < self.xywh[..., 2:] / 2).all(2)


class _Choice(NamedTuple):
    """Pairs (M, P) that a rule chooses, and their merit: the larger one decides to whom a pair belongs."""

    chosen: Tensor
    merit: Tensor


Rule = Callable[[_AnchorPairs, Sequence[Tensor]], _Choice]


@dataclass(frozen=True)
class DynamicAssigner:
    """An `Assigner` that chooses among the pairs that the head can decode.

    Args:
        rule: What it chooses.
        last_resort: Whether an object that is left without a pair gets one.
    """

    rule: Rule
    last_resort: bool = True

    @torch.no_grad()
    def __call__(
        self, raw_maps: Sequence[Tensor], targets: Tensor, anchors: Tensor, anchor_t: float
    ) -> list[MaskedAssignment]:
        """Return the rows of each level, one per (object, cell, anchor).

        Args:
            raw_maps: (B, na, H, W, 5+nc) per level, of any float type.
            targets: (M, 6) float32 rows: index of the image in the batch, class id, xywh normalized.
            anchors: (nl, na, 2) float32 widths and heights in cells.
            anchor_t: Ratios of an object's and an anchor's width or height must be below this.

        Returns:
            One per level.
        """
        pairs = _pairs(raw_maps, targets, anchors, anchor_t)
        owned = _owned(pairs, self.rule(pairs, raw_maps))
        if self.last_resort:
            owned = owned | _last_resort(pairs, owned)
        return _rows(pairs, owned, len(anchors))


def first_choice(name: str) -> Assigner:
    """Return the rule of a name without what it does for objects that it leaves without a pair."""
    assigner = ASSIGNERS[name]
    return replace(assigner, last_resort=False) if isinstance(assigner, DynamicAssigner) else assigner


def _pairs(raw_maps: Sequence[Tensor], targets: Tensor, anchors: Tensor, anchor_t: float) -> _AnchorPairs:
    shapes = [raw_map.shape[:4] for raw_map in raw_maps]
    levels = [_cells_of(targets, shape[2], shape[3]) for shape in shapes]
    count = anchors.shape[1]
    level = torch.arange(len(shapes), device=targets.device).repeat_interleave(_CELLS * count)
    anchor = torch.arange(count, device=targets.device).repeat(len(shapes) * _CELLS)
    cell, xywh, exists = (
        torch.cat([tensors[i].repeat_interleave(count, 1) for tensors in levels], 1) for i in range(3)
    )
    anchor_wh = anchors[level, anchor]
    ratio = xywh[..., 2:] / anchor_wh  # (M, P, 2)
    largest, smallest = ratio.amax(2), ratio.amin(2)
    closeness = torch.minimum(smallest, 1 / largest)
    image = targets[:, 0].long()
    return _AnchorPairs(
        image=image,
        cls=targets[:, 1].long(),
        level=level,
        anchor=anchor,
        cell=cell,
        xywh=xywh,
        anchor_wh=anchor_wh,
        key=_keys(image, anchor, cell, shapes),
        exists=exists,
        reachable=exists & _within(closeness, decodable=(largest < _LARGEST_RATIO) & (smallest > 0), anchor_t=anchor_t),
        closeness=closeness,
        keys=sum(shape.numel() for shape in shapes),
    )


def _cells_of(targets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The four cells of one level that can predict each object: (M, 4, 2) row and column, (M, 4, 4) xywh, (M, 4)."""
    grid = targets.new_tensor((width, height))
    center, size = targets[:, 2:4] * grid, targets[:, 4:6] * grid
    own = center.floor().clamp(min=0).minimum(grid - 1)  # x first
    aside = own + torch.where(center - own < 0.5, -1.0, 1.0)
    x, y = torch.stack((own, aside, own, aside), 1)[..., 0], torch.stack((own, own, aside, aside), 1)[..., 1]
    corner = torch.stack((x, y), 2)  # (M, 4, 2)
    offset = center[:, None] - corner
    exists = (corner >= 0) & (corner < grid) & (offset > _NEAREST_OFFSET) & (offset < _FARTHEST_OFFSET)
    corner = corner.clamp(min=0).minimum(grid - 1)  # pairs that do not exist are looked up, too
    return corner.long().flip(2), torch.cat((offset, size[:, None].expand_as(offset)), 2), exists.all(2)


def _within(closeness: Tensor, decodable: Tensor, anchor_t: float) -> Tensor:
    """Which pairs (M, P) fit in shape: decodable and within anchor_t, or if an object has none, the nearest ones."""
    fits = decodable & (closeness > 1 / anchor_t)
    able = closeness.where(decodable, 0)
    return fits | (decodable & (able == able.amax(1, keepdim=True)) & ~fits.any(1, keepdim=True))


def _keys(image: Tensor, anchor: Tensor, cell: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """(M, P) one number per image, level, anchor, row and column."""
    per_level = anchor.numel() // len(shapes)
    keys, start = [], 0
    for level, (_, anchors, height, width) in enumerate(shapes):
        columns = slice(level * per_level, (level + 1) * per_level)
        row, column = cell[:, columns].unbind(2)
        keys.append(start + ((image[:, None] * anchors + anchor[columns]) * height + row) * width + column)
        start += shapes[level].numel()
    return torch.cat(keys, 1)


def _atss(pairs: _AnchorPairs, raw_maps: Sequence[Tensor]) -> _Choice:
    """The pairs of the nearest anchors whose IoU is at least mean + standard deviation of theirs."""
    centered = torch.full_like(pairs.anchor_wh, 0.5)  # an anchor is at the center of its cell
    overlap = _overlap(torch.cat((centered, pairs.anchor_wh), 1).expand_as(pairs.xywh), pairs.xywh)
    near = _nearest(pairs, len(raw_maps))
    count = near.sum(1, keepdim=True)
    mean = overlap.where(near, 0).sum(1, keepdim=True) / count.clamp(min=1)
    variance = (overlap - mean).square().where(near, 0).sum(1, keepdim=True) / (count - 1).clamp(min=1)
    chosen = near & pairs.reachable & pairs.center_inside & (overlap >= mean + variance.sqrt())
    return _Choice(chosen, overlap)


def _nearest(pairs: _AnchorPairs, levels: int) -> Tensor:
    """Which pairs (M, P) are of the ATSS_NEAREST anchors per level that are nearest to the object's center."""
    distance = (pairs.xywh[..., :2] - 0.5).square().sum(2).where(pairs.exists, torch.inf)
    per_level = distance.unflatten(1, (levels, -1))
    return (_rank(per_level) < ATSS_NEAREST).flatten(1) & pairs.exists


def _simota(pairs: _AnchorPairs, raw_maps: Sequence[Tensor]) -> _Choice:
    """The cheapest pairs of each object, as many as the sum of its largest IoUs."""
    logits = _logits(pairs, raw_maps)
    overlap = _predicted_overlap(pairs, logits).where(pairs.reachable, 0)
    cost = _class_cost(logits, pairs.cls) - SIMOTA_BOX_WEIGHT * (overlap + 1e-8).log()
    cost = cost.where(pairs.reachable, torch.inf)
    count = overlap.topk(min(SIMOTA_OVERLAPS, overlap.shape[1]), 1).values.sum(1).int().clamp(min=1)
    return _Choice((_rank(cost) < count[:, None]) & pairs.reachable, -cost)


def _class_cost(logits: Tensor, cls: Tensor) -> Tensor:
    """(M, P) cross-entropy, summed over classes, of the root of objectness x class score (YOLOX's)."""
    log_score = F.logsigmoid(logits[..., 4:5])
    if logits.shape[-1] > 6:
        log_score = log_score + F.logsigmoid(logits[..., 5:])
    log_root = log_score / 2
    # -ln(1 - p), at most 100 as torch's cross-entropy has it: p may round to 1
    negative = -(-torch.expm1(log_root)).log().clamp(min=-100)
    own = _of_class(log_root, cls), _of_class(negative, cls)
    return negative.sum(2) - own[1] - own[0]


def _tal(pairs: _AnchorPairs, raw_maps: Sequence[Tensor]) -> _Choice:
    """The pairs of each object that are best aligned in score and overlap."""
    logits = _logits(pairs, raw_maps)
    overlap = _predicted_overlap(pairs, logits)
    score = logits[..., 4].sigmoid()
    if logits.shape[-1] > 6:
        score = score * _of_class(logits[..., 5:], pairs.cls).sigmoid()
    candidate = pairs.reachable & pairs.center_inside
    alignment = (score**TAL_SCORE_POWER * overlap**TAL_OVERLAP_POWER).where(candidate, -1)
    return _Choice((_rank(-alignment) < TAL_LARGEST) & candidate, overlap)


def _logits(pairs: _AnchorPairs, raw_maps: Sequence[Tensor]) -> Tensor:
    """(M, P, 5+nc) float32 raw outputs of the pairs."""
    per_level = len(pairs.level) // len(raw_maps)
    image = pairs.image[:, None]
    found = []
    for level, raw_map in enumerate(raw_maps):
        columns = slice(level * per_level, (level + 1) * per_level)
        row, column = pairs.cell[:, columns].unbind(2)
        found.append(raw_map[image, pairs.anchor[columns], row, column].float())
    return torch.cat(found, 1)


def _predicted_overlap(pairs: _AnchorPairs, logits: Tensor) -> Tensor:
    """(M, P) IoU of the predicted boxes with their objects."""
    anchor_wh = pairs.anchor_wh.expand(len(logits), -1, -1)
    return _overlap(decode(logits[..., :4].flatten(0, 1), anchor_wh.flatten(0, 1)), pairs.xywh)


def _overlap(boxes: Tensor, xywh: Tensor) -> Tensor:
    """(M, P) IoU, 0..1, of boxes (M, P, 4) or (M * P, 4) with (M, P, 4)."""
    return paired_iou(boxes.reshape(-1, 4), xywh.reshape(-1, 4), "IoU").clamp(0, 1).view(xywh.shape[:2])


def _of_class(values: Tensor, cls: Tensor) -> Tensor:
    """(M, P) each object's class of (M, P, nc); of (M, P, 1) the only one."""
    if values.shape[2] == 1:
        return values[..., 0]
    return values.gather(2, cls[:, None, None].expand(-1, values.shape[1], 1)).squeeze(2)


def _rank(values: Tensor) -> Tensor:
    """How many values along the last dimension are smaller, or equal and before."""
    return values.argsort(dim=-1, stable=True).argsort(dim=-1)


def _owned(pairs: _AnchorPairs, choice: _Choice) -> Tensor:
    """Which chosen pairs (M, P) an object keeps: a pair goes to the largest merit, of equal ones to the first."""
    merit, key = choice.merit.where(choice.chosen, -torch.inf), pairs.key
    largest = merit.new_full((pairs.keys,), -torch.inf).scatter_reduce(0, key.flatten(), merit.flatten(), "amax")
    best = choice.chosen & (merit == largest[key])
    objects = len(key)
    order = torch.arange(objects, device=key.device)[:, None].where(best, objects)
    first = order.new_full((pairs.keys,), objects).scatter_reduce(0, key.flatten(), order.flatten(), "amin")
    return best & (order == first[key])


def _last_resort(pairs: _AnchorPairs, owned: Tensor) -> Tensor:
    """(M, P): for each object without a pair the free one nearest in shape, in its own cell if that is free."""
    taken = owned.new_zeros(pairs.keys, dtype=torch.int32).scatter_reduce(
        0, pairs.key.flatten(), owned.flatten().int(), "amax"
    )
    free = pairs.reachable & (taken[pairs.key] == 0) & ~owned.any(1, keepdim=True)
    closeness = pairs.closeness.where(free, -1)
    nearest = closeness.argmax(1, keepdim=True)  # of equal ones the first
    columns = torch.arange(closeness.shape[1], device=closeness.device)
    return _owned(pairs, _Choice(free & (columns == nearest), closeness))


def _rows(pairs: _AnchorPairs, owned: Tensor, levels: int) -> list[MaskedAssignment]:
    per_level = owned.shape[1] // levels
    return [_rows_of(pairs, owned, slice(level * per_level, (level + 1) * per_level)) for level in range(levels)]


def _rows_of(pairs: _AnchorPairs, owned: Tensor, columns: slice) -> MaskedAssignment:
    """One level's rows (object, cell, anchor)."""
    valid = owned[:, columns]
    rows = Assignment(
        image=pairs.image[:, None].expand_as(valid).reshape(-1),
        anchor=pairs.anchor[columns].expand_as(valid).reshape(-1),
        row=pairs.cell[:, columns, 0].reshape(-1),
        column=pairs.cell[:, columns, 1].reshape(-1),
        xywh=pairs.xywh[:, columns].reshape(-1, 4),
        anchor_wh=pairs.anchor_wh[columns].expand(len(valid), -1, -1).reshape(-1, 2),
        cls=pairs.cls[:, None].expand_as(valid).reshape(-1),
        label=torch.arange(len(valid), device=valid.device)[:, None].expand_as(valid).reshape(-1),
    )
    return MaskedAssignment(rows, valid.reshape(-1))


# By the hyperparameter `assign`
ASSIGNERS: dict[str, Assigner] = {
    "v5": v5_positives,
    "atss": DynamicAssigner(_atss),
    "simota": DynamicAssigner(_simota),
    "tal": DynamicAssigner(_tal),
}
