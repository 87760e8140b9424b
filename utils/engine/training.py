"""What train.py runs: one training from flags to its run folder, fresh or resumed."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from utils.checkpoint import Checkpoint
from utils.config import EvalOptions, Hyperparameters, TrainConfig
from utils.datasets.loader import reporting_dead_workers
from utils.datasets.splits import require_images
from utils.device import device_of
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
from utils.engine.evaluator import Evaluation, evaluate
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
    restore_generators,
    saved_history,
    saved_hyperparameters,
    saved_state,
)
from utils.engine.run_guard import locked, saying_how_to_go_on
from utils.engine.saving import Checkpoints, Rollback, SaveOptions
from utils.engine.stages import RunFolder
from utils.engine.step_profile import TrainingProfile
from utils.engine.trainer import Hook, Trainer, TrainingComponents
from utils.engine.training_checkpoint import SavedTraining, restore
from utils.engine.training_settings import (
    check_several,
    load_dataset_spec,
    resolve_sizes,
    with_full_paths,
    write_settings,
)
from utils.engine.training_stages import TrainResult, run_stages
from utils.engine.user_loggers import LoggedResult, LoggedRun, UserLoggers
from utils.files import new_run_dir
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts
from utils.processes import Processes, joined
from utils.types import TrainState
from utils.world import World


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


def draw_labels(data: TrainData, save_dir: Path) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        data: The training labels.
        save_dir: The run folder.
    """
    from utils.plots.label_statistics import plot_labels

    store = data.train.dataset.store
    plot_labels(store.cls, store.xywhn, data.spec.names, save_dir)
