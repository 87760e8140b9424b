"""What val.py runs: one split validated, weights timed, or image sizes studied, with all files of the run folder."""

import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.registry import load_plugins
from utils.checkpoint import find_weights, load_models
from utils.config import DatasetSpec, ValConfig
from utils.datasets.loader import Loader, build_loader
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.engine.evaluator import RECT_PAD, BatchSource, Evaluation, evaluate
from utils.engine.validation_errors import CountedErrors, best_f1_lines
from utils.engine.validation_files import CocoResults, LabelFiles, ValBatchImages, draw_figures, write_metrics
from utils.errors import ConfigError
from utils.files import run_folder
from utils.log import LOGGER, warn_once
from utils.metrics.confusion import ConfusionMatrix
from utils.types import Speeds

SPEED_THRESHOLDS = {"conf_thres": 0.25, "iou_thres": 0.45}
STUDY_SIZES = tuple(range(256, 1536 + 128, 128))


@dataclass(frozen=True)
class Validation:
    """What a run of val.py came to: its folder and its (last) evaluation.

    Unpacks as v6.1's val.run: (P, R, mAP50, mAP50-95, box, obj, cls), the AP of each class, the
    milliseconds an image of pre-processing, inference and NMS.
    """

    save_dir: Path
    evaluation: Evaluation

    def __iter__(self) -> Iterator:
        yield self.evaluation.row()
        yield self.evaluation.metrics.class_map
        yield self.evaluation.speeds.row()


def validate(config: ValConfig) -> Validation:
    """Do what `config.task` says and return the result. Raises UserError kinds."""
    if config.dnn:
        raise ConfigError("--dnn: ONNX files are not run here; give --weights a .pt file and leave --dnn away")
    load_plugins(config.plugin)
    spec = DatasetSpec.load(config.data)
    if config.task not in TIMED_TASKS:
        spec.paths(config.task)  # a split that is not there is told before anything is loaded
    device = select_device(config.device)
    config = dataclasses.replace(config, half=_usable_half(config, device))
    if config.task not in TIMED_TASKS and config.conf_thres > ValConfig.conf_thres:
        LOGGER.warning(
            f"WARNING: --conf-thres {config.conf_thres:g} is over 0.001: P, R and mAP miss what lies below it"
        )
    task = TIMED_TASKS.get(config.task, _validate_split)
    with run_folder(config.project, config.name, config.exist_ok) as save_dir:
        return Validation(save_dir, task(config, spec, device, save_dir))


def validate_checkpoint(
    path: Path | str,
    loader: BatchSource,
    *,
    names: Sequence[str],
    device: torch.device,
    save_dir: Path,
    loss=None,
    single_cls: bool = False,
) -> Evaluation:
    """Validate a weights file on a loader as `val.py --weights path` does, pictures, curves and metrics.json included."""
    model = load_models(path, device)
    settings = {"weights": str(path), "single_cls": single_cls, **_loader_settings(loader)}
    return _evaluate_fully(model, loader, names, device, save_dir, settings, loss=loss, single_cls=single_cls)


def _usable_half(config: ValConfig, device: torch.device) -> bool:
    if config.task == "speed":
        return device.type == "cuda"
    if config.half and device.type != "cuda":
        warn_once("--half needs a CUDA device; computing in single precision")
    return config.half and device.type == "cuda"


def _validate_split(config: ValConfig, spec: DatasetSpec, device: torch.device, save_dir: Path) -> Evaluation:
    """Tasks train, val, test and whatever other split the data yaml names."""
    model = _load(config, config.weights, spec, device)
    loader = _open(config, spec, model, device, save_dir, config.task)
    names = _names(config, spec)
    label_files = LabelFiles(save_dir, config.save_conf) if config.save_txt else None
    coco_file = (
        CocoResults(save_dir / f"{Path(config.weights[0]).stem}_predictions.json", names) if config.save_json else None
    )
    if config.save_hybrid:
        LOGGER.warning(
            "WARNING: --save-hybrid mixes the labels in among the detections: P, R and mAP are not the model's"
        )
    evaluation = _evaluate_fully(
        model,
        loader,
        names,
        device,
        save_dir,
        config.as_dict(),
        [one for one in (label_files, coco_file) if one],
        verbose=config.verbose,
        confusion_conf=config.confusion_conf,
        confusion_iou=config.confusion_iou,
        hybrid=config.save_hybrid,
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        **_common(config),
    )
    loader.close()
    if label_files:
        LOGGER.info(f"{label_files.written} labels saved to {label_files.folder}")
    if coco_file:
        LOGGER.info(f"COCO results saved to {coco_file.save()}")
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


def _evaluate_fully(
    model: nn.Module,
    loader: BatchSource,
    names: Sequence[str],
    device: torch.device,
    save_dir: Path,
    settings: dict,
    observers: Sequence = (),
    verbose: bool = False,
    confusion_conf: float = ValConfig.confusion_conf,
    confusion_iou: float = ValConfig.confusion_iou,
    **options,
) -> Evaluation:
    """`evaluate` with both evaluators, a row a class, errors by kind, and all figures in save_dir."""
    evaluation = evaluate(
        model,
        loader,
        names=names,
        device=device,
        coco=_coco_is_there(),
        verbose=verbose or len(names) < 50,
        observers=[*observers, ValBatchImages(save_dir, names)],
        **options,
    )
    threshold = max(confusion_conf, options.get("conf_thres", 0.0))  # less confident detections were not kept
    evaluation = dataclasses.replace(evaluation, confusion=_confusion(evaluation, len(names), threshold, confusion_iou))
    errors = CountedErrors.of(evaluation.results, len(names), threshold)
    for line in (*(best_f1_lines(evaluation, names) if verbose else ()), *errors.lines()):
        LOGGER.info(line)
    LOGGER.info(_speed_line(evaluation.speeds, loader))
    draw_figures(evaluation, names, save_dir, errors)
    write_metrics(evaluation, names, save_dir, settings, errors)
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
    for weights in config.weights:
        LOGGER.info(f"{weights}:")
        model = _load(config, (weights,), spec, device)
        loader = _open(config, spec, model, device, save_dir, "val")
        _warm_up(model, config.imgsz, device)
        evaluation = evaluate(
            model, loader, names=_names(config, spec), device=device, **SPEED_THRESHOLDS, **_common(config)
        )
        loader.close()
        LOGGER.info(_speed_line(evaluation.speeds, loader))
        folder = save_dir if len(config.weights) == 1 else save_dir / Path(weights).stem
        folder.mkdir(exist_ok=True)
        write_metrics(
            evaluation, _names(config, spec), folder, {**config.as_dict(), **SPEED_THRESHOLDS, "weights": [weights]}
        )
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


def _study_sizes(config: ValConfig, spec: DatasetSpec, device: torch.device, save_dir: Path) -> Evaluation:
    """Task study: accuracy and speed over image sizes; study_<data>_<model>.txt, study.png, and a zip of the tables."""
    from utils.plots.sweeps import plot_study

    tables = []
    for weights in config.weights:
        model, rows = _load(config, (weights,), spec, device), []
        for imgsz in STUDY_SIZES:
            sized = dataclasses.replace(config, imgsz=imgsz)
            loader = _open(sized, spec, model, device, save_dir, "val")
            LOGGER.info(f"{weights} at {imgsz}:")
            evaluation = evaluate(
                model,
                loader,
                names=_names(config, spec),
                device=device,
                conf_thres=config.conf_thres,
                iou_thres=config.iou_thres,
                **_common(config),
            )
            loader.close()
            rows.append((*evaluation.row(), *evaluation.speeds.row()))
        tables.append(save_dir / f"study_{Path(config.data).stem}_{Path(weights).stem}.txt")
        np.savetxt(tables[-1], rows, fmt="%10.4g")
    plot_study(tables, save_dir / "study.png", STUDY_SIZES)
    _zip(tables, save_dir / "study")
    LOGGER.info(f"Results saved to {save_dir}")
    return evaluation


TIMED_TASKS = {"speed": _time_weights, "study": _study_sizes}


def _zip(files: Sequence[Path], base: Path) -> None:
    from zipfile import ZIP_DEFLATED, ZipFile

    with ZipFile(base.with_suffix(".zip"), "w", ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)


def _load(config: ValConfig, weights: Sequence[str], spec: DatasetSpec, device: torch.device) -> nn.Module:
    """The fused network in the precision it will run in. Raises ConfigError where its classes are not the data's."""
    model = load_models([find_weights(name, config.download) for name in weights], device)
    classes = len(model.names)
    if classes != spec.nc and not config.single_cls:
        raise ConfigError(
            f"{weights[0]} knows {classes} classes and {config.data} has {spec.nc}: "
            "give the --data it was trained on, or --single-cls to count all classes as one"
        )
    return model.half() if config.half else model


def _common(config: ValConfig) -> dict:
    return {"single_cls": config.single_cls, "augment": config.augment, "max_det": config.max_det}


def _open(
    config: ValConfig, spec: DatasetSpec, model: nn.Module, device: torch.device, save_dir: Path, split: str
) -> Loader:
    stride = int(max(float(stride) for stride in model.stride))
    imgsz = -(-config.imgsz // stride) * stride
    if imgsz != config.imgsz:
        warn_once(f"--imgsz {config.imgsz} is not a multiple of the largest stride {stride}; using {imgsz}")
    dataset = open_split(
        spec,
        split,
        imgsz=imgsz,
        stride=stride,
        rect=True,
        pad=RECT_PAD,
        single_cls=config.single_cls,
        labels_policy=config.labels,
        cache_labels=not config.no_cache_labels,
        download=config.download,
        report_dir=save_dir,
    )
    return build_loader(dataset, config.batch_size, config.workers, pin_memory=device.type == "cuda")


def _names(config: ValConfig, spec: DatasetSpec) -> tuple[str, ...]:
    return spec.as_single_class().names if config.single_cls else spec.names


def _coco_is_there() -> bool:
    if importlib.util.find_spec("pycocotools"):
        return True
    warn_once("pycocotools is not installed: COCO's AP, AP75, APs/m/l and AR are left out")
    return False


def _warm_up(model: nn.Module, imgsz: int, device: torch.device) -> None:
    """Let a GPU choose its kernels before anything is timed."""
    if device.type == "cuda":
        with torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=device, dtype=next(model.parameters()).dtype))


def _loader_settings(loader: BatchSource) -> dict:
    dataset = getattr(loader, "dataset", None)
    return {"imgsz": getattr(dataset, "imgsz", None), "batch_size": getattr(loader, "batch_size", None)}


def _speed_line(speeds: Speeds, loader: BatchSource) -> str:
    settings = _loader_settings(loader)
    shape = (settings["batch_size"], 3, settings["imgsz"], settings["imgsz"])
    return "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape " % speeds.row() + str(shape)
