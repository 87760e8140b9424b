"""What hubconf.py returns: a model by the name of its yaml, or from weights, with AutoShape around it or without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from models.yolo import Model
from utils.checkpoint import find_weights, read_checkpoint
from utils.compat.auto_shape import AutoShape
from utils.compat.multi_backend import DetectMultiBackend
from utils.device import select_device
from utils.errors import CheckpointError, ConfigError
from utils.log import messages_shown
from utils.transfer.pretrained import transfer_weights

COCO_CLASSES, RGB = 80, 3
_PLAIN_SCALE = "l"  # of a variant whose name has no letter


def load_custom(
    path: str | Path | Sequence[str | Path],
    autoshape: bool = True,
    verbose: bool = True,
    device: torch.device | str | int | None = None,
    download: bool = False,
) -> Any:
    """Return the model of weights.

    Args:
        path: Checkpoint or exported file; several make an ensemble.
        autoshape: Put an `AutoShape` around it; without, a checkpoint's network can be trained.
        verbose: Log what is loaded.
        device: Where it computes; None is the first CUDA device, else the CPU.
        download: Fetch published weights, or images at addresses, that are not on disk.

    Returns:
        An `AutoShape`, or a `DetectMultiBackend`.

    Raises:
        CheckpointError: If a file cannot be found or read.
        ConfigError: If a device or a runtime is not there.
    """
    if not isinstance(path, (str, Path)) and not (
        isinstance(path, (list, tuple)) and path and all(isinstance(each, (str, Path)) for each in path)
    ):
        raise CheckpointError(f"path = {path!r}: expected a file such as 'best.pt', or a list of files")
    with _logging(verbose), _in_python_words():
        model = DetectMultiBackend(path, _device(device), fuse=autoshape, download=download)
        if not autoshape and model.pt:
            model.requires_grad_(True)
        return AutoShape(model, verbose, download) if autoshape else model


def load_named(
    name: str,
    pretrained: bool = True,
    channels: int = RGB,
    classes: int = COCO_CLASSES,
    autoshape: bool = True,
    verbose: bool = True,
    device: torch.device | str | int | None = None,
    download: bool = False,
) -> Any:
    """Return the model of a yaml.

    Args:
        name: The yaml's name without its suffix, such as yolov5n or yolov5n_CBAM.
        pretrained: Start from the official weights of the size, transferred layer by layer.
        channels: Channels of an image.
        classes: Number of classes.
        autoshape: Put an `AutoShape` around it.
        verbose: Log what is loaded.
        device: Where it computes; None is the first CUDA device, else the CPU.
        download: Fetch weights, or images at addresses, that are not on disk.

    Returns:
        An `AutoShape`, or the network.

    Raises:
        CheckpointError: If the official weights are not on disk; names their address.
        ConfigError: If a number is none.
    """
    for word, count in (("classes", classes), ("channels", channels)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"{word} = {count!r}: expected a whole number of at least 1")
    size, _, variant = name.partition("_")
    weights = f"{size if size != 'yolov5' else f'yolov5{_PLAIN_SCALE}'}.pt"
    if pretrained and not variant and (channels, classes) == (RGB, COCO_CLASSES):
        return load_custom(weights, autoshape, verbose, device, download)
    with _logging(verbose), _in_python_words():
        source = read_checkpoint(find_weights(weights, download)) if pretrained else None
        model = Model(f"{name}.yaml", ch=channels, nc=classes, report=False)
        if source is not None:
            transfer_weights(model, source)
            if len(source.names) == classes:
                model.names = list(source.names)
        model.to(_device(device))
        return AutoShape(model, verbose, download) if autoshape else model


def _device(device: torch.device | str | int | None) -> torch.device:
    return device if isinstance(device, torch.device) else select_device("" if device is None else str(device))


def _logging(verbose: bool) -> Any:
    return messages_shown() if verbose else nullcontext()


@contextmanager
def _in_python_words() -> Iterator[None]:
    """Let an error name the keyword where a command's would name the flag."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("--download fetches", "download=True fetches")) from None
