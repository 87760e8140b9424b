"""A run folder while a training writes into it: one training at a time, and how to go on after a cut."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from utils.engine.stages import RunFolder
from utils.errors import DataError, Interruption, MemoryShortageError, UserError
from utils.lock_file import LockedError, hold_beating_lock
from utils.processes import Processes
from utils.types import TrainState


@contextmanager
def locked(run: RunFolder, processes: Processes) -> Iterator[None]:
    """Let one training at a time use a run folder.

    Args:
        run: The run folder.
        processes: Those that train together; the first one holds the lock.

    Yields:
        Once, for the training.

    Raises:
        UserError: If another training uses it.
    """
    try:
        with hold_beating_lock(run.lock) if processes.is_first else nullcontext():
            yield
    except LockedError as error:
        raise UserError(
            f"{run.folder}: another training uses this folder now ({error}); wait until it has ended, or end it; a new "
            "training takes another --name"
        ) from None


@contextmanager
def saying_how_to_go_on(run: RunFolder, state: TrainState) -> Iterator[None]:
    """Add to the message of whatever ends a training before its end how to go on.

    Args:
        run: The run folder.
        state: Where the training stands.

    Yields:
        Once, for the training.

    Raises:
        Interruption: After Ctrl-C or a signal.
        DataError: Images or the workers that read them failed.
        UserError: The run folder was removed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        batch = f", after {state.batches_done} batches" if state.batches_done else ""
        raise Interruption.of(error, f" in epoch {state.epoch}{batch}; {how_to_go_on(run)}") from None
    except (OSError, UserError) as error:
        if _is_gone(run.folder, error):
            raise UserError(
                f"{run.folder}: the run folder, or files in it, were removed in mid-run; {how_to_go_on(run)}"
            ) from None
        if isinstance(error, (DataError, MemoryShortageError)) and run.last.exists():
            smaller = " --batch-size N" if isinstance(error, MemoryShortageError) else ""
            raise type(error)(f"{error}; then {how_to_go_on(run)}{smaller}") from None
        raise


def _is_gone(folder: Path, error: Exception) -> bool:
    """Whether an error is that a folder is gone, or is being removed."""
    if not folder.is_dir():
        return True
    return isinstance(error, FileNotFoundError) and Path(str(error.filename)).is_relative_to(folder)


def how_to_go_on(run: RunFolder) -> str:
    """Return what to do after a training that was cut off."""
    if run.last.exists():
        return f"continue with: python train.py --resume {run.last}"
    return "there is no last.pt to continue from, so start again"
