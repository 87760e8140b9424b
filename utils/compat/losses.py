"""YOLOv5's utils.loss by our detection loss: `ComputeLoss`, and the cross-entropies that it offers beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.compat.torch_functions import de_parallel
from utils.config import Hyperparameters
from utils.dynamic_assignment import ASSIGNERS
from utils.log import warn_once
from utils.loss import DetectionLoss

Indices = tuple[Tensor, Tensor, Tensor, Tensor]


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the targets of present and absent classes with label smoothing."""
    return 1.0 - 0.5 * eps, 0.5 * eps


class BCEBlurWithLogitsLoss(nn.Module):
    """Binary cross-entropy that counts less where the prediction is far above its target, as for missing labels.

    Args:
        alpha: The smaller, the more such predictions are spared.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        self.alpha = alpha

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the mean.

        Args:
            pred: Logits.
            true: Targets 0..1 of the same shape.

        Returns:
            ().
        """
        excess = pred.sigmoid() - true
        weight = 1 - torch.exp((excess - 1) / (self.alpha + 1e-4))
        return (F.binary_cross_entropy_with_logits(pred, true, reduction="none") * weight).mean()


class FocalLoss(nn.Module):
    """Focal loss (arXiv 1708.02002, eq. 5) around a binary cross-entropy.

    Args:
        loss_fcn: An nn.BCEWithLogitsLoss; its reduction is applied to the weighted result.
        gamma: Power of the error.
        alpha: Weight of positives; negatives have 1 - alpha.
    """

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"

    def error(self, probability: Tensor, true: Tensor) -> Tensor:
        """Return 1 - p_t.

        Args:
            probability: 0..1.
            true: Targets 0..1.

        Returns:
            Of the same shape.
        """
        return 1 - (true * probability + (1 - true) * (1 - probability))

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the weighted cross-entropy.

        Args:
            pred: Logits.
            true: Targets 0..1 of the same shape.

        Returns:
            () for the reductions mean and sum, else of the same shape.
        """
        alpha = true * self.alpha + (1 - true) * (1 - self.alpha)
        cost = self.loss_fcn(pred, true) * alpha * self.error(pred.sigmoid(), true) ** self.gamma
        return cost.mean() if self.reduction == "mean" else cost.sum() if self.reduction == "sum" else cost


class QFocalLoss(FocalLoss):
    """Quality focal loss (arXiv 2006.04388): the error is the distance to a soft target."""

    def error(self, probability: Tensor, true: Tensor) -> Tensor:
        return (true - probability).abs()


class ComputeLoss:
    """The detection loss of a network, called with its raw maps and the targets.

    Args:
        model: A network of this project. Its attribute `hyp`, a mapping as in v6.1, gives gains and weights, used as
            they are; without it the defaults count.
        autobalance: Not followed: the levels' weights stay.

    Attributes:
        hyp: The hyperparameters.
        gr: Not used: the objectness target is the IoU.
    """

    sort_obj_iou = False

    def __init__(self, model: nn.Module, autobalance: bool = False):
        network: Any = de_parallel(model)
        given = getattr(network, "hyp", None)
        known = {each.name for each in fields(Hyperparameters)}
        values = {name: value for name, value in given.items() if name in known} if isinstance(given, Mapping) else {}
        self.hyp = given if isinstance(given, Hyperparameters) else Hyperparameters(**values)
        self.geometry = network.geometry
        self.gr = 1.0
        self.autobalance = False
        self.balance = DetectionLoss(self.geometry, self.hyp, self.geometry.anchors.device).balance
        if autobalance:
            warn_once("ComputeLoss: autobalance is not followed; the levels keep their weights")

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and its terms.

        Args:
            p: (B, na, H, W, 5+nc) raw maps, one per level.
            targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized.

        Returns:
            (1,) the sum of the terms times the batch size, and (3,) box, obj, cls, detached.
        """
        total, parts = DetectionLoss(self.geometry, self.hyp, p[0].device)(p, targets)
        return total.reshape(1), torch.stack([torch.as_tensor(part) for part in (parts.box, parts.obj, parts.cls)])

    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Indices], list[Tensor]]:
        """Return the positive anchors of each level.

        Args:
            p: Raw maps.
            targets: (M, 6) rows.

        Returns:
            Per level: class ids (K,); boxes (K, 4) relative to their cells, in cells; indices of image, anchor, row
            and column (K,) each; anchors (K, 2) in cells.
        """
        anchors = self.geometry.anchors
        rule = ASSIGNERS[self.hyp.assign]
        masked = rule([raw.detach() for raw in p], targets.to(anchors.device), anchors, self.hyp.anchor_t)
        found = [level.compact().rows for level in masked]
        return (
            [level.cls for level in found],
            [level.xywh for level in found],
            [(level.image, level.anchor, level.row, level.column) for level in found],
            [level.anchor_wh for level in found],
        )
