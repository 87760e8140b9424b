"""The record that every checkpoint becomes: a model's description and weights, and perhaps the state of its training."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FORMAT = "yolov5-attention"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model's description and weights, and perhaps the state of its training.

    state: float32 tensors (and integer counters) by name; names: one a class; stride: pixels per grid
    cell of each level; training: None where the file holds weights only; source: the file, "" if none.
    """

    yaml: dict
    names: list[str]
    state: dict[str, Tensor]
    stride: tuple[float, ...]
    training: dict | None = None
    settings: dict = field(default_factory=dict)
    date: str = ""
    written_by: str = ""
    source: str = ""

    @property
    def nc(self) -> int:
        return len(self.names)


def checkpoint_of(
    model: nn.Module,
    names: Sequence[str] | None = None,
    training: Mapping | None = None,
    settings: Mapping | None = None,
) -> Checkpoint:
    """Return a model as a checkpoint. Its tensors are the model's own, not copies: write it before training goes on."""
    return Checkpoint(
        yaml=plain(model.yaml, "yaml"),
        names=[str(name) for name in (model.names if names is None else names)],
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        stride=tuple(float(pixels) for pixels in model.stride),
        training=dict(training) if training else None,
        settings=dict(settings or {}),
        date=now(),
        written_by=f"torch {torch.__version__}",
    )


def now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")


def plain(value: object, where: str) -> object:
    """Return a copy of nested containers with tensors on the CPU and exact built-in types, which is what a
    weights-only reader accepts. Raises TypeError that says where something else stands.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Mapping):
        return {plain(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: Iterable = (plain(item, f"{where}[{index}]") for index, item in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    raise TypeError(f"checkpoint: {where} is a {type(value).__name__}; expected tensors and plain values")
