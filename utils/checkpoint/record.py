"""The Checkpoint record: a model's description and weights, and the state of its training if the file has one."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint.archive import StoredTensor

if TYPE_CHECKING:
    from models.yolo import Model

FORMAT = "yolov5-attention"
VERSION = 1
_WHERE_LIMIT = 200  # characters of a place in nested values, for messages


@dataclass(frozen=True)
class CheckpointOutline:
    """A checkpoint whose tensors may still be in the file.

    Attributes:
        yaml: The model's description, as in a model yaml.
        names: One per class.
        state: Weights, statistics and integer counters by name.
        stride: Pixels per grid cell of each level.
        training: What a resumed training needs; None if the file holds weights only.
        settings: Free remarks of the program that wrote it.
        date: When it was written, in ISO 8601.
        written_by: By which program or torch.
        source: The file, "" if there is none.
    """

    yaml: dict
    names: list[str]
    state: Mapping[str, Tensor | StoredTensor]
    stride: tuple[float, ...]
    training: dict | None = None
    settings: dict = field(default_factory=dict)
    date: str = ""
    written_by: str = ""
    source: str = ""

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)


@dataclass(frozen=True)
class Checkpoint(CheckpointOutline):
    """A model's description and weights, and the state of its training if the file has one.

    All other attributes are those of `CheckpointOutline`.

    Attributes:
        state: Weights, statistics and integer counters by name; float32 unless they were read with `full=False`.
    """

    state: dict[str, Tensor]


def checkpoint_of(
    model: "Model",
    names: Sequence[str] | None = None,
    training: Mapping | None = None,
    settings: Mapping | None = None,
) -> Checkpoint:
    """Return a model as a checkpoint.

    Its tensors are the model's own, not copies: write it before training goes on.

    Args:
        model: The model.
        names: One per class; None takes the model's.
        training: What a resumed training needs: tensors and plain values.
        settings: Free remarks: tensors and plain values.

    Returns:
        The checkpoint, dated now.

    Raises:
        TypeError: If the model's yaml holds something else than tensors and plain values.
    """
    return Checkpoint(
        yaml={key: plain(value, f"yaml.{key}") for key, value in model.yaml.items()},
        names=[str(name) for name in (model.names if names is None else names)],
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        stride=tuple(float(pixels) for pixels in model.stride),
        training=dict(training) if training else None,
        settings=dict(settings or {}),
        date=now(),
        written_by=f"torch {torch.__version__}",
    )


def now() -> str:
    """Return the local date and time in ISO 8601, to the second."""
    return datetime.datetime.now().isoformat(timespec="seconds")


def plain(value: object, where: str) -> object:
    """Return a copy of nested containers with tensors on the CPU and exact built-in types.

    These are what `torch.load(weights_only=True)` accepts. NumPy's scalars and paths are converted.

    Args:
        value: The containers.
        where: Name of the value, for the message.

    Returns:
        The copy.

    Raises:
        TypeError: If it holds something else; names the place.
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
        return {plain(key, where): plain(item, f"{where}.{key}"[:_WHERE_LIMIT]) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: Iterable = (plain(item, f"{where}[{index}]") for index, item in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    raise TypeError(f"checkpoint: {where} is a {type(value).__name__}; expected tensors and plain values")
