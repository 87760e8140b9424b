"""torchvision's operators. Suppression needs no import of torchvision, which takes as long as torch's own.

The operators are in a library of their own inside the package; torch loads it and knows them from then on. Gradients,
types of mixed precision and shapes without data are registered by torchvision's Python in some of its versions, so for
an operator that is trained the package is imported, as it is if the library is not found where it is expected.
"""

import functools
import importlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

LIBRARIES = ("_C_stable*.so", "_C_stable*.pyd", "_C.so", "_C*.so", "_C*.pyd")  # by version and system, in order


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the boxes that no more confident one overlaps by more than a threshold.

    Args:
        boxes: (n, 4) float32 or float64 xyxy.
        scores: (n,) of the same type.
        iou_threshold: 0..1.

    Returns:
        (m,) int64, by falling score.
    """
    _load_library()
    return torch.ops.torchvision.nms(boxes.detach(), scores.detach(), iou_threshold)


def deform_conv2d(
    x: Tensor, offsets: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """Return a deformable convolution of stride 1 without mask and bias; call `import_operators` before.

    Args:
        x: (B, C, H, W).
        offsets: (B, 2 kh kw, H, W), down and right per tap.
        weight: (C', C / groups, kh, kw).
        padding: Rows and columns of zeros on each side.
        dilation: Distance of two taps, before the offsets.

    Returns:
        (B, C', H, W), if padding keeps the size.
    """
    mask, bias = x.new_zeros((x.shape[0], 1)), x.new_zeros(weight.shape[0])
    groups, offset_groups = x.shape[1] // weight.shape[1], offsets.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    return torch.ops.torchvision.deform_conv2d(
        x, weight, offsets, mask, bias, 1, 1, *padding, *dilation, groups, offset_groups, False
    )


@functools.cache
def import_operators() -> None:
    """Import torchvision's operators with all that its Python registers for them. Raises ImportError without it."""
    importlib.import_module("torchvision.ops")


def are_loaded() -> bool:
    """Return whether torch knows the operators already."""
    return hasattr(torch.ops.torchvision, "deform_conv2d")


@functools.cache
def _load_library() -> None:
    """Load the library of operators; import the package if it is not there, or does not fit this torch."""
    if are_loaded():
        return
    spec = find_spec("torchvision")  # of a package without a parent: nothing is imported
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [path for folder in folders for pattern in LIBRARIES for path in sorted(folder.glob(pattern))]
    for path in found:
        try:
            torch.ops.load_library(str(path))
        except OSError:  # made for another torch: the package says so in its own words
            break
        if are_loaded():
            return
    import_operators()
