"""One process's pass of an evaluation: batches predicted, tiles merged, and what is collected and timed meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import xywhn_to_xyxy
from utils.config import EvalOptions
from utils.device import Timer, autocast, network_input
from utils.engine.tiled_inference import TiledBatches
from utils.metrics.average_precision import ImageResult
from utils.nms import non_max_suppression
from utils.types import Batch, Detections, LossParts

BoxObjClsLoss = Callable[[list[Tensor], Tensor], tuple[Tensor, LossParts]]


@dataclass(frozen=True)
class EvaluatedBatch:
    """What an observer of an evaluation gets.

    Attributes:
        index: Place of the batch in the pass.
        batch: The batch as the loader gave it.
        detections: Per image, in pixels of the network input, on the host.
        results: Per image, in native pixels.
    """

    index: int
    batch: Batch
    detections: tuple[Detections, ...]
    results: tuple[ImageResult, ...]


Observer = Callable[[EvaluatedBatch], None]


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch.

    index: Of the batch in the pass; images: How many it has; terms: Sums over them of box, obj and cls.
    """

    index: int
    images: int
    terms: tuple[float, ...]


@dataclass(frozen=True)
class _Times:
    """Seconds for input, network and suppression, and the number of images that they were taken for."""

    seconds: tuple[float, ...]
    images: int

    @classmethod
    def of(cls, timers: Sequence[Timer], images: int) -> "_Times":
        return cls(tuple(timer.seconds for timer in timers), images)

    def without(self, warm_up: "_Times | None") -> "_Times":
        """Return the times of all batches but the first; with it, if there is no other."""
        if warm_up is None or self.images == warm_up.images:
            return self
        seconds = tuple(all_ - first for all_, first in zip(self.seconds, warm_up.seconds, strict=True))
        return _Times(seconds, self.images - warm_up.images)


@dataclass(frozen=True)
class ProcessResults:
    """What one process found: results per image, losses per batch, and how long it took.

    whole: Results of whole images without their tiles; tiles: How many of these were predicted.
    """

    results: tuple[ImageResult, ...]
    losses: tuple[BatchLoss, ...]
    times: _Times
    whole: tuple[ImageResult, ...] = ()
    tiles: int = 0


class _LossMean:
    """Collects the losses of batches on the device, so that no batch waits for it; none without a loss."""

    def __init__(self, loss: BoxObjClsLoss | None, device: torch.device):
        self.loss, self.device = loss, device
        self.batches: list[tuple[int, int]] = []
        self.sums: list[Tensor] = []

    def add(self, index: int, raw_maps: list[Tensor] | None, batch: Batch) -> None:
        if self.loss is None or raw_maps is None:
            return
        parts = self.loss([raw.float() for raw in raw_maps], batch.targets.to(self.device, non_blocking=True))[1]
        values = [torch.as_tensor(part, device=self.device).float() for part in (parts.box, parts.obj, parts.cls)]
        self.sums.append(len(batch) * torch.stack(values))
        self.batches.append((index, len(batch)))

    def terms(self) -> tuple[BatchLoss, ...]:
        """Return what was added, on the host."""
        rows = torch.stack(self.sums).tolist() if self.sums else []
        return tuple(BatchLoss(*batch, tuple(row)) for batch, row in zip(self.batches, rows, strict=True))


class EvaluationPass:
    """What one process finds in its batches.

    Args:
        model: On its device, in evaluation mode while batches are evaluated.
        options: Thresholds and what is computed.
        loss: Also compute this loss of (raw maps, targets); not with test-time augmentation.
    """

    def __init__(self, model: nn.Module, options: EvalOptions, loss: BoxObjClsLoss | None):
        first = next(model.parameters())
        self._model, self._options, self._device = model, options, first.device
        self._is_half = first.dtype == torch.float16
        # a network in half precision needs no autocast
        self._mixed = torch.float16 if options.half and not self._is_half else None
        self._timers = [Timer(self._device) for _ in range(3)]
        self._losses = _LossMean(loss if not options.augment else None, self._device)
        suppress = partial(_suppressed, options=options)
        self._tiles = TiledBatches.of(model, options, suppress, self._mixed, self._timers)
        self._results: list[ImageResult] = []
        self._whole: list[ImageResult] = []  # without their tiles, if these are predicted too
        self._warm_up: _Times | None = None  # the first batch's

    def evaluate(self, index: int, batch: Batch) -> EvaluatedBatch:
        """Return what is found in a batch, and keep it.

        Args:
            index: Place of the batch in the pass.
            batch: As the loader gave it.

        Returns:
            What observers get.
        """
        detections = self._predicted(index, batch)
        found = tuple(map(Detections.to_native, detections, batch.letterboxes))
        if self._tiles is not None:
            if found and self._options.coco and not self._tiles.only:
                self._whole += _image_results(batch, found)
            found = self._tiles.merged(batch, found)
            detections = tuple(map(Detections.from_native, found, batch.letterboxes))
        results = _image_results(batch, found)
        self._results += results
        self._warm_up = self._warm_up or _Times.of(self._timers, len(batch))
        return EvaluatedBatch(index, batch, detections, results)

    def _predicted(self, index: int, batch: Batch) -> tuple[Detections, ...]:
        """The detections of whole images in pixels of the network input; none if only their tiles are predicted."""
        if self._tiles is not None and not self._tiles.needs_whole(batch):
            return ()
        with self._timers[0]:
            images = network_input(batch.images, self._device, half=self._is_half)
        with self._timers[1]:
            with autocast(self._device, self._mixed):
                decoded, raw_maps = self._model(images, augment=self._options.augment)
            self._losses.add(index, raw_maps, batch)
        with self._timers[2]:
            return _suppressed(decoded, self._options, batch)

    def found(self) -> ProcessResults:
        """Return what was found in all batches."""
        times = _Times.of(self._timers, len(self._results)).without(self._warm_up)
        tiles = self._tiles.count(self._results) if self._tiles is not None else 0
        return ProcessResults(tuple(self._results), self._losses.terms(), times, tuple(self._whole), tiles)


def _suppressed(decoded: Tensor, options: EvalOptions, batch: Batch | None = None) -> tuple[Detections, ...]:
    """One batch's detections in pixels of the network input, on the host; `batch` is read for its labels alone."""
    found = non_max_suppression(
        decoded,
        options.conf_thres,
        options.iou_thres,
        agnostic=options.single_cls,
        multi_label=True,
        max_det=options.max_det,
        labels=_certain_labels(batch, decoded.device) if options.hybrid and batch is not None else (),
    )
    if options.single_cls:
        found = [Detections(one.xyxy, one.conf, torch.zeros_like(one.cls)) for one in found]
    return tuple(one.cpu() for one in found)


def _certain_labels(batch: Batch, device: torch.device) -> list[Tensor]:
    """(n, 5) class and xywh in pixels of the network input, one tensor per image."""
    height, width = batch.images.shape[2:]
    rows = batch.targets.clone()
    rows[:, 2:] *= rows.new_tensor((width, height, width, height))
    rows = rows.to(device)
    return [rows[rows[:, 0] == place, 1:] for place in range(len(batch))]


def _image_results(batch: Batch, detections: Sequence[Detections]) -> tuple[ImageResult, ...]:
    """Labels of each image and its detections, which are in its native pixels already."""
    height, width = batch.images.shape[2:]
    targets = batch.targets.cpu().numpy()
    xyxy = xywhn_to_xyxy(targets[:, 2:6], width, height)
    results = []
    for place, (letterbox, found) in enumerate(zip(batch.letterboxes, detections, strict=True)):
        own = targets[:, 0] == place
        results.append(
            ImageResult(
                batch.indices[place],
                batch.paths[place],
                letterbox.native,
                found,
                targets[own, 1].astype(np.int64),
                letterbox.to_native(xyxy[own]),
            )
        )
    return tuple(results)
