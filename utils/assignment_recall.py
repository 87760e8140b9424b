"""The recall of a training's own assignment: which share of the objects of a dataset gets a positive from some anchors.

`anchor_fit: assign` judges anchors by it. Unlike the ratio of sides it sees where objects lie and what takes their
pairs: an object counts if at least one pair of a cell and an anchor has it as its target in the end. Under v5's rule
the last object of a pair is its target; under the others no pair has two, and what they do for objects that get none
does not count. Rules that read predictions get those of a head whose outputs are all 0: the anchors themselves.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from utils.dynamic_assignment import first_choice
from utils.types import Assignment, HeadGeometry

_LARGEST_SAMPLE = 10_000  # objects
_IMAGES_AT_ONCE = 128  # what is kept per cell and anchor of an image stays small


class PlacedObjects(Protocol):
    """The m objects of n images."""

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) native height and width in pixels."""
        ...

    @property
    def xywhn(self) -> np.ndarray:
        """(m, 4) xywh normalized."""
        ...

    @property
    def image_of(self) -> np.ndarray:
        """(m,) index of the image of each object, rising."""
        ...


class AssignmentRecall:
    """The recall of a rule of assignment; call it with anchors in pixels.

    Args:
        rule: The hyperparameter `assign`.
        anchor_t: Ratios of an object's and an anchor's width or height must be below this.
        objects: Those of the training split; at least one; of more than 10,000 those of every n-th image.
        imgsz: The training size in pixels: long sides of images have it.
        geometry: Of the head, whose strides and number of anchors count.
    """

    def __init__(self, rule: str, anchor_t: float, objects: PlacedObjects, imgsz: int, geometry: HeadGeometry):
        self.rule, self.anchor_t, self.imgsz = rule, anchor_t, imgsz
        self.strides = geometry.strides.detach().cpu().float()
        self.batches = _batches(_targets(objects))

    def __call__(self, anchors_px: np.ndarray) -> tuple[float, float]:
        """Return the share of objects with a positive, 0..1, and the mean number of positives per object.

        Args:
            anchors_px: (nl * na, 2) widths and heights in pixels, level by level.
        """
        pixels = torch.as_tensor(np.asarray(anchors_px, np.float32)).reshape(len(self.strides), -1, 2)
        counts = torch.cat([self._positives(batch, pixels / self.strides.view(-1, 1, 1)) for batch in self.batches])
        return float((counts > 0).double().mean()), float(counts.double().mean())

    def __str__(self) -> str:
        return f"recall of the assignment ({self.rule})"

    def _positives(self, targets: Tensor, anchors: Tensor) -> Tensor:
        """(M,) pairs of each object, of M whose number travels as their class."""
        sides = [-(-self.imgsz // int(stride)) for stride in self.strides]
        images = int(targets[-1, 0]) + 1
        maps = [torch.zeros(()).expand(images, anchors.shape[1], side, side, 6) for side in sides]
        found = first_choice(self.rule)(maps, targets, anchors, self.anchor_t)
        return torch.stack(
            [torch.bincount(_last_targets(level.compact().rows), minlength=len(targets)) for level in found]
        ).sum(0)


def _targets(objects: PlacedObjects) -> Tensor:
    """(m, 6) rows of objects in squares whose side is the long side of their image, at the left top."""
    number = np.unique(objects.image_of, return_inverse=True)[1].reshape(-1)  # of images with objects
    kept = number % max(-(-len(number) // _LARGEST_SAMPLE), 1) == 0
    image = objects.image_of[kept]
    size = objects.sizes[image][:, ::-1].astype(np.float64)
    size /= size.max(1, keepdims=True)
    xywh = objects.xywhn[kept] * np.concatenate((size, size), 1)
    rows = np.zeros((len(image), 6))
    rows[:, 0], rows[:, 2:] = np.unique(image, return_inverse=True)[1].reshape(-1), xywh
    return torch.from_numpy(rows).float()


def _batches(targets: Tensor) -> list[Tensor]:
    """The rows (M, 6) of so many images each, the object's number in place of its class."""
    batch = (targets[:, 0] / _IMAGES_AT_ONCE).long()
    parts = [targets[batch == index].clone() for index in batch.unique()]
    for part in parts:
        part[:, 0] %= _IMAGES_AT_ONCE
        part[:, 1] = torch.arange(len(part))
    return parts


def _last_targets(rows: Assignment) -> Tensor:
    """The class of the last row of each (image, anchor, row, column)."""
    cells = torch.stack((rows.image, rows.anchor, rows.row, rows.column), 1)
    unique, index = cells.unique(dim=0, return_inverse=True)
    last = index.new_zeros(len(unique)).scatter_reduce(0, index, torch.arange(len(index)), "amax")
    return rows.cls[last]
