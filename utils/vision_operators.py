"""torchvision's suppression, called without importing torchvision: that import takes as long as torch's own.

The operators are in a library of their own inside the package; torch loads it and knows them from then on. If it is not
where it is expected, or was made for another torch, the package is imported. Gradients, types of mixed precision and
shapes without data are registered by torchvision's Python in some of its versions: an operator that is trained would
need that.
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
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


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
    importlib.import_module("torchvision.ops")
