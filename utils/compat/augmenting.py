"""YOLOv5's utils.augmentations on plain arrays: letterbox, and the changes of an image with its labels."""

import math
import random
from collections.abc import Sequence

import cv2
import numpy as np

from utils.datasets.letterboxing import resize

Pair = tuple[float, float]
_GRAY = (114, 114, 114)


def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: Sequence[int] = _GRAY,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, Pair, Pair]:
    """Return an image resized into a shape and padded, the ratios (x, y) and the padding (left, top) in pixels.

    Args:
        im: (H, W, 3) uint8, in any order of channels.
        new_shape: (height, width) in pixels, or one side.
        color: Of the border.
        auto: Whether the border only reaches the next multiple of `stride`.
        scaleFill: Whether the image is stretched into the shape, without a border.
        scaleup: Whether images smaller than the shape are enlarged.
        stride: In pixels.

    Returns:
        The image, (ratio of width, ratio of height), and the border on each side, which may be half a pixel.
    """
    height, width = im.shape[:2]
    target = (int(new_shape),) * 2 if isinstance(new_shape, (int, float)) else tuple(int(side) for side in new_shape)
    ratio = min(target[0] / height, target[1] / width)
    ratio = ratio if scaleup else min(ratio, 1.0)
    ratios = (ratio, ratio)
    inner = int(round(height * ratio)), int(round(width * ratio))
    free_y, free_x = target[0] - inner[0], target[1] - inner[1]
    if auto:
        free_y, free_x = free_y % int(stride), free_x % int(stride)
    elif scaleFill:
        free_y = free_x = 0
        inner = target[0], target[1]
        ratios = (target[1] / width, target[0] / height)
    left, top = free_x / 2, free_y / 2
    if (height, width) != inner:
        im = resize(im, inner, cv2.INTER_LINEAR)
    upper, lower = int(round(top - 0.1)), int(round(top + 0.1))
    before, after = int(round(left - 0.1)), int(round(left + 0.1))
    border = [float(value) for value in color]
    return cv2.copyMakeBorder(im, upper, lower, before, after, cv2.BORDER_CONSTANT, value=border), ratios, (left, top)


def augment_hsv(im: np.ndarray, hgain: float = 0.5, sgain: float = 0.5, vgain: float = 0.5) -> None:
    """Change hue, saturation and value of a BGR image by random factors, in place.

    Args:
        im: (H, W, 3) uint8 BGR.
        hgain: Largest change of the hue as a share.
        sgain: Of the saturation.
        vgain: Of the value.
    """
    if not (hgain or sgain or vgain):
        return
    factors = np.random.uniform(-1, 1, 3) * (hgain, sgain, vgain) + 1
    levels = np.arange(256)
    tables = (levels * factors[0] % 180, *(np.clip(levels * factor, 0, 255) for factor in factors[1:]))
    planes = cv2.split(cv2.cvtColor(im, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR, dst=im)


def hist_equalize(im: np.ndarray, clahe: bool = True, bgr: bool = False) -> np.ndarray:
    """Return an image with its brightness equalized.

    Args:
        im: (H, W, 3) uint8.
        clahe: Whether within tiles, with a limit of contrast.
        bgr: Whether the image is BGR.

    Returns:
        The image, in the same order of channels.
    """
    yuv = cv2.cvtColor(im, cv2.COLOR_BGR2YUV if bgr else cv2.COLOR_RGB2YUV)
    light = np.ascontiguousarray(yuv[:, :, 0])
    yuv[:, :, 0] = cv2.createCLAHE(2.0, (8, 8)).apply(light) if clahe else cv2.equalizeHist(light)
    return cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR if bgr else cv2.COLOR_YUV2RGB)


def mixup(im: np.ndarray, labels: np.ndarray, im2: np.ndarray, labels2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of two images, by a share drawn from Beta(32, 32), and the labels of both.

    Args:
        im: (H, W, 3) uint8.
        labels: (n, 5).
        im2: Of the same shape.
        labels2: (m, 5).

    Returns:
        The image, and (n + m, 5).
    """
    share = np.random.beta(32.0, 32.0)
    return (im * share + im2 * (1 - share)).astype(np.uint8), np.concatenate((labels, labels2), 0)


def cutout(im: np.ndarray, labels: np.ndarray, p: float = 0.5) -> np.ndarray:
    """Cover random rectangles of an image with random colors, in place, and return the labels that stay visible.

    Args:
        im: (H, W, 3) uint8.
        labels: (n, 5) class and xyxy pixels.
        p: Probability of doing so.

    Returns:
        The rows of which at most 60 % are covered by one large rectangle.
    """
    if random.random() >= p:
        return labels
    height, width = im.shape[:2]
    for share in [0.5] * 1 + [0.25] * 2 + [0.125] * 4 + [0.0625] * 8 + [0.03125] * 16:
        tall, wide = random.randint(1, max(int(height * share), 1)), random.randint(1, max(int(width * share), 1))
        left, top = max(0, random.randint(0, width) - wide // 2), max(0, random.randint(0, height) - tall // 2)
        right, bottom = min(width, left + wide), min(height, top + tall)
        im[top:bottom, left:right] = [random.randint(64, 191) for _ in range(3)]
        if len(labels) and share > 0.03:
            boxes = labels[:, 1:5]
            sides = np.minimum((right, bottom), boxes[:, 2:]) - np.maximum((left, top), boxes[:, :2])
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + 1e-7
            labels = labels[sides.clip(0).prod(1) / areas < 0.6]
    return labels


def box_candidates(
    box1: np.ndarray, box2: np.ndarray, wh_thr: float = 2, ar_thr: float = 20, area_thr: float = 0.1, eps: float = 1e-16
) -> np.ndarray:
    """Return which boxes (n,) are still worth detecting after an augmentation.

    Args:
        box1: (4, n) xyxy pixels before it.
        box2: (4, n) after it.
        wh_thr: Both sides must be longer, in pixels.
        ar_thr: The longer side as a multiple of the shorter must be smaller.
        area_thr: The share of the area that is left must be larger.
        eps: Added to what divides.

    Returns:
        bool.
    """
    (w1, h1), (w2, h2) = box1[2:] - box1[:2], box2[2:] - box2[:2]
    elongation = np.maximum(w2 / (h2 + eps), h2 / (w2 + eps))
    left = w2 * h2 / (w1 * h1 + eps)
    return (w2 > wh_thr) & (h2 > wh_thr) & (left > area_thr) & (elongation < ar_thr)


def random_perspective(
    im: np.ndarray,
    targets: np.ndarray = np.zeros((0, 5)),  # noqa: B008  never changed
    segments: Sequence[np.ndarray] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image seen by a random camera, and its labels moved along.

    Args:
        im: (H, W, 3) uint8.
        targets: (n, 5) class and xyxy pixels.
        segments: (k, 2) polygon per target in pixels, or none.
        degrees: Largest rotation.
        translate: Largest shift as a share of the sides.
        scale: Largest change of size as a share.
        shear: Largest angle in degrees.
        perspective: Largest perspective, 0 to 0.001.
        border: (y, x) pixels that the result is larger on each side; negative for a mosaic.

    Returns:
        The image, and the (m, 5) targets that are still worth detecting.
    """
    height, width = im.shape[0] + border[0] * 2, im.shape[1] + border[1] * 2
    centered, tilted, turned, slanted, shifted = (np.eye(3) for _ in range(5))
    centered[:2, 2] = -im.shape[1] / 2, -im.shape[0] / 2
    tilted[2, :2] = [random.uniform(-perspective, perspective) for _ in range(2)]
    turned[:2] = cv2.getRotationMatrix2D(
        (0, 0), random.uniform(-degrees, degrees), size := random.uniform(1 - scale, 1 + scale)
    )
    slanted[0, 1], slanted[1, 0] = (math.tan(math.radians(random.uniform(-shear, shear))) for _ in range(2))
    shifted[:2, 2] = [random.uniform(0.5 - translate, 0.5 + translate) * side for side in (width, height)]
    matrix = shifted @ slanted @ turned @ tilted @ centered
    if any(border) or (matrix != np.eye(3)).any():
        im = cv2.warpPerspective(im, matrix, (width, height), borderValue=_GRAY)
    if not len(targets):
        return im, targets
    has_outlines = len(segments) == len(targets) and any(np.any(segment) for segment in segments)
    outlines = list(segments) if has_outlines else [_corners(box) for box in targets[:, 1:5]]
    moved = np.array([_bounds(_project(outline, matrix), width, height) for outline in outlines])
    kept = box_candidates(targets[:, 1:5].T * size, moved.T, area_thr=0.01 if has_outlines else 0.10)
    result = targets[kept].copy()
    result[:, 1:5] = moved[kept]
    return im, result


def _corners(box: np.ndarray) -> np.ndarray:
    left, top, right, bottom = box
    return np.array([(left, top), (right, bottom), (left, bottom), (right, top)])


def _project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    homogeneous = np.concatenate((points, np.ones((len(points), 1))), 1) @ matrix.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def _bounds(points: np.ndarray, width: int, height: int) -> np.ndarray:
    points = points.clip((0, 0), (width, height))
    return np.concatenate((points.min(0), points.max(0)))
