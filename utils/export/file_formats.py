"""The formats that export.py writes: their names, suffixes, packages, and the function that writes each."""

import contextlib
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.config import ExportConfig
from utils.errors import ConfigError, ModelError
from utils.export.exporters import converting, reason_of
from utils.export.graph_network import GraphNetwork
from utils.export.onnx_file import OnnxOptions, export_onnx, operators, write_onnx
from utils.export.onnx_nms import NmsOptions, add_nms
from utils.log import LOGGER
from utils.runtimes.metadata import FILE_NAME, ExportMetadata
from utils.runtimes.packages import require

OPENVINO_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class ExportJob:
    """What is written.

    Attributes:
        network: The network as exporters get it.
        images: (B, 3, H, W) example in 0..1.
        metadata: What the file says of itself.
        config: The flags.
        calibration: Letterboxed images (3, H, W) float32 in 0..1, one at a time, for 8-bit files.
        graphs: The ONNX graph once it is made: exporting it takes most of the time of the formats that start from it.
    """

    network: GraphNetwork
    images: Tensor
    metadata: ExportMetadata
    config: ExportConfig
    calibration: Sequence[np.ndarray] = ()
    graphs: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        title: Name in messages.
        suffix: What follows the stem of the weights: of a file, or of a folder.
        write: Writes a job to a path.
        lossy: Whether weights are in half precision whatever was asked for.
    """

    title: str
    suffix: str
    write: Callable[[ExportJob, Path], None]
    lossy: bool = False

    def path(self, stem: Path) -> Path:
        """Return the path of an export: the folder and stem of the weights, and the suffix."""
        return stem.with_name(stem.name + self.suffix)


def _write_onnx_file(job: ExportJob, path: Path) -> None:
    """Write an ONNX file: opset 20 by default, weights inside, perhaps quantized or with NMS."""
    model = onnx_model(job)
    if job.config.int8:
        from utils.export.quantization import quantize_onnx

        model = quantize_onnx(model, job.calibration)
    if job.config.nms:
        config = job.config
        options = NmsOptions(config.topk_all, config.topk_per_class, config.agnostic_nms)
        model = add_nms(copy.deepcopy(model), len(job.metadata.names), options)
    if job.config.verbose:
        LOGGER.info(", ".join(f"{count} {name}" for name, count in operators(model).most_common()))
    write_onnx(model, path, job.metadata.as_text())


def onnx_model(job: ExportJob) -> Any:
    """Return a job's network as an `onnx.ModelProto`, its taps as further outputs; it is made once."""
    if "onnx" not in job.graphs:
        options = OnnxOptions(job.config.opset, job.metadata.dynamic, job.config.simplify, job.metadata.stride)
        job.graphs["onnx"] = export_onnx(job.network, job.images, options, outputs=1 + len(job.network.taps))
    return job.graphs["onnx"]


def _write_torchscript(job: ExportJob, path: Path) -> None:
    """Write a traced network with config.txt, as v6.1; `--optimize` prepares it for phones."""
    with converting("TorchScript", "torch's tracer"):
        script = _traced(job)
    extra = {"config.txt": job.metadata.as_json()}
    if not job.config.optimize:
        script.save(str(path), _extra_files=extra)
        return
    from torch.backends import xnnpack

    if not getattr(xnnpack, "enabled", False):
        raise ConfigError("--optimize: this build of torch has no XNNPACK, which phones need; leave --optimize out")
    from torch.utils.mobile_optimizer import optimize_for_mobile

    with converting("TorchScript", "torch's optimizer for phones"):
        optimize_for_mobile(script)._save_for_lite_interpreter(str(path), _extra_files=extra)


def _traced(job: ExportJob) -> Any:
    """Return a job's network traced; torch's check of a trace repeats it in another mode, in which layers differ."""
    return torch.jit.trace(job.network, job.images, strict=False, check_trace=False)


def _write_openvino(job: ExportJob, path: Path) -> None:
    """Write OpenVINO's folder: from the ONNX graph, or from the network itself if OpenVINO cannot read that graph."""
    require("openvino")
    import openvino

    with converting("OpenVINO", "openvino"):
        model = _openvino_model(job, openvino)
        if job.config.int8:
            from utils.export.quantization import quantize_openvino

            model = quantize_openvino(model, job.calibration)
        path.mkdir(exist_ok=True)
        openvino.save_model(model, path / f"{job.metadata.variant or 'model'}.xml", compress_to_fp16=job.config.half)
    _write_metadata(job, path)


def _openvino_model(job: ExportJob, openvino: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        try:
            write_onnx(onnx_model(job), file, {})
            return openvino.convert_model(file)
        except (*OPENVINO_ERRORS, ModelError) as error:
            LOGGER.info(f"OpenVINO: converts the network itself, since its ONNX graph fails: {reason_of(error)}")
    model = openvino.convert_model(_traced(job), example_input=job.images)
    batch, height, width = (-1, -1, -1) if job.metadata.dynamic else (job.images.shape[0], *job.images.shape[2:])
    model.reshape([batch, 3, height, width])
    return model


def _write_ncnn(job: ExportJob, path: Path) -> None:
    """Write ncnn's folder by way of pnnx: model.ncnn.param and model.ncnn.bin."""
    require("pnnx", "ncnn")
    import pnnx

    if job.images.shape[0] != 1:
        raise ConfigError("--include ncnn: its files take one image; leave --batch-size out")
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "model.pt"
        with converting("ncnn", "pnnx"), _output_to(Path(folder) / "pnnx.log"):
            pnnx.export(job.network, str(stem), (job.images,), fp16=job.config.half, check_trace=False)
        written = [stem.with_name(f"model.ncnn.{kind}") for kind in ("param", "bin")]
        if not all(file.is_file() for file in written):
            raise ModelError("ncnn: pnnx wrote no model; run it with a newer pnnx, or export onnx")
        path.mkdir(exist_ok=True)
        for file in written:
            shutil.move(file, path / file.name)
    _write_metadata(job, path)


def _write_engine(job: ExportJob, path: Path) -> None:
    """Write a TensorRT engine for this machine's GPU, after its metadata (4 bytes of length, then JSON)."""
    require("tensorrt", install="pip install tensorrt, on a machine with an NVIDIA GPU")
    import tensorrt

    if not torch.cuda.is_available():
        raise ConfigError("--include engine: TensorRT builds for the GPU it runs on, and none is available here")
    logger = tensorrt.Logger(tensorrt.Logger.INFO if job.config.verbose else tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    flags = 1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(onnx_model(job).SerializeToString()):
        raise ModelError(f"TensorRT: cannot read the ONNX graph: {parser.get_error(0)}")
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, int(job.config.workspace * (1 << 30)))
    if job.config.half:
        settings.set_flag(tensorrt.BuilderFlag.FP16)
    if job.metadata.dynamic:
        profile = builder.create_optimization_profile()
        stride, (height, width) = job.metadata.stride, job.metadata.imgsz
        largest = (max(job.metadata.batch, 1), 3, height, width)
        profile.set_shape(network.get_input(0).name, (1, 3, stride, stride), largest, largest)
        settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise ModelError("TensorRT: builds no engine from this graph; its log above says why")
    description = job.metadata.as_json().encode()
    path.write_bytes(len(description).to_bytes(4, "little") + description + bytes(engine))


def _write_coreml(job: ExportJob, path: Path) -> None:
    """Write a Core ML package; it can be converted on Linux and run on Apple's systems alone."""
    require("coremltools", install="pip install coremltools 'numpy<2.4'")
    import coremltools

    with converting("Core ML", "coremltools"):
        script = _traced(job)
        precision = coremltools.precision.FLOAT16 if job.config.half else coremltools.precision.FLOAT32
        model = coremltools.convert(
            script,
            inputs=[coremltools.TensorType("images", shape=tuple(job.images.shape))],
            outputs=[coremltools.TensorType("output")],
            convert_to="mlprogram",
            compute_precision=precision,
        )
        model.user_defined_metadata.update(job.metadata.as_text())
        model.save(str(path))


def _write_tflite(job: ExportJob, path: Path) -> None:
    """Write a TFLite file and its metadata beside it."""
    require("litert_torch", install="pip install litert-torch ai-edge-litert, which bring many other packages")
    import litert_torch

    with converting("TFLite", "litert-torch"):
        litert_torch.convert(job.network, (job.images,)).export(str(path))
    path.with_suffix(".json").write_text(job.metadata.as_json(), encoding="utf-8")


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat("ONNX", ".onnx", _write_onnx_file),
    "torchscript": ExportFormat("TorchScript", ".torchscript", _write_torchscript),
    "openvino": ExportFormat("OpenVINO", "_openvino_model", _write_openvino),
    "engine": ExportFormat("TensorRT", ".engine", _write_engine),
    "coreml": ExportFormat("Core ML", ".mlpackage", _write_coreml),
    "tflite": ExportFormat("TFLite", ".tflite", _write_tflite),
    "ncnn": ExportFormat("ncnn", "_ncnn_model", _write_ncnn),
}


def _write_metadata(job: ExportJob, folder: Path) -> None:
    (folder / FILE_NAME).write_text(job.metadata.as_json(), encoding="utf-8")


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Let what this process and its children print go to a file: pnnx's program reports each of its passes."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with open(path, "w", encoding="utf-8") as stream:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
