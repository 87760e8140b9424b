"""One run of a study in a process of its own: train what is missing, then evaluate best.pt by the one `evaluate`."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.registry import load_plugins
from utils.checkpoint import read_checkpoint, strip
from utils.compare.parameter_matched import write_start
from utils.compare.plan import PlannedVariant, StudyPlan
from utils.compare.provenance import device_name, versions
from utils.compare.results import Scores
from utils.compare.run_dir import RunFiles, read_json
from utils.config import DatasetSpec, EvalOptions, SplitOptions, TrainConfig
from utils.device import select_device
from utils.engine.evaluator import EvalSplit, Evaluation, evaluate_weights
from utils.engine.optim import EarlyStopping
from utils.engine.trainer import EpochReport, Hook, Trainer
from utils.engine.training import train
from utils.engine.validation import FEW_CLASSES, has_pycocotools
from utils.files import write_json_atomically
from utils.statistics import matches_of
from utils.statistics.tide import error_kinds
from utils.types import TrainState


def do_run(plan: StudyPlan, variant: PlannedVariant, seed: int, device: str) -> None:
    """Bring one run to its end, from wherever it stands. Raises UserError kinds."""
    files = plan.files(variant.name, seed)
    files.failed.unlink(missing_ok=True)
    load_plugins(plan.config.plugin)
    weights = variant.weights
    if plan.trains:
        if not files.trained.exists():
            train_missing(plan, variant, seed, device, files)
        weights = files.best
    if not files.is_done():
        evaluate_run(plan, weights, device, files)


def train_missing(plan: StudyPlan, variant: PlannedVariant, seed: int, device: str, files: RunFiles) -> None:
    """Train from the start, or from last.pt, to the end; a training that was killed behind its last epoch is only closed."""
    config = plan.config.training(
        str(variant.cfg), seed, device=device, project=str(files.folder.parent), name=files.folder.name, exist_ok=True
    )
    done = state_of(files.last) if files.last.exists() else None
    if done is None:
        _clear(files)
        train(dataclasses.replace(config, weights=_start(plan, variant, seed, files)), hooks=[Watch(files)])
    elif not _has_ended(done, config):
        train(TrainConfig(resume=str(files.last), device=device), hooks=[Watch(files)])
    strip(files.best)  # once more where train did: that changes nothing
    state = state_of(files.last)
    write_json_atomically(
        files.trained, {"epochs": state.epoch, "best_epoch": state.best_epoch, "threads": files.threads()}
    )


def state_of(last: Path) -> TrainState:
    """Return where the training in a last.pt stands."""
    return TrainState(**read_checkpoint(last).training["state"])


def _has_ended(state: TrainState, config: TrainConfig) -> bool:
    return state.epoch >= config.epochs or EarlyStopping(config.patience).should_stop(state)


def _clear(files: RunFiles) -> None:
    """Take away what a training that was killed in its first epoch has left."""
    for path in files.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in (files.log, files.claim) and not path.name.endswith(".guard"):
            path.unlink()


def _start(plan: StudyPlan, variant: PlannedVariant, seed: int, files: RunFiles) -> str:
    """Return the checkpoint that a training starts from: --weights, and for the control one made of it."""
    if variant.weights is None or variant.role != "control" or not plan.widened.takes_weights:
        return str(variant.weights or "")
    baseline = plan.variants[0].cfg
    return str(write_start(baseline, variant.cfg, variant.weights, seed, files.folder / "start.pt"))


class Watch(Hook):
    """progress.json: the seconds of each epoch, and the numbers of threads that computed it. What a killed run did not get to write counts as its mean."""

    def __init__(self, files: RunFiles):
        self.files, self.seconds = files, []
        self.threads = sorted({*files.threads(), torch.get_num_threads()})

    def start(self, trainer: Trainer) -> None:
        known, done = list(self.files.epochs()), trainer.state.epoch
        mean = sum(known) / len(known) if known else 0.0
        self.seconds = (known + [mean] * done)[:done]

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        self.seconds.append(report.seconds)
        write_json_atomically(
            self.files.progress, {"epochs": trainer.epochs, "seconds": self.seconds, "threads": self.threads}
        )


# ---- evaluation ----


def evaluate_run(plan: StudyPlan, weights: Path, device: str, files: RunFiles) -> Evaluation:
    """Evaluate a checkpoint on the study's split as val.py does, and keep matches and scores. Raises ConfigError where its
    classes are not the data's.
    """
    config, chosen = plan.config, select_device(device)
    spec = data_of(plan)
    split = EvalSplit(config.split, SplitOptions.of(config), 2 * config.batch_size, config.workers, files.folder)
    options = EvalOptions(single_cls=config.single_cls, coco=has_pycocotools(), verbose=len(spec.names) < FEW_CLASSES)
    evaluation = evaluate_weights([weights], spec, options, split, chosen)
    facts = {
        "device": device_name(chosen),
        "images": len(evaluation.results),
        "trained": read_json(files.trained),
        "versions": versions(),
    }
    files.write_evaluation(scores_of(evaluation, spec.names), matches_of(evaluation.results, spec.nc), facts)
    return evaluation


def data_of(plan: StudyPlan) -> DatasetSpec:
    """Return the data set as the study counts it."""
    spec = DatasetSpec.load(plan.config.data)
    return spec.as_single_class() if plan.config.single_cls else spec


def scores_of(evaluation: Evaluation, names: tuple[str, ...]) -> Scores:
    """Return an evaluation's figures as a study keeps them."""
    metrics, coco = evaluation.metrics, evaluation.coco
    present = metrics.present
    per_class = {
        name: float(metrics.ap[number].mean()) if metrics.labels[number] else float("nan")
        for number, name in enumerate(names)
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
