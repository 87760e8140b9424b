"""Small networks, their checkpoints and their exported files: what tests of export and of the runtimes share."""

from pathlib import Path

import pytest
import torch
from small_models import SMALL

import export
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.config import ExportConfig, from_options
from utils.export.file_formats import ExportJob
from utils.export.graph_network import GraphNetwork
from utils.runtimes.metadata import ExportMetadata

NAMES = ("square", "disc", "star")
NEEDS = {  # packages that write and run a format
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torchscript": (),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "ncnn": ("pnnx", "ncnn"),
}


def need(file_format):
    """Skip the test without the packages of a format."""
    for package in NEEDS[file_format]:
        pytest.importorskip(package, reason=f"{file_format} files are written and run with {package}")


def spread_model(yaml=SMALL, seed=0, side=96):
    """A network in evaluation mode whose predictions differ from cell to cell, as those of trained weights do."""
    torch.manual_seed(seed)
    model = Model(yaml, report=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        raw = model.train()(torch.rand(4, 3, side, side))
        for conv, maps in zip(model.head.m, raw, strict=True):
            conv.weight.mul_(2.0 / maps.std((0, 2, 3)).mean())
            conv.bias.zero_()
    model.names = list(NAMES)
    return model.eval()


def apart(found, expected):
    """The largest difference, of values over 1 as a share of them: pixels and scores alike."""
    found, expected = (torch.as_tensor(each) for each in (found, expected))
    assert found.shape == expected.shape
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def job_of(model, size=(64, 96), batch=1, **options):
    config = from_options(ExportConfig, include=options.pop("include", ("onnx",)), imgsz=size, **options)
    network = GraphNetwork(model, None if config.dynamic else size, config.half)
    metadata = ExportMetadata(NAMES, 32, size, batch, config.dynamic, "small", half=config.half, nms=config.nms)
    torch.manual_seed(1)
    return ExportJob(network, torch.rand(batch, 3, *size), metadata, config)


def saved(model, path):
    return write_checkpoint(checkpoint_of(model, names=NAMES), path)


def exported(checkpoint: Path, file_format: str, folder: Path, **options: object) -> Path:
    """Export a checkpoint for images of 64 x 64; skipped without the packages of the format."""
    need(file_format)
    given = {"imgsz": (64, 64), "runtime_check": False, "weights": (str(checkpoint),), "output": str(folder)}
    (path,) = export.run(include=(file_format,), **given | options)
    return path


def onnx_session(model):
    """A function from images and other inputs to the outputs of an onnx.ModelProto."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs ONNX files with onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(images, **more):
        return session.run(None, {"images": images.numpy(), **more})

    return run
