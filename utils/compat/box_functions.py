"""Boxes as YOLOv5's scripts convert, scale and suppress them: columns behind the fourth stay, some change in place."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from utils import nms
from utils.boxes import Boxes, iou_matrix, pair_boxes, xywh_to_xyxy, xywhn_to_xyxy, xyxy_to_xywh, xyxy_to_xywhn
from utils.errors import ConfigError

RatioPad = tuple[Sequence[float], Sequence[float]]
Shape = Sequence[int]


def _converted(boxes: Boxes, convert: Callable[[Boxes], Boxes]) -> Boxes:
    """A copy whose first four columns are converted."""
    result = boxes.clone() if isinstance(boxes, Tensor) else np.copy(boxes)
    result[..., :4] = convert(boxes[..., :4])
    return result


def xyxy2xywh(x: Boxes) -> Boxes:
    """Return (n, 4 or more) xyxy as xywh in the same unit; further columns stay."""
    return _converted(x, xyxy_to_xywh)


def xywh2xyxy(x: Boxes) -> Boxes:
    """Return (n, 4 or more) xywh as xyxy in the same unit; further columns stay."""
    return _converted(x, xywh_to_xyxy)


def xywhn2xyxy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Return (n, 4 or more) xywh normalized as xyxy pixels; further columns stay.

    Args:
        x: The boxes.
        w: Width of the image in pixels.
        h: Height of the image in pixels.
        padw: Pixels added to x.
        padh: Pixels added to y.

    Returns:
        A new array or tensor.
    """
    return _converted(x, lambda boxes: xywhn_to_xyxy(boxes, w, h, (padw, padh)))


def xyxy2xywhn(x: Boxes, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Return (n, 4 or more) xyxy pixels as xywh normalized; further columns stay.

    Args:
        x: The boxes; with `clip` they are clipped in place, as in v6.1.
        w: Width of the image in pixels.
        h: Height of the image in pixels.
        clip: Whether boxes are moved inside the image first.
        eps: Pixels that clipped boxes keep from the right and lower edge.

    Returns:
        A new array or tensor.
    """
    if clip:
        _clip_in_place(x, h - eps, w - eps)
    return _converted(x, lambda boxes: xyxy_to_xywhn(boxes, w, h))


def xyn2xy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Return (n, 2) points in 0..1 as pixels.

    Args:
        x: The points.
        w: Width of the image in pixels.
        h: Height of the image in pixels.
        padw: Pixels added to x.
        padh: Pixels added to y.

    Returns:
        A new array or tensor.
    """
    result = x.clone() if isinstance(x, Tensor) else np.copy(x)
    result[..., 0] = w * x[..., 0] + padw
    result[..., 1] = h * x[..., 1] + padh
    return result


def segment2box(segment: np.ndarray, width: int = 640, height: int = 640) -> np.ndarray:
    """Return the xyxy box (4,) around those points of a polygon that are inside an image; zeros (1, 4) if none is.

    Args:
        segment: (n, 2) pixels.
        width: Of the image.
        height: Of the image.

    Returns:
        The box in pixels.
    """
    inside = segment[((segment >= 0) & (segment <= (width, height))).all(1)]
    return np.concatenate((inside.min(0), inside.max(0))) if len(inside) else np.zeros((1, 4))


def segments2boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Return the xywh boxes (n, 4) around polygons (k, 2)."""
    corners = [np.concatenate((segment.min(0), segment.max(0))) for segment in segments]
    return xyxy_to_xywh(np.array(corners).reshape(-1, 4))


def resample_segments(segments: list[np.ndarray], n: int = 1000) -> list[np.ndarray]:
    """Return polygons with n points each, spread evenly over their own points; the list is changed.

    Args:
        segments: (k, 2) each.
        n: Number of points.

    Returns:
        The same list, of (n, 2) arrays.
    """
    for index, segment in enumerate(segments):
        at = np.linspace(0, len(segment) - 1, n)
        columns = [np.interp(at, np.arange(len(segment)), segment[:, axis]) for axis in range(2)]
        segments[index] = np.stack(columns, 1)
    return segments


def _clip_in_place(boxes: Boxes, height: float, width: float) -> None:
    for column, limit in enumerate((width, height, width, height)):
        if isinstance(boxes, Tensor):
            boxes[..., column].clamp_(0, limit)
        else:
            boxes[..., column] = boxes[..., column].clip(0, limit)


def clip_coords(boxes: Boxes, shape: Shape) -> None:
    """Move (n, 4 or more) xyxy pixels inside an image, in place.

    Args:
        boxes: The boxes.
        shape: (height, width, ...) of the image.
    """
    _clip_in_place(boxes, shape[0], shape[1])


def scale_coords(img1_shape: Shape, coords: Boxes, img0_shape: Shape, ratio_pad: RatioPad | None = None) -> Boxes:
    """Return xyxy pixels of a letterboxed image as pixels of the image that it was made from, clipped; in place.

    Args:
        img1_shape: (height, width) of the network's input.
        coords: (n, 4 or more), changed.
        img0_shape: (height, width, ...) of the image.
        ratio_pad: ((ratio of y, ratio of x), (left, top)) if they are known; computed from the shapes if None.

    Returns:
        `coords`.
    """
    if ratio_pad is None:
        gain = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
        left, top = (img1_shape[1] - img0_shape[1] * gain) / 2, (img1_shape[0] - img0_shape[0] * gain) / 2
    else:
        gain, (left, top) = ratio_pad[0][0], ratio_pad[1]
    coords[..., [0, 2]] -= left
    coords[..., [1, 3]] -= top
    coords[..., :4] /= gain
    clip_coords(coords, img0_shape)
    return coords


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Return the detections of each image as (n, 6) rows xyxy, confidence, class, by falling confidence.

    Args:
        prediction: (B, N, 5+nc) as a network in evaluation mode returns it, or a tuple or list that starts with it.
        conf_thres: 0..1.
        iou_thres: 0..1.
        classes: Ids of the classes to keep; None keeps all.
        agnostic: Whether boxes of different classes suppress each other too.
        multi_label: Whether a box counts for every class above the threshold.
        labels: One (n, 5) tensor per image, class id and xywh pixels, that join as certain candidates.
        max_det: Largest number of detections per image.
        nm: Number of mask coefficients, of v7: 0.

    Returns:
        One tensor per image, in pixels of the network's input.

    Raises:
        ConfigError: If masks are asked for.
        ValueError: A threshold is outside 0..1, or shapes do not fit.
    """
    if nm:
        raise ConfigError(f"non_max_suppression: nm={nm}: masks are not detected here; leave nm away")
    decoded = prediction if isinstance(prediction, Tensor) else prediction[0]
    found = nms.non_max_suppression(decoded, conf_thres, iou_thres, classes, agnostic, multi_label, max_det, labels)
    return [detections.rows() for detections in found]


def bbox_iou(
    box1: Tensor,
    box2: Tensor,
    x1y1x2y2: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
    xywh: bool | None = None,
) -> Tensor:
    """Return the overlaps (n,) of one box, or of n boxes in columns, with n boxes.

    Args:
        box1: (4,), or (4, n) as v6.1's own loss gives them; (n, 4) with `xywh`.
        box2: (n, 4).
        x1y1x2y2: Whether boxes are xyxy; otherwise they are xywh.
        GIoU: Instead of IoU.
        DIoU: Instead of IoU.
        CIoU: Instead of IoU.
        eps: Keeps boxes without area finite.
        xywh: v7's keyword, the opposite of `x1y1x2y2`; with it boxes are rows, and the result is (n, 1) as v7's.

    Returns:
        The overlaps, at most 1.
    """
    is_newer = xywh is not None
    first = box1 if is_newer or box1.ndim == 1 else box1.T
    if x1y1x2y2 and not xywh:
        first, box2 = xyxy_to_xywh(first), xyxy_to_xywh(box2)
    kind = "CIoU" if CIoU else "DIoU" if DIoU else "GIoU" if GIoU else "IoU"
    overlap = pair_boxes(first, box2, eps).overlap(kind)
    return overlap[..., None] if is_newer else overlap


def box_iou(box1: Tensor, box2: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the IoU (N, M) of every box with every other.

    Args:
        box1: (N, 4) xyxy.
        box2: (M, 4) xyxy.
        eps: Not used: boxes without area overlap nothing.

    Returns:
        0..1.
    """
    return iou_matrix(box1, box2)


def bbox_ioa(box1: np.ndarray, box2: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """Return the share (n,) of each of n boxes that one box covers.

    Args:
        box1: (4,) xyxy.
        box2: (n, 4) xyxy.
        eps: Added to the areas.

    Returns:
        0..1.
    """
    box1, box2 = np.asarray(box1), np.asarray(box2)
    sides = np.minimum(box1[..., 2:], box2[..., 2:]) - np.maximum(box1[..., :2], box2[..., :2])
    return sides.clip(0).prod(-1) / ((box2[..., 2:] - box2[..., :2]).prod(-1) + eps)


def wh_iou(wh1: Tensor, wh2: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the IoU (n, m) of boxes that share a center.

    Args:
        wh1: (n, 2) widths and heights.
        wh2: (m, 2) widths and heights.
        eps: Added to the unions.

    Returns:
        0..1.
    """
    shared = torch.minimum(wh1[:, None], wh2[None]).prod(2)
    return shared / (wh1.prod(1)[:, None] + wh2.prod(1)[None] - shared + eps)


def clip_segments(segments: Boxes, shape: Shape) -> None:
    """Move (n, 2) points inside an image, in place.

    Args:
        segments: Pixels.
        shape: (height, width, ...) of the image.
    """
    for column, limit in enumerate((shape[1], shape[0])):
        segments[..., column] = segments[..., column].clip(0, limit)
