"""The detection loss of a batch (`DetectionLoss`).

The positive anchors of each object are found by a rule of `utils.assignment`. The box term is a loss of
`utils.box_losses` (1 - CIoU by default); the class and objectness terms are binary cross-entropy, objectness with the
predicted box's IoU as target.

Of several processes each computes its images' share of the loss of the global batch: the counts by which sums are
divided are those of all processes.

Loops run over head levels only. On an accelerator nothing waits for the device: rows that are not positive are masked,
not dropped.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.assignment import MaskedAssignment, decode
from utils.box_losses import BoxLoss
from utils.dynamic_assignment import ASSIGNERS
from utils.processes import ALONE, Processes
from utils.types import HeadGeometry, LossParts

if TYPE_CHECKING:
    from utils.compat.losses import (  # noqa: F401
        BCEBlurWithLogitsLoss,
        ComputeLoss,
        FocalLoss,
        QFocalLoss,
        smooth_BCE,
    )

_BALANCE_THREE_LEVELS = (4.0, 1.0, 0.4)
_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
_FOCAL_ALPHA = 0.25  # arXiv 1708.02002, section 5.1


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)


class LossHyperparameters(Protocol):
    """The hyperparameters that the loss reads; gains are used as given (`Hyperparameters.scaled` scales them)."""

    @property
    def box(self) -> float: ...

    @property
    def obj(self) -> float: ...

    @property
    def cls(self) -> float: ...

    @property
    def cls_pw(self) -> float: ...

    @property
    def obj_pw(self) -> float: ...

    @property
    def anchor_t(self) -> float: ...

    @property
    def fl_gamma(self) -> float: ...

    @property
    def label_smoothing(self) -> float: ...


class _BatchCounts(NamedTuple):
    """What the sums over a batch are divided by.

    Attributes:
        divisors: () per level: positive anchors of all processes, at least 1.
        images: Images of all processes.
        share: Share of them that are this process's.
    """

    divisors: list[Tensor]
    images: int | Tensor
    share: float | Tensor


class DetectionLoss:
    """The training loss of a detection head; call it with the head's raw maps and the batch's targets.

    Args:
        geometry: Of the head.
        hyp: Gains and weights, used as given.
        device: The maps' device.
        box_loss: The loss of predicted boxes; v6.1's CIoU by default.
        processes: Those that hold a part of each training batch.
    """

    def __init__(
        self,
        geometry: HeadGeometry,
        hyp: LossHyperparameters,
        device: torch.device | str,
        box_loss: BoxLoss | None = None,
        processes: Processes = ALONE,
    ):
        self.anchors = geometry.anchors.detach().to(device, torch.float32)
        self.nc = geometry.nc
        self.hyp = hyp
        self.assigner = ASSIGNERS[getattr(hyp, "assign", "v5")]  # gains of others may lack the key
        self.box_loss = box_loss or BoxLoss(device=device)
        self.processes = processes
        self.balance = _BALANCE_THREE_LEVELS if geometry.levels == 3 else _BALANCE
        self.negative = 0.5 * hyp.label_smoothing
        self.positive = 1.0 - self.negative
        self.cls_weight = torch.tensor(float(hyp.cls_pw), device=device)
        self.obj_weight = torch.tensor(float(hyp.obj_pw), device=device)

    def __call__(self, raw_maps: Sequence[Tensor], targets: Tensor, counts: bool = True) -> tuple[Tensor, LossParts]:
        """Return the loss to differentiate, and its terms.

        If the maps need a gradient, in training, the running mean of the box loss, if it has one, is updated, and of
        several processes all take part: the mean of their totals is the loss of the global batch, since its gradient is
        what they average, and each gets the global terms.

        Args:
            raw_maps: (B, na, H, W, 5+nc) per level, any float type; computed in float32.
            targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized; M may be 0.
            counts: Whether the images count; if not they stand in for none, have no targets, and add 0.

        Returns:
            () the sum of the terms times the batch size, and the terms, detached.

        Raises:
            ValueError: The maps do not fit the head's geometry.
        """
        self._check(raw_maps)
        targets = targets.to(self.anchors.device, torch.float32)
        found = self._found(raw_maps, targets)
        batch = self._shared(raw_maps, found, counts)
        levels = [
            self._level(raw_map, candidates, level, divisor)
            for level, (raw_map, candidates, divisor) in enumerate(zip(raw_maps, found, batch.divisors, strict=True))
        ]
        box, obj, cls, iou_loss, positives = (torch.stack(terms).sum() for terms in zip(*levels, strict=True))
        box, obj, cls = box * self.hyp.box, obj * self.hyp.obj * batch.share, cls * self.hyp.cls
        total, terms = (box + obj + cls) * batch.images, torch.stack((box, obj, cls, iou_loss, positives)).detach()
        if box.requires_grad:
            terms = self.processes.sum(terms)
            self.box_loss.update_mean(terms[3], terms[4])
            total = total * self.processes.world.size if self.processes.is_several else total
        return total, LossParts(*terms[:3])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed training needs: empty except for WIoU v2 and v3."""
        return {f"box_loss.{name}": value for name, value in self.box_loss.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state_dict; what it lacks stays as it is."""
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

    def _found(self, raw_maps: Sequence[Tensor], targets: Tensor) -> list[MaskedAssignment]:
        """The positives of each level; on the CPU without masked rows."""
        found = self.assigner([raw_map.detach() for raw_map in raw_maps], targets, self.anchors, self.hyp.anchor_t)
        return [each.compact() for each in found] if raw_maps[0].device.type == "cpu" else found

    def _shared(self, raw_maps: Sequence[Tensor], found: Sequence[MaskedAssignment], counts: bool) -> _BatchCounts:
        """What the terms are divided by: of this batch alone, or in training of all processes' batches together."""
        positives = [candidates.valid.sum() for candidates in found]
        images = raw_maps[0].shape[0]
        if not (self.processes.is_several and raw_maps[0].requires_grad):
            return _BatchCounts([count.clamp(min=1) for count in positives], images, 1.0)
        own = images if counts else 0
        # one exchange; float64 holds any count
        sums = self.processes.sum(torch.stack([*positives, positives[0].new_tensor(own)]).double())
        return _BatchCounts(list(sums[:-1].float().clamp(min=1)), sums[-1].float(), (own / sums[-1]).float())

    def _level(self, raw_map: Tensor, candidates: MaskedAssignment, level: int, divisor: Tensor) -> tuple[Tensor, ...]:
        """The (box, obj, cls) terms of one level before gains, its positive anchors' sum of 1 - IoU, their number."""
        size = raw_map.shape[2], raw_map.shape[3]
        rows, valid = candidates
        logits = raw_map[rows.image, rows.anchor, rows.row, rows.column].float()  # (K, 5+nc)
        count = valid.sum()

        boxes = self.box_loss(decode(logits[:, :4], rows.anchor_wh), rows.xywh, size)
        box = boxes.cost.where(valid, 0).sum() / divisor
        target = _objectness_targets(raw_map.shape[:4], candidates, boxes.obj_target)
        obj = self._cross_entropy(raw_map[..., 4].float(), target, self.obj_weight).mean() * self.balance[level]
        cls = self._class_term(logits[:, 5:], rows.cls, valid, divisor)
        return box, obj, cls, boxes.iou_loss.where(valid, 0).sum(), count

    def _class_term(self, logits: Tensor, cls: Tensor, valid: Tensor, divisor: Tensor) -> Tensor:
        """Mean cross-entropy of the valid rows' class logits (K, nc); 0 if there is only one class."""
        if self.nc == 1:
            return logits.new_zeros(())
        is_class = cls[:, None] == torch.arange(self.nc, device=cls.device)
        target = torch.full_like(logits, self.negative).masked_fill(is_class, self.positive)
        cost = self._cross_entropy(logits, target, self.cls_weight)
        return cost.where(valid[:, None], 0).sum() / (divisor * self.nc)

    def _cross_entropy(self, logits: Tensor, target: Tensor, positive_weight: Tensor) -> Tensor:
        """Element-wise binary cross-entropy, with the focal factor (arXiv 1708.02002, eq. 5) if fl_gamma is above 0."""
        cost = F.binary_cross_entropy_with_logits(logits, target, pos_weight=positive_weight, reduction="none")
        if self.hyp.fl_gamma <= 0:
            return cost
        probability = logits.sigmoid()
        error = 1 - (target * probability + (1 - target) * (1 - probability))  # 1 - p_t
        alpha = target * _FOCAL_ALPHA + (1 - target) * (1 - _FOCAL_ALPHA)
        return cost * alpha * error**self.hyp.fl_gamma


def _objectness_targets(shape: Sequence[int], candidates: MaskedAssignment, overlap: Tensor) -> Tensor:
    """(B, na, H, W) targets of objectness: the overlap of the predicted box for positive anchors, 0 for all others.

    If a cell is assigned several times, the last row wins. It is found by a maximum over row numbers, because on a GPU
    scattering the overlaps themselves leaves the winner to chance.
    """
    rows, valid = candidates
    _, anchors, height, width = shape
    cell = ((rows.image * anchors + rows.anchor) * height + rows.row) * width + rows.column
    order = torch.arange(1, len(cell) + 1, device=cell.device) * valid  # 0 for invalid rows
    winner = cell.new_zeros(torch.Size(shape).numel()).scatter_reduce(0, cell, order, "amax")
    return torch.cat((overlap.new_zeros(1), overlap))[winner].view(shape)
