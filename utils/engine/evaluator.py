"""The one validation loop: val.py and the end of every training epoch run it.

Its figures do not depend on how images were batched or by how many workers: boxes are compared in
native pixels, and images enter the metrics in the order of the data set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import xywhn_to_xyxy
from utils.device import Timer, autocast, network_input
from utils.log import LOGGER, progress, shares_terminal
from utils.metrics.average_precision import Curves, DetectionAccumulator, ImageResult, table_header, table_rows
from utils.metrics.coco import CocoMetrics, coco_metrics, explain_difference
from utils.metrics.confusion import ConfusionMatrix
from utils.nms import non_max_suppression
from utils.types import Batch, DetectionMetrics, Detections, LossParts, Speeds

# Strides of grey added round a validation picture's own smallest shape. v6.1 adds half a stride to a shape that it takes from
# the whole batch; a picture's own shape without border is what detect.py gives the network, whatever the batch.
RECT_PAD = 0.0


@dataclass(frozen=True)
class EvaluatedBatch:
    """What an observer gets to see: the batch as the loader gave it, its detections in pixels of the
    network input (on the host), and one ImageResult in native pixels an image.
    """

    number: int
    batch: Batch
    detections: tuple[Detections, ...]
    results: tuple[ImageResult, ...]


Observer = Callable[[EvaluatedBatch], None]


class BatchSource(Protocol):
    """What a loader has to offer here."""

    def epoch(self, epoch: int): ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Evaluation:
    """What a validation came to. losses: None where no loss was given; coco: None where not asked for."""

    metrics: DetectionMetrics
    losses: LossParts | None
    speeds: Speeds
    coco: CocoMetrics | None
    confusion: ConfusionMatrix
    curves: Curves
    results: tuple[ImageResult, ...] = field(repr=False)

    def row(self) -> tuple[float, ...]:
        """v6.1's order: P, R, mAP50, mAP50-95, box, obj and cls loss (0 without a loss)."""
        return (*self.metrics.row(), *(self.losses.row() if self.losses else (0.0, 0.0, 0.0)))


@torch.no_grad()  # not inference_mode: what a network caches must stay usable for training
def evaluate(
    model: nn.Module,
    loader: BatchSource,
    *,
    names: Sequence[str],
    device: torch.device,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    augment: bool = False,
    half: bool = False,
    loss: Callable[[list[Tensor], Tensor], tuple[Tensor, LossParts]] | None = None,
    single_cls: bool = False,
    hybrid: bool = False,
    coco: bool = False,
    verbose: bool = False,
    observers: Sequence[Observer] = (),
) -> Evaluation:
    """Run `model` over one pass of `loader`, print v6.1's table and return all figures.

    The model is on `device`; it is put into evaluation mode and back. names: one a class of the data set.
    half: mixed precision (CUDA only); loss: also compute it (not with `augment`), each batch
    weighted by its images; single_cls: detections of every class count as class 0; hybrid: labels join
    the candidates as certain detections, for autolabelling; coco: pycocotools' figures too;
    verbose: a table row for each class. observers are called with every batch, in order.
    """
    timers = [Timer(device) for _ in range(3)]
    losses = _LossMean(loss if not augment else None, device)
    results: list[ImageResult] = []
    was_training = model.training
    model.eval()
    try:
        titles = table_header() if shares_terminal() else "validating"
        for number, batch in enumerate(progress(loader.epoch(0), len(loader), titles)):
            with timers[0]:
                images = network_input(batch.images, device, half=next(model.parameters()).dtype == torch.float16)
            with timers[1]:
                with autocast(device, half):
                    decoded, raw_maps = model(images, augment=augment)
                losses.add(raw_maps, batch)
            with timers[2]:
                detections = _suppressed(decoded, batch, conf_thres, iou_thres, max_det, single_cls, hybrid)
            seen = _image_results(batch, detections)
            results += seen
            for observer in observers:
                observer(EvaluatedBatch(number, batch, detections, seen))
    finally:
        model.train(was_training)
    results.sort(key=lambda result: result.index)
    speeds = Speeds(*(1000 * timer.seconds / max(len(results), 1) for timer in timers))
    evaluation = _evaluation(results, len(names), losses.parts(), speeds, coco)
    _report(evaluation, names, verbose)
    return evaluation


class _LossMean:
    """Adds up the loss on the device, so that no batch waits for it; off without a loss."""

    def __init__(self, loss, device: torch.device):
        self.loss, self.device = loss, device
        self.sum, self.images = torch.zeros(3, device=device), 0

    def add(self, raw_maps: list[Tensor] | None, batch: Batch) -> None:
        if self.loss is None or raw_maps is None:
            return
        parts = self.loss([raw.float() for raw in raw_maps], batch.targets.to(self.device, non_blocking=True))[1]
        values = [torch.as_tensor(part, device=self.device).float() for part in (parts.box, parts.obj, parts.cls)]
        self.sum += len(batch) * torch.stack(values)
        self.images += len(batch)

    def parts(self) -> LossParts | None:
        return LossParts(*(self.sum / self.images).tolist()) if self.images else None


def _suppressed(
    decoded: Tensor, batch: Batch, conf_thres: float, iou_thres: float, max_det: int, single_cls: bool, hybrid: bool
) -> tuple[Detections, ...]:
    """One batch's detections in pixels of the network input, on the host."""
    labels = _certain_labels(batch, decoded.device) if hybrid else ()
    found = non_max_suppression(
        decoded, conf_thres, iou_thres, agnostic=single_cls, multi_label=True, max_det=max_det, labels=labels
    )
    if single_cls:
        found = [Detections(one.xyxy, one.conf, torch.zeros_like(one.cls)) for one in found]
    return tuple(one.cpu() for one in found)


def _certain_labels(batch: Batch, device: torch.device) -> list[Tensor]:
    """(n, 5) class and xywh in pixels of the network input, one tensor an image."""
    height, width = batch.images.shape[2:]
    rows = batch.targets.clone()
    rows[:, 2:] *= rows.new_tensor((width, height, width, height))
    rows = rows.to(device)
    return [rows[rows[:, 0] == number, 1:] for number in range(len(batch))]


def _image_results(batch: Batch, detections: Sequence[Detections]) -> tuple[ImageResult, ...]:
    """Labels and detections of each image in its native pixels."""
    height, width = batch.images.shape[2:]
    targets = batch.targets.cpu().numpy()
    xyxy = xywhn_to_xyxy(targets[:, 2:6], width, height)
    seen = []
    for number, (box, found) in enumerate(zip(batch.letterboxes, detections)):
        mine = targets[:, 0] == number
        seen.append(
            ImageResult(
                batch.indices[number],
                batch.paths[number],
                box.native,
                found.to_native(box),
                targets[mine, 1].astype(np.int64),
                box.to_native(xyxy[mine]),
            )
        )
    return tuple(seen)


def _evaluation(
    results: list[ImageResult], nc: int, losses: LossParts | None, speeds: Speeds, coco: bool
) -> Evaluation:
    accumulator, confusion = DetectionAccumulator(nc), ConfusionMatrix(nc)
    for result in results:
        accumulator.update(result.detections, result.labels_cls, result.labels_xyxy)
        confusion.update(result.detections, result.labels_cls, result.labels_xyxy)
    return Evaluation(
        accumulator.compute(),
        losses,
        speeds,
        coco_metrics(results, nc) if coco else None,
        confusion,
        accumulator.curves(),
        tuple(results),
    )


def _report(evaluation: Evaluation, names: Sequence[str], verbose: bool) -> None:
    metrics, coco = evaluation.metrics, evaluation.coco
    if not shares_terminal():  # else the progress bar has shown the titles
        LOGGER.info(table_header())
    for line in table_rows(metrics, names, per_class=verbose):
        LOGGER.info(line)
    if not metrics.labels.any():
        LOGGER.warning(
            f"WARNING: none of the {metrics.images} images has a label: P, R and mAP cannot be told and stand at 0"
        )
    if coco is None:
        return
    by_size = [
        f"{name} {_figure(value)}"
        for name, value in (("APs", coco.ap_small), ("APm", coco.ap_medium), ("APl", coco.ap_large), ("AR", coco.ar))
    ]
    overall = [
        f"{name} {_figure(value)}" for name, value in (("AP", coco.ap), ("AP50", coco.ap50), ("AP75", coco.ap75))
    ]
    LOGGER.info(f"COCO (pycocotools): {', '.join(overall + by_size)}")
    line = explain_difference(metrics.map, coco.ap)
    if line:
        LOGGER.info(line)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
