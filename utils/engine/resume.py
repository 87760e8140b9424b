"""--resume: the training in a checkpoint, found and checked; what does not fit ends in one line, not in the first step.

A fused optimizer step takes shapes and layouts for granted: with those of a file it would read and write beside its
buffers.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint import Checkpoint, read_checkpoint
from utils.checkpoint.archive import printable
from utils.config import Hyperparameters, TrainConfig
from utils.errors import CheckpointError, cut
from utils.files import ROOT, exists, is_dir, is_file
from utils.log import LOGGER
from utils.types import TrainState


def resolve_config(config: TrainConfig) -> tuple[TrainConfig, Checkpoint | None]:
    """Return the settings in force, and the checkpoint whose training goes on, or None.

    Raises CheckpointError if `--resume` names no training, or one that is done.
    """
    if not config.resume:
        return config, None
    path = resume_file(config)
    checkpoint = read_checkpoint(path)
    saved_training = training_state(checkpoint)
    with restoring(str(path)):
        saved, done = TrainConfig(**saved_training["config"]), int(saved_training["state"]["epoch"])
    epochs = saved.epochs
    if config.epochs not in (TrainConfig.epochs, saved.epochs):
        epochs = config.epochs
        LOGGER.info(
            f"epochs {saved.epochs} -> {epochs}: from here on the learning rate follows the new number's schedule"
        )
    font = config.font or (saved.font if is_file(saved.font) else "")  # perhaps another computer's
    settings = dataclasses.replace(saved, resume=str(path), device=config.device, epochs=epochs, font=font)
    if done >= settings.epochs:
        raise CheckpointError(
            f"{path}: its {done} epochs are done; --epochs N with N over {done} goes on, "
            f"--weights {path} starts anew from it"
        )
    LOGGER.info(f"resuming {path} at epoch {done} of {settings.epochs}")
    return settings, checkpoint


def resume_file(config: TrainConfig) -> Path:
    """Return the file that --resume means.

    It is the path given, the last.pt of a run folder given, or the newest last*.pt under runs/.
    """
    if isinstance(config.resume, str):
        path = Path(config.resume)
        path = path / "weights" / "last.pt" if is_dir(path) else path
        if not exists(path):
            raise CheckpointError(f"--resume {cut(path)}: no such file; give a run's weights/last.pt")
        return path
    places = {Path(config.project), ROOT / "runs"}
    found = [path for place in places if place.is_dir() for path in place.rglob("last*.pt")]
    if not found:
        raise CheckpointError(
            f"--resume: there is no last.pt under {' or '.join(sorted(map(str, places)))}; give its path"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def saved_hyperparameters(resumed: Checkpoint) -> Hyperparameters:
    """Return the hyperparameters of the training in a checkpoint."""
    with restoring(resumed.source):
        return Hyperparameters.load(dict(training_state(resumed)["hyp"]))


def folder_of(resumed: Checkpoint) -> Path:
    """Return the folder of the run that a checkpoint belongs to, wherever it was moved."""
    folder = Path(resumed.source).resolve().parent
    return folder.parent if folder.name == "weights" else folder


def restore_state(resumed: Checkpoint | None) -> TrainState:
    """Return where training starts, and set torch's generators as they were then."""
    if resumed is None:
        return TrainState()
    with restoring(resumed.source):
        saved = training_state(resumed)
        torch.set_rng_state(saved["generators"]["torch"])
        if torch.cuda.is_available() and saved["generators"]["cuda"]:
            torch.cuda.set_rng_state_all(saved["generators"]["cuda"])
        return TrainState(**saved["state"])


def training_state(checkpoint: Checkpoint) -> dict:
    """Return the training state in a checkpoint. Raises CheckpointError if it holds weights only."""
    if not checkpoint.training:
        raise CheckpointError(
            f"{checkpoint.source}: holds weights only and cannot be resumed; start a new training with "
            f"--weights {checkpoint.source}"
        )
    return checkpoint.training


@contextmanager
def restoring(source: str) -> Iterator[None]:
    """Turn what a training in the file `source` lacks, or has in another form, into one line that says so."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[min(1, len(lines) - 1)]  # the first of several is torch's title
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise CheckpointError(
            f"{source}: its training cannot be resumed: {printable(reason)}; "
            f"--weights {source} starts a new one from it"
        ) from None


def check_classes(resumed: Checkpoint, count: int, file: object) -> None:
    """Raise CheckpointError if the data yaml has another number of classes than the training had.

    Args:
        resumed: The checkpoint.
        count: Classes of the dataset.
        file: The data yaml, for the message.

    Raises:
        CheckpointError: If the numbers differ.
    """
    if resumed.nc != count:
        raise CheckpointError(
            f"{resumed.source}: trained on {resumed.nc} classes, and {file} has {count} now; "
            f"--weights {resumed.source} starts a new training from it"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping) -> None:
    """Load the saved state of an optimizer, each tensor in its parameter's layout.

    Args:
        optimizer: A new optimizer of the same kind.
        saved: What its `state_dict` was.

    Raises:
        ValueError: If the state is of other parameters.
    """
    groups = saved["param_groups"]
    counts, expected = ([len(group["params"]) for group in each] for each in (groups, optimizer.param_groups))
    if counts != expected:
        raise ValueError(f"its optimizer has parameters in groups of {counts}, this program makes {expected}")
    optimizer.load_state_dict(dict(saved))
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape != (() if name == "step" else parameter.shape):
                raise ValueError(
                    f"its optimizer's {name} is {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                )
            if name != "step":
                state[name] = torch.empty_like(parameter.detach()).copy_(value)
