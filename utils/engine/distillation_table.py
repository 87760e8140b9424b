"""distill.csv and the console's line about distillation: what its terms cost, epoch by epoch."""

from pathlib import Path

from utils.engine.distilling import TERMS, Distillation
from utils.engine.epoch_history import EpochHistory
from utils.engine.trainer import EpochReport, Hook, Trainer
from utils.files import write_text_atomically
from utils.log import LOGGER


class DistillationTable(Hook):
    """distill.csv: the mean of each term over the batches of each epoch, after gains; and a line per epoch.

    Every process ends the epoch of its sums; the first one writes. It stands before the hook that writes checkpoints,
    which then hold the row.

    Args:
        distillation: Of the training.
        path: The file, None writes none.
    """

    def __init__(self, distillation: Distillation, path: Path | None):
        self.distillation, self.path = distillation, path

    def start(self, trainer: Trainer) -> None:
        self.distillation.history.cut(trainer.state.epoch)
        self._write()

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        means = self.distillation.end_epoch(report.epoch)
        LOGGER.info("distillation: " + ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
        self._write()

    def moved_back(self, trainer: Trainer) -> None:
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_text_atomically(self.path, distillation_csv(self.distillation.history))


def distillation_csv(history: EpochHistory) -> str:
    """Return the text of distill.csv: one row per epoch."""
    lines = [",".join((f"{int(row[0])}", *(f"{value:.6g}" for value in row[1:]))) for row in history.rows]
    return "\n".join([",".join(("epoch", *TERMS)), *lines]) + "\n"
