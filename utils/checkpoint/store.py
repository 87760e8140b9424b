"""Checkpoint files: written so that a crash leaves the old or the new one, found by name, read, and made into models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from models.ensemble import Ensemble
from models.yolo import Model
from utils.checkpoint.archive import Archive, StoredTensor, shown
from utils.checkpoint.official import official_checkpoint
from utils.checkpoint.record import FORMAT, VERSION, Checkpoint, plain
from utils.checkpoint.restricted import PickledObject, plain_value, read_restricted
from utils.download import fetch
from utils.errors import CheckpointError, nearest
from utils.files import ROOT, write_atomically

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v6.1"
PUBLISHED = tuple(f"yolov5{size}{head}.pt" for head in ("", "6") for size in "nsmlx")


def write_checkpoint(checkpoint: Checkpoint, path: Path | str) -> Path:
    """Write a checkpoint so that a reader, or a crash, meets the old file or the new one. Raises TypeError for a
    value that is neither a tensor nor plain, and CheckpointError where the disk refuses.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "yaml": checkpoint.yaml,
        "names": checkpoint.names,
        "stride": list(checkpoint.stride),
        "state": checkpoint.state,
        "training": checkpoint.training,
        "settings": checkpoint.settings,
        "date": checkpoint.date,
        "written_by": checkpoint.written_by,
    }
    save_plain({key: plain(value, key) for key, value in content.items()}, path)
    return Path(path)


def save_plain(content: dict, path: Path | str) -> None:
    """torch.save, atomically, of tensors and plain values. Raises CheckpointError where the disk refuses."""
    try:
        write_atomically(path, lambda stream: _save(content, stream))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def _save(content: dict, stream: BinaryIO) -> None:
    """torch.save, whose own complaint about a half-written archive hides why the stream refused."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else error


def read_checkpoint(path: Path | str, full: bool = True) -> Checkpoint:
    """Return the checkpoint in a file of ours, or in an official YOLOv5 file, with weights in float32 on the CPU, or
    as they are in the file where `full` is False.

    Nothing in the file is executed, and reading takes no more memory than twice the file. Raises CheckpointError, in
    one line, for a file that is missing, damaged, of another kind, or that asks for more than tensors and known names.
    """
    with open_archive(path) as archive:
        found = outline(archive, read_restricted(archive))
        state = {
            name: archive.tensor(tensor, full) if isinstance(tensor, StoredTensor) else tensor
            for name, tensor in found.state.items()
        }
        return replace(
            found,
            state=state,
            training=_with_numbers(found.training, archive, "training"),
            settings=_with_numbers(found.settings, archive, "settings"),
        )


def open_archive(path: Path | str) -> Archive:
    """Return the file as a checked archive. Raises CheckpointError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a checkpoint (.pt)")
    return Archive(path)


def outline(archive: Archive, content: object) -> Checkpoint:
    """Return what `read_restricted` gave as a checkpoint whose tensors are still in the file (`StoredTensor`)."""
    if is_ours(content):
        return _from_ours(content, archive.path)
    models = [content.get("ema"), content.get("model")] if isinstance(content, dict) else [content]
    if any(isinstance(model, PickledObject) for model in models):
        return official_checkpoint(content, archive)
    raise CheckpointError(
        f"{archive.path}: holds tensors without a model's description; expected a checkpoint of ours or of YOLOv5"
    )


def is_ours(content: object) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _with_numbers(value: object, archive: Archive, what: str) -> object:
    """Return nested plain values with their tensors read."""
    return plain_value(
        value, archive.path, what, lambda item: archive.tensor(item) if isinstance(item, StoredTensor) else None
    )


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
            raise CheckpointError(f"{checkpoint.source}: {shown(name)} {tuple(tensor.shape)}: {expected}")
    model.load_state_dict(checkpoint.state)
    model.names = list(checkpoint.names)
    model.to(device).eval()
    return model.fuse() if fuse else model


def load_models(
    paths: Sequence[Path | str] | Path | str,
    device: torch.device | str = "cpu",
    fuse: bool = True,
    download: bool = False,
) -> Model | Ensemble:
    """Return the model in a file, or the ensemble of several, ready to predict: float32, in evaluation mode."""
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise CheckpointError("no weights given; name a checkpoint (.pt) with --weights")
    checkpoints = [read_checkpoint(find_weights(path, download)) for path in paths]
    for other in checkpoints[1:]:
        if other.names != checkpoints[0].names:
            raise CheckpointError(
                f"{other.source} and {checkpoints[0].source} have different classes and make no ensemble"
            )
    models = [build_model(checkpoint, device, fuse).requires_grad_(False) for checkpoint in checkpoints]
    return models[0] if len(models) == 1 else Ensemble(models).eval()


def strip(path: Path | str, output: Path | str | None = None, settings: Mapping | None = None) -> Path:
    """Rewrite a checkpoint (or write `output`) with what prediction needs: half-precision weights and no training state.

    Anchors, and tensors whose values half precision cannot hold, stay as they are. `settings` are added to the file's.
    """
    checkpoint = read_checkpoint(path)
    state = {name: tensor if name.endswith(".anchors") else halved(tensor) for name, tensor in checkpoint.state.items()}
    stripped = replace(checkpoint, state=state, training=None, settings={**checkpoint.settings, **(settings or {})})
    return write_checkpoint(stripped, output or path)


def find_weights(name: Path | str, download: bool = False) -> Path:
    """Return the file that --weights names: a path, or a file in the project's folder.

    A published name that is not there is fetched where `download` allows it; else CheckpointError
    says where it is published.
    """
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


def _from_ours(content: dict, path: Path) -> Checkpoint:
    """Return the record in a file of ours, checked, its tensors still in the file."""
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        version = shown(str(content.get("version")))
        raise CheckpointError(
            f"{path}: its format {version} is newer than this program, which knows {VERSION}; update it"
        )
    expected = {
        "yaml": dict,
        "names": list,
        "stride": list,
        "state": dict,
        "training": (dict, type(None)),
        "settings": dict,
    }
    for key, kind in expected.items():
        if key not in content or not isinstance(content[key], kind):
            raise CheckpointError(f"{path}: damaged: its {key} is missing or of another kind")
    state = content["state"]
    if not all(isinstance(tensor, StoredTensor) and isinstance(name, str) for name, tensor in state.items()):
        raise CheckpointError(f"{path}: damaged: its state holds something else than tensors")
    names, stride = content["names"], content["stride"]
    if not all(isinstance(name, str) for name in names) or not all(isinstance(pixels, float) for pixels in stride):
        raise CheckpointError(f"{path}: damaged: its names are not text, or its strides not numbers")
    date, written_by = (
        value if isinstance(value, str) else "" for value in (content.get("date"), content.get("written_by"))
    )
    settings, training = (plain_value(content[key], path, key, _kept) for key in ("settings", "training"))
    return Checkpoint(
        plain_value(content["yaml"], path), names, state, tuple(stride), training, settings, date, written_by, str(path)
    )


def _kept(item: object) -> StoredTensor | None:
    return item if isinstance(item, StoredTensor) else None


def halved(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in half precision, unless that would turn numbers into infinities."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor
