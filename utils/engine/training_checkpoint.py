"""What every checkpoint of a training holds, written and read back."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from models.yolo import Model
from utils.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from utils.config import Hyperparameters, TrainConfig
from utils.engine.epoch_history import EpochHistory
from utils.engine.resume import restore_components, restore_generators, saved_state
from utils.engine.trainer import Trainer


@dataclass(frozen=True)
class SavedTraining:
    """What every checkpoint of a training holds beside the state of its components.

    Attributes:
        config: The flags.
        hyp: The hyperparameters.
        history: Figures of the epochs so far.
        fingerprint: What the data of each split were, to notice on resuming that they changed.
    """

    config: TrainConfig
    hyp: Hyperparameters
    history: EpochHistory
    fingerprint: dict[str, dict]

    def save(self, trainer: Trainer, path: Path) -> None:
        """Write everything that a resumed training needs, in full precision.

        Args:
            trainer: The training.
            path: The checkpoint.
        """
        components = trainer.components
        cuda = torch.cuda.get_rng_state_all() if components.device.type == "cuda" else []
        training = {
            "model_state": components.model.state_dict(),
            "ema_updates": components.ema.updates,
            "optimizer": components.optimizer.state_dict(),
            "scaler": components.scaler.state_dict(),
            "loss": components.loss.state_dict(),
            "generators": {"torch": torch.get_rng_state(), "cuda": cuda},
            "state": dataclasses.asdict(trainer.state),
            "config": self.config.as_dict(),
            "hyp": self.hyp.as_dict(),
            "history": self.history.saved(),
            "data": self.fingerprint,
            "processes": components.processes.world.size,
        }
        if components.average is not None:
            training["swa"] = components.average.state_dict()
        if components.distillation is not None:
            training["distillation"] = components.distillation.state_dict()
        write_checkpoint(checkpoint_of(cast(Model, components.ema.module), training=training), path)


def restore(trainer: Trainer, path: Path) -> None:
    """Bring a training back to an earlier state of itself.

    Args:
        trainer: The training.
        path: A checkpoint of it.
    """
    checkpoint = read_checkpoint(path)
    restore_components(trainer.components, checkpoint)
    restore_generators(checkpoint)
    vars(trainer.state).update(vars(saved_state(checkpoint)))  # in place: others look at it
