"""--evolve: hyperparameters bred over many short trainings."""

import dataclasses

import numpy as np

from utils.config import Hyperparameters, TrainConfig
from utils.engine.evolve import evolve
from utils.engine.training import train
from utils.files import new_run_dir
from utils.log import LOGGER


def evolve_training(config: TrainConfig) -> None:
    """Train `config.evolve` generations, each with mutated hyperparameters, validated at its end only.

    runs/train becomes runs/evolve, as in v6.1; --resume goes on in the folder --name. The folder holds
    evolve.csv (results and hyperparameters of each generation), hyp_evolve.yaml (the best) and evolve.png.
    """
    project = config.project[: -len("train")] + "evolve" if config.project.endswith("train") else config.project
    save_dir = new_run_dir(project, config.name, exist_ok=config.exist_ok or bool(config.resume))
    base = Hyperparameters.load(config.hyp)
    trial = dataclasses.replace(
        config, evolve=None, resume=False, noval=True, nosave=True, project=str(save_dir), name="trial", exist_ok=True
    )

    def train_once(values: dict[str, float]) -> tuple[float, ...]:
        return train(trial, hyp=Hyperparameters.load(values)).row()

    evolve(train_once, base.as_dict(), config.evolve, save_dir, np.random.default_rng([config.seed, 3]))
    LOGGER.info(
        f"hyperparameter evolution finished after {config.evolve} generations: results in {save_dir}, "
        f"use them with --hyp {save_dir / 'hyp_evolve.yaml'}"
    )
