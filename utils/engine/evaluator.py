"""The evaluation of a network on a loader (`evaluate`) and of checkpoints on a split (`evaluate_weights`).

val.py, the end of every training epoch, the end of a training and the runs of a study call it.

Its figures do not depend on how images were batched or by how many workers: boxes are compared in
native pixels, and images enter the metrics in the order of the dataset.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from models.inference import largest_stride
from utils.compilation import CompileOptions, compiled_network
from utils.config import DatasetSpec, EvalOptions, LoaderOptions, SplitOptions
from utils.datasets.bad_images import BadImages
from utils.datasets.letterboxing import round_to_stride
from utils.datasets.loader import Loader, reporting_dead_workers
from utils.datasets.splits import open_split
from utils.device import full_float32
from utils.engine.evaluation_pass import BatchLoss, BoxObjClsLoss, EvaluationPass, Observer, ProcessResults
from utils.errors import ConfigError
from utils.log import LOGGER, progress, shares_terminal, warn_once
from utils.metrics.average_precision import Curves, DetectionAccumulator, ImageResult, table_header, table_rows
from utils.metrics.coco import CocoMetrics, coco_metrics, explain_difference, size_table
from utils.metrics.confusion import ConfusionMatrix
from utils.processes import ALONE, Processes
from utils.runtimes.network import (
    fixed_shape,
    give_thresholds,
    load_network,
    require_size,
    runtime_networks,
    warn_of_own_suppression,
)
from utils.types import Batch, DetectionMetrics, LossParts, Speeds

DRAWN_BATCHES = 3  # val_batch0 to val_batch2


class BatchSource(Protocol):
    """What an evaluation reads: a `Loader`, or anything that yields batches like one."""

    def epoch(self, epoch: int) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: P, R, F1 and AP by YOLOv5's rules.
        losses: Mean losses per image, None if no loss was given.
        speeds: Milliseconds per image.
        coco: COCO's figures, None if not asked for.
        confusion: The confusion matrix, background included.
        curves: P, R and F1 against confidence.
        results: Labels and detections per image, in the order of the dataset.
        input_shape: (B, 3, H, W) of a full batch at the image size asked for, None if the loader has none.
        timed_images: How many images `speeds` is the mean of: the first batch of each process, in which memory is taken
            and kernels are chosen, is left out unless it is the only one.
        coco_whole: COCO's figures of the whole images alone, if they were predicted in tiles too; else None.
        tiles_per_image: Mean number of tiles that were predicted, 0 without --slice.
    """

    metrics: DetectionMetrics
    losses: LossParts | None
    speeds: Speeds
    coco: CocoMetrics | None
    confusion: ConfusionMatrix
    curves: Curves
    results: tuple[ImageResult, ...] = field(repr=False)
    input_shape: tuple[int, int, int, int] | None = None
    timed_images: int = 0
    coco_whole: CocoMetrics | None = None
    tiles_per_image: float = 0.0

    def row(self) -> tuple[float, ...]:
        """Return v6.1's order: P, R, mAP50, mAP50-95, box, obj and cls loss (0 without a loss)."""
        return (*self.metrics.row(), *(self.losses.row() if self.losses else (0.0, 0.0, 0.0)))


@dataclass(frozen=True)
class EvalSplit:
    """Which split an evaluation reads, and how.

    Attributes:
        name: "val", or another split of the data yaml.
        options: How images are read; shape and stride are the evaluation's own.
        batch_size: Images per batch.
        workers: Processes that load images.
        report_dir: Folder that gets labels_<split>.csv if labels have problems.
    """

    name: str
    options: SplitOptions
    batch_size: int = 32
    workers: int = 0
    report_dir: Path | None = None

    def open(self, spec: DatasetSpec, model: nn.Module) -> Loader:
        """Return a loader of the split, images as their smallest rectangles.

        Args:
            spec: The dataset.
            model: The network that will read it; it has the stride, and batches go to its device.

        Returns:
            A loader that keeps the order of the dataset within each shape.

        Raises:
            ConfigError: If the network is an exported file that takes other images than `options` says.
        """
        require_size(model, (self.options.imgsz,) * 2)
        options = as_evaluated(self.options, largest_stride(model), fixed_shape(model))
        pinned = next(model.parameters()).device.type == "cuda"
        dataset = open_split(spec, self.name, options, report_dir=self.report_dir)
        bad_images = BadImages.limited(options.max_bad_images or "0", len(dataset), self.name, self.report_dir)
        order = LoaderOptions(self.batch_size, self.workers, pin_memory=pinned)
        return Loader(dataset, order, bad_images=bad_images)


def as_evaluated(options: SplitOptions, stride: int, fixed: tuple[int, int] | None = None) -> SplitOptions:
    """Return how every evaluation shapes images: each in its own smallest rectangle, with the border of `pad`.

    Args:
        options: How the split is read; with `square` every image is in a square.
        stride: Largest stride of the models in pixels.
        fixed: The one (height, width) that an exported file takes: then every image is in a square.

    Returns:
        The options with the image size raised to a multiple of the stride.
    """
    (imgsz,) = round_to_stride((options.imgsz,), stride)
    square = options.square or fixed is not None
    return replace(options, imgsz=imgsz, stride=stride, rect=not square, square=square, augment=False)


def load_for(
    spec: DatasetSpec,
    weights: Sequence[Path | str],
    device: torch.device,
    options: EvalOptions | None = None,
    download: bool = False,
) -> nn.Module:
    """Return the network of one checkpoint, or an ensemble of several, ready to be evaluated on a dataset.

    Args:
        spec: The dataset.
        weights: Checkpoints, names of published ones, or exported files.
        device: Where the network is put.
        options: `half`, `single_cls`, `compile` and `dnn` are read; `EvalOptions()` if None.
        download: Fetch published weights that are not on disk.

    Returns:
        The fused network in the precision that it will run in.

    Raises:
        ConfigError: If its classes are not the dataset's.
        CheckpointError: If a file cannot be read.
    """
    options = options or EvalOptions()
    model = load_network(weights, device, download, options.dnn)
    classes = len(cast("Sequence[str]", model.names))
    if classes != spec.nc and not options.single_cls:
        raise ConfigError(
            f"{weights[0]} knows {classes} classes and {spec.file or 'the dataset'} has {spec.nc}: "
            "give the --data it was trained on, or --single-cls to count all classes as one"
        )
    if runtime_networks(model):  # in the precision that they were exported with, and compiled
        return model
    model = model.half() if options.half else model
    return compiled_network(model, CompileOptions(dynamic=True)) if options.compile else model


def usable_half(half: bool, device: torch.device) -> bool:
    """Return whether half precision can be used, with one warning if it was asked for in vain.

    Args:
        half: Whether it was asked for.
        device: Where the network runs; only CUDA has it.

    Returns:
        Whether to use it.
    """
    if half and device.type != "cuda":
        warn_once("--half needs a CUDA device; computing in single precision")
    return half and device.type == "cuda"


@reporting_dead_workers()
def evaluate_weights(
    weights: Sequence[Path | str] | nn.Module,
    spec: DatasetSpec,
    options: EvalOptions,
    split: EvalSplit | Loader,
    device: torch.device,
    *,
    loss: BoxObjClsLoss | None = None,
    observers: Sequence[Observer] = (),
    processes: Processes = ALONE,
) -> Evaluation:
    """Evaluate checkpoints on a split: what val.py, the end of a training and each run of a study do.

    Args:
        weights: One checkpoint or exported file, or several that make an ensemble; or what `load_for` made of them.
        spec: The dataset.
        options: How the network is evaluated. With `single_cls` the dataset counts as one class.
        split: The split to open, or a loader that is open already and stays so.
        device: Where the network runs.
        loss: Also compute this loss.
        observers: Called with every batch, in order.
        processes: Those that share the batches, see `evaluate`.

    Returns:
        All figures of the evaluation.

    Raises:
        ConfigError: If the classes of the weights are not the dataset's.
        DataError: If the split cannot be read.
    """
    model = weights if isinstance(weights, nn.Module) else load_for(spec, weights, device, options, _may_fetch(split))
    names = spec.as_single_class().names if options.single_cls else spec.names
    loader = split.open(spec, model) if isinstance(split, EvalSplit) else split
    try:
        return evaluate(model, loader, names, options, loss=loss, observers=observers, processes=processes)
    finally:
        if loader is not split:
            loader.close()


def _may_fetch(split: EvalSplit | Loader) -> bool:
    return isinstance(split, EvalSplit) and split.options.download


@full_float32()
@torch.no_grad()  # not inference_mode: what a network caches must stay usable for training
def evaluate(
    model: nn.Module,
    loader: BatchSource,
    names: Sequence[str],
    options: EvalOptions | None = None,
    *,
    loss: BoxObjClsLoss | None = None,
    observers: Sequence[Observer] = (),
    processes: Processes = ALONE,
) -> Evaluation:
    """Run a network over one pass of a loader, log v6.1's table and return all figures.

    Args:
        model: On its device; it is put into evaluation mode and back.
        loader: Batches of the split; the pass is its epoch 0.
        names: Class names of the dataset.
        options: Thresholds and what is computed; `EvalOptions()` if None.
        loss: Also compute this loss of (raw maps, targets), each batch weighted by its images; not with `augment`.
        observers: Called with every batch, in order; of several processes with the batches of this one.
        processes: Those that share the batches. Each runs the same network over whole batches of its own, the first one
            computes the figures of all, and the others get them without the results per image.

    Returns:
        All figures. They do not depend on the batch size, the number of workers or of processes.
    """
    options = options or EvalOptions()
    give_thresholds(model, options.conf_thres, options.iou_thres)
    warn_of_own_suppression(model)
    own = EvaluationPass(model, options, loss)
    was_training = model.training
    model.eval()
    try:
        titles = table_header() if shares_terminal() else "validating"
        numbers, batches = _own_batches(loader, processes)
        for index, batch in zip(numbers, progress(batches, len(numbers), titles), strict=False):
            evaluated = own.evaluate(index, batch)
            for observer in observers:
                observer(evaluated)
    finally:
        model.train(was_training)
    evaluation = _of_all(own.found(), len(names), options.coco, processes)
    if isinstance(loader, Loader):
        evaluation = replace(evaluation, input_shape=loader.input_shape)
    _log_table(evaluation, names, options.verbose)
    return evaluation


def _of_all(own: ProcessResults, nc: int, coco: bool, processes: Processes) -> Evaluation:
    """The evaluation of what all processes found; only the first one's has the results per image."""
    every = processes.gather_to_first(own)
    evaluation = _evaluation(every, nc, coco) if every else None
    if processes.is_several:
        evaluation = _shared(evaluation, processes)
    if evaluation is None:  # the first process has one, and the others have got it
        raise RuntimeError("the first process sent no evaluation")
    return evaluation


def _own_batches(loader: BatchSource, processes: Processes) -> tuple[Sequence[int], Iterator[Batch]]:
    """The numbers of the batches that this process evaluates, and those batches.

    Whole batches, as one process would make them: so every figure is the same to the last bit. The first ones, which
    are drawn, are the first process's.
    """
    count = len(loader)
    if not processes.is_several:
        return range(count), loader.epoch(0)
    if not isinstance(loader, Loader):
        raise TypeError("several processes share the batches of a Loader only")
    size, rank = processes.world.size, processes.world.rank
    own = [index for index in range(count) if (0 if index < DRAWN_BATCHES else index % size) == rank]
    return own, loader.epoch(0, own)


def _shared(evaluation: Evaluation | None, processes: Processes) -> Evaluation | None:
    """The first process's evaluation; only there it has the results per image, which may be large."""
    light = replace(evaluation, results=()) if evaluation is not None else None
    received = processes.from_first(light)
    return evaluation if processes.is_first else received


def _mean_loss(losses: Iterable[BatchLoss]) -> LossParts | None:
    """The mean per image, added up batch after batch; None of no batch."""
    total, images = torch.zeros(3), 0
    for batch in sorted(losses, key=lambda each: each.index):
        total += torch.tensor(batch.terms)
        images += batch.images
    return LossParts(*(total / images).tolist()) if images else None


def _evaluation(found: Sequence[ProcessResults], nc: int, coco: bool) -> Evaluation:
    """All figures of what the processes found."""
    results = sorted((result for each in found for result in each.results), key=lambda result: result.index)
    seconds = [sum(times) for times in zip(*(each.times.seconds for each in found), strict=True)]
    timed = sum(each.times.images for each in found)
    whole = sorted((result for each in found for result in each.whole), key=lambda result: result.index)
    accumulator, confusion = DetectionAccumulator(nc), ConfusionMatrix(nc)
    for result in results:
        accumulator.update(result.detections, result.labels_cls, result.labels_xyxy)
        confusion.update(result.detections, result.labels_cls, result.labels_xyxy)
    metrics, curves = accumulator.summary()
    return Evaluation(
        metrics,
        _mean_loss(loss for each in found for loss in each.losses),
        Speeds(*(1000 * each / max(timed, 1) for each in seconds)),
        coco_metrics(results, nc) if coco else None,
        confusion,
        curves,
        tuple(results),
        timed_images=timed,
        coco_whole=coco_metrics(whole, nc) if coco and whole else None,
        tiles_per_image=sum(each.tiles for each in found) / max(len(results), 1),
    )


def _log_table(evaluation: Evaluation, names: Sequence[str], verbose: bool) -> None:
    metrics, coco = evaluation.metrics, evaluation.coco
    if not shares_terminal():  # else the progress bar has shown the titles
        LOGGER.info(table_header())
    for line in table_rows(metrics, tuple(names), per_class=verbose):
        LOGGER.info(line)
    if not metrics.labels.any():
        LOGGER.warning(
            f"WARNING: none of the {metrics.images} images has a label: P, R and mAP are undefined and reported as 0"
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
    LOGGER.info(f"COCO (computed here by COCOeval's rules): {', '.join(overall + by_size)}")
    explanation = explain_difference(metrics.map, coco.ap)
    if explanation:
        LOGGER.info(explanation)
    if evaluation.coco_whole is not None:
        for line in size_table({"whole images": evaluation.coco_whole, "with tiles": coco}):
            LOGGER.info(line)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
