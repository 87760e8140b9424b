"""Checkpoint files: written atomically, found by name, read, stripped, and built into models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar

import torch
from torch import Tensor

from models.ensemble import Ensemble
from models.inference import prepare_for_inference
from models.undrawn import UndrawnWeights
from models.yolo import Model
from utils.calibration import stored_confidence
from utils.checkpoint.archive import Archive, StoredTensor, printable
from utils.checkpoint.official import official_checkpoint
from utils.checkpoint.record import FORMAT, VERSION, Checkpoint, CheckpointOutline, plain
from utils.checkpoint.restricted import PickledObject, plain_value, read_restricted
from utils.download import fetch
from utils.errors import CheckpointError, ModelError, cut, nearest
from utils.files import ROOT, is_dir, is_file, write_atomically

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v6.1"
PUBLISHED = tuple(f"yolov5{size}{head}.pt" for head in ("", "6") for size in "nsmlx")
_MESSAGE_LIMIT = 1000  # characters of an error about a model description
T = TypeVar("T")


def write_checkpoint(checkpoint: Checkpoint, path: Path | str) -> Path:
    """Write a checkpoint atomically: a reader, or a crash, finds the old file or the new one.

    Args:
        checkpoint: What to write, in the precision that its tensors have.
        path: The file; its folder exists.

    Returns:
        `path` as a Path.

    Raises:
        TypeError: If a value is neither a tensor nor plain; nothing is written.
        CheckpointError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from models.yolo import Model
        >>> from utils.checkpoint import checkpoint_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = checkpoint_of(Model("yolov5n.yaml", nc=2), names=["cat", "dog"])
        ...     read_checkpoint(write_checkpoint(checkpoint, f"{folder}/a.pt")).names
        ['cat', 'dog']
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
    """Write a dict of tensors and plain values by torch.save, atomically.

    Args:
        content: The dict.
        path: The file; its folder exists.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    try:
        write_atomically(path, lambda stream: _save(content, stream))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def _save(content: dict, stream: BinaryIO) -> None:
    """Call torch.save; an error of the stream, or a signal in its midst, is raised, not torch's that hides it."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        if error.__context__ is None:
            raise
        raise error.__context__ from None


def read_checkpoint(path: Path | str, full: bool = True) -> Checkpoint:
    """Return the checkpoint in a file of ours, or in an official YOLOv5 file (v5.0 to v7.0), on the CPU.

    Nothing in the file is executed, and its tensors take no more memory than twice the file.

    Args:
        path: The file.
        full: Whether floating-point weights become float32; if not, they stay as they are in the file.

    Returns:
        The checkpoint, its tensors read.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind, or asks for more than tensors and known
            names; in one line.
    """
    with open_archive(path) as archive:
        outline = outline_of(archive, read_restricted(archive))
        state = {
            name: archive.tensor(tensor, full) if isinstance(tensor, StoredTensor) else tensor
            for name, tensor in outline.state.items()
        }
        return Checkpoint(
            outline.yaml,
            outline.names,
            state,
            outline.stride,
            training=_with_tensors(outline.training, archive, "training"),
            settings=_with_tensors(outline.settings, archive, "settings"),
            date=outline.date,
            written_by=outline.written_by,
            source=outline.source,
        )


def holds_training(path: Path | str) -> bool:
    """Return whether a checkpoint holds the state of a training, not weights alone. Its tensors are not read.

    Raises CheckpointError if the file cannot be read.
    """
    with open_archive(path) as archive:
        return outline_of(archive, read_restricted(archive)).training is not None


def open_archive(path: Path | str) -> Archive:
    """Open a file as a checked archive. Raises CheckpointError if it does not exist or is none."""
    path = Path(path)
    if not is_file(path):
        raise CheckpointError(
            f"{cut(path)}: {'a folder' if is_dir(path) else 'no such file'}; expected a checkpoint (.pt)"
        )
    return Archive(path)


def outline_of(archive: Archive, content: object) -> CheckpointOutline:
    """Return the content of a file as a checkpoint whose tensors are still in the file.

    Args:
        archive: The file, open.
        content: What `read_restricted` returned for it.

    Returns:
        The checked outline, of a file of ours or of an official one.

    Raises:
        CheckpointError: If the content is no checkpoint of ours and no detection checkpoint of YOLOv5.
    """
    if is_ours(content):
        return _outline_of_ours(content, archive.path)
    models = [content.get("ema"), content.get("model")] if isinstance(content, dict) else [content]
    if any(isinstance(model, PickledObject) for model in models):
        return official_checkpoint(content, archive)
    raise CheckpointError(
        f"{archive.path}: holds tensors without a model's description; expected a checkpoint of ours or of YOLOv5"
    )


def is_ours(content: object) -> TypeGuard[dict[str, Any]]:
    """Return whether the content of a file is in our own format."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def _with_tensors(value: T, archive: Archive, what: str) -> T:
    """Return nested plain values with their tensors read from the file."""
    return plain_value(
        value, archive.path, what, lambda item: archive.tensor(item) if isinstance(item, StoredTensor) else None
    )


def build_model(checkpoint: Checkpoint, device: torch.device | str = "cpu", fuse: bool = False) -> Model:
    """Return the checkpoint's model with its weights, in evaluation mode.

    Args:
        checkpoint: Description and weights.
        device: Where the model is put.
        fuse: Whether batch norms are folded into their convolutions.

    Returns:
        The model, in float32.

    Raises:
        CheckpointError: If the weights do not fit the description.
        ModelError: If the description cannot be built; the message is printable ASCII, whatever the description holds.
    """
    try:
        with UndrawnWeights():  # all are overwritten
            model = Model(checkpoint.yaml, ch=checkpoint.yaml.get("ch", 3), nc=checkpoint.nc, report=False)
    except ModelError as error:
        raise ModelError(printable(str(error), _MESSAGE_LIMIT)) from None
    own = model.state_dict()
    name = next((name for name in own if name not in checkpoint.state), None)
    if name is not None:
        raise CheckpointError(f"{checkpoint.source}: its weights lack {name}, which its model description asks for")
    for name, tensor in checkpoint.state.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = f"expected {tuple(own[name].shape)}" if name in own else "not in its model description"
            raise CheckpointError(f"{checkpoint.source}: {printable(name)} {tuple(tensor.shape)}: {expected}")
    model.load_state_dict(checkpoint.state)
    model.names = list(checkpoint.names)
    model.confidence = stored_confidence(checkpoint.settings)
    model.to(device).eval()
    return model.fuse() if fuse else model


def load_models(
    paths: Sequence[Path | str] | Path | str,
    device: torch.device | str = "cpu",
    fuse: bool = True,
    download: bool = False,
) -> Model | Ensemble:
    """Return the model in a file, or the ensemble of several, ready to predict: float32, in evaluation mode.

    Args:
        paths: Checkpoints as `--weights` names them, one or several.
        device: Where the models are put.
        fuse: Whether they are prepared for inference, batch norms folded into convolutions.
        download: Whether published weights that are not on disk may be downloaded.

    Returns:
        The model, or an ensemble whose predictions are those of all models together.

    Raises:
        CheckpointError: If a file cannot be found or read, or classes of an ensemble differ.
        ModelError: If a description cannot be built.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise CheckpointError("no weights given; name a checkpoint (.pt) with --weights")
    checkpoints = [read_checkpoint(find_weights(path, download)) for path in paths]
    for other in checkpoints[1:]:
        if other.names != checkpoints[0].names:
            raise CheckpointError(
                f"{other.source} and {checkpoints[0].source} have different classes and make no ensemble"
            )
    models = [build_model(checkpoint, device).requires_grad_(False) for checkpoint in checkpoints]
    if fuse:
        for model in models:
            prepare_for_inference(model)
    return models[0] if len(models) == 1 else Ensemble(models).eval()


def strip(path: Path | str, output: Path | str | None = None, settings: Mapping | None = None) -> Path:
    """Write a checkpoint with what prediction needs: weights in half precision and no training state.

    Anchors, and tensors with values beyond the range of half precision, stay in float32.

    Args:
        path: The checkpoint.
        output: The file to write; None replaces `path`.
        settings: Added to those of the file.

    Returns:
        The file that was written.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or the file cannot be written.
    """
    checkpoint = read_checkpoint(path)
    state = {
        name: tensor if name.endswith(".anchors") else _to_half(tensor) for name, tensor in checkpoint.state.items()
    }
    stripped = replace(checkpoint, state=state, training=None, settings={**checkpoint.settings, **(settings or {})})
    return write_checkpoint(stripped, output or path)


def find_weights(name: Path | str, download: bool = False) -> Path:
    """Return the file that --weights names: a path, or a file in the project's folder.

    Args:
        name: The path.
        download: Whether published weights that are not on disk may be downloaded to `name`.

    Returns:
        The file.

    Raises:
        CheckpointError: If there is no such file; for published weights it names their address.
    """
    path = Path(name)
    for candidate in (path, ROOT / path):
        if is_file(candidate):
            return candidate
    if path.name in PUBLISHED:
        address = f"{RELEASE}/{path.name}"
        if download:
            return fetch(address, path, "a checkpoint")
        raise CheckpointError(f"{cut(path)}: not on disk; it is published at {address}, and --download fetches it")
    if is_dir(path):
        raise CheckpointError(
            f"{cut(path)}: a folder; name the checkpoint in it, such as {path / 'weights' / 'best.pt'}"
        )
    neighbors = [file.name for file in path.parent.glob("*.pt")] if is_dir(path.parent) else []
    raise CheckpointError(f"{cut(path)}: no such checkpoint{nearest(path.name, [*neighbors, *PUBLISHED])}")


def _outline_of_ours(content: dict[str, Any], path: Path) -> CheckpointOutline:
    """Return the content of a file of ours, checked, as an outline."""
    version = content.get("version")
    if not isinstance(version, (str, int, float, type(None))):
        raise CheckpointError(f"{path}: damaged: its format version is no number")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: its format {printable(str(version))} is newer than this program, which knows {VERSION}; update it"
        )
    expected: dict[str, type | tuple[type, ...]] = {
        "yaml": dict,
        "names": list,
        "stride": list,
        "state": dict,
        "training": (dict, type(None)),
        "settings": dict,
    }
    for key, types in expected.items():
        if key not in content or not isinstance(content[key], types):
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
    settings, training = (plain_value(content[key], path, key, _stored_tensor) for key in ("settings", "training"))
    return CheckpointOutline(
        plain_value(content["yaml"], path), names, state, tuple(stride), training, settings, date, written_by, str(path)
    )


def _stored_tensor(item: object) -> StoredTensor | None:
    return item if isinstance(item, StoredTensor) else None


def _to_half(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in half precision, or as it is if that would make finite values infinite."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor
