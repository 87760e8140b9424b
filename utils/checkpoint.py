"""Checkpoints: our file format, its atomic writer and its readers, and models made from them.

A file of ours is one dict of tensors and plain values, read with `weights_only=True`:

    format, version   "yolov5-attention", 1
    yaml, names       the model's description and its class names
    stride            pixels per grid cell of each level
    state             the weights to use, by name (in training: the moving average), in full or half precision
    training          None, or what a resumed training needs: raw weights, optimizer, generators, ...
    settings          how it was evaluated; free for the engine to fill
    date, written_by  when, and by which torch

Official YOLOv5 files become the same record through `utils.restricted`, which runs nothing in them."""

import datetime
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from models.ensemble import Ensemble
from models.yolo import Model
from utils.download import fetch
from utils.errors import CheckpointError, nearest
from utils.files import ROOT, write_atomically
from utils.log import LOGGER
from utils.restricted import Archive, Record, module_state, plain_value, read_restricted

FORMAT = "yolov5-attention"
VERSION = 1
RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v6.1"
PUBLISHED = tuple(f"yolov5{size}{head}.pt" for head in ("", "6") for size in "nsmlx")


@dataclass(frozen=True)
class Checkpoint:
    """A model's description and weights, and perhaps the state of its training.

    state: float32 tensors (and integer counters) by name; names: one a class; stride: pixels per grid
    cell of each level; training: None where the file holds weights only; source: the file, "" if none."""

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


def checkpoint_of(model: nn.Module, names: Sequence[str] | None = None, training: Mapping | None = None,
                  settings: Mapping | None = None) -> Checkpoint:
    """Return a model as a checkpoint. Its tensors are the model's own, not copies: write it before training goes on."""
    return Checkpoint(
        yaml=_plain(model.yaml, "yaml"), names=[str(name) for name in (model.names if names is None else names)],
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        stride=tuple(float(pixels) for pixels in model.stride), training=dict(training) if training else None,
        settings=dict(settings or {}), date=datetime.datetime.now().isoformat(timespec="seconds"),
        written_by=f"torch {torch.__version__}")


def write_checkpoint(checkpoint: Checkpoint, path: Path | str) -> Path:
    """Write a checkpoint so that a reader, or a crash, meets the old file or the new one. Raises TypeError for a
    value that is neither a tensor nor plain, and CheckpointError where the disk refuses."""
    content = {"format": FORMAT, "version": VERSION, "yaml": checkpoint.yaml, "names": checkpoint.names,
               "stride": list(checkpoint.stride), "state": checkpoint.state, "training": checkpoint.training,
               "settings": checkpoint.settings, "date": checkpoint.date, "written_by": checkpoint.written_by}
    content = {key: _plain(value, key) for key, value in content.items()}
    try:
        return write_atomically(path, lambda stream: _save(content, stream))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def _save(content: dict, stream: BinaryIO) -> None:
    """torch.save, whose own complaint about a half-written archive hides why the stream refused."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else error


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Return the checkpoint in a file of ours, or in an official YOLOv5 file, with weights in float32 on the CPU.

    Nothing in the file is executed. Raises CheckpointError, in one line, for a file that is missing,
    damaged, of another kind, or that asks for more than tensors and known names."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a checkpoint (.pt)")
    with Archive(path) as archive:
        if not archive.is_plain():
            return _from_official(read_restricted(archive), path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path}: damaged: {str(error).splitlines()[0][:200]}") from None
    return _from_ours(content, path)


def build_model(checkpoint: Checkpoint, device: torch.device | str = "cpu", fuse: bool = False) -> Model:
    """Return the checkpoint's model with its weights, in evaluation mode. Raises CheckpointError where they do not fit."""
    model = Model(checkpoint.yaml, ch=checkpoint.yaml.get("ch", 3), nc=checkpoint.nc)
    own = model.state_dict()
    name = next((name for name in own if name not in checkpoint.state), None)
    if name is not None:
        raise CheckpointError(f"{checkpoint.source}: its weights lack {name}, which its model description asks for")
    for name, tensor in checkpoint.state.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = f"expected {tuple(own[name].shape)}" if name in own else "not in its model description"
            raise CheckpointError(f"{checkpoint.source}: {name} {tuple(tensor.shape)}: {expected}")
    model.load_state_dict(checkpoint.state)
    model.names = list(checkpoint.names)
    model.to(device).eval()
    return model.fuse() if fuse else model


def load_models(paths: Sequence[Path | str] | Path | str, device: torch.device | str = "cpu", fuse: bool = True,
                download: bool = False) -> Model | Ensemble:
    """Return the model in a file, or the ensemble of several, ready to predict: float32, in evaluation mode."""
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise CheckpointError("no weights given; name a checkpoint (.pt) with --weights")
    checkpoints = [read_checkpoint(find_weights(path, download)) for path in paths]
    for other in checkpoints[1:]:
        if other.names != checkpoints[0].names:
            raise CheckpointError(f"{other.source} and {checkpoints[0].source} have different classes and make no ensemble")
    models = [build_model(checkpoint, device, fuse).requires_grad_(False) for checkpoint in checkpoints]
    return models[0] if len(models) == 1 else Ensemble(models).eval()


def strip(path: Path | str, output: Path | str | None = None, settings: Mapping | None = None) -> Path:
    """Rewrite a checkpoint (or write `output`) with what prediction needs: half-precision weights and no training state.

    Anchors, and tensors whose values half precision cannot hold, stay as they are. `settings` are added to the file's."""
    checkpoint = read_checkpoint(path)
    state = {name: tensor if name.endswith(".anchors") else _halved(tensor) for name, tensor in checkpoint.state.items()}
    stripped = replace(checkpoint, state=state, training=None, settings={**checkpoint.settings, **(settings or {})})
    return write_checkpoint(stripped, output or path)


def find_weights(name: Path | str, download: bool = False) -> Path:
    """Return the file that --weights names: a path, or a file in the project's folder.

    A published name that is not there is fetched where `download` allows it; else CheckpointError
    says where it is published."""
    path = Path(name)
    for candidate in (path, ROOT / path):
        if candidate.is_file():
            return candidate
    if path.name in PUBLISHED:
        address = f"{RELEASE}/{path.name}"
        if download:
            return fetch(address, path, "a checkpoint")
        raise CheckpointError(f"{path}: not on disk; it is published at {address}, and --download fetches it")
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; name the checkpoint in it, such as {path / 'weights' / 'best.pt'}")
    beside = [file.name for file in path.parent.glob("*.pt")] if path.parent.is_dir() else []
    raise CheckpointError(f"{path}: no such checkpoint{nearest(path.name, [*beside, *PUBLISHED])}")


def _from_ours(content: object, path: Path) -> Checkpoint:
    """Return the record in a file of ours, checked."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: holds tensors without a model's description; expected a checkpoint of ours or of YOLOv5")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        version = content.get("version")
        raise CheckpointError(f"{path}: its format {version} is newer than this program, which knows {VERSION}; update it")
    expected = {"yaml": dict, "names": list, "stride": list, "state": dict, "training": (dict, type(None)), "settings": dict}
    for key, kind in expected.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(f"{path}: damaged: its {key} is missing or of another kind")
    state = content["state"]
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: damaged: its state holds something else than tensors")
    return Checkpoint(content["yaml"], [str(name) for name in content["names"]], _full(state), tuple(content["stride"]),
                      content["training"], content["settings"], str(content.get("date", "")),
                      str(content.get("written_by", "")), str(path))


def _from_official(content: object, path: Path) -> Checkpoint:
    """Return the record of an official YOLOv5 checkpoint: its moving average where it has one, else its model."""
    content = content if isinstance(content, dict) else {}
    model = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), Record)), None)
    if model is None or not isinstance(model.state.get("yaml"), dict):
        raise CheckpointError(f"{path}: holds no YOLOv5 detection model")
    state = {name: tensor for name, tensor in module_state(model, path).items() if not name.endswith(".anchor_grid")}
    yaml = plain_value(model.state["yaml"], path)
    names = plain_value(model.state.get("names"), path)
    if isinstance(names, dict):
        names = list(names.values())
    classes = yaml.get("nc") if isinstance(yaml.get("nc"), int) else model.state.get("nc")
    if not isinstance(classes, int) or not 1 <= classes <= 100_000:
        raise CheckpointError(f"{path}: its model description does not give the number of classes (nc)")
    if not isinstance(names, list) or len(names) != classes:
        names = [f"class{number}" for number in range(classes)]
    stride = model.state.get("stride")
    pixels = tuple(stride.float().flatten().tolist()) if isinstance(stride, Tensor) else ()
    date = content.get("date")
    return Checkpoint(yaml, [str(name) for name in names], _full(state), pixels, date=date if isinstance(date, str) else "",
                      written_by="YOLOv5", source=str(path))


def _full(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with floating-point ones in float32."""
    return {str(name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _halved(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in half precision, unless that would turn numbers into infinities."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor


def _plain(value: object, where: str) -> object:
    """Return a copy of nested containers with tensors on the CPU and exact built-in types, which is what a
    weights-only reader accepts. Raises TypeError that says where something else stands."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: Iterable = (_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    raise TypeError(f"checkpoint: {where} is a {type(value).__name__}; expected tensors and plain values")
