"""Heat maps in the pixels of the image: enlarged, the letterbox's border cut away; and several merged into one."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.types import Letterbox


def enlarge(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (h, w) at another size, bilinearly.

    Args:
        values: (h, w), which covers the same area as the result.
        size: (height, width) of the result.

    Returns:
        `size`, of the type of `values`.
    """
    return F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def content(values: Tensor, placed: Letterbox) -> Tensor:
    """Return the part of a network input's plane that shows the image.

    Args:
        values: (H, W) in pixels of the network input.
        placed: How the image was put into it.

    Returns:
        The part without the border.
    """
    height, width = (max(round(side * ratio), 1) for side, ratio in zip(placed.native, placed.ratio[::-1], strict=True))
    left, top = (round(border) for border in placed.pad)
    return values[top : top + height, left : left + width]


def on_input(values: Tensor, placed: Letterbox) -> Tensor:
    """Return a layer's map in pixels of the network input, without the border.

    Args:
        values: (h, w), which covers the network input.
        placed: How the image was put into it.

    Returns:
        (height, width) of the resized image.
    """
    return content(enlarge(values, placed.shape), placed)


def on_image(values: Tensor, placed: Letterbox) -> np.ndarray:
    """Return a layer's map in pixels of the image.

    Args:
        values: (h, w), which covers the network input.
        placed: How the image was put into it.

    Returns:
        (H, W) float32.
    """
    return enlarge(on_input(values, placed), placed.native).float().numpy()


def normalized(values: Tensor) -> Tensor:
    """Return a map that is at least 0 divided by its maximum; a map of zeros stays one."""
    top = values.max()
    return values / top if top > 0 else values


def merged(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the mean of several maps, each divided by its maximum.

    Args:
        maps: (h, w) each, of any sizes, that cover the same area.
        size: (height, width) of the result.

    Returns:
        `size`, 0..1.
    """
    return torch.stack([enlarge(normalized(values), size) for values in maps]).mean(0)
