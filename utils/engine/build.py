"""Builds the components of a training from a TrainConfig: model, data, optimizer, schedule, loss, EMA."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models.inference import largest_stride
from models.one_thread import use_onednn_throughout
from models.registry import load_plugins
from models.undrawn import UndrawnWeights
from models.yolo import Model
from utils.anchors import check_anchors, kmeans_anchors
from utils.assignment_recall import AssignmentRecall
from utils.box_losses import BoxLoss
from utils.checkpoint import Checkpoint, find_weights, read_checkpoint
from utils.compilation import CompiledPass, CompileOptions, compiled_pass
from utils.config import DatasetSpec, Hyperparameters, LoaderOptions, SplitOptions, TrainConfig
from utils.datasets.bad_images import BadImages
from utils.datasets.fingerprint import fingerprint_of
from utils.datasets.loader import Loader, reuse_freed_memory
from utils.datasets.splits import open_split
from utils.device import amp_dtype
from utils.engine.data_parallel import wrap
from utils.engine.distilling import Distillation, Teacher, build_distillation
from utils.engine.evaluator import EvalSplit
from utils.engine.layer_choice import freeze_layers
from utils.engine.model_ema import ModelEMA, averaged_updates
from utils.engine.noise_scale import NoiseScale
from utils.engine.optim import Schedule
from utils.engine.optimizer_choice import rates_from_weights
from utils.engine.resume import check_classes, restore_components, restoring, training_state
from utils.engine.trainer import TrainingComponents
from utils.engine.weight_average import WeightAverage
from utils.files import ROOT
from utils.log import LOGGER
from utils.loss import DetectionLoss
from utils.processes import ALONE, Processes
from utils.quality_losses import balanced_weights
from utils.transfer.pretrained import TransferReport, transfer_weights

DEFAULT_MODEL = ROOT / "models" / "yolov5s.yaml"


@dataclass
class TrainData:
    """The loaders of a training and the dataset that they read."""

    spec: DatasetSpec
    train: Loader
    val: Loader

    def fingerprint(self) -> dict[str, dict]:
        """Return the fingerprint of each split."""
        return {
            name: fingerprint_of(loader.dataset.store) for name, loader in (("train", self.train), ("val", self.val))
        }

    def close(self) -> None:
        """End the worker processes."""
        self.train.close()
        self.val.close()


def prepare_process(config: TrainConfig) -> None:
    """Seed torch's generator (initial weights, dropout), choose deterministic kernels if asked, import plugins."""
    torch.manual_seed(config.seed)
    reuse_freed_memory()  # a training step on the CPU frees and asks for the same large blocks again and again
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts: products are reproducible
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    load_plugins(config.plugin)


def warn_of_nondeterminism(model: torch.nn.Module, device: torch.device) -> None:
    """Log which layers have no reproducible gradient on CUDA, for `--deterministic`.

    Args:
        model: The network; such a block names its operator as `nondeterministic`.
        device: Where it trains; on the CPU every gradient is reproducible.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if hasattr(module, "nondeterministic"):
            found[f"{name.removeprefix('model.')} {type(module).__name__}"] = str(module.nondeterministic)
    if found and device.type == "cuda":
        LOGGER.warning(
            "WARNING: --deterministic: the gradients of "
            f"{', '.join(f'{layer} ({operator})' for layer, operator in found.items())} have no reproducible form on "
            "CUDA; runs with this model differ in their last digits and then drift apart"
        )


def build_detector(
    config: TrainConfig, hyp: Hyperparameters, spec: DatasetSpec, resumed: Checkpoint | None, device: torch.device
) -> tuple[Model, TransferReport | None]:
    """Return the model to train, with the weights that it starts from and layers frozen as asked.

    Args:
        config: The flags.
        hyp: `anchors` may replace the yaml's.
        spec: The dataset, whose classes the model gets.
        resumed: The checkpoint whose training goes on, or None.
        device: Where the model is put.

    Returns:
        The model, and the transfer report of `--weights` if there were any.

    Raises:
        CheckpointError: If weights cannot be read, or do not fit a training that goes on.
        ModelError: If the yaml cannot be built.
    """
    if resumed is not None:
        model, report = _resumed_detector(resumed, spec), None
    else:
        model, report = _fresh_detector(config, hyp, spec)
    model.names = list(spec.names)
    freeze_layers(model, config.freeze)
    if config.deterministic:
        warn_of_nondeterminism(model, device)
    use_onednn_throughout(model.to(device))
    return model, report


def _resumed_detector(resumed: Checkpoint, spec: DatasetSpec) -> Model:
    check_classes(resumed, spec)
    with UndrawnWeights():  # all are overwritten
        model = Model(resumed.yaml, nc=spec.nc)
    with restoring(resumed.source):
        model.load_state_dict(training_state(resumed)["model_state"])
    return model


def _fresh_detector(
    config: TrainConfig, hyp: Hyperparameters, spec: DatasetSpec
) -> tuple[Model, TransferReport | None]:
    source = read_checkpoint(find_weights(config.weights, download=config.download)) if config.weights else None
    description = config.cfg or (source.yaml if source else DEFAULT_MODEL)
    if not config.cfg and not source:
        LOGGER.info(f"neither --cfg nor --weights: training {DEFAULT_MODEL.name} from scratch")
    model = Model(description, nc=spec.nc, anchors=hyp.anchors, attention_start=config.attention_start or None)
    model.summary(verbose=True)
    if source is None:
        return model, None
    keep_anchors = bool(config.cfg or hyp.anchors)
    return model, transfer_weights(model, source, keep_anchors, config.transfer, config.require_transfer)


def build_data(
    config: TrainConfig,
    hyp: Hyperparameters,
    spec: DatasetSpec,
    model: Model,
    save_dir: Path,
    processes: Processes = ALONE,
) -> TrainData:
    """Return the loaders of the train and val splits.

    Args:
        config: The flags, its image and batch size resolved.
        hyp: Augmentation gains.
        spec: The dataset.
        model: The network that will read the batches.
        save_dir: The run folder, which gets reports on label problems.
        processes: Those that share each training batch; the first one writes the reports.

    Returns:
        A shuffled loader of augmented samples, and one of the val split as val.py reads it.

    Raises:
        DataError: If a split cannot be read or has no usable label.
    """
    limit = config.max_bad_images
    shared = replace(SplitOptions.of(config), cache=config.cache, seed=config.seed, max_bad_images=limit)
    closed_from = first_of_last(hyp.close_mosaic, config.epochs)
    options = replace(
        shared, stride=largest_stride(model), augment=True, rect=config.rect, pad=0.0, closed_from=closed_from
    )
    world, report_dir = processes.world, save_dir if processes.is_first else None
    dataset = open_split(spec, "train", options, hyp=hyp, report_dir=report_dir)
    pinned = next(model.parameters()).device.type == "cuda"
    order = LoaderOptions(
        config.batch_size, config.workers, True, config.seed, config.quad, pin_memory=pinned, world=world
    )
    validation = EvalSplit("val", shared, config.batch_size * 2, config.workers, report_dir)
    bad_images = BadImages.limited(limit, len(dataset), "train", report_dir)
    return TrainData(spec, Loader(dataset, order, bad_images=bad_images), validation.open(spec, model))


def first_of_last(count: float, epochs: int) -> int | None:
    """Return the first of the last epochs that `close_mosaic` or `swa` asks for.

    Args:
        count: How many of the last epochs.
        epochs: Of the whole training.

    Returns:
        Its index; None for none.
    """
    return max(math.ceil(epochs - count), 0) if count >= 1 else None


def fit_anchors(model: Model, data: TrainData, hyp: Hyperparameters, config: TrainConfig) -> None:
    """Replace the model's anchors if too few boxes match one (v6.1's AutoAnchor).

    They are always replaced if the yaml has only their number.

    Args:
        model: The network whose head is changed.
        data: Its training boxes.
        hyp: `anchor_t` is the largest ratio of a box's side to its anchor's; `anchor_fit` says what anchors are judged
            by, that ratio or the recall of `assign`.
        config: Image size and seed.
    """
    boxes, generator = data.train.dataset.box_sizes, np.random.default_rng([config.seed, 1])
    head, geometry = model.head, model.geometry
    if head.placeholder_anchors and len(boxes):
        count = geometry.levels * geometry.anchors_per_level
        LOGGER.info(f"AutoAnchor: fitting {count} anchors to {len(boxes)} boxes, as the model has only their number")
        head.set_anchors(kmeans_anchors(boxes, count, config.imgsz, hyp.anchor_t, generator=generator))
        return
    recall = None
    if hyp.anchor_fit == "assign" and len(boxes):
        recall = AssignmentRecall(hyp.assign, hyp.anchor_t, data.train.dataset.store, config.imgsz, geometry)
    report = check_anchors(boxes, geometry, hyp.anchor_t, config.imgsz, generator, recall=recall)
    if report.new_anchors_px is not None:
        head.set_anchors(report.new_anchors_px)


def build_components(
    config: TrainConfig,
    hyp: Hyperparameters,
    model: Model,
    optimizer: torch.optim.Optimizer,
    data: TrainData,
    resumed: Checkpoint | None,
    processes: Processes = ALONE,
    teacher: Teacher | None = None,
) -> TrainingComponents:
    """Return schedule, loss, EMA and gradient scaler around a model, its optimizer and its loaders.

    Args:
        config: The flags.
        hyp: The hyperparameters.
        model: The network to train, on its device.
        optimizer: Its optimizer.
        data: Its loaders.
        resumed: The checkpoint whose training goes on, or None.
        processes: Those that train together.
        teacher: A network that the model learns from, or None.

    Returns:
        Everything that the trainer needs.

    Raises:
        CheckpointError: If the state in `resumed` does not fit.
    """
    device = next(model.parameters()).device
    amp = amp_dtype(device, config.amp, config.amp_type)
    rates = rates_from_weights(config, hyp)
    schedule = Schedule(rates, config.epochs, len(data.train), config.batch_size, cos_lr=config.cos_lr)
    loss = detection_loss(config, hyp, model, data, processes)
    distillation = build_distillation(hyp, model, loss, teacher, schedule.warmup)
    ema = ModelEMA(model, reach=averaged_updates(hyp.ema_share, schedule.optimizer_steps))
    averaged_from = first_of_last(hyp.swa, config.epochs)
    stride = largest_stride(model)
    components = TrainingComponents(
        model=model,
        loss=loss,
        optimizer=optimizer,
        step_settings=schedule.step_settings,
        ema=ema,
        loader=data.train,
        device=device,
        scaler=gradient_scaler(device, amp),
        amp=amp,
        stride=stride,
        processes=processes,
        wrapper=wrap(model, processes, config.imgsz),
        average=None if averaged_from is None else WeightAverage(model, averaged_from),
        smooth_fitness=hyp.smooth_fitness,
        noise=noise_scale(config, hyp, schedule.accumulate, processes),
        compiled=training_pass(model, config, processes, distillation) if config.compile else None,
        distillation=distillation,
        image_size=multi_scale(config.imgsz, stride, config.seed) if config.multi_scale else lambda epoch, batch: None,
    )
    if resumed is not None:
        restore_components(components, resumed)
    return components


def detection_loss(
    config: TrainConfig, hyp: Hyperparameters, model: Model, data: TrainData, processes: Processes = ALONE
) -> DetectionLoss:
    """Return the loss of a training, its gains scaled to the head, the classes and the image size.

    Args:
        config: The image size and `label_smoothing`.
        hyp: Gains, rules and `class_balance`.
        model: The network, on its device.
        data: Its training labels weigh the classes.
        processes: Those that train together.

    Returns:
        The loss.
    """
    device = next(model.parameters()).device
    scaled = hyp.scaled(model.geometry.levels, data.spec.nc, config.imgsz, config.label_smoothing)
    weights = balanced_weights(data.train.dataset.store.class_counts(data.spec.nc), hyp.class_balance)
    return DetectionLoss(model.geometry, scaled, device, box_loss(hyp, device), processes, weights)


def noise_scale(
    config: TrainConfig, hyp: Hyperparameters, most: int, processes: Processes = ALONE
) -> NoiseScale | None:
    """Return what decides the number of batches behind a step by the gradient noise, logged; None with a fixed number.

    Args:
        config: The batch size.
        hyp: `accumulate`, and `nbs` for the message.
        most: Batches behind a step at most.
        processes: Those that train together.

    Returns:
        The component, or None.
    """
    if hyp.accumulate == "fixed":
        return None
    if most == 1:
        LOGGER.info(
            f"accumulate: noise: with --batch-size {config.batch_size} and nbs {hyp.nbs:g} each step has one batch"
        )
        return None
    LOGGER.info(f"accumulate: noise: steps have 1 to {most} batches, as many as the gradient noise asks for")
    return NoiseScale(config.batch_size, processes)


def training_pass(
    model: Model, config: TrainConfig, processes: Processes, distillation: Distillation | None = None
) -> CompiledPass | None:
    """Return the compiled training pass of a model, None if it has to run eagerly, which a line explains.

    Args:
        model: The network, on its device.
        config: Says whether inputs have one size.
        processes: Those that train together: several average gradients within the pass, which stays eager.
        distillation: May need maps from within the pass, which then stays eager too.

    Returns:
        The pass.
    """
    if processes.is_several:
        LOGGER.warning("WARNING: --compile: several processes train, so the network runs eagerly")
        return None
    if distillation is not None and distillation.features is not None:
        LOGGER.warning("WARNING: --compile: distill_features reads maps within the network, so it runs eagerly")
        return None
    return compiled_pass(model, CompileOptions(dynamic=config.multi_scale or config.rect))


def box_loss(hyp: Hyperparameters, device: torch.device) -> BoxLoss:
    """Return the box loss of the hyperparameters, logged if it is not v6.1's.

    Args:
        hyp: `iou`, `inner` and `focal`.
        device: Where its state lies.

    Returns:
        The box loss.
    """
    chosen = BoxLoss(hyp.iou, hyp.inner, hyp.focal, device)
    if str(chosen) != Hyperparameters.iou:
        LOGGER.info(f"box loss: {chosen}")
    return chosen


def gradient_scaler(device: torch.device, amp: torch.dtype | None) -> torch.amp.GradScaler:
    """Return the gradient scaler.

    On CUDA without mixed precision, or in bfloat16, which has float32's range, it keeps scale 1 and only leaves out
    steps whose gradients are not finite, on the device, without waiting for the host.

    Args:
        device: Where training runs.
        amp: Type of mixed precision, None without.

    Returns:
        A scaler, disabled outside CUDA.
    """
    if device.type != "cuda":
        return torch.amp.GradScaler("cpu", enabled=False)
    if amp is torch.float16:
        return torch.amp.GradScaler("cuda")
    return torch.amp.GradScaler("cuda", init_scale=1.0, growth_interval=2**31 - 1)


def multi_scale(imgsz: int, stride: int, seed: int) -> Callable[[int, int], int]:
    """Return (epoch, batch index) -> side in pixels, drawn anew for every batch.

    Args:
        imgsz: Sides are drawn within 50 % of it.
        stride: They are multiples of it.
        seed: Decides them, with epoch and batch index.

    Returns:
        The function.
    """
    # never one cell: batch norm cannot learn from a single value per channel
    lowest, highest = max(2, round(imgsz * 0.5 / stride)), max(2, round(imgsz * 1.5 / stride))

    def side(epoch: int, batch: int) -> int:
        return stride * int(np.random.default_rng([seed, epoch, batch, 2]).integers(lowest, highest + 1))

    return side
