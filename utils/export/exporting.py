"""What export.py runs: a checkpoint read, written in each format, run, compared with torch, and handed out."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.ensemble import Ensemble
from models.inference import largest_stride
from models.registry import load_plugins
from utils.checkpoint import find_weights, load_models
from utils.config import DatasetSpec, ExportConfig, SplitOptions
from utils.datasets.letterboxing import letterbox, round_to_stride
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.errors import ConfigError, ParityError, UserError
from utils.export.bisection import first_difference
from utils.export.file_formats import EXPORT_FORMATS, ExportFormat, ExportJob
from utils.export.graph_network import GraphNetwork
from utils.export.onnx_file import check_opset
from utils.export.parity import (
    EIGHT_BIT,
    EXACT,
    HALF,
    HALF_SUPPRESSED,
    OutputDifference,
    Tolerance,
    check_batches,
    compare_file,
    compare_suppressed,
    rounding_of,
)
from utils.files import ROOT, file_digest
from utils.images import read_image
from utils.log import LOGGER
from utils.runtimes.hazards import find_hazards
from utils.runtimes.metadata import PROJECT_VERSION, ExportMetadata
from utils.runtimes.opening import is_runnable, open_runtime
from utils.runtimes.protocol import Runtime, Thresholds

COMPARED_IN_8_BITS = 16  # images
CHECK_IMAGES = tuple(ROOT / "data" / "images" / f"shapes_{number}.jpg" for number in (1, 2))


def export(config: ExportConfig) -> list[Path]:
    """Write every format that `config` asks for and return the files and folders.

    A format that cannot be written, or whose file differs from torch, does not keep the others from being written.

    Raises:
        UserError: If no checkpoint can be read, or a format cannot be written here.
        ParityError: If a file differs from torch; it lies beside the others under another name.
    """
    load_plugins(config.plugin)
    check_opset(config.opset)
    files = [find_weights(name, config.download) for name in config.weights]
    model = load_models(files, select_device(config.device), fuse=False)
    config = _with_rounded_size(config, model)
    metadata = describe(config, model, files)
    stem = _stem(config, files[0])
    network = _network(config, model)
    job = ExportJob(network, _example(config).to(network.device), metadata, config, _calibration(config))
    written, problems = [], []
    for name in config.include:
        try:
            written.append(_export_one(EXPORT_FORMATS[name], job, model, stem))
        except UserError as error:
            problems.append(error)
            if len(config.include) > 1:  # else it is the error that ends the program
                LOGGER.warning(f"WARNING: {error}")
    if problems:
        raise _summary(problems, written, len(config.include))
    for path in filter(is_runnable, written):
        LOGGER.info(f"Try it: python detect.py --weights {path}; its mAP: python val.py --weights {path} --data ...")
    return written


def describe(config: ExportConfig, model: nn.Module, files: Sequence[Path]) -> ExportMetadata:
    """Return what a file says of itself.

    Args:
        config: The flags.
        model: The network or ensemble.
        files: The checkpoints.

    Returns:
        Its metadata.
    """
    names: Any = model.names
    return ExportMetadata(
        names=tuple(names),
        stride=largest_stride(model),
        imgsz=config.imgsz,
        batch=config.batch_size,
        dynamic=config.dynamic,
        variant=_variant(model),
        weights=" ".join(file_digest(file) for file in files),
        half=config.half,
        int8=bool(config.int8),
        nms=config.nms,
        version=PROJECT_VERSION,
        confidence=getattr(model, "confidence", None) or 0.0,
    )


def tolerance_of(export_format: ExportFormat, config: ExportConfig) -> Tolerance:
    """Return how far a file may be from torch in float32.

    Args:
        export_format: The format.
        config: Its precision.

    Returns:
        The tolerance.
    """
    if config.int8:
        return EIGHT_BIT
    if config.half and config.nms:
        return HALF_SUPPRESSED
    return HALF if config.half or export_format.lossy else EXACT


def _export_one(export_format: ExportFormat, job: ExportJob, model: nn.Module, stem: Path) -> Path:
    """Write one format, compare it with torch, and give it its name."""
    started = time.perf_counter()
    target = export_format.path(stem)
    unchecked = export_format.path(stem.with_name(f"{stem.name}.unchecked"))
    try:
        export_format.write(job, unchecked)
        for line in _warnings(export_format, unchecked):
            LOGGER.warning(f"WARNING: {line}")
        outcome = _check(export_format, job, model, unchecked, stem)
        _move(unchecked, target)
    finally:
        _remove(unchecked)
    seconds = time.perf_counter() - started
    LOGGER.info(f"{export_format.title}: {target}, {_bytes(target) / 1e6:.1f} MB, {seconds:.1f} s; {outcome}")
    return target


def _check(export_format: ExportFormat, job: ExportJob, model: nn.Module, path: Path, stem: Path) -> str:
    """Return what the comparison with torch found. A file that differs gets another name, and ParityError is raised."""
    if not job.config.runtime_check:
        return "not compared with torch, as asked"
    if export_format.title == "Core ML":
        return "not compared with torch: Core ML runs on Apple's systems alone"
    tolerance = tolerance_of(export_format, job.config)
    batches = _batches(export_format, job)
    try:
        runtime = open_runtime(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; --no-runtime-check hands files out without a comparison") from None
    reference = GraphNetwork(model)
    run = partial(_run_in_batches, runtime, job.metadata.batch, Thresholds(job.config.conf_thres, job.config.iou_thres))
    if job.config.nms:
        config = job.config
        options = {"conf_thres": config.conf_thres, "iou_thres": config.iou_thres, "agnostic": config.agnostic_nms}
        differences = [compare_suppressed(run, reference, images, options, config.topk_all) for images in batches]
    else:
        differences = [compare_file(run, reference, images, tolerance) for images in batches]
    difference = OutputDifference.largest(differences)
    sizes = " and ".join(dict.fromkeys(f"{images.shape[3]}x{images.shape[2]}" for images in batches))
    rounding = None
    if not difference.within(tolerance) and next(model.parameters()).device.type != "mps":
        rounding = OutputDifference.largest(rounding_of(reference, images) for images in batches)
    if difference.within(tolerance, rounding):
        return f"ok: {difference.describe(tolerance)} ({runtime.title}, {sizes})"
    failed = export_format.path(stem.with_name(f"{stem.name}_differs"))
    _move(path, failed)
    where = ""
    if tolerance is EXACT:
        worst = max(zip(differences, batches, strict=True), key=lambda pair: (not pair[0].finite, pair[0].box))[1]
        where = f"; {first_difference(export_format, job, model, worst, job.config.debug_parity)}"
    raise ParityError(
        f"{export_format.title}: {runtime.title} and torch differ at {sizes}: {difference.describe(tolerance)}{where}; "
        f"kept as {failed}, not to be used"
    )


def _run_in_batches(runtime: Runtime, batch: int, thresholds: Thresholds, images: np.ndarray) -> Any:
    """Return a file's output on images of which there may be several of its batches."""
    parts = [runtime.run(images[start : start + batch], thresholds) for start in range(0, len(images), batch)]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def _batches(export_format: ExportFormat, job: ExportJob) -> list[Tensor]:
    """Return the images that a file is compared on; of an 8-bit file, images of the kind that it was calibrated on."""
    config, metadata = job.config, job.metadata
    if job.calibration and not config.check_image:
        count = max(COMPARED_IN_8_BITS // metadata.batch, 1) * metadata.batch
        indices = np.linspace(0, len(job.calibration) - 1, count).round().astype(int)
        return [torch.from_numpy(np.stack([job.calibration[index] for index in indices]))]
    images = [config.check_image] if config.check_image else CHECK_IMAGES
    batches = check_batches(images, metadata.imgsz, metadata.stride, metadata.batch, metadata.dynamic)
    return [images[:1] for images in batches] if export_format.title == "ncnn" else batches  # one image at a time


def _warnings(export_format: ExportFormat, path: Path) -> list[str]:
    """Return which runtimes would read an ONNX file wrongly, or not at all."""
    if export_format.title != "ONNX":
        return []
    import onnx

    return [hazard.describe() for hazard in find_hazards(onnx.load(path))]


def _summary(problems: Sequence[UserError], written: Sequence[Path], asked: int) -> UserError:
    """Return the one error of a run: that of its only format, or how many failed."""
    if asked == 1:
        return problems[0]
    kind = ParityError if all(isinstance(problem, ParityError) for problem in problems) else type(problems[0])
    names = ", ".join(str(path) for path in written) or "none"
    return kind(f"{len(problems)} of {asked} formats failed; written: {names}; the first that failed: {problems[0]}")


def _with_rounded_size(config: ExportConfig, model: nn.Module) -> ExportConfig:
    height, width = round_to_stride(config.imgsz, largest_stride(model))
    return replace(config, imgsz=(height, width))


def _network(config: ExportConfig, model: nn.Module) -> GraphNetwork:
    return GraphNetwork(model, None if config.dynamic else config.imgsz, config.half)


def _example(config: ExportConfig) -> Tensor:
    """Return a real image as the example of an export: zeros would hide a branch on values."""
    image = letterbox(read_image(config.check_image or CHECK_IMAGES[0])[0], config.imgsz)[0]
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return tensor.expand(config.batch_size, -1, -1, -1).contiguous()


def _calibration(config: ExportConfig) -> list[np.ndarray]:
    """Return evenly spaced train images of the calibration dataset, all letterboxed to the file's size."""
    if not config.int8:
        return []
    spec = DatasetSpec.load(config.int8)
    dataset = open_split(spec, "train", SplitOptions(max(config.imgsz)))
    count = min(config.calibration_images, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    images = []
    for index in indices:
        canvas = letterbox(read_image(dataset.store.paths[index])[0], config.imgsz)[0]
        images.append(np.ascontiguousarray(canvas.transpose(2, 0, 1), np.float32) / 255)
    return images


def _stem(config: ExportConfig, weights: Path) -> Path:
    """Return the folder and stem of the files."""
    if not config.output:
        return weights.with_suffix("")
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}; choose another folder") from None
    return folder / weights.stem


def _variant(model: nn.Module) -> str:
    parts = list(model.models) if isinstance(model, Ensemble) else [model]
    return " ".join(Path(getattr(part, "yaml_file", "")).stem for part in parts)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _move(path: Path, target: Path) -> None:
    """Give a file or folder its name, in the place of an older one."""
    _remove(target)
    path.rename(target)
    if _beside(path) != path and _beside(path).is_file():
        _beside(path).rename(_beside(target))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        return
    for file in (path, _beside(path)):
        file.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Return where a TFLite file keeps its metadata; of other formats, the file itself."""
    return path.with_suffix(".json") if path.suffix == EXPORT_FORMATS["tflite"].suffix else path
