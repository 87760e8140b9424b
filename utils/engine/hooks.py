"""Hooks of a training: the console, results.csv, TensorBoard, and images of batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.identity_start import gate_strengths
from utils.datasets.bad_images import BadImages
from utils.engine.epoch_history import EpochHistory, result_line
from utils.engine.trainer import EpochProgress, EpochReport, Hook, Trainer
from utils.files import write_text_atomically
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
        self.bar.update(trainer.state.batches_done)

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


class ClosedMosaic(Hook):
    """Says that the epochs without mosaics begin, once in a run or a resumed part of it.

    Args:
        first: The first of them.
    """

    def __init__(self, first: int):
        self.first = first
        self.is_said = False

    def before_epoch(self, trainer: Trainer, epoch: int) -> None:
        if epoch >= self.first and not self.is_said:
            self.is_said = True
            LOGGER.info(
                f"close_mosaic: epochs {self.first} to {trainer.epochs - 1} show one image per sample, without mosaic, "
                "mixup and pasted objects"
            )


class AveragedEpochs(Hook):
    """Counts the weights after each of the last epochs in their mean (`swa`); before checkpoints are written."""

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        if trainer.components.average is not None:
            trainer.components.average.add(trainer.components.model, report.epoch)


def _gpu_memory(device: torch.device) -> str:
    return f"{torch.cuda.memory_reserved(device) / 1e9:.3g}G" if device.type == "cuda" else "0G"


class ResultsFile(Hook):
    """results.csv: v6.1's 14 columns, one row per epoch, and behind them one column per attention gate.

    A run that resumes drops the rows from its first epoch on, so that no epoch is there twice. Rows that a killed write
    tore, or that are missing, are written anew from the history of epochs that the checkpoint keeps.

    Args:
        path: The file.
        history: Figures of the epochs so far, which get each further epoch; a new one if None.
    """

    def __init__(self, path: Path, history: EpochHistory | None = None):
        self.path = path
        self.history = EpochHistory() if history is None else history

    def start(self, trainer: Trainer) -> None:
        columns = (*RESULT_COLUMNS, *(f"gate/{name}" for name in gate_strengths(trainer.components.model)))
        lines = self._kept_lines(trainer.state.epoch, columns) if trainer.state.epoch else []
        header = "".join(f"{name:>20}," for name in columns).rstrip(",")
        write_text_atomically(self.path, "\n".join([header, *lines]) + "\n")

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        figures = result_row(report)
        self.history.add(figures)
        with self.path.open("a") as stream:
            stream.write(result_line(figures.values()) + "\n")

    def moved_back(self, trainer: Trainer) -> None:
        self.history.cut(trainer.state.epoch)
        self.start(trainer)

    def _kept_lines(self, epochs: int, columns: Sequence[str]) -> list[str]:
        """The rows of the first epochs: from the history or, if the checkpoint has none, what is whole in the file."""
        in_file = whole_rows(self.path, epochs, len(columns))
        if not self.history.covers(epochs, columns):
            missing = sorted(set(range(epochs)) - set(in_file))
            if missing:
                LOGGER.warning(
                    f"WARNING: {self.path}: rows of {len(missing)} of {epochs} epochs are missing, first that of epoch "
                    f"{missing[0]}; the checkpoint was written without a history to write them from"
                )
            return list(in_file.values())
        lines = [self.history.line(index) for index in range(epochs)]
        if list(in_file.values()) != lines:
            LOGGER.warning(
                f"WARNING: {self.path}: was {'damaged' if self.path.exists() else 'missing'}; the rows of its "
                f"{epochs} epochs are written anew from the checkpoint"
            )
        return lines


def whole_rows(path: Path, epochs: int, columns: int) -> dict[int, str]:
    """Return the lines of a results.csv that are whole, by epoch.

    Args:
        path: The file, which may be missing or torn.
        epochs: Rows from this epoch on are left out.
        columns: Cells that a whole row has.

    Returns:
        Lines without their ends, in the order of the file.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text[: text.rfind("\n") + 1].split("\n")[1:]:  # a last line without its end is torn
        try:
            figures = [float(cell) for cell in line.split(",")]
        except ValueError:
            continue
        if len(figures) == columns and figures[0] in range(epochs):
            found[int(figures[0])] = line
    return found


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


class BadImageExchange(Hook):
    """Each process's bad images become known to all after every epoch, before its checkpoint is written.

    Args:
        bad_images: Those of each split.
    """

    def __init__(self, *bad_images: BadImages):
        self.bad_images = bad_images

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        for each in self.bad_images:
            each.exchange(trainer.components.processes)
