"""Hooks of a training: the console, results.csv, TensorBoard, images of batches, and checkpoints."""

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.identity_start import gate_strengths
from utils.engine.nonfinite import all_finite
from utils.engine.trainer import EpochProgress, EpochReport, Hook, Trainer
from utils.errors import NonFiniteError
from utils.files import write_atomically, write_text_atomically
from utils.log import LOGGER, shares_terminal
from utils.log import progress as progress_bar
from utils.types import Batch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

VALIDATION_COLUMNS = (
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
)
RESULT_COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    *VALIDATION_COLUMNS,
    "x/lr0",
    "x/lr1",
    "x/lr2",
)


def result_row(report: EpochReport) -> dict[str, float]:
    """Return the 14 figures of one epoch by name, and one per gate. Without a validation its figures are 0."""
    evaluation = report.evaluation
    metrics = evaluation.metrics.row() if evaluation else (0.0,) * 4
    losses = evaluation.losses.row() if evaluation and evaluation.losses else (0.0,) * 3
    # v6.1's columns: lr0 the undecayed weights, lr1 the decayed, lr2 the biases
    values = (report.epoch, *report.losses.row(), *metrics, *losses, *report.lr)
    return {
        **dict(zip(RESULT_COLUMNS, values, strict=True)),
        **{f"gate/{name}": value for name, value in report.gates.items()},
    }


class Console(Hook):
    """v6.1's table: one header per epoch, and a bar whose text is the row.

    If messages or bars go to a file, the row is a message at the end of the epoch.
    """

    HEADER = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")

    def __init__(self):
        self.bar: tqdm | None = None
        self.row_in_bar = shares_terminal()

    def start(self, trainer: Trainer) -> None:
        LOGGER.info(f"Starting training for {trainer.epochs} epochs...")

    def before_epoch(self, trainer: Trainer, epoch: int) -> None:
        LOGGER.info("\n" + "".join(f"{name:>10}" for name in self.HEADER))
        self.bar = progress_bar(None, total=len(trainer.components.loader))

    def after_batch(self, trainer: Trainer, batch: Batch, progress: EpochProgress) -> None:
        cells = (
            f"{progress.epoch}/{trainer.epochs - 1}",
            _gpu_memory(trainer.components.device),
            *(f"{value:.4g}" for value in progress.mean),
            len(batch.targets),
            max(progress.shape),
        )
        row = "".join(f"{cell!s:>10}" for cell in cells)
        if self.bar is None:
            return
        self.bar.set_description_str(row if self.row_in_bar else f"epoch {cells[0]}", refresh=False)
        self.bar.update()
        if progress.done == progress.batches:
            self.bar.close()
            if not self.row_in_bar:
                LOGGER.info(row)

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        if report.gates:
            LOGGER.info("mean |gate|: " + ", ".join(f"{name} {value:.4f}" for name, value in report.gates.items()))

    def close(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.close()


def _gpu_memory(device: torch.device) -> str:
    return f"{torch.cuda.memory_reserved(device) / 1e9:.3g}G" if device.type == "cuda" else "0G"


class ResultsFile(Hook):
    """results.csv: v6.1's 14 columns, one row per epoch, and behind them one column per attention gate.

    A run that resumes drops the rows from its first epoch on, so that no epoch is there twice.
    """

    def __init__(self, path: Path):
        self.path = path

    def start(self, trainer: Trainer) -> None:
        kept = []
        if self.path.exists() and trainer.state.epoch > 0:
            with self.path.open(newline="") as stream:
                rows = list(csv.reader(stream))
            kept = [row for row in rows[1:] if row and int(float(row[0])) < trainer.state.epoch]
        columns = (*RESULT_COLUMNS, *(f"gate/{name}" for name in gate_strengths(trainer.components.model)))
        lines = ["".join(f"{name:>20}," for name in columns).rstrip(",")] + [",".join(row) for row in kept]
        write_text_atomically(self.path, "\n".join(lines) + "\n")

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        values = result_row(report).values()
        with self.path.open("a") as stream:
            stream.write("".join(f"{value:20.5g}," for value in values).rstrip(",") + "\n")


class TensorBoard(Hook):
    """Scalars under results.csv's names, if tensorboard is installed."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.writer: SummaryWriter | None = None

    def start(self, trainer: Trainer) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            LOGGER.info("TensorBoard is not installed: pip install tensorboard to log there too")
            return
        self.writer = SummaryWriter(str(self.directory))
        LOGGER.info(f"TensorBoard: view with tensorboard --logdir {self.directory.parent}")

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        if self.writer:
            for name, value in list(result_row(report).items())[1:]:
                self.writer.add_scalar(name, value, report.epoch)

    def close(self, trainer: Trainer) -> None:
        if self.writer:
            self.writer.close()


class TrainBatchImages(Hook):
    """train_batch0.jpg to train_batch2.jpg: the first batches of a run as the network gets them.

    Args:
        directory: The run folder.
        names: Class names.
        count: Batches that are drawn.
    """

    def __init__(self, directory: Path, names: Sequence[str], count: int = 3):
        self.directory, self.names, self.count = directory, names, count

    def after_batch(self, trainer: Trainer, batch: Batch, progress: EpochProgress) -> None:
        index = progress.done - 1
        if progress.epoch == 0 and index < self.count:
            from utils.plots.batches import plot_batch

            plot_batch(batch.images, batch.targets, batch.paths, self.directory / f"train_batch{index}.jpg", self.names)


class Checkpoints(Hook):
    """last.pt after every epoch, best.pt at every new best, epoch<k>.pt every `period` epochs.

    Weights that are not finite are never written.

    Args:
        directory: The folder of the checkpoints.
        save: Writes a whole checkpoint of a training to a path, atomically.
        period: Epochs from one epoch<k>.pt to the next; below 1 none is kept.
        nosave: Keep the last epoch only.
    """

    def __init__(
        self, directory: Path, save: Callable[[Trainer, Path], object], period: int = -1, nosave: bool = False
    ):
        self.directory, self.save, self.period, self.nosave = directory, save, period, nosave

    def start(self, trainer: Trainer) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        if self.nosave and not report.is_last:
            return
        if not (all_finite(trainer.components.model) and all_finite(trainer.components.ema.module)):
            raise NonFiniteError(
                f"epoch {report.epoch}: the weights are no longer finite and were not saved; "
                f"{self.directory / 'last.pt'} holds the epoch before; lower lr0"
            )
        last, best = self.directory / "last.pt", self.directory / "best.pt"
        if report.is_best or not best.exists():  # with nosave the best epoch may be past
            self.save(trainer, best)  # before last.pt: a run killed between the two repeats the epoch when it resumes
            copy_atomically(best, last)
        else:
            self.save(trainer, last)
        if self.period > 0 and report.epoch % self.period == 0:
            copy_atomically(last, self.directory / f"epoch{report.epoch}.pt")


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the new one, never a part.

    Args:
        source: The file to copy.
        target: Where the copy goes; replaced if it is there.
    """
    with source.open("rb") as reader:
        write_atomically(target, lambda stream: shutil.copyfileobj(reader, stream))
