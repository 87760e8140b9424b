"""The end of a training with `swa`: the mean of the last epochs' weights is validated, and kept as swa.pt."""

from collections.abc import Iterator
from typing import cast

from torch import Tensor

from models.yolo import Model
from utils.checkpoint import checkpoint_of, strip, write_checkpoint
from utils.device import network_input, resize_long_side
from utils.engine.saving import copy_atomically
from utils.engine.stages import RunFolder
from utils.engine.trainer import Trainer
from utils.engine.weight_average import ESTIMATION_BATCHES, WeightAverage
from utils.log import LOGGER


def finish_average(trainer: Trainer, average: WeightAverage, run: RunFolder) -> None:
    """Write swa.pt, and best.pt too if the mean is better on val than the best epoch.

    best.pt changes last: a run that is killed in between does this again, to the same end.

    Args:
        trainer: The trainer, after its last epoch.
        average: The mean.
        run: The run folder.
    """
    components, state = trainer.components, trainer.state
    if not average.count or trainer.evaluate is None:
        LOGGER.info(f"swa: no mean was made, as the training ended before epoch {average.first}")
        return
    module = average.estimated(training_inputs(trainer), components.amp)
    fitness = trainer.evaluate(module).metrics.fitness
    is_better = fitness > state.best_fitness
    where = "becomes best.pt" if is_better else "best.pt stays the better"
    LOGGER.info(
        f"swa: the mean of the weights after epochs {state.epoch - average.count} to {state.epoch - 1} has fitness "
        f"{fitness:.4f} on val, epoch {state.best_epoch} has {state.best_fitness:.4f}: {where}; saved as {run.swa}"
    )
    if not components.processes.is_first:
        return
    settings = {"swa_epochs": average.count, "swa_fitness": fitness}
    write_checkpoint(checkpoint_of(cast(Model, module), settings=settings), run.swa)
    strip(run.swa)
    if is_better:
        copy_atomically(run.swa, run.best)


def training_inputs(trainer: Trainer) -> Iterator[tuple[Tensor, bool]]:
    """Yield batches of the epoch after the last as the network would train with them.

    Args:
        trainer: The trainer, after its last epoch.

    Yields:
        (B, 3, H, W) in 0..1 on the device, and whether the images count.
    """
    components, epoch = trainer.components, trainer.state.epoch
    chosen = range(min(len(components.loader), ESTIMATION_BATCHES))
    for index, batch in enumerate(components.loader.epoch(epoch, chosen)):
        images = network_input(batch.images, components.device)
        yield resize_long_side(images, components.image_size(epoch, index), components.stride), batch.counts
