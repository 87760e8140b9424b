"""Fitting a picture into a network input: resize, pad with grey, and the record that maps boxes back."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from utils.log import warn_once
from utils.types import Letterbox

GREY = 114  # the value of every border pixel, as in YOLOv5


def letterbox(
    image: np.ndarray, shape: tuple[int, int] | int, auto: bool = False, stride: int = 32, scale_up: bool = True
) -> tuple[np.ndarray, Letterbox]:
    """Return `image` (h, w, 3) resized into `shape` (height, width) and centred on grey, and the record of it.

    auto: pad only to the next multiple of `stride` instead of the full shape (minimal rectangle);
    scale_up: False leaves pictures smaller than the shape at their size.
    """
    height, width = (shape, shape) if isinstance(shape, int) else shape
    native = image.shape[:2]
    ratio = min(height / native[0], width / native[1])
    if not scale_up:
        ratio = min(ratio, 1.0)
    resized = (
        max(round(native[0] * ratio), 1),
        max(round(native[1] * ratio), 1),
    )  # a thread-thin picture keeps one pixel
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
    """Return (height, width) of a picture whose long side is brought to `imgsz`: rounded up, 1 to imgsz."""
    ratio = imgsz / max(native)
    return tuple(max(min(math.ceil(side * ratio), imgsz), 1) for side in native)


def fit(image: np.ndarray, native: tuple[int, int], imgsz: int, shape: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Return a picture brought to long side `imgsz` and padded to `shape`, as validation sees it, and the record of it.

    `image` may be a reduced reading of a file of size `native` (height, width); the record maps to native pixels.
    """
    size = fitted_size(native, imgsz)
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    return _paste(resize(image, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), native, shape)


def minimal_shape(native: tuple[int, int], imgsz: int, stride: int, pad: float) -> tuple[int, int]:
    """Return the smallest (height, width) in multiples of `stride`, plus `pad` strides, that holds the fitted picture."""
    return tuple(math.ceil(side / stride + pad) * stride for side in fitted_size(native, imgsz))


def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Return `image` at `size` (height, width); the same array where it has that size."""
    return (
        image if image.shape[:2] == tuple(size) else cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    )


def pad_before(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Return (top, left) border of a centred picture; of an odd border the smaller half comes first."""
    return round((outer[0] - inner[0]) / 2 - 0.1), round((outer[1] - inner[1]) / 2 - 0.1)


def _paste(image: np.ndarray, native: tuple[int, int], shape: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    height, width = image.shape[:2]
    top, left = pad_before((height, width), shape)
    record = Letterbox(tuple(native), (width / native[1], height / native[0]), (left, top), tuple(shape))
    if (height, width) == tuple(shape):
        return image, record
    canvas = np.full((*shape, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, record
