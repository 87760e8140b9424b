"""Boxes: conversion, clipping and overlap. The only place where box formats change.

Formats: `xyxy` corners (left, top, right, bottom), `xywh` centre and size, both in any one
unit (pixels, grid cells); a trailing `n` means fractions 0..1 of the image's width and height.
Every function takes (..., 4), returns a new array and leaves its input alone. Arrays give
arrays, tensors give tensors.
"""

import math
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", np.ndarray, Tensor)

IOU_KINDS = ("IoU", "GIoU", "DIoU", "CIoU")


def _stack(parts: list) -> Boxes:
    return torch.stack(parts, -1) if isinstance(parts[0], Tensor) else np.stack(parts, -1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """(..., 4) corners to centre and size, in the same unit."""
    left, top, right, bottom = (boxes[..., column] for column in range(4))
    return _stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) centre and size to corners, in the same unit."""
    x, y, width, height = (boxes[..., column] for column in range(4))
    return _stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def xywhn_to_xyxy(boxes: Boxes, width: float, height: float, pad: tuple[float, float] = (0, 0)) -> Boxes:
    """(..., 4) fractions of an image of `width` x `height` to pixel corners, shifted by `pad` (x, y) pixels."""
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
    """(..., 4) pixel corners to centre and size in fractions of an image of `width` x `height`. Nothing is clipped."""
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
    """(..., 4) pixel corners moved inside an image of shape (height, width)."""
    height, width = shape
    limits = (width, height, width, height)
    if isinstance(xyxy, Tensor):
        return torch.stack([xyxy[..., column].clamp(0, limits[column]) for column in range(4)], -1)
    return np.stack([xyxy[..., column].clip(0, limits[column]) for column in range(4)], -1)


def iou_matrix(a: Boxes, b: Boxes) -> Boxes:
    """IoU of every box of a (N, 4) with every box of b (M, 4), both xyxy: (N, M), in 0..1.

    Half precision is computed in float32. Boxes without area overlap nothing.
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
    """(..., 2) width and height to (...). Not prod(): its gradient has to look at the values first."""
    return size[..., 0] * size[..., 1]


class BoxPairs(NamedTuple):
    """Boxes a[i] and b[i] side by side: what the overlaps of two boxes are made of, lengths in the boxes' unit.

    a, b: (N, 4) xywh, float32 or float64; iou: (N,) 0..1; union: (N,) area; enclosing: (N, 2) width and height of the
    smallest box around both; eps: added to areas and squared lengths that divide, so that nothing divides by zero.
    """

    a: Tensor
    b: Tensor
    iou: Tensor
    union: Tensor
    enclosing: Tensor
    eps: float

    def overlap(self, kind: str) -> Tensor:
        """(N,) one of IOU_KINDS: "IoU" (0..1); "GIoU" (arXiv 1902.09630, eq. 3; over -1); "DIoU" and "CIoU"
        (arXiv 1911.08287, eq. 6-11; over -2 or so).
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
    """Put a[i] and b[i], both (N, 4) xywh in one unit, side by side. Half precision is computed in float32."""
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
    """Overlap of a[i] with b[i], both (N, 4) xywh in one unit: (N,), at most 1, differentiable.

    kind: one of IOU_KINDS, as `BoxPairs.overlap` says. eps keeps boxes without area finite. Half precision is
    computed in float32.
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
