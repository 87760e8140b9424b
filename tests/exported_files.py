"""Small exported files, and the checkpoint that they were made of: what tests of the runtimes read."""

from pathlib import Path

import pytest
import torch
from small_models import SMALL

import export
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint

NAMES = ("square", "disc", "star")
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "ncnn": ("pnnx", "ncnn")}
NEEDS["torchscript"] = ()


def small_checkpoint(path: Path, side: int = 64, seed: int = 0) -> Path:
    """Write a network that finds something everywhere: predictions differ from cell to cell, as trained ones do."""
    torch.manual_seed(seed)
    network = Model(SMALL, report=False)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        maps = network.train()(torch.rand(4, 3, side, side))
        for layer, raw in zip(network.head.m, maps, strict=True):
            layer.weight.mul_(1.5 / raw.std((0, 2, 3)).mean())
            layer.bias.zero_()
    return write_checkpoint(checkpoint_of(network.eval(), names=NAMES), path)


def exported(checkpoint: Path, file_format: str, folder: Path, **options: object) -> Path:
    """Export a checkpoint for images of 64 x 64; skipped without the packages of the format."""
    for package in NEEDS[file_format]:
        pytest.importorskip(package, reason=f"{package} writes or runs {file_format}")
    given = {"imgsz": (64, 64), "runtime_check": False, "weights": (str(checkpoint),), "output": str(folder)}
    (path,) = export.run(include=(file_format,), **given | options)
    return path
