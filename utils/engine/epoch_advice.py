"""Whether a training is long enough to be of use: its optimizer steps, and what would give more of them."""

import math
from dataclasses import dataclass

from utils.config import Hyperparameters, TrainConfig
from utils.datasets.loader import Loader
from utils.engine.optim import full_accumulation

# By the trainings of docs/recipes.md, on sets of 200 to 300 images: from random weights 120 and 390 steps left a third
# to a half of the mAP unlearned that 780 reached; from pretrained ones 75 lost a third, 120 little.
SCRATCH_STEPS, TRANSFER_STEPS = 500, 100


@dataclass(frozen=True)
class RunLength:
    """How long a training is.

    Attributes:
        images: Of the train split.
        batches: Per epoch.
        epochs: In all.
        batch_size: Images per batch.
        accumulate: Batches behind an optimizer step after warm-up.
    """

    images: int
    batches: int
    epochs: int
    batch_size: int
    accumulate: int

    @classmethod
    def of(cls, config: TrainConfig, hyp: Hyperparameters, loader: Loader) -> "RunLength":
        """Return the length of a training.

        Args:
            config: Epochs and the batch size in force.
            hyp: `nbs` is how many images a step is meant to have.
            loader: Of the train split.

        Returns:
            The length.
        """
        accumulate = full_accumulation(config.batch_size, hyp.nbs)
        return cls(len(loader.dataset), len(loader), config.epochs, config.batch_size, accumulate)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; its last ones may have fewer batches."""
        return math.ceil(self.batches / self.accumulate)

    @property
    def steps(self) -> int:
        """Optimizer steps of the training, those of warm-up counted as any other."""
        return self.epochs * self.steps_per_epoch


def epochs_advice(run: RunLength, has_weights: bool) -> str:
    """Return one line of advice for a training of far too few optimizer steps, "" for any other.

    Args:
        run: Its length.
        has_weights: Whether it starts from pretrained weights, which need fewer.

    Returns:
        The line: what there is, what would do, and how to get there.
    """
    least = TRANSFER_STEPS if has_weights else SCRATCH_STEPS
    if run.steps >= least or not run.batches:
        return ""
    start = "pretrained" if has_weights else "random"
    batches = run.epochs * run.batches
    only = f"{run.steps:,} optimizer steps"
    if run.accumulate > 1:
        only = f"{batches:,} batches but only {only}, as {run.accumulate} batches make one"
    remedies = [f"--epochs {_round_up(least / run.steps_per_epoch)}"]
    if run.accumulate > 1:
        more = f" and --epochs {_round_up(least / run.batches)}" if batches < least else ""
        remedies.append(f"nbs: {run.batch_size} in --hyp (hyp.small.yaml){more}")
    return (
        f"{run.images:,} images, {run.epochs} epochs: {only}; from {start} weights some {least:,} are the least that "
        f"is of use: {', or '.join(remedies)}"
    )


def _round_up(epochs: float) -> int:
    """A number of epochs as one would write it: two digits that count, rounded up."""
    digits = 10 ** max(math.floor(math.log10(max(epochs, 1))) - 1, 0)
    return math.ceil(epochs / digits) * digits
