"""The stages of a training, and which of them are open: decided from the files of its run folder, so also after a kill.

epochs -> strip -> validation -> plots. A stage is done if its file says so and all stages before it are done; entering
the first open one removes the files of those behind it, so that none of them stands for an older state. A new stage is
a member, its place in the order, and a line in `_is_done`.
"""

import enum
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoint import holds_training
from utils.engine.optim import EarlyStopping
from utils.files import sweep_temporaries
from utils.log import LOGGER
from utils.types import TrainState


class Stage(enum.Enum):
    """What a training does, in its order."""

    EPOCHS = "epochs"
    STRIP = "strip"
    VALIDATION = "validation"
    PLOTS = "plots"


@dataclass(frozen=True)
class RunFolder:
    """The files of a training.

    Attributes:
        folder: The run folder.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """The training where it was last saved: after an epoch, or after a step within one."""
        return self.folder / "weights" / "last.pt"

    @property
    def lock(self) -> Path:
        """Names the process that trains in the folder."""
        return self.folder / ".train.lock"

    @property
    def best(self) -> Path:
        """The weights of the best epoch; as complete as last.pt until they are stripped."""
        return self.folder / "weights" / "best.pt"

    @property
    def swa(self) -> Path:
        """The mean of the weights of the last epochs, if one was asked for."""
        return self.folder / "weights" / "swa.pt"

    @property
    def results(self) -> Path:
        """One row per epoch."""
        return self.folder / "results.csv"

    @property
    def metrics(self) -> Path:
        """The last file that the final validation writes."""
        return self.folder / "metrics.json"

    @property
    def curves(self) -> Path:
        """The last file that a training writes."""
        return self.folder / "results.png"

    @property
    def bad_images(self) -> Path:
        """Images that could not be read in mid-run."""
        return self.folder / "bad_images.csv"


def has_ended(state: TrainState, epochs: int, patience: int) -> bool:
    """Return whether no epoch is left to train.

    Args:
        state: Where the training stands.
        epochs: Epochs in all.
        patience: Epochs without progress after which it ends early; 0 for never.

    Returns:
        Whether all are done, or it stopped early.
    """
    return state.epoch >= epochs or EarlyStopping(patience).has_waited(state)


def open_stages(run: RunFolder, epochs_ended: bool) -> tuple[Stage, ...]:
    """Return the stages that are still to be done, in order; none if the training is finished.

    Args:
        run: The files.
        epochs_ended: Whether `has_ended` of the state in last.pt.

    Returns:
        The first open stage and all behind it.
    """
    stages = tuple(Stage)
    first = next((place for place, stage in enumerate(stages) if not _is_done(stage, run, epochs_ended)), len(stages))
    return stages[first:]


def _is_done(stage: Stage, run: RunFolder, epochs_ended: bool) -> bool:
    return {
        Stage.EPOCHS: lambda: epochs_ended,
        Stage.STRIP: lambda: run.best.is_file() and not holds_training(run.best),
        Stage.VALIDATION: run.metrics.is_file,
        Stage.PLOTS: run.curves.is_file,
    }[stage]()


def enter(run: RunFolder, stages: tuple[Stage, ...]) -> None:
    """Make a run folder ready for its first open stage: no files of later ones, no temporary ones of a killed write.

    Args:
        run: The files.
        stages: What `open_stages` returned.
    """
    for stage, file in ((Stage.STRIP, run.swa), (Stage.VALIDATION, run.metrics), (Stage.PLOTS, run.curves)):
        if stage in stages:
            file.unlink(missing_ok=True)
    swept = [path for folder in (run.folder, run.last.parent) for path in sweep_temporaries(folder)]
    if swept:
        LOGGER.info(f"{run.folder}: removed {len(swept)} temporary files of a write that was killed")
