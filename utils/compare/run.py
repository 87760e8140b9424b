"""One run of a study in a process of its own: train what is missing, then evaluate best.pt as val.py does."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.registry import load_plugins
from utils.checkpoint import strip
from utils.compare.parameter_matched import write_initial_weights
from utils.compare.plan import PlannedVariant, StudyPlan
from utils.compare.provenance import device_name, versions
from utils.compare.results import PARAMETER_MATCHED, Scores
from utils.compare.run_dir import RunFiles, read_json
from utils.config import DatasetSpec, EvalOptions, Slicing, SplitOptions, TrainConfig
from utils.device import select_device
from utils.engine.evaluator import EvalSplit, Evaluation, evaluate_weights
from utils.engine.optim import EarlyStopping
from utils.engine.resume import is_resumable, read_last, training_state
from utils.engine.trainer import EpochReport, Hook, Trainer
from utils.engine.training import train
from utils.engine.validation import FEW_CLASSES
from utils.files import write_json_atomically
from utils.statistics import matches_of
from utils.statistics.tide import error_kinds
from utils.types import TrainState


def execute_run(plan: StudyPlan, variant: PlannedVariant, seed: int, device: str) -> None:
    """Bring one run to its end, from whatever state it is in.

    Args:
        plan: The study.
        variant: What is trained or evaluated.
        seed: Seed of the run.
        device: "cpu" or a CUDA device number.

    Raises:
        UserError: The training or the evaluation cannot be done.
    """
    files = plan.files(variant.name, seed)
    files.failed.unlink(missing_ok=True)
    load_plugins(plan.config.plugin)
    if plan.trains and not files.trained.exists():
        finish_training(plan, variant, seed, device)
    if not files.is_done():
        evaluate_run(plan, plan.compared_weights(variant, seed), device, files)


def finish_training(plan: StudyPlan, variant: PlannedVariant, seed: int, device: str) -> None:
    """Train from the start, or from last.pt, to the end, and write trained.json.

    A training that was killed after its last epoch is not trained further.

    Args:
        plan: The study.
        variant: What is trained.
        seed: Seed of the run.
        device: "cpu" or a CUDA device number.
    """
    files = plan.files(variant.name, seed)
    config = plan.config.training_config(
        str(variant.cfg),
        seed,
        hyp=plan.hyp_of(variant),
        device=device,
        project=str(files.folder.parent),
        name=files.folder.name,
        exist_ok=True,
    )
    state = read_train_state(files.last) if is_resumable(files.last) else None
    if state is None:
        _clear_folder(files)
        weights = _starting_weights(plan, variant, seed, files)
        train(dataclasses.replace(config, weights=weights), hooks=[ProgressWriter(files)])
    elif not _has_ended(state, config):
        train(TrainConfig(resume=str(files.last), device=device, font=plan.config.font), hooks=[ProgressWriter(files)])
    strip(files.best)  # a training that ended here has done so; a second time changes nothing
    state = read_train_state(files.last)
    write_json_atomically(
        files.trained, {"epochs": state.epoch, "best_epoch": state.best_epoch, "threads": files.thread_counts()}
    )


def read_train_state(last: Path) -> TrainState:
    """Return the state of the training in a last.pt."""
    return TrainState(**training_state(read_last(last))["state"])


def _has_ended(state: TrainState, config: TrainConfig) -> bool:
    return state.epoch >= config.epochs or EarlyStopping(config.patience).should_stop(state)


def _clear_folder(files: RunFiles) -> None:
    """Remove the files of a training that was killed in its first epoch."""
    for path in files.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != files.log and not path.name.startswith(files.lock.name):  # the lock, or a turn to take it
            path.unlink()


def _starting_weights(plan: StudyPlan, variant: PlannedVariant, seed: int, files: RunFiles) -> str:
    """Return the checkpoint of --weights; for the parameter-matched baseline, one that is made from it."""
    if variant.weights is None:
        return ""
    matched, baseline = plan.parameter_matched, plan.variants[0]
    if variant.role == PARAMETER_MATCHED and matched and matched.takes_weights and baseline.cfg and variant.cfg:
        start = files.folder / "start.pt"
        return str(write_initial_weights(baseline.cfg, variant.cfg, variant.weights, seed, start))
    return str(variant.weights)


class ProgressWriter(Hook):
    """Writes progress.json: the seconds of each epoch, and the numbers of threads that computed the training.

    An epoch whose seconds a killed run did not write counts as the mean of the others.
    """

    def __init__(self, files: RunFiles):
        self.files = files
        self.seconds: list[float] = []
        self.threads = sorted({*files.thread_counts(), torch.get_num_threads()})

    def start(self, trainer: Trainer) -> None:
        known, done = list(self.files.epoch_seconds()), trainer.state.epoch
        mean = sum(known) / len(known) if known else 0.0
        self.seconds = (known + [mean] * done)[:done]

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        """Add an epoch.

        Args:
            trainer: The training.
            report: Results of the epoch.
        """
        self.seconds.append(report.seconds)
        write_json_atomically(
            self.files.progress, {"epochs": trainer.epochs, "seconds": self.seconds, "threads": self.threads}
        )


# ---- evaluation ----


def evaluate_run(plan: StudyPlan, weights: Path, device: str, files: RunFiles) -> Evaluation:
    """Evaluate a checkpoint on the study's split as val.py does, and write matches and scores.

    Args:
        plan: The study.
        weights: The checkpoint.
        device: "cpu" or a CUDA device number.
        files: Files of the run.

    Returns:
        The evaluation.

    Raises:
        ConfigError: The checkpoint has other classes than the dataset.
    """
    spec = data_of(plan)
    options = dataclasses.replace(run_options(plan), coco=True, verbose=len(spec.names) < FEW_CLASSES)
    evaluation = _evaluate(plan, weights, device, files.folder, options)
    facts = {
        "device": device_name(select_device(device)),
        "images": len(evaluation.results),
        "trained": read_json(files.trained),
        "versions": versions(),
    }
    files.write_evaluation(scores_of(evaluation, spec.names), matches_of(evaluation.results, spec.nc), facts)
    return evaluation


def evaluate_file(
    plan: StudyPlan, weights: Path | nn.Module, device: str, report_dir: Path, square: bool = False
) -> Evaluation:
    """Evaluate a checkpoint or an exported file on the study's split; nothing is written to the folder of a run.

    Args:
        plan: The study.
        weights: The file, or the network that it was opened as.
        device: "cpu" or a CUDA device number.
        report_dir: Folder that gets labels_<split>.csv if labels have problems.
        square: Every image in a square, as a file of one size takes them.

    Returns:
        The evaluation, without COCO's figures.

    Raises:
        UserError: It cannot be read or run, or has other classes than the dataset.
    """
    return _evaluate(plan, weights, device, report_dir, run_options(plan), square)


def run_options(plan: StudyPlan) -> EvalOptions:
    """Return how every checkpoint and file of a study is evaluated, without COCO's figures."""
    return EvalOptions(single_cls=plan.config.single_cls, slicing=Slicing.of(plan.config))


def _evaluate(
    plan: StudyPlan,
    weights: Path | nn.Module,
    device: str,
    report_dir: Path,
    options: EvalOptions,
    square: bool = False,
) -> Evaluation:
    """Evaluate a file on the study's split, in the batches of its runs."""
    config = plan.config
    split = SplitOptions.of(config)
    split = dataclasses.replace(split, square=True) if square else split
    source = EvalSplit(config.split, split, 2 * config.batch_size, config.workers, report_dir)
    network = weights if isinstance(weights, nn.Module) else [weights]
    return evaluate_weights(network, data_of(plan), options, source, select_device(device))


def data_of(plan: StudyPlan) -> DatasetSpec:
    """Return the dataset as the study counts it."""
    spec = DatasetSpec.load(plan.config.data)
    return spec.as_single_class() if plan.config.single_cls else spec


def scores_of(evaluation: Evaluation, names: tuple[str, ...]) -> Scores:
    """Return the scores of an evaluation as a study keeps them.

    Args:
        evaluation: The evaluation.
        names: Class names.

    Returns:
        The scores, 0..1.
    """
    metrics, coco = evaluation.metrics, evaluation.coco
    present = metrics.present
    per_class = {
        name: float(metrics.ap[class_id].mean()) if metrics.labels[class_id] else float("nan")
        for class_id, name in enumerate(names)
    }
    sizes: dict[str, Any] = {"small": coco.ap_small, "medium": coco.ap_medium, "large": coco.ap_large} if coco else {}
    return Scores(
        map=metrics.map,
        map50=metrics.map50,
        ap75=float(np.mean(metrics.ap[present, 5])) if len(present) else 0.0,
        precision=metrics.mean_precision,
        recall=metrics.mean_recall,
        size={name: float("nan") if value is None else value for name, value in sizes.items()},
        coco=coco.ap if coco else None,
        coco50=coco.ap50 if coco else None,
        per_class=per_class,
        errors={kind: cost for kind, _, cost in error_kinds(evaluation.results, len(names)).rows()},
    )
