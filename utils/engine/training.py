"""What train.py runs: one training from flags to its run folder, fresh or resumed."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from models.yolo import Model
from utils.checkpoint import Checkpoint, checkpoint_of, strip, write_checkpoint
from utils.config import DatasetSpec, EvalOptions, Hyperparameters, TrainConfig
from utils.datasets.letterbox import round_to_stride
from utils.datasets.splits import require_images
from utils.device import device_of
from utils.engine.autobatch import auto_batch_size
from utils.engine.build import (
    TrainData,
    build_components,
    build_data,
    build_detector,
    fit_anchors,
    optimizer_for,
    prepare_process,
)
from utils.engine.data_parallel import own_generators, prepare_batch_norm
from utils.engine.evaluator import Evaluation, evaluate, evaluate_weights, largest_stride
from utils.engine.hooks import Checkpoints, Console, ResultsFile, TensorBoard, TrainBatchImages
from utils.engine.optim import EarlyStopping
from utils.engine.resume import folder_of, resolve_config, restore_state, saved_hyperparameters, training_state
from utils.engine.trainer import Hook, Trainer, TrainingComponents
from utils.engine.validation import FEW_CLASSES, ReportOptions, has_pycocotools, report_evaluation
from utils.engine.validation_files import ValBatchImages
from utils.errors import ConfigError
from utils.files import new_run_dir, write_text_atomically
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts
from utils.processes import Processes, joined
from utils.types import TrainState
from utils.world import World


@dataclass(frozen=True)
class TrainResult:
    """The results of a training.

    Attributes:
        save_dir: Its run folder.
        state: Where it ended.
        evaluation: The validation of best.pt.
    """

    save_dir: Path
    state: TrainState
    evaluation: Evaluation

    def row(self) -> tuple[float, ...]:
        """Return v6.1's results: P, R, mAP50, mAP50-95, box, obj and cls loss of validation."""
        return self.evaluation.row()


def train(config: TrainConfig, hyp: Hyperparameters | None = None, hooks: Sequence[Hook] = ()) -> TrainResult:
    """Train as a configuration says, fresh or resumed.

    Args:
        config: The flags.
        hyp: Replaces the file that `config.hyp` names.
        hooks: Watch the training, after the trainer's own hooks.

    Returns:
        The run folder, the last state and the validation of best.pt.

    Raises:
        UserError: Of the kind that names what cannot be read, built or trained.
    """
    config, resumed = resolve_config(config)
    world = World.of_launcher()
    device = device_of(config.device, world)
    with drawing_fonts(config.font), joined(world, device) as processes:
        check_several(config, resumed, processes)
        return _train(config, resumed, hyp, hooks, processes)


def _train(
    config: TrainConfig,
    resumed: Checkpoint | None,
    hyp: Hyperparameters | None,
    hooks: Sequence[Hook],
    processes: Processes,
) -> TrainResult:
    """Train with settings that are in force, from the start or from a checkpoint."""
    prepare_process(config)
    hyp = saved_hyperparameters(resumed) if resumed else hyp or Hyperparameters.load(config.hyp, config.hyp_unknown)
    LOGGER.info("hyperparameters: " + ", ".join(f"{name}={value}" for name, value in hyp.as_dict().items()))
    spec = load_dataset_spec(config)
    processes.first_on_host(lambda: require_images(spec, ("train", "val"), config.download))
    device = device_of(config.device, processes.world)
    model, transferred = build_detector(config, hyp, spec, resumed, device)
    config = with_full_paths(resolve_sizes(config, model, device), spec)
    prepare_batch_norm(model, processes, config.sync_bn, config.batch_size)
    optimizer = optimizer_for(model, config, hyp)
    save_dir = run_folder_of(config, resumed, processes)
    if processes.is_first:
        write_settings(config, hyp, save_dir)
        if transferred:
            LOGGER.info(f"transfer report: {transferred.write_csv(save_dir / 'transfer.csv')}")
    data = processes.first_on_host(lambda: build_data(config, hyp, spec, model, save_dir, processes))
    if not resumed:
        if processes.is_first:
            draw_labels(data, save_dir)
        if not config.noautoanchor:
            fit_anchors(model, data, hyp, config)
    processes.wait()
    components = build_components(config, hyp, model, optimizer, data, resumed, processes)
    state = restore_state(resumed)
    own_generators(processes, config.seed, state.step)
    trainer = build_trainer(config, hyp, data, components, state, save_dir, hooks)
    LOGGER.info(
        f"Image sizes {config.imgsz} train, {config.imgsz} val\nUsing {data.train.workers} dataloader workers\n"
        f"Logging results to {save_dir}"
    )
    run_to_end(trainer, save_dir)
    data.train.close()
    return finish_training(trainer, config, data, save_dir)


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


def run_folder_of(config: TrainConfig, resumed: Checkpoint | None, processes: Processes) -> Path:
    """Return the run folder, made by the first process for all.

    Args:
        config: The flags.
        resumed: The checkpoint whose training goes on, or None.
        processes: Those that train together.

    Returns:
        The folder.
    """
    if resumed:
        return folder_of(resumed)
    made = new_run_dir(config.project, config.name, config.exist_ok) if processes.is_first else None
    folder = processes.from_first(made)
    if folder is None:
        raise RuntimeError("the first process sent no run folder")
    return folder


def build_trainer(
    config: TrainConfig,
    hyp: Hyperparameters,
    data: TrainData,
    components: TrainingComponents,
    state: TrainState,
    save_dir: Path,
    hooks: Sequence[Hook],
) -> Trainer:
    """Return the trainer of a run, with the hooks that write its files.

    Args:
        config: The flags, saved in every checkpoint.
        hyp: The hyperparameters, saved too.
        data: The loaders.
        components: Model, loss, optimizer and the rest.
        state: Where training starts.
        save_dir: The run folder.
        hooks: Further hooks, called last.

    Returns:
        The trainer.
    """
    data.train.follow(lambda: state.class_map if config.image_weights else None)
    names, options = data.spec.names, EvalOptions(single_cls=config.single_cls)
    files = [
        ResultsFile(save_dir / "results.csv"),
        TensorBoard(save_dir),
        TrainBatchImages(save_dir, names),
        Checkpoints(save_dir / "weights", checkpoint_saver(config, hyp), config.save_period, config.nosave),
    ]

    def evaluate_average(module: nn.Module) -> Evaluation:
        components.processes.copy_from_first(module)  # batch norm's running statistics are each process's own
        return evaluate(module, data.val, names, options, loss=components.loss, processes=components.processes)

    return Trainer(
        components,
        state,
        config.epochs,
        hooks=[*(files if components.processes.is_first else ()), Console(), *hooks],
        evaluate=evaluate_average,
        should_evaluate=lambda epoch: not config.noval,
        should_stop=EarlyStopping(config.patience).should_stop,
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
    return dataclasses.replace(config, batch_size=auto_batch_size(model, config, device))


def with_full_paths(config: TrainConfig, spec: DatasetSpec) -> TrainConfig:
    """Return the config with absolute paths of the files that a resumed training reads again.

    Args:
        config: The flags.
        spec: The dataset that they name.

    Returns:
        The config with `data`, `plugin` and `font` absolute.
    """
    plugins = tuple(str(Path(name).resolve()) for name in config.plugin)
    data = str(spec.file.resolve()) if spec.file else config.data
    font = str(Path(config.font).resolve()) if config.font else ""
    return dataclasses.replace(config, data=data, plugin=plugins, font=font)


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


def draw_labels(data: TrainData, save_dir: Path) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        data: The training labels.
        save_dir: The run folder.
    """
    from utils.plots.label_statistics import plot_labels

    store = data.train.dataset.store
    plot_labels(store.cls, store.xywhn, data.spec.names, save_dir)


def checkpoint_saver(config: TrainConfig, hyp: Hyperparameters) -> Callable[[Trainer, Path], None]:
    """Return save(trainer, path), which writes everything that a resumed training needs, in full precision.

    Args:
        config: The flags, kept in the file.
        hyp: The hyperparameters, kept in the file.

    Returns:
        The function.
    """

    def save(trainer: Trainer, path: Path) -> None:
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
            "config": config.as_dict(),
            "hyp": hyp.as_dict(),
            "processes": components.processes.world.size,
        }
        write_checkpoint(checkpoint_of(cast(Model, components.ema.module), training=training), path)

    return save


def run_to_end(trainer: Trainer, save_dir: Path) -> None:
    """Train, and log how to go on if interrupted.

    Args:
        trainer: The trainer.
        save_dir: The run folder.
    """
    started, first = time.perf_counter(), trainer.state.epoch
    try:
        trainer.fit()
    except KeyboardInterrupt:
        last = save_dir / "weights" / "last.pt"
        if last.exists():
            LOGGER.info(f"\nstopped in epoch {trainer.state.epoch}; continue with: python train.py --resume {last}")
        raise
    done = trainer.state.epoch
    LOGGER.info(f"\n{done - first} epochs completed in {(time.perf_counter() - started) / 3600:.3f} hours.")


def finish_training(trainer: Trainer, config: TrainConfig, data: TrainData, save_dir: Path) -> TrainResult:
    """Strip best.pt, validate the file as val.py would, and draw the curves.

    Args:
        trainer: The trainer, at its end.
        config: The flags.
        data: The loaders; the val loader is closed.
        save_dir: The run folder.

    Returns:
        The results of the training.
    """
    from utils.plots.curves import plot_results

    best = save_dir / "weights" / "best.pt"
    spec, components = data.spec, trainer.components
    processes = components.processes
    if processes.is_first:
        strip(best)
    processes.wait()
    LOGGER.info(f"Optimizer stripped from {best}, {best.stat().st_size / 1e6:.1f}MB\nValidating {best}...")
    verbose = len(spec.names) < FEW_CLASSES
    options = EvalOptions(single_cls=config.single_cls, coco=has_pycocotools(), verbose=verbose)
    images = ValBatchImages(save_dir, spec.names)
    evaluation = evaluate_weights(
        [best],
        spec,
        options,
        data.val,
        components.device,
        loss=components.loss,
        observers=[images] if processes.is_first else [],
        processes=processes,
    )
    size, batch_size = data.val.dataset.imgsz, data.val.batch_size
    settings = {"weights": str(best), "single_cls": config.single_cls, "imgsz": size, "batch_size": batch_size}
    if processes.is_first:
        evaluation = report_evaluation(evaluation, spec.names, save_dir, ReportOptions(settings))
        plot_results(save_dir / "results.csv")
    data.val.close()
    processes.wait()
    LOGGER.info(f"Results saved to {save_dir}")
    return TrainResult(save_dir, trainer.state, evaluation)
