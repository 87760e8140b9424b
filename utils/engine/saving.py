"""The checkpoints of a training, written after epochs, within them and before an end: some whole one always exists.

A new last.pt is written under another name first. When it is complete on the disk, the old one becomes last.previous.pt
and the new one takes its place. So last.pt is there at every moment; if a disk or a copy damages it, the other is.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.engine.nonfinite import all_finite
from utils.engine.trainer import EpochReport, Hook, Trainer
from utils.errors import NonFiniteError
from utils.files import write_atomically
from utils.log import LOGGER

PREVIOUS = "last.previous.pt"  # beside last.pt
LARGEST_ROLLBACKS = 3
_NEXT, _ROLLBACK = "next.pt", "rollback.pt"
Save = Callable[[Trainer, Path], object]  # writes a whole checkpoint of a training to a path, atomically


@dataclass(frozen=True)
class SaveOptions:
    """When checkpoints are written.

    Attributes:
        minutes: Within an epoch, from one last.pt to the next; 0 for after epochs only.
        period: Epochs from one epoch<k>.pt to the next; below 1 none is kept.
        nosave: Only after the last epoch, and when a signal or a lack of memory ends the training.
    """

    minutes: float = 0.0
    period: int = -1
    nosave: bool = False


class Checkpoints(Hook):
    """last.pt after every epoch and, if asked, within epochs; best.pt at every new best; epoch<k>.pt every some epochs.

    Weights that are not finite are never written.

    Args:
        directory: The folder of the checkpoints.
        save: Writes a whole checkpoint.
        options: When; `SaveOptions()` if None.
    """

    def __init__(self, directory: Path, save: Save, options: SaveOptions | None = None):
        self.directory, self.save, self.options = directory, save, options or SaveOptions()
        self.last, self.best, self.next = (directory / name for name in ("last.pt", "best.pt", _NEXT))
        self.written = time.perf_counter()
        self.place = (-1, -1)  # epoch and batch of the state in last.pt

    def start(self, trainer: Trainer) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.next.unlink(missing_ok=True)
        if not trainer.state.step:
            (self.directory / PREVIOUS).unlink(missing_ok=True)  # of an older training in this folder
            if self.options.minutes and not self.options.nosave:
                self.save(trainer, self.last)
        self.written = time.perf_counter()

    def after_step(self, trainer: Trainer) -> None:
        minutes = self.options.minutes
        is_due = minutes and not self.options.nosave and time.perf_counter() - self.written >= 60 * minutes
        if trainer.ending or is_due:
            self.write_if_finite(trainer)

    def cut_off(self, trainer: Trainer) -> None:
        self.write_if_finite(trainer)

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        if self.options.nosave and not report.is_last:
            return
        if not self.is_finite(trainer):
            raise NonFiniteError(
                f"epoch {report.epoch}: the weights are no longer finite and were not saved; "
                f"{self.last} holds an earlier state; lower lr0"
            )
        if report.is_best or not self.best.exists():  # with nosave the best epoch may be past
            self.save(trainer, self.best)  # before last.pt: killed between the two, a run repeats the end of the epoch
            self.write_last(trainer, self.best)
        else:
            self.write_last(trainer)
        if self.options.period > 0 and report.epoch % self.options.period == 0:
            copy_atomically(self.last, self.directory / f"epoch{report.epoch}.pt")

    def write_if_finite(self, trainer: Trainer) -> None:
        """Write last.pt unless it holds this state already; leave it if the weights are not finite."""
        if self.place == (trainer.state.epoch, trainer.state.batches_done):
            return
        if self.is_finite(trainer):
            self.write_last(trainer)
        else:
            LOGGER.warning(f"WARNING: the weights are no longer finite; {self.last} stays what it was")

    @staticmethod
    def is_finite(trainer: Trainer) -> bool:
        """Return whether all weights, and their average, are finite."""
        return all_finite(trainer.components.model) and all_finite(trainer.components.ema.module)

    def write_last(self, trainer: Trainer, source: Path | None = None) -> None:
        """Write last.pt, and keep the one before.

        Args:
            trainer: The training.
            source: A checkpoint of this very state, which is copied.
        """
        if source:
            copy_atomically(source, self.next)
        else:
            self.save(trainer, self.next)
        advance(self.last, self.next)
        self.written = time.perf_counter()
        self.place = trainer.state.epoch, trainer.state.batches_done


class Rollback(Hook):
    """--on-nan rollback: back to the start of the epoch with half the learning rates, a few times.

    That state is decided by epochs, not by the clock, so a training that is repeated or resumed goes back to the same.

    Args:
        directory: The folder of the checkpoints.
        save: Writes a whole checkpoint.
        restore: Brings a training back to the state in a file.
    """

    def __init__(self, directory: Path, save: Save, restore: Callable[[Trainer, Path], object]):
        self.path, self.save, self.restore = directory / _ROLLBACK, save, restore

    def start(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.save(trainer, self.path)

    def before_epoch(self, trainer: Trainer, epoch: int) -> None:
        if not trainer.state.batches_done:
            self.save(trainer, self.path)

    def recover(self, trainer: Trainer, error: NonFiniteError) -> bool:
        state = trainer.state
        if state.rollbacks >= LARGEST_ROLLBACKS:
            LOGGER.warning(f"WARNING: {error}; the training went back {state.rollbacks} times already")
            return False
        rollbacks = state.rollbacks + 1
        self.restore(trainer, self.path)
        state.rollbacks = rollbacks
        LOGGER.warning(
            f"WARNING: {error}; back to the start of epoch {state.epoch} with {0.5**rollbacks:g} of the learning rates "
            f"(rollback {rollbacks} of at most {LARGEST_ROLLBACKS})"
        )
        return True


def advance(last: Path, following: Path) -> None:
    """Put a complete new checkpoint in the place of last.pt, which becomes last.previous.pt.

    Args:
        last: last.pt, which may be missing.
        following: The new one, in the same folder.
    """
    if last.exists():
        previous, link = last.with_name(PREVIOUS), last.with_name(f"{PREVIOUS}.link")
        link.unlink(missing_ok=True)
        try:
            os.link(last, link)  # so that last.pt itself is never missing
            os.replace(link, previous)
        except OSError:  # a file system without hard links
            os.replace(last, previous)
    os.replace(following, last)


def remove_spare(directory: Path) -> None:
    """Remove what only a training that goes on needs: the last.pt before the last, and the state to go back to."""
    for name in (PREVIOUS, _NEXT, _ROLLBACK):
        (directory / name).unlink(missing_ok=True)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the new one, never a part.

    Args:
        source: The file to copy.
        target: Where the copy goes; replaced if it is there.
    """
    with source.open("rb") as reader:
        write_atomically(target, lambda stream: shutil.copyfileobj(reader, stream))
