"""What train.py runs: one training from flags to its run folder, fresh or resumed."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from utils.checkpoint import Checkpoint, checkpoint_of, read_checkpoint, strip, write_checkpoint
from utils.config import DatasetSpec, EvalOptions, Hyperparameters, TrainConfig
from utils.datasets.letterbox import round_to_stride
from utils.device import select_device
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
from utils.engine.evaluator import Evaluation, evaluate, evaluate_weights, largest_stride
from utils.engine.hooks import Checkpoints, Console, ResultsFile, TensorBoard, TrainBatchImages
from utils.engine.optim import EarlyStopping
from utils.engine.resume import restoring
from utils.engine.trainer import Hook, Trainer
from utils.engine.validation import FEW_CLASSES, ReportOptions, has_pycocotools, report_evaluation
from utils.engine.validation_files import ValBatchImages
from utils.errors import CheckpointError
from utils.files import ROOT, new_run_dir, write_text_atomically
from utils.log import LOGGER
from utils.types import TrainState


@dataclass(frozen=True)
class TrainResult:
    """What a training came to: its folder, its last state, and best.pt's validation."""

    save_dir: Path
    state: TrainState
    evaluation: Evaluation

    def row(self) -> tuple[float, ...]:
        """v6.1's results: P, R, mAP50, mAP50-95, box, obj and cls loss of validation."""
        losses = self.evaluation.losses
        return (*self.evaluation.metrics.row(), *(losses.row() if losses else (0.0, 0.0, 0.0)))


def train(config: TrainConfig, hyp: Hyperparameters | None = None, hooks: Sequence[Hook] = ()) -> TrainResult:
    """Train as `config` says and return the result; `hyp` replaces the file that config.hyp names."""
    config, resumed = resolve_config(config)
    prepare_process(config)
    hyp = saved_hyperparameters(resumed) if resumed else hyp or Hyperparameters.load(config.hyp)
    LOGGER.info("hyperparameters: " + ", ".join(f"{name}={value}" for name, value in hyp.as_dict().items()))
    spec = DatasetSpec.load(config.data)
    spec = spec.as_single_class() if config.single_cls else spec
    device = select_device(config.device)
    model, transferred = build_detector(config, hyp, spec, resumed, device)
    config = with_full_paths(resolve_sizes(config, model, device), spec)
    optimizer = optimizer_for(model, config, hyp)
    save_dir = folder_of(resumed) if resumed else new_run_dir(config.project, config.name, config.exist_ok)
    write_settings(config, hyp, save_dir)
    if transferred:
        LOGGER.info(f"what became of each tensor: {transferred.write(save_dir / 'transfer.csv')}")
    data = build_data(config, hyp, spec, model, save_dir)
    if not resumed:
        draw_labels(data, save_dir)
        if not config.noautoanchor:
            fit_anchors(model, data, hyp, config)
    components = build_components(config, hyp, model, optimizer, data, resumed)
    state = restore_state(resumed)
    data.train.follow(lambda: state.class_map if config.image_weights else None)

    def validate(module: nn.Module) -> Evaluation:
        return evaluate(module, data.val, spec.names, EvalOptions(single_cls=config.single_cls), loss=components.loss)

    trainer = Trainer(
        components,
        state,
        config.epochs,
        evaluate=validate,
        should_evaluate=lambda epoch: not config.noval,
        should_stop=EarlyStopping(config.patience).should_stop,
        hooks=[
            ResultsFile(save_dir / "results.csv"),
            TensorBoard(save_dir),
            TrainBatchImages(save_dir, model.names),
            Checkpoints(save_dir / "weights", saver(config, hyp), config.save_period, config.nosave),
            Console(),
            *hooks,
        ],
    )
    LOGGER.info(
        f"Image sizes {config.imgsz} train, {config.imgsz} val\nUsing {data.train.workers} dataloader workers\n"
        f"Logging results to {save_dir}"
    )
    run_to_end(trainer, save_dir)
    data.train.close()
    return finish(trainer, config, data, save_dir)


def resolve_config(config: TrainConfig) -> tuple[TrainConfig, Checkpoint | None]:
    """Return the settings in force, and the checkpoint to continue from or None."""
    if not config.resume:
        return config, None
    path = resume_file(config)
    checkpoint = read_checkpoint(path)
    if not checkpoint.training:
        raise CheckpointError(
            f"{path}: holds weights only and cannot be resumed; start a new training with --weights {path}"
        )
    with restoring(str(path)):
        saved, done = TrainConfig(**checkpoint.training["config"]), int(checkpoint.training["state"]["epoch"])
    changes = dict(resume=str(path), device=config.device)
    if config.epochs not in (TrainConfig.epochs, saved.epochs):
        LOGGER.info(
            f"epochs {saved.epochs} -> {config.epochs}: from here on the learning rate follows the new number's schedule"
        )
        changes["epochs"] = config.epochs
    settings = dataclasses.replace(saved, **changes)
    if done >= settings.epochs:
        raise CheckpointError(
            f"{path}: its {done} epochs are done; --epochs N with N over {done} goes on, "
            f"--weights {path} starts anew from it"
        )
    LOGGER.info(f"resuming {path} at epoch {done} of {settings.epochs}")
    return settings, checkpoint


def saved_hyperparameters(resumed: Checkpoint) -> Hyperparameters:
    with restoring(resumed.source):
        return Hyperparameters.load(dict(resumed.training["hyp"]))


def folder_of(resumed: Checkpoint) -> Path:
    """Return the folder of the run that a checkpoint belongs to, wherever it was moved."""
    folder = Path(resumed.source).resolve().parent
    return folder.parent if folder.name == "weights" else folder


def resume_file(config: TrainConfig) -> Path:
    """Return the file that --resume means: the path given, a run folder's last.pt, or the newest last*.pt under runs/."""
    if isinstance(config.resume, str):
        path = Path(config.resume)
        path = path / "weights" / "last.pt" if path.is_dir() else path
        if not path.exists():
            raise CheckpointError(f"--resume {path}: no such file; give a run's weights/last.pt")
        return path
    places = {Path(config.project), ROOT / "runs"}
    found = [path for place in places if place.is_dir() for path in place.rglob("last*.pt")]
    if not found:
        raise CheckpointError(f"--resume: no last.pt lies under {' or '.join(sorted(map(str, places)))}; give its path")
    return max(found, key=lambda path: path.stat().st_mtime)


def resolve_sizes(config: TrainConfig, model: nn.Module, device: torch.device) -> TrainConfig:
    """Return the config with the picture size and batch size that will really be used."""
    (imgsz,) = round_to_stride((config.imgsz,), largest_stride(model), cells=2)
    batch = config.batch_size
    if batch == -1:
        batch = auto_batch_size(model, imgsz, device, amp=config.amp is not False)
    return dataclasses.replace(config, imgsz=imgsz, batch_size=batch)


def with_full_paths(config: TrainConfig, spec: DatasetSpec) -> TrainConfig:
    """Return the config with the files that a resumed training reads again named from any folder."""
    plugins = tuple(str(Path(name).resolve()) for name in config.plugin)
    return dataclasses.replace(config, data=str(spec.file.resolve()), plugin=plugins)


def write_settings(config: TrainConfig, hyp: Hyperparameters, save_dir: Path) -> None:
    """Leave opt.yaml and hyp.yaml in the run's folder: what the run was really made with."""
    import yaml

    for name, values in (("opt.yaml", config.as_dict()), ("hyp.yaml", hyp.as_dict())):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text_atomically(save_dir / name, text)


def draw_labels(data: TrainData, save_dir: Path) -> None:
    """Leave labels.jpg and labels_correlogram.jpg in the run's folder."""
    from utils.plots.label_statistics import plot_labels

    store = data.train.dataset.store
    plot_labels(store.cls, store.xywhn, data.spec.names, save_dir)


def restore_state(resumed: Checkpoint | None) -> TrainState:
    """Return where training starts, with torch's generators as they were."""
    if resumed is None:
        return TrainState()
    with restoring(resumed.source):
        generators = resumed.training["generators"]
        torch.set_rng_state(generators["torch"])
        if torch.cuda.is_available() and generators["cuda"]:
            torch.cuda.set_rng_state_all(generators["cuda"])
        return TrainState(**resumed.training["state"])


def saver(config: TrainConfig, hyp: Hyperparameters):
    """Return save(trainer, path): writes everything that a resumed training needs, in full precision."""

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
        }
        write_checkpoint(checkpoint_of(components.ema.module, training=training), path)

    return save


def run_to_end(trainer: Trainer, save_dir: Path) -> None:
    """Train; say how to go on when interrupted."""
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


def finish(trainer: Trainer, config: TrainConfig, data: TrainData, save_dir: Path) -> TrainResult:
    """Strip best.pt, validate the file as val.py would, and draw the curves."""
    from utils.plots.curves import plot_results

    best = save_dir / "weights" / "best.pt"
    strip(best)
    LOGGER.info(f"Optimizer stripped from {best}, {best.stat().st_size / 1e6:.1f}MB\nValidating {best}...")
    spec, components = data.spec, trainer.components
    verbose = len(spec.names) < FEW_CLASSES
    options = EvalOptions(single_cls=config.single_cls, coco=has_pycocotools(), verbose=verbose)
    images = ValBatchImages(save_dir, spec.names)
    evaluation = evaluate_weights(
        [best], spec, options, data.val, components.device, loss=components.loss, observers=[images]
    )
    size, batch_size = data.val.dataset.imgsz, data.val.batch_size
    settings = {"weights": str(best), "single_cls": config.single_cls, "imgsz": size, "batch_size": batch_size}
    evaluation = report_evaluation(evaluation, spec.names, save_dir, ReportOptions(settings))
    data.val.close()
    plot_results(save_dir / "results.csv")
    LOGGER.info(f"Results saved to {save_dir}")
    return TrainResult(save_dir, trainer.state, evaluation)
