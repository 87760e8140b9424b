"""Boxes: conversion, clipping and overlap. The only place where box formats change.

Formats: `xyxy` corners (left, top, right, bottom), `xywh` center and size, both in any one unit (pixels, grid cells); a
trailing `n` means normalized: fractions 0..1 of the image's width and height. Every function takes (..., 4), returns a
new array and does not change its input. Arrays give arrays, tensors give tensors.
"""

import math
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", np.ndarray, Tensor)

IOU_KINDS = ("IoU", "GIoU", "DIoU", "CIoU")


@overload
def _stack(columns: list[np.ndarray]) -> np.ndarray: ...
@overload
def _stack(columns: list[Tensor]) -> Tensor: ...
def _stack(columns: list) -> np.ndarray | Tensor:
    return torch.stack(columns, -1) if isinstance(columns[0], Tensor) else np.stack(columns, -1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Return (..., 4) xyxy as xywh in the same unit."""
    left, top, right, bottom = (boxes[..., column] for column in range(4))
    return _stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Return (..., 4) xywh as xyxy in the same unit.

    Example:
        >>> xywh_to_xyxy(torch.tensor([[50.0, 40.0, 20.0, 10.0]]))
        tensor([[40., 35., 60., 45.]])
    """
    x, y, width, height = (boxes[..., column] for column in range(4))
    return _stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def xywhn_to_xyxy(boxes: Boxes, width: float, height: float, pad: tuple[float, float] = (0, 0)) -> Boxes:
    """Return (..., 4) xywh normalized as xyxy pixels.

    Args:
        boxes: (..., 4) xywh normalized.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        pad: (x, y) pixels that are added, such as a letterbox's border.

    Returns:
        (..., 4) xyxy pixels, not clipped.
    """
    x, y, box_width, box_height = (boxes[..., column] for column in range(4))
    return _stack(
        [
            width * (x - box_width / 2) + pad[0],
            height * (y - box_height / 2) + pad[1],
            width * (x + box_width / 2) + pad[0],
            height * (y + box_height / 2) + pad[1],
        ]
    )


def xyxy_to_xywhn(boxes: Boxes, width: float, height: float) -> Boxes:
    """Return (..., 4) xyxy pixels as xywh normalized.

    Args:
        boxes: (..., 4) xyxy pixels.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        (..., 4) xywh normalized, not clipped.
    """
    left, top, right, bottom = (boxes[..., column] for column in range(4))
    return _stack(
        [
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        ]
    )


def clip(xyxy: Boxes, shape: tuple[int, int]) -> Boxes:
    """Return (..., 4) xyxy pixels moved inside an image.

    Args:
        xyxy: (..., 4) xyxy pixels.
        shape: (height, width) of the image in pixels.

    Returns:
        (..., 4) xyxy pixels, x in 0..width and y in 0..height.
    """
    height, width = shape
    limits = (width, height, width, height)
    if isinstance(xyxy, Tensor):
        return torch.stack([xyxy[..., column].clamp(0, limits[column]) for column in range(4)], -1)
    return np.stack([xyxy[..., column].clip(0, limits[column]) for column in range(4)], -1)


def iou_matrix(a: Boxes, b: Boxes) -> Boxes:
    """Return the IoU of every box of `a` with every box of `b`. Half precision is computed in float32.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy in the same unit.

    Returns:
        (N, M) in 0..1; boxes without area overlap nothing.

    Example:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0]])
        >>> iou_matrix(boxes, boxes)
        array([[1. , 0.5],
               [0.5, 1. ]])
    """
    if isinstance(a, Tensor):
        a, b = _at_least_float32(a), _at_least_float32(b)
        larger, smaller, smallest = torch.maximum, torch.minimum, torch.finfo(torch.float32).tiny
    else:
        dtype = np.result_type(a.dtype, b.dtype, np.float32)
        a, b = a.astype(dtype), b.astype(dtype)
        larger, smaller, smallest = np.maximum, np.minimum, np.finfo(np.float32).tiny
    a_area = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    b_area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    width = (smaller(a[:, None, 2], b[None, :, 2]) - larger(a[:, None, 0], b[None, :, 0])).clip(min=0)
    height = (smaller(a[:, None, 3], b[None, :, 3]) - larger(a[:, None, 1], b[None, :, 1])).clip(min=0)
    overlap = width * height
    return overlap / (a_area[:, None] + b_area[None, :] - overlap).clip(min=smallest)


def _at_least_float32(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def _area(size: Tensor) -> Tensor:
    """(..., 2) width and height to (...). Not prod(), whose gradient has to read the values first."""
    return size[..., 0] * size[..., 1]


class BoxPairs(NamedTuple):
    """Boxes a[i] and b[i] with the quantities that their overlaps are computed from; lengths in the boxes' unit.

    Attributes:
        a: (N, 4) xywh, float32 or float64.
        b: (N, 4) xywh.
        iou: (N,) 0..1.
        union: (N,) area.
        enclosing: (N, 2) width and height of the smallest box around both.
        eps: Added to areas and squared lengths that divide, so that nothing divides by zero.
    """

    a: Tensor
    b: Tensor
    iou: Tensor
    union: Tensor
    enclosing: Tensor
    eps: float

    def overlap(self, kind: str) -> Tensor:
        """Return the overlap (N,) of one of IOU_KINDS, at most 1.

        "IoU": 0..1. "GIoU" (arXiv 1902.09630, eq. 3): above -1. "DIoU", "CIoU" (arXiv 1911.08287, eq. 6-11): above -2
        or so.
        """
        if kind == "IoU":
            return self.iou
        if kind == "GIoU":
            hull = _area(self.enclosing) + self.eps
            return self.iou - (hull - self.union) / hull
        distance = (self.a[..., :2] - self.b[..., :2]).square().sum(-1) / (self.enclosing.square().sum(-1) + self.eps)
        if kind == "DIoU":
            return self.iou - distance
        return self.iou - distance - _aspect_penalty(self.a, self.b, self.iou, self.eps)


def pair_boxes(a: Tensor, b: Tensor, eps: float = 1e-7) -> BoxPairs:
    """Return the pairs of a[i] and b[i]. Half precision is computed in float32.

    Args:
        a: (N, 4) xywh.
        b: (N, 4) xywh in the same unit.
        eps: Keeps boxes without area finite.

    Returns:
        IoU, union and enclosing box of each pair.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    a_corners, b_corners = xywh_to_xyxy(a), xywh_to_xyxy(b)
    shared = torch.minimum(a_corners[..., 2:], b_corners[..., 2:]) - torch.maximum(
        a_corners[..., :2], b_corners[..., :2]
    )
    overlap = _area(shared.clamp(min=0))
    union = _area(a[..., 2:]) + _area(b[..., 2:]) - overlap + eps
    iou = overlap / union
    enclosing = torch.maximum(a_corners[..., 2:], b_corners[..., 2:]) - torch.minimum(
        a_corners[..., :2], b_corners[..., :2]
    )
    return BoxPairs(a, b, iou, union, enclosing, eps)


def paired_iou(a: Tensor, b: Tensor, kind: str = "CIoU", eps: float = 1e-7) -> Tensor:
    """Return the overlap of a[i] with b[i], differentiable. Half precision is computed in float32.

    Args:
        a: (N, 4) xywh.
        b: (N, 4) xywh in the same unit.
        kind: One of IOU_KINDS, as `BoxPairs.overlap` says.
        eps: Keeps boxes without area finite.

    Returns:
        (N,), at most 1.

    Raises:
        ValueError: `kind` is not one of IOU_KINDS.

    Example:
        >>> predicted = torch.tensor([[5.0, 5.0, 10.0, 10.0]])
        >>> label = torch.tensor([[5.0, 10.0, 10.0, 20.0]])
        >>> paired_iou(predicted, label, "IoU")
        tensor([0.5000])
    """
    if kind not in IOU_KINDS:
        raise ValueError(f"paired_iou: kind is one of {', '.join(IOU_KINDS)}, got {kind!r}")
    return pair_boxes(a, b, eps).overlap(kind)


def _aspect_penalty(a: Tensor, b: Tensor, iou: Tensor, eps: float) -> Tensor:
    """CIoU's alpha * v. alpha is a weight, not a term: no gradient flows through it (the paper's section 3.3)."""
    a_angle = torch.atan(a[..., 2] / a[..., 3].clamp(min=eps))
    b_angle = torch.atan(b[..., 2] / b[..., 3].clamp(min=eps))
    v = (4 / math.pi**2) * (a_angle - b_angle).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return alpha * v
