"""The stages of a training that are open: epochs, stripping of best.pt, its validation, plots."""

import time
from dataclasses import dataclass
from pathlib import Path

from utils.calibration import CalibratedConfidence
from utils.checkpoint import strip
from utils.config import EvalOptions, TrainConfig
from utils.engine.autobatch import advice_on_memory
from utils.engine.averaging import finish_average
from utils.engine.build import TrainData
from utils.engine.epoch_advice import RunLength, epochs_advice
from utils.engine.evaluator import Evaluation, evaluate_weights
from utils.engine.hooks import ResultsFile
from utils.engine.saving import copy_atomically, remove_spare
from utils.engine.stages import RunFolder, Stage, enter, has_ended, open_stages
from utils.engine.trainer import Trainer
from utils.engine.training_checkpoint import SavedTraining
from utils.engine.validation import FEW_CLASSES, ReportOptions, report_evaluation
from utils.engine.validation_errors import calibrated
from utils.engine.validation_files import ValBatchImages
from utils.errors import CheckpointError, MemoryShortageError, UserError
from utils.log import LOGGER
from utils.types import DetectionMetrics, TrainState


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
