"""The detection loss of a batch (`DetectionLoss`).

The positive anchors of each object are found by a rule of `utils.assignment`. The box term is a loss of
`utils.box_losses` (1 - CIoU by default); the class and objectness terms are costs of `utils.quality_losses` (binary
cross-entropy by default), objectness with the predicted box's IoU as target, or its quality.

Of several processes each computes its images' share of the loss of the global batch: the counts by which sums are
divided are those of all processes.

Loops run over head levels only. On an accelerator nothing waits for the device: rows that are not positive are masked,
not dropped.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from utils.assignment import MaskedAssignment, decode
from utils.box_losses import BoxCosts, BoxLoss
from utils.dynamic_assignment import ASSIGNERS
from utils.processes import ALONE, Processes
from utils.quality_losses import LearnedBalance, LogitCost, LossKinds, aligned_quality
from utils.types import Assignment, HeadGeometry, LossParts

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


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)


class LossHyperparameters(Protocol):
    """The hyperparameters that the loss reads; gains are used as given (`Hyperparameters.scaled` scales them).

    It also reads those of `LossKinds`, which may be lacking.
    """

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


class _Positives(NamedTuple):
    """The positive anchors of one level and what is predicted there.

    Attributes:
        rows: Which they are, with their targets.
        valid: (K,) which rows count.
        logits: (K, 5+nc) float32, with gradient.
        boxes: Costs and overlaps of the predicted boxes.
        obj_target: (K,) target of objectness.
    """

    rows: Assignment
    valid: Tensor
    logits: Tensor
    boxes: BoxCosts
    obj_target: Tensor


class _LevelTerms(NamedTuple):
    """The terms of one level before gains and balance, each ().

    Attributes:
        box, obj, cls: With gradient.
        iou_loss: Sum of the positives' 1 - IoU.
        positives: Their number.
    """

    box: Tensor
    obj: Tensor
    cls: Tensor
    iou_loss: Tensor
    positives: Tensor


class DetectionLoss:
    """The training loss of a detection head; call it with the head's raw maps and the batch's targets.

    Args:
        geometry: Of the head.
        hyp: Gains and weights, used as given.
        device: The maps' device.
        box_loss: The loss of predicted boxes; v6.1's CIoU by default.
        processes: Those that hold a part of each training batch.
        class_weights: (nc,) factors of the box and class costs of each class's positives; None for 1.
    """

    def __init__(
        self,
        geometry: HeadGeometry,
        hyp: LossHyperparameters,
        device: torch.device | str,
        box_loss: BoxLoss | None = None,
        processes: Processes = ALONE,
        class_weights: Tensor | None = None,
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
        self.kinds = kinds = LossKinds.of(hyp)
        self.cls_cost = LogitCost(kinds.cls_loss, hyp.cls_pw, hyp.fl_gamma, device)
        self.obj_cost = LogitCost(kinds.obj_loss, hyp.obj_pw, hyp.fl_gamma, device)
        self.class_weights = None if class_weights is None else class_weights.to(device, torch.float32)
        self._fixed_balance = torch.tensor(self.balance[: geometry.levels], device=device)
        learns = kinds.balance == "learned"
        self.learned_balance = LearnedBalance(self.balance, geometry.strides, device) if learns else None

    def __call__(self, raw_maps: Sequence[Tensor], targets: Tensor, counts: bool = True) -> tuple[Tensor, LossParts]:
        """Return the loss to differentiate, and its terms.

        If the maps need a gradient, in training, the running means of the loss, if it has any, are updated, and of
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
        positives = self._positives(raw_maps, found, len(targets))
        levels = [self._level(*level) for level in zip(raw_maps, positives, batch.divisors, strict=True)]
        by_level = _LevelTerms(*(torch.stack(terms) for terms in zip(*levels, strict=True)))
        balance = self._fixed_balance if self.learned_balance is None else self.learned_balance.weights
        box = by_level.box.sum() * self.hyp.box
        obj = (by_level.obj * balance).sum() * self.hyp.obj * batch.share
        cls = by_level.cls.sum() * self.hyp.cls
        total = (box + obj + cls) * batch.images
        terms = torch.stack((box, obj, cls, by_level.iou_loss.sum(), by_level.positives.sum())).detach()
        if box.requires_grad:
            terms = self._update(terms, by_level.obj.detach() * batch.share)
            total = total * self.processes.world.size if self.processes.is_several else total
        return total, LossParts(*terms[:3])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed training needs: empty except for WIoU v2 and v3 and a learned balance."""
        return {
            f"{part}.{name}": value
            for part, own in self._stateful().items()
            for name, value in own.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state_dict; what it lacks stays as it is."""
        for part, own in self._stateful().items():
            prefix = f"{part}."
            own.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )

    def _stateful(self) -> dict[str, BoxLoss | LearnedBalance]:
        """The parts that have a state."""
        balance = {} if self.learned_balance is None else {"balance": self.learned_balance}
        return {"box_loss": self.box_loss, **balance}

    def _update(self, terms: Tensor, obj: Tensor) -> Tensor:
        """Follow a batch of training; terms (5,) and objectness by level (nl,) are this process's share of the sums."""
        if self.learned_balance is None:
            terms = self.processes.sum(terms)
        else:
            terms, obj = self.processes.sum(torch.cat((terms, obj))).split((len(terms), len(obj)))
            self.learned_balance.update(obj)
        self.box_loss.update_mean(terms[3], terms[4])
        return terms

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

    def _positives(
        self, raw_maps: Sequence[Tensor], found: Sequence[MaskedAssignment], objects: int
    ) -> list[_Positives]:
        """What is predicted at the positives of each level, and the targets of their objectness."""
        positives = []
        for raw_map, (rows, valid) in zip(raw_maps, found, strict=True):
            logits = raw_map[rows.image, rows.anchor, rows.row, rows.column].float()  # (K, 5+nc)
            size = raw_map.shape[2], raw_map.shape[3]
            boxes = self.box_loss(decode(logits[:, :4], rows.anchor_wh), rows.xywh, size)
            positives.append(_Positives(rows, valid, logits, boxes, boxes.obj_target))
        if self.kinds.obj_target == "iou":
            return positives
        quality = self._quality(positives, objects).split([len(each.valid) for each in positives])
        if self.kinds.obj_target == "both":
            quality = [(own * each.obj_target).sqrt() for own, each in zip(quality, positives, strict=True)]
        return [each._replace(obj_target=own) for each, own in zip(positives, quality, strict=True)]

    def _quality(self, positives: Sequence[_Positives], objects: int) -> Tensor:
        """(K,) quality of the positives of all levels together."""
        logits = torch.cat([each.logits.detach() for each in positives])
        overlap = torch.cat([each.boxes.iou.where(each.valid, 0) for each in positives]).clamp(max=1)
        score = logits[:, 4].sigmoid()
        if self.nc > 1:
            cls = torch.cat([each.rows.cls for each in positives])
            score = score * logits[:, 5:].gather(1, cls[:, None]).squeeze(1).sigmoid()
        return aligned_quality(score, overlap, torch.cat([each.rows.label for each in positives]), objects)

    def _level(self, raw_map: Tensor, positives: _Positives, divisor: Tensor) -> _LevelTerms:
        rows, valid, logits, boxes, obj_target = positives
        weight = None if self.class_weights is None else self.class_weights[rows.cls]
        cost = boxes.cost if weight is None else boxes.cost * weight
        box = cost.where(valid, 0).sum() / divisor
        target = _objectness_targets(raw_map.shape[:4], rows, valid, obj_target)
        obj = self.obj_cost(raw_map[..., 4].float(), target).mean()
        cls = self._class_term(positives, weight, divisor)
        return _LevelTerms(box, obj, cls, boxes.iou_loss.where(valid, 0).sum(), valid.sum())

    def _class_term(self, positives: _Positives, weight: Tensor | None, divisor: Tensor) -> Tensor:
        """Mean cost of the valid rows' class logits (K, nc), weighted by row (K,); 0 if there is only one class."""
        logits, cls = positives.logits[:, 5:], positives.rows.cls
        if self.nc == 1:
            return logits.new_zeros(())
        is_class = cls[:, None] == torch.arange(self.nc, device=cls.device)
        target = torch.full_like(logits, self.negative).masked_fill(is_class, self.positive)
        if self.cls_cost.is_soft:
            quality = positives.boxes.iou.clamp(max=1)[:, None]
            target = torch.where(is_class, self.negative + quality * (self.positive - self.negative), target)
            is_class = is_class & (quality > 0)
        cost = self.cls_cost(logits, target, is_class)
        cost = cost if weight is None else cost * weight[:, None]
        return cost.where(positives.valid[:, None], 0).sum() / (divisor * self.nc)


def _objectness_targets(shape: Sequence[int], rows: Assignment, valid: Tensor, own: Tensor) -> Tensor:
    """(B, na, H, W) targets of objectness: those of the rows (K,) for positive anchors, 0 for all others.

    If a cell is assigned several times, the last row wins. It is found by a maximum over row numbers, because on a GPU
    scattering the targets themselves leaves the winner to chance.
    """
    _, anchors, height, width = shape
    cell = ((rows.image * anchors + rows.anchor) * height + rows.row) * width + rows.column
    order = torch.arange(1, len(cell) + 1, device=cell.device) * valid  # 0 for invalid rows
    winner = cell.new_zeros(torch.Size(shape).numel()).scatter_reduce(0, cell, order, "amax")
    return torch.cat((own.new_zeros(1), own))[winner].view(shape)
