"""The records that pass between packages.

A record checks its shapes when it is made; a ValueError says what was expected and what it got. Column order exists
only inside `.rows()` and `.row()`.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from utils.boxes import Boxes


def _expect(condition: bool, record: object, what: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{type(record).__name__}: expected {what}, got {got}")


@dataclass(frozen=True)
class HeadGeometry:
    """The anchors, strides and class count of a detection head: all that loss and decoding need of it.

    Attributes:
        anchors: (nl, na, 2) width and height in grid units of their level, for nl levels of na anchors.
        strides: (nl,) pixels per grid cell.
        nc: Number of classes, at least 1.
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
        """The anchors (nl, na, 2) in pixels."""
        return self.anchors * self.strides.view(-1, 1, 1)


@dataclass(frozen=True)
class Labels:
    """The objects of one image.

    Attributes:
        cls: (n,) int64 class ids.
        xywhn: (n, 4) float32 xywh normalized: center and size in 0..1 of the image's width and height.
        segments: One (k, 2) float32 polygon per object, x and y in 0..1, or an empty tuple.
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
        """Return the labels of an image without objects."""
        return Labels(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


@dataclass(frozen=True)
class Letterbox:
    """How a native image was resized and padded into a network input.

    Attributes:
        native: (height, width) of the image in pixels.
        ratio: Scale factors (x, y), input pixels per native pixel.
        pad: Border (left, top) in input pixels.
        shape: (height, width) of the network input.
    """

    native: tuple[int, int]
    ratio: tuple[float, float]
    pad: tuple[float, float]
    shape: tuple[int, int]

    def from_native(self, xyxy: Boxes) -> Boxes:
        """Return (n, 4) xyxy pixels of the native image as pixels of the network input; array or tensor."""
        return xyxy * self._like(xyxy, (*self.ratio, *self.ratio)) + self._like(xyxy, (*self.pad, *self.pad))

    def to_native(self, xyxy: Boxes) -> Boxes:
        """Return (n, 4) xyxy pixels of the network input as pixels of the native image, clipped to it."""
        boxes = (xyxy - self._like(xyxy, (*self.pad, *self.pad))) / self._like(xyxy, (*self.ratio, *self.ratio))
        height, width = self.native
        limit = self._like(xyxy, (width, height, width, height))
        smaller = torch.minimum if isinstance(xyxy, Tensor) else np.minimum
        return smaller(boxes.clip(min=0), limit)

    @staticmethod
    def _like(xyxy: Boxes, values: tuple[float, ...]) -> Boxes:
        if isinstance(xyxy, Tensor):
            return xyxy.new_tensor(values)
        return np.asarray(values, dtype=xyxy.dtype)


@dataclass(frozen=True)
class Sample:
    """One network input with its labels and where it came from.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: Relative to `image`, border included.
        path: The image file.
        letterbox: From the native image to `image`.
        index: Position of the image in its dataset.
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
    """Images of one shape with their targets, as a loader yields them.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, 0..255: a channels-last view of one contiguous block.
        targets: (M, 6) float32 rows: index of the image in the batch, class id, xywh normalized.
        paths: One image file per image.
        letterboxes: One per image.
        indices: Position of each image in its dataset.
        counts: Whether the images count. A process without a part of a small batch gets one that stands in, without
            targets, because it takes part in every step.
    """

    images: Tensor
    targets: Tensor
    paths: tuple[str, ...]
    letterboxes: tuple[Letterbox, ...]
    indices: tuple[int, ...]
    counts: bool = True

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
        """Return a copy in page-locked memory, for asynchronous transfer; the DataLoader calls this."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


@dataclass(frozen=True)
class Assignment:
    """The positive anchors of one head level and their targets: one row per matched (object, anchor, cell).

    Attributes:
        image: (K,) int64 index into dimension 0 of the raw map (B, na, H, W, 5+nc).
        anchor: (K,) int64 index into dimension 1.
        row: (K,) int64 index into dimension 2.
        column: (K,) int64 index into dimension 3.
        xywh: (K, 4) the object's box in grid units, its center relative to the left top corner of the cell.
        anchor_wh: (K, 2) width and height of the anchor in grid units.
        cls: (K,) int64 class ids.
        label: (K,) int64 which of the batch's objects it is, an index into the targets.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    xywh: Tensor
    anchor_wh: Tensor
    cls: Tensor
    label: Tensor


@dataclass(frozen=True)
class LossParts:
    """The three terms of the detection loss after gains, as a mean per image: zero-dimensional tensors or floats."""

    box: Tensor | float
    obj: Tensor | float
    cls: Tensor | float

    def row(self) -> tuple[float, float, float]:
        """Return v6.1's order: box, obj, cls."""
        return float(self.box), float(self.obj), float(self.cls)


@dataclass(frozen=True)
class Detections:
    """The detections of one image, by falling confidence.

    Attributes:
        xyxy: (n, 4) xyxy pixels.
        conf: (n,) confidence, 0..1.
        cls: (n,) int64 class ids.
    """

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
        """Return (n, 6) in v6.1's column order: xyxy, conf, cls."""
        return torch.cat((self.xyxy, self.conf[:, None], self.cls[:, None].to(self.xyxy.dtype)), 1)

    def to_native(self, letterbox: Letterbox) -> "Detections":
        """Return the same detections in pixels of the native image, clipped to it."""
        return Detections(letterbox.to_native(self.xyxy), self.conf, self.cls)

    def from_native(self, letterbox: Letterbox) -> "Detections":
        """Return the same detections in pixels of the network input, from those of the native image."""
        return Detections(letterbox.from_native(self.xyxy), self.conf, self.cls)

    def cpu(self) -> "Detections":
        """Return the detections in host memory."""
        return Detections(self.xyxy.cpu(), self.conf.cpu(), self.cls.cpu())

    @staticmethod
    def none(device: torch.device | str = "cpu") -> "Detections":
        """Return the detections of an image in which nothing was found."""
        return Detections(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class DetectionMetrics:
    """YOLOv5's metrics over a dataset of nc classes; classes without labels hold zeros and do not enter the means.

    Attributes:
        precision: (nc,) at `confidence`, 0..1.
        recall: (nc,) at `confidence`, 0..1.
        f1: (nc,) at `confidence`, 0..1.
        ap: (nc, 10) average precision at IoU 0.50, 0.55, ... 0.95.
        labels: (nc,) number of labels of each class.
        confidence: The threshold with the largest smoothed mean F1 of the classes.
        images: Number of images.
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
        """The ids (k,) of the classes that have labels."""
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
        """The figure that decides the best epoch: 0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.map50 + 0.9 * self.map

    @property
    def class_map(self) -> np.ndarray:
        """AP50-95 (nc,) per class; a class without labels takes the mean, as v6.1's maps do."""
        return np.where(self.labels > 0, self.ap.mean(1), self.map)

    def row(self) -> tuple[float, float, float, float]:
        """Return v6.1's order: P, R, mAP50, mAP50-95."""
        return self.mean_precision, self.mean_recall, self.map50, self.map


@dataclass(frozen=True)
class StepSettings:
    """The schedule's values for one optimizer step.

    Attributes:
        lr: Learning rate of each parameter group.
        momentum: Momentum, or Adam's first beta.
        accumulate: Number of batches whose gradients are added up before a step.
    """

    lr: tuple[float, ...]
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Speeds:
    """Milliseconds per image.

    Attributes:
        pre: Making the network's input on its device.
        inference: The network, and the loss if there is one.
        nms: Non-maximum suppression.
    """

    pre: float
    inference: float
    nms: float

    def row(self) -> tuple[float, float, float]:
        """Return v6.1's order: pre-process, inference, NMS."""
        return self.pre, self.inference, self.nms


@dataclass
class GradientNoise:
    """What is known of the gradient's noise, for `accumulate: noise`: running means, in arbitrary but equal units.

    Attributes:
        signal: Squared norm of the true gradient of an image's loss.
        variance: Trace of the covariance of such gradients between images.
        measured: Measurements so far.
        unmeasured: Steps since the last one.
    """

    signal: float = 0.0
    variance: float = 0.0
    measured: int = 0
    unmeasured: int = 0

    def add(self, signal: float, variance: float, kept: float) -> None:
        """Add a measurement.

        Args:
            signal: Of it.
            variance: Of it.
            kept: Share of the running means that stays, 0..1.
        """
        self.signal += (1 - kept) * (signal - self.signal)
        self.variance += (1 - kept) * (variance - self.variance)
        self.measured, self.unmeasured = self.measured + 1, 0


@dataclass
class TrainState:
    """How far a training has come, saved in every checkpoint as plain values (`dataclasses.asdict`).

    Attributes:
        epoch: The epoch to train next, or to go on with.
        step: Number of batches seen.
        best_fitness: Of the epochs before `epoch`.
        best_epoch: The epoch of `best_fitness`.
        class_map: The last AP50-95 of each class, which --image-weights reads; empty before the first validation.
        batches_done: Batches of `epoch` that were trained, up to the last optimizer step.
        mean_losses: Mean box, obj and cls loss of these batches.
        rollbacks: How often the training went back to an earlier state; each time its learning rates were halved.
        fitness_sum: With `smooth_fitness`: s m + (1 - s) fitness over all validations, from m = 0.
        fitness_count: Validations in it.
        smooth_best: The largest mean so far.
        smooth_best_epoch: The epoch of `smooth_best`; None without `smooth_fitness`.
        noise: What `accumulate: noise` has measured.
    """

    epoch: int = 0
    step: int = 0
    best_fitness: float = 0.0
    best_epoch: int = 0
    class_map: list[float] = field(default_factory=list)
    batches_done: int = 0
    mean_losses: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    rollbacks: int = 0
    fitness_sum: float = 0.0
    fitness_count: int = 0
    smooth_best: float = 0.0
    smooth_best_epoch: int | None = None
    noise: GradientNoise = field(default_factory=GradientNoise)

    def __post_init__(self):
        if isinstance(self.noise, dict):  # as checkpoints hold it
            self.noise = GradientNoise(**self.noise)

    @property
    def patience_epoch(self) -> int:
        """The epoch since which the fitness has not risen, or its running mean if there is one."""
        return self.best_epoch if self.smooth_best_epoch is None else self.smooth_best_epoch

    def smooth(self, fitness: float, share: float) -> None:
        """Count the fitness of `epoch` in the running mean, bias-corrected as in Adam (arXiv 1412.6980, section 3).

        Args:
            fitness: Of this epoch's validation.
            share: How much of the mean each validation keeps, 0..1; 0 keeps no mean.
        """
        if not share:
            return
        self.fitness_count += 1
        self.fitness_sum = share * self.fitness_sum + (1 - share) * fitness
        mean = self.fitness_sum / (1 - share**self.fitness_count)
        if mean > self.smooth_best or self.smooth_best == 0:
            self.smooth_best, self.smooth_best_epoch = mean, self.epoch

    def end_epoch(self) -> None:
        """Move on to the first batch of the next epoch."""
        self.epoch, self.batches_done, self.mean_losses = self.epoch + 1, 0, [0.0, 0.0, 0.0]
