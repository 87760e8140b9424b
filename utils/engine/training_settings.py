"""The settings that a training is really made with: refused, resolved and written."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from models.inference import largest_stride
from utils.checkpoint import Checkpoint, find_weights
from utils.config import DatasetSpec, Hyperparameters, TrainConfig
from utils.datasets.letterboxing import round_to_stride
from utils.engine.autobatch import auto_batch_size
from utils.engine.resume import training_state
from utils.engine.user_loggers import absolute_references
from utils.errors import ConfigError
from utils.files import write_text_atomically
from utils.log import LOGGER
from utils.processes import Processes


def check_several(config: TrainConfig, resumed: Checkpoint | None, processes: Processes) -> None:
    """Refuse what several processes, or one, cannot do, and say what is not the same to the last bit.

    Args:
        config: The flags.
        resumed: The checkpoint whose training goes on, or None.
        processes: Those that train together.

    Raises:
        ConfigError: For a flag that does not fit the number of processes.
    """
    size = processes.world.size
    if config.evolve and size > 1:
        raise ConfigError("--evolve: runs in one process; start it without torchrun")
    if config.on_nan == "rollback" and size > 1:
        raise ConfigError("--on-nan rollback: only the first process would move back; use --on-nan stop and --resume")
    if config.sync_bn and size == 1 and resumed is None:
        raise ConfigError("--sync-bn: needs several processes; one process trains here, so leave it out")
    if config.cache == "ram" and size > 1:
        raise ConfigError(
            f"--cache ram: each of {size} processes would hold all images; use --cache disk, whose copies the system "
            "keeps in memory once for all"
        )
    before = training_state(resumed).get("processes", 1) if resumed else size
    if before != size:
        LOGGER.info(
            f"trained by {before} processes so far and by {size} from here: the samples and their order stay, sums are "
            "added in another order, so figures agree to rounding; batch norm without --sync-bn and dropout differ more"
        )


def load_dataset_spec(config: TrainConfig) -> DatasetSpec:
    """Return the dataset of `--data`, as one class with `--single-cls`."""
    spec = DatasetSpec.load(config.data)
    return spec.as_single_class() if config.single_cls else spec


def resolve_sizes(config: TrainConfig, model: nn.Module, device: torch.device) -> TrainConfig:
    """Return the config with the image size and batch size that will really be used.

    Args:
        config: The flags.
        model: The network, which has the stride and whose memory decides `--batch-size -1`.
        device: Where it will train.

    Returns:
        The config with `imgsz` and `batch_size` resolved.
    """
    (imgsz,) = round_to_stride((config.imgsz,), largest_stride(model), cells=2)
    config = dataclasses.replace(config, imgsz=imgsz)
    if config.batch_size != -1:
        return config
    if config.teacher:
        LOGGER.info("--batch-size -1: the estimate leaves out the teacher; give a smaller number if memory runs out")
    return dataclasses.replace(config, batch_size=auto_batch_size(model, config, device))


def with_full_paths(config: TrainConfig, spec: DatasetSpec) -> TrainConfig:
    """Return the config with absolute paths of the files that a resumed training reads again.

    Args:
        config: The flags.
        spec: The dataset that they name.

    Returns:
        The config with `data`, `plugin`, `logger`, `font` and `teacher` absolute.
    """
    plugins = tuple(str(Path(name).resolve()) for name in config.plugin)
    data = str(spec.file.resolve()) if spec.file else config.data
    font = str(Path(config.font).resolve()) if config.font else ""
    teacher = str(find_weights(config.teacher, config.download).resolve()) if config.teacher else ""
    loggers = absolute_references(config.logger)
    return dataclasses.replace(config, data=data, plugin=plugins, font=font, logger=loggers, teacher=teacher)


def write_settings(config: TrainConfig, hyp: Hyperparameters, save_dir: Path) -> None:
    """Write opt.yaml and hyp.yaml, the settings that the run was really made with.

    Args:
        config: The flags.
        hyp: The hyperparameters.
        save_dir: The run folder.
    """
    import yaml

    for name, values in (("opt.yaml", config.as_dict()), ("hyp.yaml", hyp.as_dict())):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text_atomically(save_dir / name, text)
