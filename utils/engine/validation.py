"""What val.py runs: a split validated, weights timed, or image sizes studied, with all files of the run folder."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.registry import load_plugins
from utils.config import DatasetSpec, EvalOptions, Slicing, SplitOptions, ValConfig
from utils.datasets.loader import reporting_dead_workers
from utils.datasets.splits import require_images
from utils.device import select_device
from utils.engine.evaluation_pass import Observer
from utils.engine.evaluator import (
    EvalSplit,
    Evaluation,
    evaluate,
    evaluate_weights,
    load_for,
    usable_half,
)
from utils.engine.validation_errors import CountedErrors, best_f1_lines
from utils.engine.validation_files import CocoResults, LabelFiles, ValBatchImages, draw_figures, write_metrics
from utils.errors import ConfigError
from utils.files import run_folder
from utils.log import LOGGER
from utils.metrics.confusion import ConfusionMatrix
from utils.plots.fonts import drawing_fonts
from utils.runtimes.network import fixed_shape, refuse_for_exported, runtime_networks, takes

SPEED_CONF, SPEED_IOU = 0.25, 0.45  # those of detect.py
STUDY_SIZES = tuple(range(256, 1536 + 128, 128))
FEW_CLASSES = 50  # below this the table has a row per class


@dataclass(frozen=True)
class Validation:
    """The results of val.py: the run folder and the (last) evaluation.

    Unpacks as v6.1's val.run: (P, R, mAP50, mAP50-95, box, obj, cls), the AP of each class, the milliseconds per image
    of pre-processing, inference and NMS.
    """

    save_dir: Path
    evaluation: Evaluation

    def __iter__(self) -> Iterator:
        yield self.evaluation.row()
        yield self.evaluation.metrics.class_map
        yield self.evaluation.speeds.row()


@dataclass(frozen=True)
class ReportOptions:
    """What the report on an evaluation says beyond its figures.

    Attributes:
        settings: What metrics.json keeps under "settings".
        best_f1: Log the confidence of each class's best F1.
        confusion_conf: Least confidence of a detection in the confusion matrix and in counts of errors.
        confusion_iou: IoU above which a detection and a label are a pair there.
    """

    settings: dict[str, object]
    best_f1: bool = False
    confusion_conf: float = ValConfig.confusion_conf
    confusion_iou: float = ValConfig.confusion_iou


@reporting_dead_workers()
def validate(config: ValConfig) -> Validation:
    """Do what `config.task` says and return the result. Raises UserError kinds."""
    refuse_for_exported(
        config.weights, {"--half": config.half, "--augment": config.augment, "--compile": config.compile}
    )
    load_plugins(config.plugin)
    spec = DatasetSpec.load(config.data)
    split = "val" if config.task in TIMED_TASKS else config.task
    require_images(spec, (split,), config.download)  # reported before anything is loaded
    device = select_device(config.device)
    timed = config.task == "speed"
    config = dataclasses.replace(config, half=device.type == "cuda" if timed else usable_half(config.half, device))
    if config.task not in TIMED_TASKS and config.conf_thres > ValConfig.conf_thres:
        LOGGER.warning(
            f"WARNING: --conf-thres {config.conf_thres:g} is over 0.001: P, R and mAP miss what lies below it"
        )
    task = TIMED_TASKS.get(config.task, _validate_split)
    with drawing_fonts(config.font), run_folder(config.project, config.name, config.exist_ok) as save_dir:
        return Validation(save_dir, task(config, spec, device, save_dir))


def report_evaluation(
    evaluation: Evaluation, names: Sequence[str], save_dir: Path, report: ReportOptions
) -> Evaluation:
    """Log errors by kind and speed, and write metrics.json and all figures to a run folder.

    Args:
        evaluation: The results.
        names: Class names.
        save_dir: The run folder.
        report: Thresholds and settings.

    Returns:
        The evaluation with the confusion matrix at the report's thresholds.
    """
    conf_thres = report.settings.get("conf_thres")
    least = float(conf_thres) if isinstance(conf_thres, int | float) else 0.0
    threshold = max(report.confusion_conf, least)  # less confident detections were not kept
    confusion = _confusion(evaluation, len(names), threshold, report.confusion_iou)
    evaluation = dataclasses.replace(evaluation, confusion=confusion)
    errors = CountedErrors.of(evaluation.results, len(names), threshold)
    for line in (*(best_f1_lines(evaluation, names) if report.best_f1 else ()), *errors.lines()):
        LOGGER.info(line)
    LOGGER.info(_speed_line(evaluation))
    draw_figures(evaluation, names, save_dir, errors)
    write_metrics(evaluation, names, save_dir, report.settings, errors)
    return evaluation


def eval_options(config: ValConfig) -> EvalOptions:
    """Return the options of an evaluation that val.py's flags ask for, without COCO's figures and rows per class."""
    return EvalOptions(
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.max_det,
        augment=config.augment,
        half=config.half,
        single_cls=config.single_cls,
        hybrid=config.save_hybrid,
        compile=config.compile,
        dnn=config.dnn,
        slicing=Slicing.of(config),
    )


def _validate_split(config: ValConfig, spec: DatasetSpec, device: torch.device, save_dir: Path) -> Evaluation:
    """Tasks train, val, test and any other split that the data yaml names."""
    names = _names(config, spec)
    label_files = LabelFiles(save_dir, config.save_conf) if config.save_txt else None
    coco_file = (
        CocoResults(save_dir / f"{Path(config.weights[0]).stem}_predictions.json", names) if config.save_json else None
    )
    if config.save_hybrid:
        LOGGER.warning("WARNING: --save-hybrid mixes the labels with the detections: P, R and mAP are not the model's")
    options = dataclasses.replace(eval_options(config), coco=True, verbose=config.verbose or len(names) < FEW_CLASSES)
    observers: list[Observer] = [each for each in (label_files, coco_file) if each]
    model = load_for(spec, config.weights, device, options, config.download)
    config = _with_size_of(model, config)
    evaluation = evaluate_weights(
        model,
        spec,
        options,
        _split(config, config.task, save_dir),
        device,
        observers=[*observers, ValBatchImages(save_dir, names)],
    )
    report = ReportOptions(config.as_dict(), config.verbose, config.confusion_conf, config.confusion_iou)
    evaluation = report_evaluation(evaluation, names, save_dir, report)
    if label_files:
        LOGGER.info(f"{label_files.written} labels saved to {label_files.folder}")
    if coco_file:
        LOGGER.info(f"COCO results saved to {coco_file.save()}")
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


def _confusion(evaluation: Evaluation, nc: int, conf: float, iou: float) -> ConfusionMatrix:
    if (conf, iou) == (evaluation.confusion.conf, evaluation.confusion.iou):
        return evaluation.confusion
    confusion = ConfusionMatrix(nc, conf, iou)
    for result in evaluation.results:
        confusion.update(result.detections, result.labels_cls, result.labels_xyxy)
    return confusion


def _time_weights(config: ValConfig, spec: DatasetSpec, device: torch.device, save_dir: Path) -> Evaluation:
    """Task speed: each weights file by itself, at detection thresholds."""
    options = dataclasses.replace(eval_options(config), hybrid=False, conf_thres=SPEED_CONF, iou_thres=SPEED_IOU)
    for weights in config.weights:
        LOGGER.info(f"{weights}:")
        model = load_for(spec, (weights,), device, options, config.download)
        sized = _with_size_of(model, config)
        loader = _split(sized, "val", save_dir).open(spec, model)
        _warm_up(model, sized.imgsz)
        evaluation = evaluate(model, loader, _names(config, spec), options)
        loader.close()
        thresholds = {"conf_thres": SPEED_CONF, "iou_thres": SPEED_IOU}
        settings = {**sized.as_dict(), **thresholds, "weights": [weights]}
        LOGGER.info(_speed_line(evaluation))
        folder = save_dir if len(config.weights) == 1 else save_dir / Path(weights).stem
        folder.mkdir(exist_ok=True)
        write_metrics(evaluation, _names(config, spec), folder, settings)
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


def _study_sizes(config: ValConfig, spec: DatasetSpec, device: torch.device, save_dir: Path) -> Evaluation:
    """Task study: accuracy and speed over image sizes; study_<data>_<model>.txt, study.png, and a zip of the tables."""
    from utils.plots.sweeps import plot_study

    options, tables = dataclasses.replace(eval_options(config), hybrid=False), []
    for weights in config.weights:
        model, rows = load_for(spec, (weights,), device, options, config.download), []
        if fixed_shape(model):
            raise ConfigError(f"--task study: {takes(runtime_networks(model)[0])}; export with --dynamic")
        for imgsz in STUDY_SIZES:
            loader = _split(dataclasses.replace(config, imgsz=imgsz), "val", save_dir).open(spec, model)
            LOGGER.info(f"{weights} at {imgsz}:")
            evaluation = evaluate(model, loader, _names(config, spec), options)
            loader.close()
            rows.append((*evaluation.row(), *evaluation.speeds.row()))
        tables.append(save_dir / f"study_{Path(config.data).stem}_{Path(weights).stem}.txt")
        np.savetxt(tables[-1], rows, fmt="%10.4g")
    plot_study(tables, save_dir / "study.png", STUDY_SIZES)
    _zip(tables, save_dir / "study")
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


Task = Callable[[ValConfig, DatasetSpec, torch.device, Path], Evaluation]
TIMED_TASKS: dict[str, Task] = {"speed": _time_weights, "study": _study_sizes}


def _zip(files: Sequence[Path], base: Path) -> None:
    from zipfile import ZIP_DEFLATED, ZipFile

    with ZipFile(base.with_suffix(".zip"), "w", ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)


def _split(config: ValConfig, name: str, save_dir: Path) -> EvalSplit:
    return EvalSplit(name, SplitOptions.of(config), config.batch_size, config.workers, save_dir)


def _with_size_of(model: nn.Module, config: ValConfig) -> ValConfig:
    """The flags with the size that an exported file takes, if it takes one only and --imgsz was not given."""
    fixed = fixed_shape(model)
    if fixed is None or "imgsz" in config.given or config.imgsz != ValConfig.imgsz:
        return config
    if fixed[0] != fixed[1]:
        raise ConfigError(
            f"{takes(runtime_networks(model)[0])}, and images are validated in squares; export with --dynamic"
        )
    return dataclasses.replace(config, imgsz=fixed[0])


def _names(config: ValConfig, spec: DatasetSpec) -> tuple[str, ...]:
    return spec.as_single_class().names if config.single_cls else spec.names


def _warm_up(model: nn.Module, imgsz: int) -> None:
    """Let a GPU choose its kernels before anything is timed."""
    first = next(model.parameters())
    if first.device.type == "cuda":
        with torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=first.device, dtype=first.dtype))


def _speed_line(evaluation: Evaluation) -> str:
    pre, inference, nms = evaluation.speeds.row()
    shape = f" at shape {evaluation.input_shape}" if evaluation.input_shape else ""
    left_out = ", first batch left out" if evaluation.timed_images < evaluation.metrics.images else ""
    tiles = f", {evaluation.tiles_per_image:.3g} tiles each included" if evaluation.tiles_per_image else ""
    parts = f"{pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS"
    return f"Speed: {parts} per image{shape}{tiles}{left_out}"
