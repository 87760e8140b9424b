"""What train.py runs: one training from flags to its run folder, fresh or resumed."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from models.inference import largest_stride
from models.yolo import Model
from utils.calibration import CalibratedConfidence
from utils.checkpoint import Checkpoint, checkpoint_of, find_weights, read_checkpoint, strip, write_checkpoint
from utils.config import DatasetSpec, EvalOptions, Hyperparameters, TrainConfig
from utils.datasets.letterboxing import round_to_stride
from utils.datasets.loader import reporting_dead_workers
from utils.datasets.splits import require_images
from utils.device import device_of
from utils.engine.autobatch import advice_on_memory, auto_batch_size
from utils.engine.averaging import finish_average
from utils.engine.build import (
    TrainData,
    build_components,
    build_data,
    build_detector,
    first_of_last,
    fit_anchors,
    prepare_process,
)
from utils.engine.data_parallel import own_generators, prepare_batch_norm
from utils.engine.distillation_table import DistillationTable
from utils.engine.distilling import add_adapters, open_teacher
from utils.engine.epoch_advice import RunLength, epochs_advice
from utils.engine.epoch_history import EpochHistory
from utils.engine.evaluator import Evaluation, evaluate, evaluate_weights
from utils.engine.hooks import (
    AveragedEpochs,
    BadImageExchange,
    ClosedMosaic,
    Console,
    ResultsFile,
    TensorBoard,
    TrainBatchImages,
)
from utils.engine.optim import EarlyStopping
from utils.engine.optimizer_choice import optimizer_for, with_optimizer, within_batch
from utils.engine.resume import (
    adopt_batch_size,
    folder_of,
    report_data_changes,
    resolve_config,
    restore_components,
    restore_generators,
    saved_history,
    saved_hyperparameters,
    saved_state,
    training_state,
)
from utils.engine.saving import Checkpoints, Rollback, SaveOptions, copy_atomically, remove_spare
from utils.engine.stages import RunFolder, Stage, enter, has_ended, open_stages
from utils.engine.step_profile import TrainingProfile
from utils.engine.trainer import Hook, Trainer, TrainingComponents
from utils.engine.user_loggers import LoggedResult, LoggedRun, UserLoggers, absolute_references
from utils.engine.validation import FEW_CLASSES, ReportOptions, report_evaluation
from utils.engine.validation_errors import calibrated
from utils.engine.validation_files import ValBatchImages
from utils.errors import CheckpointError, ConfigError, DataError, Interruption, MemoryShortageError, UserError
from utils.files import new_run_dir, write_text_atomically
from utils.lock_file import LockedError, hold_beating_lock
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts
from utils.processes import Processes, joined
from utils.types import DetectionMetrics, TrainState
from utils.world import World


@dataclass(frozen=True)
class TrainResult:
    """The results of a training.

    Attributes:
        save_dir: Its run folder.
        state: Where it ended.
        evaluation: The validation of best.pt; None if a start before this one had made it.
    """

    save_dir: Path
    state: TrainState
    evaluation: Evaluation | None

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch, without the training's state."""
        return RunFolder(self.save_dir).best

    @property
    def metrics(self) -> DetectionMetrics | None:
        """The metrics of best.pt: `map50`, `map`, `precision` per class; None if a start before this one made them."""
        return self.evaluation.metrics if self.evaluation else None

    def row(self) -> tuple[float, ...]:
        """Return v6.1's results: P, R, mAP50, mAP50-95, box, obj and cls loss of validation."""
        if self.evaluation is None:
            raise UserError(f"{self.save_dir}: best.pt was validated before; the figures are in metrics.json")
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
        Interruption: After Ctrl-C or a signal that ends the program; says how to go on.
    """
    world = World.of_launcher()
    with joined(world, device_of(config.device, world)) as processes:
        config, resumed = resolve_config(config)
        check_several(config, resumed, processes)
        with drawing_fonts(config.font):
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
    loggers = UserLoggers.of(config.logger if processes.is_first else ())
    hyp = saved_hyperparameters(resumed) if resumed else hyp or Hyperparameters.load(config.hyp, config.hyp_unknown)
    config = with_optimizer(config, hyp)
    LOGGER.info("hyperparameters: " + ", ".join(f"{name}={value}" for name, value in hyp.as_dict().items()))
    spec = load_dataset_spec(config)
    processes.first_on_host(lambda: require_images(spec, ("train", "val"), config.download))
    device = device_of(config.device, processes.world)
    model, transferred = build_detector(config, hyp, spec, resumed, device)
    config = within_batch(resolve_sizes(config, model, device), hyp, processes.world)
    config = with_full_paths(config, spec)
    prepare_batch_norm(model, processes, config.sync_bn, config.batch_size)
    teacher = open_teacher(config, hyp, model, device)
    optimizer = optimizer_for(model, config, hyp)
    add_adapters(optimizer, teacher)
    run = RunFolder(run_folder_of(config, resumed, processes))
    state = saved_state(resumed)
    with locked(run, processes), saying_how_to_go_on(run, state), reporting_dead_workers():
        if processes.is_first:
            write_settings(config, hyp, run.folder)
            if transferred:
                LOGGER.info(f"transfer report: {transferred.write_csv(run.folder / 'transfer.csv')}")
        data = processes.first_on_host(lambda: build_data(config, hyp, spec, model, run.folder, processes))
        fingerprint = data.fingerprint()
        report_data_changes(resumed, fingerprint, spec.file or "data")
        if not resumed:
            if processes.is_first:
                draw_labels(data, run.folder)
            if not config.noautoanchor:
                fit_anchors(model, data, hyp, config)
        processes.wait()
        components = build_components(config, hyp, model, optimizer, data, resumed, processes, teacher)
        adopt_batch_size(resumed, components, state, config.batch_size)
        restore_generators(resumed)
        own_generators(processes, config.seed, state.step)
        saved = SavedTraining(config, hyp, saved_history(resumed), fingerprint)
        trainer = build_trainer(saved, data, components, state, run, [loggers, *hooks])
        try:
            loggers.begin(
                LoggedRun(run.folder, config.as_dict(), hyp.as_dict(), spec.names, state.epoch, config.epochs)
            )
            result = run_stages(trainer, saved, data, run)
            loggers.finish(LoggedResult.of(run.folder))
            return result
        finally:
            loggers.end()
            data.close()


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
    if config.on_nan == "rollback" and size > 1:
        raise ConfigError(f"--on-nan rollback: one process goes back by itself, {size} do not; leave it out")
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


def build_trainer(
    saved: SavedTraining,
    data: TrainData,
    components: TrainingComponents,
    state: TrainState,
    run: RunFolder,
    hooks: Sequence[Hook],
) -> Trainer:
    """Return the trainer of a run, with the hooks that write its files.

    Args:
        saved: What every checkpoint gets: flags, hyperparameters, history and fingerprint.
        data: The loaders.
        components: Model, loss, optimizer and the rest.
        state: Where training starts.
        run: The run folder.
        hooks: Further hooks, called last.

    Returns:
        The trainer.
    """
    config = saved.config
    data.train.follow(lambda: state.class_map if config.image_weights else None)
    names, options = data.spec.names, EvalOptions(single_cls=config.single_cls)
    files = [
        ResultsFile(run.results, saved.history),
        TensorBoard(run.folder),
        TrainBatchImages(run.folder, names),
        Checkpoints(run.last.parent, saved.save, SaveOptions(config.save_minutes, config.save_period, config.nosave)),
    ]
    if config.on_nan == "rollback":
        files.append(Rollback(run.last.parent, saved.save, restore))
    if config.profile_steps:
        files.append(TrainingProfile(config.profile_steps, run.folder))
    closed_from = first_of_last(saved.hyp.close_mosaic, config.epochs)
    distilled = distillation_table(components, run)
    written = files if components.processes.is_first else []
    closed = () if closed_from is None else (ClosedMosaic(closed_from),)
    averaged = () if components.average is None else (AveragedEpochs(),)
    exchange = BadImageExchange(data.train.bad_images, data.val.bad_images)

    def evaluate_average(module: nn.Module) -> Evaluation:
        components.processes.copy_from_first(module)  # batch norm's running statistics are each process's own
        return evaluate(module, data.val, names, options, loss=components.loss, processes=components.processes)

    return Trainer(
        components,
        state,
        config.epochs,
        hooks=[exchange, *averaged, *distilled, *written, Console(), *closed, *hooks],
        evaluate=evaluate_average,
        should_evaluate=lambda epoch: not config.noval,
        should_stop=EarlyStopping(config.patience).should_stop,
    )


def distillation_table(components: TrainingComponents, run: RunFolder) -> list[Hook]:
    """Return the hook that logs distillation, none without it.

    Args:
        components: Of the training.
        run: The run folder, in which the first process writes.

    Returns:
        At most one hook.
    """
    if components.distillation is None:
        return []
    path = run.folder / "distill.csv" if components.processes.is_first else None
    return [DistillationTable(components.distillation, path)]


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


def draw_labels(data: TrainData, save_dir: Path) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        data: The training labels.
        save_dir: The run folder.
    """
    from utils.plots.label_statistics import plot_labels

    store = data.train.dataset.store
    plot_labels(store.cls, store.xywhn, data.spec.names, save_dir)


@contextmanager
def locked(run: RunFolder, processes: Processes) -> Iterator[None]:
    """Let one training at a time use a run folder.

    Args:
        run: The run folder.
        processes: Those that train together; the first one holds the lock.

    Yields:
        Once, for the training.

    Raises:
        UserError: If another training uses it.
    """
    try:
        with hold_beating_lock(run.lock) if processes.is_first else nullcontext():
            yield
    except LockedError as error:
        raise UserError(
            f"{run.folder}: another training uses this folder now ({error}); wait until it has ended, or end it; a new "
            "training takes another --name"
        ) from None


@contextmanager
def saying_how_to_go_on(run: RunFolder, state: TrainState) -> Iterator[None]:
    """Add to the message of whatever ends a training before its end how to go on.

    Args:
        run: The run folder.
        state: Where the training stands.

    Yields:
        Once, for the training.

    Raises:
        Interruption: After Ctrl-C or a signal.
        DataError: Images or the workers that read them failed.
        UserError: The run folder was removed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        batch = f", after {state.batches_done} batches" if state.batches_done else ""
        raise Interruption.of(error, f" in epoch {state.epoch}{batch}; {how_to_go_on(run)}") from None
    except (OSError, UserError) as error:
        if _is_gone(run.folder, error):
            raise UserError(
                f"{run.folder}: the run folder, or files in it, were removed in mid-run; {how_to_go_on(run)}"
            ) from None
        if isinstance(error, (DataError, MemoryShortageError)) and run.last.exists():
            smaller = " --batch-size N" if isinstance(error, MemoryShortageError) else ""
            raise type(error)(f"{error}; then {how_to_go_on(run)}{smaller}") from None
        raise


def _is_gone(folder: Path, error: Exception) -> bool:
    """Whether an error is that a folder is gone, or is being removed."""
    if not folder.is_dir():
        return True
    return isinstance(error, FileNotFoundError) and Path(str(error.filename)).is_relative_to(folder)


def how_to_go_on(run: RunFolder) -> str:
    """Return what to do after a training that was cut off."""
    if run.last.exists():
        return f"continue with: python train.py --resume {run.last}"
    return "there is no last.pt to continue from, so start again"


def run_stages(trainer: Trainer, saved: SavedTraining, data: TrainData, run: RunFolder) -> TrainResult:
    """Do the stages of a training that are open: epochs, strip, validation, plots.

    Args:
        trainer: The trainer, where the training stands.
        saved: Flags and history.
        data: The loaders.
        run: The run folder, whose files say what is done.

    Returns:
        The results of the training.
    """
    from utils.plots.curves import plot_results

    config, processes = saved.config, trainer.components.processes
    ended = has_ended(trainer.state, config.epochs, config.patience)
    stages = processes.from_first(open_stages(run, ended) if processes.is_first else None) or ()
    if processes.is_first:
        enter(run, stages)
    if Stage.EPOCHS in stages:
        LOGGER.info(
            f"Image sizes {config.imgsz} train, {config.imgsz} val\n"
            f"Using {data.train.workers} dataloader workers\nLogging results to {run.folder}"
        )
        advice = epochs_advice(RunLength.of(config, saved.hyp, data.train), bool(config.weights))
        if advice and not trainer.state.step:
            LOGGER.info(advice)
        run_epochs(trainer, config)
    elif processes.is_first:
        ResultsFile(run.results, saved.history).start(trainer)
    if Stage.STRIP in stages and trainer.components.average is not None:
        finish_average(trainer, trainer.components.average, run)
    data.train.close()
    if Stage.STRIP in stages and processes.is_first:
        strip_best(run, trainer.state)
    processes.wait()
    evaluation = validate_best(trainer, config, data, run) if Stage.VALIDATION in stages else None
    if processes.is_first:
        plot_results(run.results)
        remove_spare(run.last.parent)
    processes.wait()
    LOGGER.info(f"Results saved to {run.folder}")
    return TrainResult(run.folder, trainer.state, evaluation)


def run_epochs(trainer: Trainer, config: TrainConfig) -> None:
    """Train the epochs that are left.

    Args:
        trainer: The trainer, where the training stands.
        config: The flags.

    Raises:
        MemoryShortageError: If a step took too much; names a batch that fits.
    """
    started, first = time.perf_counter(), trainer.state.epoch
    try:
        trainer.fit()
    except MemoryShortageError as error:
        advice = advice_on_memory(trainer.components.model, config, trainer.components.device)
        raise MemoryShortageError(f"{error}; {advice}") from None
    hours = (time.perf_counter() - started) / 3600
    LOGGER.info(f"\n{trainer.state.epoch - first} epochs completed in {hours:.3f} hours.")


def strip_best(run: RunFolder, state: TrainState) -> None:
    """Bring best.pt to the form that is used: half precision, without the training.

    Args:
        run: The run folder.
        state: Where the training ended.

    Raises:
        CheckpointError: If the file was removed, and last.pt is of another epoch.
    """
    if not run.best.is_file():
        if state.best_epoch != state.epoch - 1 or not run.last.is_file():
            raise CheckpointError(
                f"{run.best}: is missing, and last.pt holds epoch {state.epoch - 1}, not the best epoch "
                f"{state.best_epoch}; put the file back, or use last.pt"
            )
        copy_atomically(run.last, run.best)
    strip(run.best)
    LOGGER.info(f"Optimizer stripped from {run.best}, {run.best.stat().st_size / 1e6:.1f}MB")


def validate_best(trainer: Trainer, config: TrainConfig, data: TrainData, run: RunFolder) -> Evaluation:
    """Validate best.pt as val.py would, with all its files.

    Args:
        trainer: The trainer, at its end.
        config: The flags.
        data: The loaders.
        run: The run folder.

    Returns:
        The evaluation.
    """
    LOGGER.info(f"Validating {run.best}...")
    spec, components = data.spec, trainer.components
    verbose = len(spec.names) < FEW_CLASSES
    options = EvalOptions(single_cls=config.single_cls, coco=True, verbose=verbose)
    images = ValBatchImages(run.folder, spec.names)
    processes = components.processes
    evaluation = evaluate_weights(
        [run.best],
        spec,
        options,
        data.val,
        components.device,
        loss=components.loss,
        observers=[images] if processes.is_first else [],
        processes=processes,
    )
    size, batch_size = data.val.dataset.imgsz, data.val.batch_size
    settings = {"weights": str(run.best), "single_cls": config.single_cls, "imgsz": size, "batch_size": batch_size}
    if not processes.is_first:
        return evaluation
    store_confidence(run.best, calibrated(evaluation))
    return report_evaluation(evaluation, spec.names, run.folder, ReportOptions(settings))


def store_confidence(best: Path, found: CalibratedConfidence | None) -> None:
    """Write the calibrated confidence into stripped weights.

    Args:
        best: The weights.
        found: Its thresholds; None writes nothing.
    """
    if found is None:
        return
    strip(best, settings=found.settings())
    LOGGER.info(f"confidence of the best F1 on val: {found.overall:.3f}, which detect.py --conf-thres auto takes")
