"""The records that pass between rooms. Each checks its shapes when it is made and says
what it expected and what it got; column order exists only inside `.rows()` and `.row()`.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


def _expect(condition: bool, record: object, what: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{type(record).__name__}: expected {what}, got {got}")


@dataclass(frozen=True)
class HeadGeometry:
    """What a detection head looks like from outside.

    anchors: (levels, anchors per level, 2) width and height in grid units of their level;
    strides: (levels,) pixels per grid cell; nc: number of classes.
    """

    anchors: Tensor
    strides: Tensor
    nc: int

    def __post_init__(self):
        _expect(
            self.anchors.ndim == 3 and self.anchors.shape[-1] == 2,
            self,
            "anchors (nl, na, 2)",
            tuple(self.anchors.shape),
        )
        _expect(
            self.strides.shape == self.anchors.shape[:1],
            self,
            f"strides ({len(self.anchors)},)",
            tuple(self.strides.shape),
        )
        _expect(self.nc >= 1, self, "nc of at least 1", self.nc)

    @property
    def levels(self) -> int:
        return self.anchors.shape[0]

    @property
    def anchors_per_level(self) -> int:
        return self.anchors.shape[1]

    @property
    def anchors_px(self) -> Tensor:
        """(nl, na, 2) anchors in pixels."""
        return self.anchors * self.strides.view(-1, 1, 1)


@dataclass(frozen=True)
class Labels:
    """The objects of one image.

    cls: (n,) int64; xywhn: (n, 4) float32 centre and size in 0..1 of the image;
    segments: one (k, 2) float32 polygon in 0..1 an object, or an empty tuple.
    """

    cls: np.ndarray
    xywhn: np.ndarray
    segments: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        count = len(self.cls)
        _expect(self.cls.ndim == 1, self, "cls (n,)", self.cls.shape)
        _expect(self.xywhn.shape == (count, 4), self, f"xywhn ({count}, 4)", self.xywhn.shape)
        _expect(len(self.segments) in (0, count), self, f"0 or {count} segments", len(self.segments))

    def __len__(self) -> int:
        return len(self.cls)

    @staticmethod
    def none() -> "Labels":
        """The labels of a picture without objects."""
        return Labels(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


@dataclass(frozen=True)
class Letterbox:
    """How a native picture was resized and padded into a network input.

    native, shape: (height, width) before and after; ratio: (x, y) scale factors;
    pad: (left, top) pixels of border.
    """

    native: tuple[int, int]
    ratio: tuple[float, float]
    pad: tuple[float, float]
    shape: tuple[int, int]

    def from_native(self, xyxy):
        """Map (n, 4) xyxy pixels of the picture to pixels of the network input. Array or tensor."""
        return xyxy * self._like(xyxy, (*self.ratio, *self.ratio)) + self._like(xyxy, (*self.pad, *self.pad))

    def to_native(self, xyxy):
        """Map (n, 4) xyxy pixels of the network input back to the picture and clip them to it."""
        boxes = (xyxy - self._like(xyxy, (*self.pad, *self.pad))) / self._like(xyxy, (*self.ratio, *self.ratio))
        height, width = self.native
        limit = self._like(xyxy, (width, height, width, height))
        if isinstance(boxes, Tensor):
            return torch.minimum(boxes.clamp(min=0), limit)
        return np.minimum(boxes.clip(min=0), limit)

    @staticmethod
    def _like(xyxy, numbers):
        if isinstance(xyxy, Tensor):
            return xyxy.new_tensor(numbers)
        return np.asarray(numbers, dtype=xyxy.dtype)


@dataclass(frozen=True)
class Sample:
    """One network input: image (H, W, 3) uint8 RGB, labels relative to it, and where it came from.

    index is the image's place in its dataset.
    """

    image: np.ndarray
    labels: Labels
    path: str
    letterbox: Letterbox
    index: int

    def __post_init__(self):
        _expect(
            self.image.ndim == 3 and self.image.shape[2] == 3 and self.image.dtype == np.uint8,
            self,
            "image (H, W, 3) uint8",
            f"{self.image.shape} {self.image.dtype}",
        )


@dataclass(frozen=True)
class Batch:
    """What a loader yields.

    images: (B, 3, H, W) uint8 RGB, 0..255 (a channels-last view of one contiguous block);
    targets: (M, 6) float32 rows of image number in the batch, class, xywh normalised;
    paths, letterboxes, indices: one an image.
    """

    images: Tensor
    targets: Tensor
    paths: tuple[str, ...]
    letterboxes: tuple[Letterbox, ...]
    indices: tuple[int, ...]

    def __post_init__(self):
        count = len(self.paths)
        _expect(
            self.images.ndim == 4 and self.images.shape[:2] == (count, 3),
            self,
            f"images ({count}, 3, H, W)",
            tuple(self.images.shape),
        )
        _expect(self.images.dtype == torch.uint8, self, "uint8 images", self.images.dtype)
        _expect(
            self.targets.ndim == 2 and self.targets.shape[1] == 6, self, "targets (M, 6)", tuple(self.targets.shape)
        )
        _expect(
            len(self.letterboxes) == count and len(self.indices) == count,
            self,
            f"{count} letterboxes and indices",
            (len(self.letterboxes), len(self.indices)),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, for asynchronous transfer (called by the DataLoader)."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.paths, self.letterboxes, self.indices)


@dataclass(frozen=True)
class Assignment:
    """The ground truth of one head level, a row a matched (object, anchor, cell).

    image, anchor, row, column: (K,) int64 indices into a raw map (B, na, H, W, 5+nc);
    xywh: (K, 4) the object's centre offset from its cell and size, both in grid units;
    anchor_wh: (K, 2) in grid units; cls: (K,) int64.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    xywh: Tensor
    anchor_wh: Tensor
    cls: Tensor


@dataclass(frozen=True)
class LossParts:
    """The three terms of the detection loss, after gains, per image: zero-dimensional tensors or floats."""

    box: Tensor | float
    obj: Tensor | float
    cls: Tensor | float

    def row(self) -> tuple[float, float, float]:
        return float(self.box), float(self.obj), float(self.cls)


@dataclass(frozen=True)
class Detections:
    """What was found in one image: xyxy (n, 4) pixels, conf (n,) 0..1, cls (n,) int64, by falling conf."""

    xyxy: Tensor
    conf: Tensor
    cls: Tensor

    def __post_init__(self):
        count = len(self.conf)
        _expect(self.xyxy.shape == (count, 4), self, f"xyxy ({count}, 4)", tuple(self.xyxy.shape))
        _expect(self.cls.shape == (count,), self, f"cls ({count},)", tuple(self.cls.shape))

    def __len__(self) -> int:
        return len(self.conf)

    def rows(self) -> Tensor:
        """(n, 6) in v6.1's column order: xyxy, conf, cls."""
        return torch.cat((self.xyxy, self.conf[:, None], self.cls[:, None].to(self.xyxy.dtype)), 1)

    def to_native(self, letterbox: Letterbox) -> "Detections":
        """The same detections in pixels of the picture they were letterboxed from."""
        return Detections(letterbox.to_native(self.xyxy), self.conf, self.cls)

    def cpu(self) -> "Detections":
        return Detections(self.xyxy.cpu(), self.conf.cpu(), self.cls.cpu())

    @staticmethod
    def none(device: torch.device | str = "cpu") -> "Detections":
        return Detections(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class DetectionMetrics:
    """YOLOv5's figures over a data set of nc classes.

    precision, recall, f1: (nc,) at `confidence`, the threshold where the classes' smoothed
    mean F1 is largest; ap: (nc, 10) at IoU 0.50, 0.55 ... 0.95; labels: (nc,) boxes of each
    class. Classes without labels hold zeros and do not enter the means.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    ap: np.ndarray
    labels: np.ndarray
    confidence: float
    images: int

    def __post_init__(self):
        _expect(self.ap.shape == (len(self.labels), 10), self, f"ap ({len(self.labels)}, 10)", self.ap.shape)

    @property
    def present(self) -> np.ndarray:
        """(k,) indices of the classes that have labels."""
        return np.flatnonzero(self.labels)

    def _mean(self, values: np.ndarray) -> float:
        return float(values[self.present].mean()) if len(self.present) else 0.0

    @property
    def mean_precision(self) -> float:
        return self._mean(self.precision)

    @property
    def mean_recall(self) -> float:
        return self._mean(self.recall)

    @property
    def map50(self) -> float:
        return self._mean(self.ap[:, 0])

    @property
    def map(self) -> float:
        """Mean AP over IoU 0.50 to 0.95."""
        return self._mean(self.ap.mean(1))

    @property
    def fitness(self) -> float:
        """What decides the best epoch: 0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.map50 + 0.9 * self.map

    @property
    def class_map(self) -> np.ndarray:
        """(nc,) AP50-95 a class; a class without labels takes the mean, as v6.1's maps do."""
        return np.where(self.labels > 0, self.ap.mean(1), self.map)

    def row(self) -> tuple[float, float, float, float]:
        """v6.1's order: P, R, mAP50, mAP50-95."""
        return self.mean_precision, self.mean_recall, self.map50, self.map


@dataclass(frozen=True)
class StepSettings:
    """What the schedule sets for one optimizer step: lr a parameter group, momentum, and the
    number of batches whose gradients are added up before a step.
    """

    lr: tuple[float, ...]
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Speeds:
    """Milliseconds an image: making the network's input on its device, the network (and loss), non-maximum suppression."""

    pre: float
    inference: float
    nms: float

    def row(self) -> tuple[float, float, float]:
        return self.pre, self.inference, self.nms


@dataclass
class TrainState:
    """Where a training stands; plain values, saved in every checkpoint.

    epoch: the next epoch to train; step: batches seen; class_map: (nc,) the last AP per class,
    which --image-weights reads, empty before the first validation; best_*: of the epochs before.
    """

    epoch: int = 0
    step: int = 0
    best_fitness: float = 0.0
    best_epoch: int = 0
    class_map: list[float] = field(default_factory=list)
