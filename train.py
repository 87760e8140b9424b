"""Train a detector.

python train.py --cfg models/yolov5_CoTA.yaml --data my.yaml --weights yolov5l.pt
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run_from_python, run_script
from utils.config import TrainConfig, from_options, parse
from utils.world import World

if TYPE_CHECKING:
    from utils.engine.training_stages import TrainResult

DESCRIPTION = "Train a YOLOv5 detector or one of its attention variants on your data."


def parse_opt(argv: Sequence[str] | None = None) -> TrainConfig:
    """Return the settings that the command line asks for."""
    return parse(TrainConfig, argv, description=DESCRIPTION, prog="train.py")


def main(config: TrainConfig) -> "TrainResult | None":
    """Train, or evolve hyperparameters; return the TrainResult (None after an evolution)."""
    if World.of_launcher().is_several:
        from torch.distributed.elastic.multiprocessing.errors import record

        return record(_train_with_others)(config)
    if config.evolve:
        from utils.engine.tuner import evolve_training

        evolve_training(config)
        return None
    from utils.engine.training import train

    return train(config)


def _train_with_others(config: TrainConfig):
    """Train as one of several processes; an error is also left where the launcher looks for it."""
    from utils.engine.training import train

    return train(config)


def run(**options: object) -> "TrainResult | None":
    """Train with v6.1's options as keywords: train.run(cfg="yolov5n_CBAM.yaml", data="my.yaml", epochs=10).

    Logs as the command does. Loading images in several processes (`workers`) needs `if __name__ == "__main__":` around
    the call on systems that start processes anew.

    Args:
        **options: The flags with underscores.

    Returns:
        The run folder as `save_dir`, the checkpoint as `best`, its validation as `evaluation`; None with `evolve`.

    Raises:
        UserError: What the command prints as its one line.
    """
    return run_from_python(main, lambda: from_options(TrainConfig, **options))


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
