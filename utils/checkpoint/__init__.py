"""Checkpoints: our file format, its atomic writer and its readers, models built from them, and commands for the files.

A file of ours is one dict of tensors and plain values, which torch.load(weights_only=True) reads as well:

    format, version   "yolov5-attention", 1
    yaml, names       the model's description and its class names
    stride            pixels per grid cell of each level
    state             the weights to use, by name (in training: the moving average), in full or half precision
    training          None, or what a resumed training needs: raw weights, optimizer, generators, ...
    settings          free remarks; `confidence` and `confidence_per_class` are those of utils.calibration
    date, written_by  when, and by which torch

Every file, ours too, is read by `utils.checkpoint.restricted`, which runs nothing in it, and official YOLOv5 files
become the same record. The names below are imported from their modules when they are first used, so that
`python -m utils.checkpoint --help` answers without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.checkpoint.record import FORMAT, VERSION, Checkpoint, checkpoint_of
    from utils.checkpoint.store import (
        PUBLISHED,
        RELEASE,
        build_model,
        find_weights,
        holds_training,
        load_models,
        read_checkpoint,
        strip,
        write_checkpoint,
    )

__all__ = [
    "FORMAT",
    "PUBLISHED",
    "RELEASE",
    "TARGETS",
    "VERSION",
    "Checkpoint",
    "build_model",
    "checkpoint_of",
    "find_weights",
    "holds_training",
    "load_models",
    "read_checkpoint",
    "strip",
    "write_checkpoint",
]
TARGETS = ("checkpoint", "weights", "safetensors", "yolov5")  # what `convert` writes
_IN_RECORD = ("FORMAT", "VERSION", "Checkpoint", "checkpoint_of")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'record' if name in _IN_RECORD else 'store'}"), name)
