"""Letterboxing: an image resized and padded with gray into a network input, and the record that maps boxes back."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from utils.log import warn_once
from utils.types import Letterbox

GRAY = 114  # the value of every border pixel, as in YOLOv5


def letterbox(
    image: np.ndarray, shape: tuple[int, int] | int, auto: bool = False, stride: int = 32, scale_up: bool = True
) -> tuple[np.ndarray, Letterbox]:
    """Return an image resized into a shape and centered on gray, and the record of it.

    Args:
        image: (H, W, 3) uint8.
        shape: (height, width) in pixels, or one side of a square.
        auto: Pad only to the next multiple of `stride` instead of the full shape (minimal rectangle).
        stride: Largest stride of the network in pixels.
        scale_up: Enlarge images that are smaller than the shape.

    Returns:
        The network input, and how it was made.

    Example:
        >>> canvas, placed = letterbox(np.zeros((100, 200, 3), np.uint8), 640)
        >>> canvas.shape, placed.pad
        ((640, 640, 3), (0, 160))
    """
    height, width = (shape, shape) if isinstance(shape, int) else shape
    native = (image.shape[0], image.shape[1])
    ratio = min(height / native[0], width / native[1])
    if not scale_up:
        ratio = min(ratio, 1.0)
    resized = (
        max(round(native[0] * ratio), 1),
        max(round(native[1] * ratio), 1),
    )  # a thread-thin image keeps one pixel
    if auto:
        height = resized[0] + (height - resized[0]) % stride
        width = resized[1] + (width - resized[1]) % stride
    return _paste(resize(image, resized, cv2.INTER_LINEAR), native, (height, width))


def round_to_stride(sides: Sequence[int], stride: int, cells: int = 1) -> tuple[int, ...]:
    """Return `--imgsz` as a network can take it, with one warning if that changes it.

    Args:
        sides: One side in pixels, or height and width.
        stride: Largest stride of the model in pixels.
        cells: Least cells of the coarsest map along a side; training needs two, since batch norm cannot learn from one.

    Returns:
        Each side raised to a multiple of `stride`.
    """
    rounded = tuple(max(math.ceil(side / stride), cells) * stride for side in sides)
    if rounded != tuple(sides):
        least = f" of at least {cells * stride}" if cells > 1 else ""
        warn_once(
            f"--imgsz {' '.join(map(str, sides))} is not a multiple{least} of the largest stride {stride}; "
            f"using {' '.join(map(str, rounded))}"
        )
    return rounded


def fitted_size(native: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """Return the size of an image whose long side is brought to a length.

    Args:
        native: (height, width) in pixels.
        imgsz: The length in pixels.

    Returns:
        (height, width), rounded up, 1 to `imgsz`.
    """
    ratio = imgsz / max(native)
    height, width = (max(min(math.ceil(side * ratio), imgsz), 1) for side in native)
    return height, width


def fit(image: np.ndarray, native: tuple[int, int], imgsz: int, shape: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Return an image as validation sees it: its long side brought to a length, the rest padded.

    Args:
        image: (H, W, 3) uint8, perhaps a reduced reading of the file.
        native: (height, width) of the file in pixels, which the record maps to.
        imgsz: Length of the long side in pixels.
        shape: (height, width) of the network input in pixels.

    Returns:
        The network input, and how it was made.
    """
    size = fitted_size(native, imgsz)
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    return _paste(resize(image, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), native, shape)


def minimal_shape(native: tuple[int, int], imgsz: int, stride: int, pad: float) -> tuple[int, int]:
    """Return the smallest network input that holds an image.

    Args:
        native: (height, width) of the image in pixels.
        imgsz: Length that its long side is brought to.
        stride: The result is a multiple of it.
        pad: Strides of border that are added.

    Returns:
        (height, width) in pixels.
    """
    height, width = (math.ceil(side / stride + pad) * stride for side in fitted_size(native, imgsz))
    return height, width


def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Return an image at another size.

    Args:
        image: (H, W, 3).
        size: (height, width) in pixels.
        interpolation: OpenCV's constant.

    Returns:
        The resized image; the same array if it has that size.
    """
    return (
        image if image.shape[:2] == tuple(size) else cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    )


def pad_before(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Return the border before a centered image; of an odd border the smaller half comes first.

    Args:
        inner: (height, width) of the image in pixels.
        outer: (height, width) of the canvas.

    Returns:
        (top, left) in pixels.
    """
    return round((outer[0] - inner[0]) / 2 - 0.1), round((outer[1] - inner[1]) / 2 - 0.1)


def _paste(image: np.ndarray, native: tuple[int, int], shape: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    height, width = image.shape[:2]
    top, left = pad_before((height, width), shape)
    record = Letterbox(native, (width / native[1], height / native[0]), (left, top), shape)
    if (height, width) == shape:
        return image, record
    canvas = np.full((*shape, 3), GRAY, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, record
