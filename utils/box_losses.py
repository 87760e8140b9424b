"""Box regression losses: CIoU by default, or one of those below, optionally with inner boxes and a focal weight.

a is the predicted box, b the label, both xywh; (dx, dy) the offset between their centers, (cw, ch) the size of the
smallest box around both, c^2 = cw^2 + ch^2. A loss is 1 - IoU plus a penalty:

    GIoU     (hull - union) / hull                                                       arXiv 1902.09630
    DIoU     (dx^2 + dy^2) / c^2;  CIoU: and alpha v for the sides' ratio                arXiv 1911.08287
    EIoU     DIoU's, and (w - w_b)^2 / cw^2 + (h - h_b)^2 / ch^2                         arXiv 2101.08158
    SIoU     (distance + shape) / 2, the distance judged by its direction                arXiv 2205.12740
    MPDIoU   squared distances of both corners over (W^2 + H^2) of the input             arXiv 2307.07662
    ShapeIoU distance and shape, weighted by the label's own sides                       arXiv 2312.17663
    WIoU     no penalty but a factor: exp((dx^2 + dy^2) / c^2), and in v2 and v3 a gain
             from how 1 - IoU of the box compares with its running mean                  arXiv 2301.10051

inner (arXiv 2311.02877): IoU is computed of boxes with the same centers and `inner` times the sides; penalties keep the
real boxes. focal (arXiv 2101.08158, Focal-EIoU): the loss times IoU^focal, as a constant.

Differences to the circulating copies: the running mean belongs to one loss object, is updated once per batch, in
training only, and is saved with the training; nothing is read back from the device; coincident centers cause no
division by zero; weights (CIoU's alpha, WIoU's c^2 and gain, the focal weight) carry no gradient, because with one the
focal weight would push boxes of IoU below focal / (1 + focal) apart.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from utils.boxes import IOU_KINDS, BoxPairs, pair_boxes
from utils.errors import nearest

SHAPE_POWER = 4.0  # theta of SIoU and Shape-IoU
SHAPE_SCALE = 1.0  # Shape-IoU's `scale`: exponent of the label's sides in their weights; 0 would weigh both equally
WIOU_V2_GAMMA = 0.5
WIOU_V3_ALPHA, WIOU_V3_DELTA = 1.9, 3.0
WIOU_BATCHES = (
    7000  # t n: after so many batches the running mean is 95 % of new values; the paper asks for at least these
)
WIOU_MOMENTUM = 1 - 0.05 ** (1 / WIOU_BATCHES)

Overlap = Callable[[BoxPairs, tuple[float, float]], Tensor]


class BoxCosts(NamedTuple):
    """The loss of each predicted box, and what objectness and WIoU need of the same overlaps.

    Attributes:
        cost: (N,) the loss that the box term averages, with gradient.
        obj_target: (N,) 0..1, detached, the target of objectness.
        iou_loss: (N,) 0..1, detached, the 1 - IoU whose running mean WIoU keeps.
        iou: (N,) 0..1, detached, the boxes' plain IoU.
    """

    cost: Tensor
    obj_target: Tensor
    iou_loss: Tensor
    iou: Tensor


class BoxLoss:
    """The loss of predicted boxes; call it with predicted boxes, target boxes and the input's size.

    Args:
        kind: One of BOX_LOSSES.
        inner: Sides of the inner boxes as a multiple of the boxes' own, above 0; 1 means the boxes themselves.
        focal: Exponent of the focal weight, at least 0; 0 means none.
        device: The boxes' device.

    Raises:
        ValueError: An argument is outside these values.
    """

    def __init__(self, kind: str = "CIoU", inner: float = 1.0, focal: float = 0.0, device: torch.device | str = "cpu"):
        if kind not in BOX_LOSSES:
            raise ValueError(
                f"BoxLoss: kind is one of {', '.join(BOX_LOSSES)}, got {kind!r}{nearest(kind, BOX_LOSSES)}"
            )
        if not (inner > 0 and focal >= 0):
            raise ValueError(f"BoxLoss: expected inner above 0 and focal at least 0, got {inner} and {focal}")
        self.kind, self.inner, self.focal = kind, inner, focal
        # It starts at 1, the largest loss: early on, boxes without overlap keep the largest gain, as the paper asks.
        self.mean = torch.ones((), device=device) if kind in ("WIoUv2", "WIoUv3") else None

    def __call__(self, predicted: Tensor, target: Tensor, size: tuple[float, float]) -> BoxCosts:
        """Return the loss of each predicted box. Half precision is computed in float32.

        Args:
            predicted: (N, 4) xywh.
            target: (N, 4) xywh in the same unit.
            size: (height, width) of the input in the same unit, which MPDIoU divides by.

        Returns:
            One loss per box, with gradient, and the detached overlaps.
        """
        pairs = pair_boxes(predicted, target)
        iou = pairs.iou if self.inner == 1 else _inner_iou(pairs, self.inner)
        # Rounding can make an IoU a little larger than 1, and WIoU v2 takes the root.
        iou_loss = (1 - iou.detach()).clamp(min=0)
        if self.kind in _OVERLAPS:
            overlap = _OVERLAPS[self.kind](pairs, size)
            cost = 1 - overlap if iou is pairs.iou else 1 - overlap + (pairs.iou - iou)
        else:
            overlap = pairs.iou
            cost = self._gain(iou_loss) * _distance_factor(pairs) * (1 - iou)
        if self.focal:
            cost = cost * pairs.iou.detach() ** self.focal
        # v6.1's objectness has CIoU as its target; with any other loss it is the plain IoU
        obj_target = overlap if self.kind == "CIoU" else pairs.iou
        return BoxCosts(cost, obj_target.detach().clamp(min=0), iou_loss, pairs.iou.detach())

    def update_mean(self, iou_loss_sum: Tensor, count: Tensor) -> None:
        """Update WIoU's running mean by one batch; other losses have none.

        Args:
            iou_loss_sum: () sum of 1 - IoU over the batch's boxes.
            count: () number of boxes; 0 leaves the mean as it is.
        """
        if self.mean is not None:
            mean = iou_loss_sum.detach() / count.clamp(min=1)
            self.mean = self.mean + WIOU_MOMENTUM * (mean - self.mean) * (count > 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a training saves: WIoU's running mean, nothing for other losses."""
        return {} if self.mean is None else {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state_dict; what it lacks stays as it is."""
        if self.mean is not None and "mean" in state:
            self.mean = state["mean"].to(self.mean, copy=True)

    def __str__(self) -> str:
        inner = f", of boxes {self.inner:g} times as large" if self.inner != 1 else ""
        return self.kind + inner + (f", weighted by IoU^{self.focal:g}" if self.focal else "")

    def _gain(self, iou_loss: Tensor) -> Tensor | float:
        """WIoU's gain r of boxes (N,): 1 in v1, (L / mean)^gamma in v2, beta / (delta alpha^(beta - delta)) in v3."""
        if self.mean is None:
            return 1.0
        beta = iou_loss / self.mean.clamp(min=torch.finfo(torch.float32).eps)
        if self.kind == "WIoUv2":
            return beta**WIOU_V2_GAMMA
        return beta / (WIOU_V3_DELTA * WIOU_V3_ALPHA ** (beta - WIOU_V3_DELTA))


def _inner_iou(pairs: BoxPairs, ratio: float) -> Tensor:
    """IoU of boxes with the same centers and `ratio` times the sides."""
    a, b = (torch.cat((boxes[..., :2], boxes[..., 2:] * ratio), -1) for boxes in (pairs.a, pairs.b))
    return pair_boxes(a, b, pairs.eps).iou


def _distance_factor(pairs: BoxPairs) -> Tensor:
    """WIoU's R, 1..e. The enclosing box is a constant: with a gradient the prediction would grow to shrink R."""
    diagonal = pairs.enclosing.detach().square().sum(-1) + pairs.eps
    return (_offset(pairs).square().sum(-1) / diagonal).exp()


def _eiou(pairs: BoxPairs, size: tuple[float, float]) -> Tensor:
    sides = (pairs.a[..., 2:] - pairs.b[..., 2:]).square() / (pairs.enclosing.square() + pairs.eps)
    return pairs.overlap("DIoU") - sides.sum(-1)


def _siou(pairs: BoxPairs, size: tuple[float, float]) -> Tensor:
    """IoU - (distance + shape) / 2.

    The angle cost 1 - 2 sin^2(arcsin(|dy| / d) - pi/4) is the sine of twice the angle, so 2 |dx dy| / d^2. This form
    avoids arcsin and the root, which have no gradient in places.
    """
    offset = _offset(pairs)
    squares = offset.square()
    # 0 along an axis, 1 on a diagonal
    angle = 2 * (offset[..., 0] * offset[..., 1]).abs() / (squares.sum(-1) + pairs.eps)
    distance = -torch.expm1(-(2 - angle)[..., None] * squares / (pairs.enclosing.square() + pairs.eps))
    return pairs.iou - (distance.sum(-1) + _shape_cost(pairs, 1.0)) / 2


def _mpdiou(pairs: BoxPairs, size: tuple[float, float]) -> Tensor:
    height, width = size
    offset, half = _offset(pairs), (pairs.a[..., 2:] - pairs.b[..., 2:]) / 2
    corners = (offset - half).square().sum(-1) + (offset + half).square().sum(-1)  # left top, right bottom
    return pairs.iou - corners / (height**2 + width**2)


def _shape_iou(pairs: BoxPairs, size: tuple[float, float]) -> Tensor:
    sides = pairs.b[..., 2:].clamp(min=pairs.eps) ** SHAPE_SCALE
    # hh, ww: the height's weight along x, the width's along y
    weights = 2 * sides.flip(-1) / sides.sum(-1, keepdim=True)
    squares = _offset(pairs).square() / (pairs.enclosing.square().sum(-1, keepdim=True) + pairs.eps)
    return pairs.iou - (weights * squares).sum(-1) - 0.5 * _shape_cost(pairs, weights)


def _shape_cost(pairs: BoxPairs, weights: Tensor | float) -> Tensor:
    """Sum over both sides of (1 - e^-omega)^theta; omega is the weighted difference over the longer of the two."""
    a, b = pairs.a[..., 2:], pairs.b[..., 2:]
    omega = weights * (a - b).abs() / (torch.maximum(a, b) + pairs.eps)
    return (-torch.expm1(-omega)).pow(SHAPE_POWER).sum(-1)


def _offset(pairs: BoxPairs) -> Tensor:
    return pairs.a[..., :2] - pairs.b[..., :2]


def _plain_overlap(kind: str) -> Overlap:
    return lambda pairs, size: pairs.overlap(kind)


_OVERLAPS: dict[str, Overlap] = {
    **{kind: _plain_overlap(kind) for kind in IOU_KINDS},
    "EIoU": _eiou,
    "SIoU": _siou,
    "MPDIoU": _mpdiou,
    "ShapeIoU": _shape_iou,
}
BOX_LOSSES = (*_OVERLAPS, "WIoUv1", "WIoUv2", "WIoUv3")
