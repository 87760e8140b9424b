"""Losses whose targets say how good a predicted box is, and weights of classes and levels.

p is a predicted probability, y its target in 0..1, CE(p, y) their binary cross-entropy. Cost of one logit:

    bce   CE(p, y), with fl_gamma above 0 times alpha_t (1 - p_t)^fl_gamma        arXiv 1708.02002, eq. 5
    qfl   |y - p|^beta CE(p, y)                                                   arXiv 2006.04388, quality focal loss
    vfl   y CE(p, y) if y > 0, else 0.75 p^gamma CE(p, 0)                         arXiv 2008.13367, eq. 2

beta and gamma are 2, or fl_gamma if that is above 0. Costs are averaged as v6.1 averages its own, over the same cells
and classes, not divided by the positives as in the papers: a gain weighs a mean over cells with every loss. Focal costs
are smaller, so the same gain then asks for less.

Quality of a positive anchor (arXiv 2108.07755, task alignment learning): t = s u^6 of its score s and its box's IoU u,
scaled per object so that the largest t is the object's largest u. Here s is objectness x class score, by which
suppression ranks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.dynamic_assignment import TAL_OVERLAP_POWER, TAL_SCORE_POWER
from utils.log import LOGGER

FOCAL_ALPHA = 0.25  # arXiv 1708.02002, section 5.1
QUALITY_POWER = 2.0  # beta of qfl and gamma of vfl
VFL_ALPHA = 0.75
BALANCE_RATE = 0.01
BALANCE_LIMIT = 100.0
_SSI_STRIDE = 16
_TINY = torch.finfo(torch.float32).tiny


class LossKinds(NamedTuple):
    """The words among the hyperparameters that choose the loss's terms, v6.1's by default.

    Attributes:
        obj_target: "iou" of the predicted box, its "quality", or "both": their geometric mean, as arXiv 1912.05992
            combines score and IoU.
        obj_loss: "bce", "qfl" or "vfl", for objectness.
        cls_loss: The same for classes; with the last two the target of an object's class is the predicted box's IoU.
        balance: Of the levels' objectness: "fixed" or "learned".
    """

    obj_target: str = "iou"
    obj_loss: str = "bce"
    cls_loss: str = "bce"
    balance: str = "fixed"

    @classmethod
    def of(cls, hyp: object) -> "LossKinds":
        """Return those of hyperparameters; what they lack is v6.1's."""
        return cls(*(str(getattr(hyp, name, default)) for name, default in cls._field_defaults.items()))


class LogitCost:
    """The cost of single logits; call it with logits and their targets.

    Args:
        kind: "bce", "qfl" or "vfl".
        positive_weight: Factor of the target's share of the cross-entropy (cls_pw, obj_pw).
        fl_gamma: Power of the focal factor; 0 means none for bce, 2 for the others.
        device: The logits' device.
    """

    def __init__(self, kind: str, positive_weight: float, fl_gamma: float, device: torch.device | str = "cpu"):
        self.kind, self.fl_gamma = kind, fl_gamma
        self.power = fl_gamma if fl_gamma > 0 else QUALITY_POWER
        self.positive_weight = torch.tensor(float(positive_weight), device=device)

    @property
    def is_soft(self) -> bool:
        """Whether the cost is made for targets between 0 and 1."""
        return self.kind != "bce"

    def __call__(self, logits: Tensor, target: Tensor, positive: Tensor | None = None) -> Tensor:
        """Return the cost of each logit, with gradient.

        Args:
            logits: Of any shape, float32.
            target: Of the same shape, 0..1, without gradient.
            positive: Of the same shape, which logits vfl weighs by their target; None for those of a target above 0.

        Returns:
            Of the same shape.
        """
        cost = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.positive_weight, reduction="none")
        if self.kind == "qfl":
            return cost * _power(target - logits.sigmoid(), self.power)
        if self.kind == "vfl":
            weight = VFL_ALPHA * _power(logits.sigmoid(), self.power)
            return cost * torch.where(target > 0 if positive is None else positive, target, weight)
        return cost if self.fl_gamma <= 0 else self._focal(cost, logits, target)

    def _focal(self, cost: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        probability = logits.sigmoid()
        error = 1 - (target * probability + (1 - target) * (1 - probability))  # 1 - p_t
        alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
        return cost * alpha * error**self.fl_gamma


def _power(error: Tensor, power: float) -> Tensor:
    """|error|^power, with a finite gradient at 0 for powers below 1 too."""
    return error.square() if power == 2 else error.abs().clamp(min=_TINY) ** power


def aligned_quality(score: Tensor, overlap: Tensor, label: Tensor, labels: int) -> Tensor:
    """Return t = score overlap^6 of positive anchors, scaled so that an object's largest t is its largest overlap.

    Args:
        score: (K,) 0..1.
        overlap: (K,) IoU 0..1; 0 for rows that do not count.
        label: (K,) int64 the object of each row, below `labels`.
        labels: Number of objects.

    Returns:
        (K,) 0..1.
    """
    alignment = score**TAL_SCORE_POWER * overlap**TAL_OVERLAP_POWER
    none = overlap.new_zeros(labels)
    best, largest = (none.scatter_reduce(0, label, values, "amax") for values in (alignment, overlap))
    return alignment / best.clamp(min=_TINY)[label] * largest[label]


class LearnedBalance:
    """Weights of the levels' objectness terms that follow the terms: the larger a level's loss, the smaller its weight.

    YOLOv5's autobalance, b_i = 0.9999 b_i + 0.0001 / obj_i divided by the b of stride 16, is a running mean of
    obj_16 / obj_i whose rate is 1 / (1 + 9999 obj_16): 0.01 if that term is 0.01. The rate here is always 0.01, because
    a focal loss is smaller and would let the weights jump with every batch; a ratio counts as 0.01 to 100.

    Args:
        weights: One per level to start with; that of the level of stride 16 stays.
        strides: (levels,) in pixels.
        device: Where the terms are computed.

    Attributes:
        weights: (levels,) those in force.
    """

    def __init__(self, weights: Sequence[float], strides: Tensor, device: torch.device | str = "cpu"):
        self._middle = int((strides.cpu() - _SSI_STRIDE).abs().argmin())
        self._scale = weights[self._middle]
        self.weights = torch.tensor(weights[: len(strides)], device=device)

    def update(self, obj: Tensor) -> None:
        """Follow one batch.

        Args:
            obj: (levels,) mean objectness loss before weights and gain, without gradient.
        """
        ratio = (obj[self._middle] / obj).clamp(1 / BALANCE_LIMIT, BALANCE_LIMIT)
        ratio = torch.where(torch.isfinite(ratio), ratio, 1.0)  # 0 / 0: no level has a loss
        weights = self.weights + BALANCE_RATE * (self._scale * ratio - self.weights)
        self.weights = weights

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a training saves."""
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state_dict; what it lacks stays as it is."""
        if "weights" in state:
            self.weights = state["weights"].to(self.weights, copy=True)


def class_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Return weights of classes, inverse to their frequency to a power, whose mean over the labels is 1.

    With power 1 all classes weigh the same in sum, with 0 all labels do. So does the effective number of objects
    (1 - beta^n) / (1 - beta) of arXiv 1901.05555 with beta toward 1 and 0; a power needs no size to compare n with.

    Args:
        counts: (nc,) labels per class.
        power: 0..1.

    Returns:
        (nc,) float64; a class without labels weighs as if it had one.
    """
    weights = np.maximum(counts, 1).astype(np.float64) ** -power
    total = (weights * counts).sum()
    return weights * counts.sum() / total if total > 0 else np.ones(len(counts))


def balanced_weights(counts: np.ndarray, power: float) -> Tensor | None:
    """Return the weights of the classes for the loss, logged.

    Args:
        counts: (nc,) labels per class of the training split, as they are on disk.
        power: `class_balance`.

    Returns:
        (nc,) float32, None if all are 1.
    """
    if not power or len(counts) == 1:
        return None
    weights = class_weights(counts, power)
    LOGGER.info(f"class balance: positives weigh {weights.min():.2f} to {weights.max():.2f} by their class")
    return torch.from_numpy(weights).float()
