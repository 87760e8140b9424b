"""The detection loss: which cells answer for an object (`assign`), and what their answers cost (`DetectionLoss`).

An object belongs to every anchor whose width and height lie within a factor `anchor_t` of its own,
and there to the cell that holds its centre and to the neighbours nearer than half a cell. Boxes cost
what `utils.box_losses` says (1 - CIoU unless asked otherwise), classes and objectness binary cross-entropy;
objectness aims at the predicted box's IoU.

Loops run over head levels only. On an accelerator nothing waits for the device: the assignment keeps
one row a (neighbour, anchor, object) and a mask, instead of asking how many rows remain. On the CPU,
where asking is free, rows that do not count are dropped first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.box_losses import BoxLoss
from utils.types import Assignment, HeadGeometry, LossParts

# Steps (x, y) from an object's centre, in cells, to a point in each cell that may answer for it:
# its own, left, above, right, below. Their order decides which object a doubly claimed cell aims at.
_NEIGHBOURS = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))
_BALANCE_THREE_LEVELS = (4.0, 1.0, 0.4)
_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
_FOCAL_ALPHA = 0.25  # arXiv 1708.02002, section 5.1


class LossHyperparameters(Protocol):
    """What the loss reads of the hyperparameters; gains are used as given (`Hyperparameters.scaled` scales them)."""

    box: float
    obj: float
    cls: float
    cls_pw: float
    obj_pw: float
    anchor_t: float
    fl_gamma: float
    label_smoothing: float


class _Candidates(NamedTuple):
    """Rows that may be matches, in v6.1's order (neighbour, anchor, object), and which of them (K,) are."""

    rows: Assignment
    valid: Tensor

    def compact(self) -> "_Candidates":
        """Only the matches. Needs their number on the host: a synchronisation on an accelerator."""
        keep = self.valid.nonzero().squeeze(1)
        rows = {field.name: getattr(self.rows, field.name)[keep] for field in fields(Assignment)}
        return _Candidates(Assignment(**rows), self.valid[keep])


def assign(
    targets: Tensor, shapes: Sequence[tuple[int, int]], geometry: HeadGeometry, anchor_t: float = 4.0
) -> list[Assignment]:
    """Match objects with anchors and cells; one Assignment a head level.

    targets: (M, 6) rows of image, class, xywh normalised; shapes: (H, W) of each level's map;
    anchor_t: largest ratio between an object's and an anchor's width or height.
    """
    return [
        _candidates(targets, anchors, shape, anchor_t).compact().rows
        for anchors, shape in zip(geometry.anchors, shapes)
    ]


def _candidates(targets: Tensor, anchors: Tensor, shape: tuple[int, int], anchor_t: float) -> _Candidates:
    """Every (neighbour, anchor, object) of one level; targets (M, 6), anchors (na, 2) in cells."""
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
    column = torch.stack([(x + step).long() for step, _ in _NEIGHBOURS]).clamp(0, width - 1)  # (5, M)
    row = torch.stack([(y + step).long() for _, step in _NEIGHBOURS]).clamp(0, height - 1)

    full = (len(_NEIGHBOURS), len(anchors), len(targets))
    offset_and_size = torch.cat((torch.stack((x - column, y - row), 2), size.expand(full[0], -1, -1)), 2)  # (5, M, 4)
    rows = Assignment(
        image=image.expand(full).reshape(-1),
        anchor=torch.arange(full[1], device=targets.device)[:, None].expand(full).reshape(-1),
        row=row[:, None].expand(full).reshape(-1),
        column=column[:, None].expand(full).reshape(-1),
        xywh=offset_and_size[:, None].expand(*full, 4).reshape(-1, 4),
        anchor_wh=anchors[:, None].expand(*full, 2).reshape(-1, 2),
        cls=cls.expand(full).reshape(-1),
    )
    return _Candidates(rows, (near[:, None] & fits).reshape(-1))


def _near_start(position: Tensor) -> Tensor:
    """Whether a coordinate, in cells from one border, lies in the half of its cell that faces that border,
    and a cell lies between.
    """
    return (position % 1 < 0.5) & (position > 1)


class DetectionLoss:
    """The training loss of a detection head; call it with the head's raw maps and the batch's targets."""

    def __init__(
        self,
        geometry: HeadGeometry,
        hyp: LossHyperparameters,
        device: torch.device | str,
        box_loss: BoxLoss | None = None,
    ):
        """geometry: of the head; hyp: gains and weights, used as given; device: where the maps will be;
        box_loss: what boxes cost, v6.1's CIoU where none is given.
        """
        self.anchors = geometry.anchors.detach().to(device, torch.float32)
        self.nc = geometry.nc
        self.hyp = hyp
        self.box_loss = box_loss or BoxLoss(device=device)
        self.balance = _BALANCE_THREE_LEVELS if geometry.levels == 3 else _BALANCE
        self.negative = 0.5 * hyp.label_smoothing
        self.positive = 1.0 - self.negative
        self.cls_weight = torch.tensor(float(hyp.cls_pw), device=device)
        self.obj_weight = torch.tensor(float(hyp.obj_pw), device=device)

    def __call__(self, raw_maps: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, LossParts]:
        """Return (total, parts): the sum of the parts times the batch size, to differentiate, and the parts, detached.

        raw_maps: (B, na, H, W, 5+nc) a level, any float type, computed in float32;
        targets: (M, 6) rows of image, class, xywh normalised; M may be 0.
        The box loss learns from the batch only where a gradient is wanted: in training, not in validation.
        """
        self._check(raw_maps)
        targets = targets.to(self.anchors.device, torch.float32)
        levels = [self._level(raw_map, targets, level) for level, raw_map in enumerate(raw_maps)]
        box, obj, cls, misses, matches = (torch.stack(terms).sum() for terms in zip(*levels))
        if box.requires_grad:
            self.box_loss.follow(misses, matches)
        box, obj, cls = box * self.hyp.box, obj * self.hyp.obj, cls * self.hyp.cls
        total = (box + obj + cls) * raw_maps[0].shape[0]
        return total, LossParts(box.detach(), obj.detach(), cls.detach())

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the loss has learnt and a resumed training needs: nothing but for WIoU v2 and v3."""
        return {f"box_loss.{name}": value for name, value in self.box_loss.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state_dict; what it lacks stays."""
        own = {name.removeprefix("box_loss."): value for name, value in state.items() if name.startswith("box_loss.")}
        self.box_loss.load_state_dict(own)

    def _check(self, raw_maps: Sequence[Tensor]) -> None:
        expected = (len(self.anchors), self.anchors.shape[1], 5 + self.nc)
        for raw_map in raw_maps:
            got = (len(raw_maps), raw_map.shape[1], raw_map.shape[-1])
            if raw_map.ndim != 5 or got != expected:
                raise ValueError(
                    f"DetectionLoss: expected {expected[0]} maps (B, {expected[1]}, H, W, {expected[2]}), "
                    f"got {len(raw_maps)} with one of {tuple(raw_map.shape)}"
                )

    def _level(self, raw_map: Tensor, targets: Tensor, level: int) -> tuple[Tensor, ...]:
        """The (box, obj, cls) terms of one level, before gains, and what its matches lack of IoU 1 with their number."""
        candidates = _candidates(targets, self.anchors[level], tuple(raw_map.shape[2:4]), self.hyp.anchor_t)
        if raw_map.device.type == "cpu":
            candidates = candidates.compact()
        rows, valid = candidates
        found = raw_map[rows.image, rows.anchor, rows.row, rows.column].float()  # (K, 5+nc)
        count = valid.sum()
        matches = count.clamp(min=1)

        boxes = self.box_loss(decode(found[:, :4], rows.anchor_wh), rows.xywh, tuple(raw_map.shape[2:4]))
        box = boxes.cost.where(valid, 0).sum() / matches
        aim = _objectness_aims(raw_map.shape[:4], candidates, boxes.overlap)
        obj = self._cross_entropy(raw_map[..., 4].float(), aim, self.obj_weight).mean() * self.balance[level]
        cls = self._class_term(found[:, 5:], rows.cls, valid, matches)
        return box, obj, cls, boxes.miss.where(valid, 0).sum(), count

    def _class_term(self, logits: Tensor, cls: Tensor, valid: Tensor, matches: Tensor) -> Tensor:
        """Mean cross-entropy of the matches' class logits (K, nc); 0 for one class, which needs no telling apart."""
        if self.nc == 1:
            return logits.new_zeros(())
        is_class = cls[:, None] == torch.arange(self.nc, device=cls.device)
        aim = torch.full_like(logits, self.negative).masked_fill(is_class, self.positive)
        cost = self._cross_entropy(logits, aim, self.cls_weight)
        return cost.where(valid[:, None], 0).sum() / (matches * self.nc)

    def _cross_entropy(self, logits: Tensor, aim: Tensor, positive_weight: Tensor) -> Tensor:
        """Element-wise binary cross-entropy, with the focal factor (arXiv 1708.02002, eq. 5) where fl_gamma is above 0."""
        cost = F.binary_cross_entropy_with_logits(logits, aim, pos_weight=positive_weight, reduction="none")
        if self.hyp.fl_gamma <= 0:
            return cost
        probability = logits.sigmoid()
        wrong = 1 - (aim * probability + (1 - aim) * (1 - probability))  # 1 - p_t
        alpha = aim * _FOCAL_ALPHA + (1 - aim) * (1 - _FOCAL_ALPHA)
        return cost * alpha * wrong**self.hyp.fl_gamma


def decode(logits: Tensor, anchor_wh: Tensor) -> Tensor:
    """Raw (K, 4) to xywh in grid units, the centre relative to the cell's corner: -0.5..1.5 and up to 4 anchors wide."""
    return torch.cat((logits[:, :2].sigmoid() * 2 - 0.5, (logits[:, 2:].sigmoid() * 2).square() * anchor_wh), 1)


def _objectness_aims(shape: Sequence[int], candidates: _Candidates, overlap: Tensor) -> Tensor:
    """(B, na, H, W) what objectness aims at: the overlap of the cell's match, 0 without one.

    Where several matches claim a cell the last row wins: found by a maximum over row numbers, since
    writing the overlaps themselves leaves the winner to chance on a GPU.
    """
    rows, valid = candidates
    _, anchors, height, width = shape
    cell = ((rows.image * anchors + rows.anchor) * height + rows.row) * width + rows.column
    number = torch.arange(1, len(cell) + 1, device=cell.device) * valid  # 0 for rows that do not count
    winner = cell.new_zeros(torch.Size(shape).numel()).scatter_reduce(0, cell, number, "amax")
    return torch.cat((overlap.new_zeros(1), overlap))[winner].view(shape)
