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
from utils.config import DatasetSpec, Hyperparameters, TrainConfig
from utils.datasets.fingerprint import changes, class_changes
from utils.engine.epoch_history import EpochHistory
from utils.engine.optim import scaled_weight_decay
from utils.engine.saving import PREVIOUS, copy_atomically
from utils.engine.stages import RunFolder, Stage, has_ended, open_stages
from utils.engine.trainer import TrainingComponents
from utils.errors import CheckpointError, cut
from utils.files import ROOT, exists, is_dir, is_file
from utils.log import LOGGER
from utils.types import TrainState


def resolve_config(config: TrainConfig) -> tuple[TrainConfig, Checkpoint | None]:
    """Return the settings in force, and the checkpoint whose training goes on, or None.

    Raises CheckpointError if `--resume` names no training, or one that is finished.
    """
    if not config.resume:
        return config, None
    path = resume_file(config)
    checkpoint = read_last(path)
    saved_training = training_state(checkpoint)
    with restoring(str(path)):
        saved, state = TrainConfig(**saved_training["config"]), TrainState(**saved_training["state"])
        done = int(state.epoch)
    asked = {
        name: getattr(config, name)
        for name in ("epochs", "patience", "save_minutes", "on_nan")
        if getattr(config, name) not in (getattr(TrainConfig, name), getattr(saved, name))
    }
    if "batch_size" in config.given and config.batch_size != saved.batch_size:
        asked["batch_size"] = config.batch_size
    if "logger" in config.given:
        asked["logger"] = config.logger
    if "epochs" in asked:
        LOGGER.info(
            f"epochs {saved.epochs} -> {asked['epochs']}: from here on the learning rate follows the new number's "
            "schedule"
        )
    font = config.font or (saved.font if is_file(saved.font) else "")  # perhaps another computer's
    asked |= {"compile": saved.compile or config.compile, "profile_steps": config.profile_steps}
    settings = dataclasses.replace(saved, resume=str(path), device=config.device, font=font, **asked)
    ended = has_ended(state, settings.epochs, settings.patience)
    stages = open_stages(RunFolder(folder_of(checkpoint)), ended)
    if not stages:
        raise CheckpointError(f"{path}: {_finished(path, state, settings)}")
    if Stage.EPOCHS in stages:
        batch = f", batch {state.batches_done}," if state.batches_done else ""
        LOGGER.info(f"resuming {path} at epoch {done}{batch} of {settings.epochs}")
    else:
        LOGGER.info(f"resuming {path}: its {done} epochs are done; left: {', '.join(each.value for each in stages)}")
    return settings, checkpoint


def _finished(path: Path, state: TrainState, settings: TrainConfig) -> str:
    """Why a training cannot go on, and what can be done instead."""
    anew = f"--weights {path} starts anew from it"
    if state.epoch >= settings.epochs:
        return f"its {state.epoch} epochs are done; --epochs N with N over {state.epoch} goes on, {anew}"
    waited = state.epoch - 1 - state.patience_epoch
    return (
        f"its training stopped early after {state.epoch} epochs and is finished; --patience N with N over {waited} "
        f"goes on, 0 never stops early; {anew}"
    )


def resume_file(config: TrainConfig) -> Path:
    """Return the file that --resume means.

    It is the path given, the last.pt of a run folder given, or the newest last*.pt under runs/.
    """
    if isinstance(config.resume, str):
        path = Path(config.resume)
        path = path / "weights" / "last.pt" if is_dir(path) else path
        if not is_resumable(path):
            raise CheckpointError(f"--resume {cut(path)}: no such file; give a run's weights/last.pt")
        return path
    places = {Path(config.project), ROOT / "runs"}
    found = [path for place in places if place.is_dir() for path in place.rglob("last*.pt") if path.name != PREVIOUS]
    if not found:
        raise CheckpointError(
            f"--resume: there is no last.pt under {' or '.join(sorted(map(str, places)))}; give its path"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _stand_in(path: Path) -> Path:
    """The file that takes the place of a last.pt that is damaged or gone; of another file, itself."""
    return path.with_name(PREVIOUS) if path.name == "last.pt" else path


def is_resumable(path: Path) -> bool:
    """Return whether a training can be resumed from a path: it is there, or what stands in for it."""
    return exists(path) or exists(_stand_in(path))


def read_last(path: Path) -> Checkpoint:
    """Read the checkpoint that a training is resumed from; if it is a damaged last.pt, the one before takes its place.

    Raises CheckpointError if there is none that can be read.
    """
    previous = _stand_in(path)
    if previous == path or not exists(previous):
        return read_checkpoint(path)
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        reason = error
    checkpoint = read_checkpoint(previous)
    copy_atomically(previous, path)
    LOGGER.warning(f"WARNING: {reason}; going on from {previous}, the state that was written before")
    return dataclasses.replace(checkpoint, source=str(path))


def saved_hyperparameters(resumed: Checkpoint) -> Hyperparameters:
    """Return the hyperparameters of the training in a checkpoint."""
    with restoring(resumed.source):
        return Hyperparameters.load(dict(training_state(resumed)["hyp"]))


def folder_of(resumed: Checkpoint) -> Path:
    """Return the folder of the run that a checkpoint belongs to, wherever it was moved."""
    folder = Path(resumed.source).resolve().parent
    return folder.parent if folder.name == "weights" else folder


def saved_state(resumed: Checkpoint | None) -> TrainState:
    """Return where training starts."""
    if resumed is None:
        return TrainState()
    with restoring(resumed.source):
        return TrainState(**training_state(resumed)["state"])


def restore_generators(resumed: Checkpoint | None) -> None:
    """Set torch's generators as they were when a training was saved; nothing between this and its first step draws."""
    if resumed is None:
        return
    with restoring(resumed.source):
        saved = training_state(resumed)["generators"]
        torch.set_rng_state(saved["torch"])
        if torch.cuda.is_available() and saved["cuda"]:
            torch.cuda.set_rng_state_all(saved["cuda"])


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


def check_classes(resumed: Checkpoint, spec: DatasetSpec) -> None:
    """Raise CheckpointError if the data yaml has other classes than the training had, or the same in another order.

    A network that went on would learn a class anew under the name of another.

    Args:
        resumed: The checkpoint.
        spec: The dataset.

    Raises:
        CheckpointError: If number, order or names differ.
    """
    anew = f"--weights {resumed.source} starts a new training from it"
    if resumed.nc != spec.nc:
        raise CheckpointError(
            f"{resumed.source}: trained on {resumed.nc} classes, and {spec.file} has {spec.nc} now; {anew}"
        )
    changed = class_changes(resumed.names, spec.names)
    if changed:
        raise CheckpointError(
            f"{resumed.source}: trained on other classes than {spec.file} has now: {printable(changed)}; give the yaml "
            f"its names back in their order, or {anew}"
        )


def report_data_changes(resumed: Checkpoint | None, now: Mapping[str, Mapping], where: object) -> None:
    """Log how the dataset differs from the one that a training was stopped with, if its checkpoint knows it.

    Args:
        resumed: The checkpoint, or None.
        now: The fingerprint of each split.
        where: The data yaml, for the message.
    """
    if resumed is None:
        return
    with restoring(resumed.source):
        before = training_state(resumed).get("data") or {}
        words = {split: changes(before[split], mark) for split, mark in now.items() if split in before}
    for split, differing in words.items():
        if differing:
            LOGGER.warning(
                f"WARNING: {where}: {split} has changed since the training was stopped: "
                f"{printable(', '.join(differing))}; it goes on, but not as one that was never stopped"
            )


def saved_history(resumed: Checkpoint | None) -> EpochHistory:
    """Return the figures of the epochs of the training in a checkpoint; none if it was written without them."""
    if resumed is None:
        return EpochHistory()
    with restoring(resumed.source):
        return EpochHistory.of(training_state(resumed).get("history"))


def restore_components(components: TrainingComponents, checkpoint: Checkpoint) -> None:
    """Bring network, average, optimizer, gradient scaler and loss to the state that a checkpoint holds.

    Args:
        components: Of the same training.
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: If its state does not fit.
    """
    with restoring(checkpoint.source):
        saved = training_state(checkpoint)
        components.model.load_state_dict(saved["model_state"])
        components.ema.module.load_state_dict(checkpoint.state)
        components.ema.updates = int(saved["ema_updates"])
        load_optimizer(components.optimizer, saved["optimizer"])
        components.scaler.load_state_dict(saved["scaler"])
        components.loss.load_state_dict(saved.get("loss", {}))  # older files lack it: the loss had no state
        if components.average is not None and "swa" in saved:
            components.average.load_state_dict(saved["swa"])
        if components.distillation is not None:
            components.distillation.load_state_dict(saved["distillation"])


def adopt_batch_size(
    resumed: Checkpoint | None, components: TrainingComponents, state: TrainState, batch_size: int
) -> None:
    """Let a training that goes on with another batch size begin its epoch anew: its batches are other ones now.

    Args:
        resumed: The checkpoint, or None.
        components: Restored; weight decay becomes that of the new size.
        state: Where the training goes on; it is moved to the epoch's first batch.
        batch_size: Images per batch from now on.
    """
    if resumed is None:
        return
    before = int(training_state(resumed)["config"]["batch_size"])
    if before == batch_size:
        return
    LOGGER.info(f"batch size {before} -> {batch_size}: epoch {state.epoch} begins anew")
    nbs = saved_hyperparameters(resumed).nbs
    state.step, state.batches_done, state.mean_losses = state.epoch * len(components.loader), 0, [0.0, 0.0, 0.0]
    for group in components.optimizer.param_groups:
        group["weight_decay"] *= scaled_weight_decay(1.0, batch_size, nbs) / scaled_weight_decay(1.0, before, nbs)


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
