"""Distillation in a training: the networks that teach run, and their terms are added to the loss of a batch, and saved.

They are `--teacher`, which is trained already, and with `self_distill` the training's own average. The terms themselves
are in utils.distillation.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.inference import largest_stride
from models.yolo import Model
from utils.checkpoint import find_weights, load_models
from utils.config import Hyperparameters, TrainConfig
from utils.distillation import ChannelDistillation, HeadOutputs, SoftTargets, match_heads, ramp_up, same_strides
from utils.engine.epoch_history import EpochHistory
from utils.errors import ConfigError, UserError
from utils.log import LOGGER
from utils.loss import DetectionLoss
from utils.processes import ALONE, Processes

TERMS = ("predictions", "features", "average")  # of the teacher, of the teacher's maps, of the training's own average


@dataclass(frozen=True)
class Teacher:
    """A network that teaches, and what of its maps is learned.

    Attributes:
        path: Its file.
        model: In evaluation mode, without gradients; its head returns raw maps.
        levels: (student's level, teacher's level) of equal strides.
        features: The feature term over these levels, None without.
    """

    path: Path
    model: Model
    levels: tuple[tuple[int, int], ...]
    features: ChannelDistillation | None

    def digest(self) -> str:
        """Return what its file is recognized by."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class StudentPass:
    """A training pass of the student.

    Attributes:
        images: (B, 3, H, W) network input.
        raw_maps: (B, na, H, W, 5+nc) per level.
        features: (B, C, H, W) maps that the head read; empty unless they are learned from.
        counts: Whether the images count, or only stand in.
    """

    images: Tensor
    raw_maps: Sequence[Tensor]
    features: Sequence[Tensor]
    counts: bool = True


def open_teacher(config: TrainConfig, hyp: Hyperparameters, model: Model, device: torch.device) -> Teacher | None:
    """Return the teacher of `--teacher`, or None.

    Args:
        config: The flags.
        hyp: Says what is learned from it.
        model: The student.
        device: Where it trains.

    Returns:
        The teacher, and the adapters to its maps.

    Raises:
        ConfigError: If nothing can be learned from it.
        CheckpointError: If the file cannot be read.
    """
    if not config.teacher:
        return None
    if not (hyp.distill or hyp.distill_features):
        raise ConfigError(
            "--teacher: distill and distill_features are 0 in the hyperparameters; raise one, or leave out the teacher"
        )
    try:
        path = find_weights(config.teacher, download=config.download)
        taught = cast(Model, load_models(path, device, fuse=True))
    except UserError as error:
        raise type(error)(f"--teacher: {error}") from None
    _check_inputs(path, taught, model, config)
    taught.head.train()  # raw maps, not decoded ones; it has no layer that behaves otherwise in training
    levels = tuple(same_strides(model.geometry, taught.geometry)) if hyp.distill_features else ()
    return Teacher(path, taught, levels, _feature_term(levels, model, taught, config.seed, device))


def _check_inputs(path: Path, taught: Model, model: Model, config: TrainConfig) -> None:
    """Raise ConfigError if a teacher cannot read the student's images."""
    ours, theirs = (each.yaml.get("ch", 3) for each in (model, taught))
    if ours != theirs:
        raise ConfigError(
            f"--teacher {path}: reads images of {theirs} channels, the model reads {ours}; take another teacher"
        )
    stride, own = largest_stride(taught), largest_stride(model)
    if stride > own and (config.multi_scale or config.rect or config.imgsz % stride):
        raise ConfigError(
            f"--teacher {path}: needs sides that are multiples of {stride} pixels, the model's images are multiples of "
            f"{own}; give --imgsz {max(round(config.imgsz / stride), 1) * stride} without --multi-scale and --rect, or "
            "a teacher without a fourth level"
        )


def _feature_term(
    levels: Sequence[tuple[int, int]], model: Model, taught: Model, seed: int, device: torch.device
) -> ChannelDistillation | None:
    if not levels:
        return None
    widths = [(_width(model, ours), _width(taught, theirs)) for ours, theirs in levels]
    return ChannelDistillation(widths, seed).to(device)


def _width(model: Model, level: int) -> int:
    """Channels of the map that a level of the head reads."""
    return cast(nn.Conv2d, model.head.m[level]).in_channels


def add_adapters(optimizer: torch.optim.Optimizer, teacher: Teacher | None) -> None:
    """Give the adapters of a teacher to the optimizer, as a group behind the others, with the rate of the weights.

    Args:
        optimizer: Of the student.
        teacher: The teacher, or None.
    """
    if teacher is not None and teacher.features is not None:
        optimizer.add_param_group(
            {
                "params": list(teacher.features.parameters()),
                "weight_decay": optimizer.param_groups[1]["weight_decay"],
                "lr_scale": 1.0,
                "rate": 1,
            }
        )


class Distillation:
    """The terms that a training adds to the loss of a batch, and their means per epoch.

    Args:
        gains: Of each of TERMS; 0 leaves it out.
        teacher: The teacher, None without.
        predictions: The teacher's prediction term, None without.
        average: The term of the training's own average, None without.
        warmup: Batches over which the average's gain rises.
        every: Every how many batches are distilled; these count as many times.
        processes: Those that train together.
    """

    def __init__(
        self,
        gains: Mapping[str, float],
        teacher: Teacher | None = None,
        predictions: SoftTargets | None = None,
        average: SoftTargets | None = None,
        warmup: int = 0,
        every: int = 1,
        processes: Processes = ALONE,
    ):
        self.gains, self.teacher, self.predictions, self.average = dict(gains), teacher, predictions, average
        self.warmup, self.every, self.processes = warmup, every, processes
        self.sums: Tensor | None = None  # (3,) of this epoch's values
        self.batches = 0
        self.history = EpochHistory()
        self.digest = teacher.digest() if teacher else ""

    @property
    def features(self) -> ChannelDistillation | None:
        """The teacher's feature term, None without."""
        return self.teacher.features if self.teacher else None

    def is_due(self, step: int) -> bool:
        """Return whether the batch of a step is distilled: every process decides alike."""
        return step % self.every == 0

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Yield a list that gets the maps that a model's head reads in a pass; it stays empty if none are needed."""
        maps: list[Tensor] = []
        if self.features is None:
            yield maps
            return
        with head_inputs(cast(Model, model), maps):
            yield maps

    def __call__(self, student: StudentPass, average: nn.Module, step: int) -> Tensor:
        """Return what is added to the loss of a batch.

        Of several processes the mean of their results is that of the global batch, as with the detection loss.

        Args:
            student: The training pass.
            average: The training's own average, in evaluation mode.
            step: Batches seen.

        Returns:
            () the sum of the terms times the batch size.
        """
        own = len(student.images) if student.counts else 0
        images = self.processes.sum(torch.tensor(float(own), device=student.images.device))
        share = own / images if self.processes.is_several else 1.0
        values = self._values(student, average, step, share)
        self._note(values)
        total = torch.stack(list(values.values())).sum() * images * self.every
        return total * self.processes.world.size if self.processes.is_several else total

    def _values(self, student: StudentPass, average: nn.Module, step: int, share: Tensor | float) -> dict[str, Tensor]:
        """The terms by name, after gains: this process's share of the mean per image."""
        values = {}
        if self.teacher is not None:
            raw_maps, features = self._taught(self.teacher, student.images)
            if self.predictions is not None:
                values["predictions"] = self.predictions(student.raw_maps, raw_maps, share)
            if self.features is not None:
                maps = [student.features[ours] for ours, _ in self.teacher.levels]
                values["features"] = self.features(maps, features) * share
        if self.average is not None:
            with torch.no_grad():
                _, raw_maps = average(student.images)
            values["average"] = self.average(student.raw_maps, raw_maps, share) * ramp_up(step, self.warmup)
        return {name: self.gains[name] * value for name, value in values.items()}

    @torch.no_grad()
    def _taught(self, teacher: Teacher, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A teacher's raw maps, and the maps that its head reads at the levels that are learned from."""
        features: list[Tensor] = []
        with head_inputs(teacher.model, features):
            raw_maps = teacher.model(images)
        return raw_maps, [features[theirs] for _, theirs in teacher.levels]

    def _note(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch's values to the sums of the epoch; nothing waits for the device."""
        some = next(iter(values.values()))
        row = torch.stack([values.get(name, some.new_zeros(())).detach() for name in TERMS])
        row = self.processes.sum(row)
        self.sums = row if self.sums is None else self.sums.to(row.device) + row
        self.batches += 1

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Return the mean of each term over an epoch's batches, keep it in the history, and start anew.

        Args:
            epoch: Index of the epoch.

        Returns:
            The means of the terms that are on.
        """
        sums = [0.0] * len(TERMS) if self.sums is None else self.sums.tolist()
        means = {name: value / max(self.batches, 1) for name, value in zip(TERMS, sums, strict=True)}
        self.history.add({"epoch": epoch, **means})
        self.sums, self.batches = None, 0
        terms = zip(TERMS, (self.predictions, self.features, self.average), strict=True)
        return {name: means[name] for name, term in terms if term is not None}

    def average_gradients(self) -> None:
        """Give the adapters the mean of all processes' gradients, as the student's wrapper does for the student."""
        if self.features is None or not self.processes.is_several:
            return
        weights = [weight for weight in self.features.parameters() if weight.grad is not None]
        if not weights:
            return
        mean = self.processes.sum(torch.cat([cast(Tensor, weight.grad).flatten() for weight in weights]))
        mean /= self.processes.world.size
        for weight, part in zip(weights, mean.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def state_dict(self) -> dict:
        """Return the state that a resumed training needs."""
        return {
            "adapters": self.features.state_dict() if self.features is not None else {},
            "sums": self.sums,
            "batches": self.batches,
            "history": self.history.saved(),
            "digest": self.digest,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Load a state_dict; logs if it was made with another file of the teacher."""
        if self.features is not None:
            self.features.load_state_dict(state["adapters"])
        self.sums, self.batches = state["sums"], int(state["batches"])
        self.history = EpochHistory.of(state["history"])
        if self.teacher and state["digest"] != self.digest:
            LOGGER.warning(
                f"WARNING: --teacher {self.teacher.path}: has changed since the training was stopped; it goes on, but "
                "not as one that was never stopped"
            )


@contextlib.contextmanager
def head_inputs(model: Model, maps: list[Tensor]) -> Iterator[None]:
    """Put the maps that a model's head reads into a list, for the passes within the context.

    Args:
        model: The network.
        maps: Gets (B, C, H, W) per level.

    Yields:
        Once.
    """
    handle = model.head.register_forward_pre_hook(lambda head, inputs: maps.extend(inputs[0]))
    try:
        yield
    finally:
        handle.remove()


def build_distillation(
    hyp: Hyperparameters, model: Model, loss: DetectionLoss, teacher: Teacher | None, warmup: int
) -> Distillation | None:
    """Return the distillation of a training, logged; None if it has none.

    Args:
        hyp: Gains as the user gave them.
        model: The student, with its final anchors.
        loss: The detection loss, whose gains, weights of levels and processes are taken.
        teacher: The teacher, or None.
        warmup: Batches of the warm-up.

    Returns:
        The distillation.

    Raises:
        ConfigError: If a teacher can teach nothing.
    """
    gains = {"predictions": hyp.distill, "features": hyp.distill_features, "average": hyp.self_distill}
    own = HeadOutputs(model.geometry, model.names)
    average = _soft_targets(own, own, loss) if hyp.self_distill else None
    predictions = _predictions_of(teacher, own, loss) if teacher and hyp.distill else None
    if teacher is not None and predictions is None and teacher.features is None:
        raise ConfigError(
            f"--teacher {teacher.path}: the model can learn nothing from it; take one with its classes and anchors"
        )
    if teacher is None and average is None:
        return None
    every = max(round(hyp.distill_every), 1)
    made = Distillation(gains, teacher, predictions, average, warmup, every, loss.processes)
    _log(made)
    return made


def _soft_targets(own: HeadOutputs, other: HeadOutputs, loss: DetectionLoss) -> SoftTargets | None:
    match = match_heads(own, other)
    if not match:
        return None
    balance = [float(weight) for weight in loss.balance][: own.geometry.levels]
    return SoftTargets(match, own.geometry, other.geometry, loss.hyp, balance, loss.processes)


def _predictions_of(teacher: Teacher, own: HeadOutputs, loss: DetectionLoss) -> SoftTargets | None:
    """The prediction term of a teacher, None if it has no level or no class of the student; says what is missing."""
    other = HeadOutputs(teacher.model.geometry, teacher.model.names)
    made, problems = _soft_targets(own, other, loss), match_heads(own, other).problems
    if problems:
        what = "its predictions teach the rest" if made else "its predictions teach nothing"
        what += "" if made or teacher.features is None else ", its maps alone do"
        LOGGER.warning(f"WARNING: --teacher {teacher.path}: {'; '.join(problems)}; {what}")
    return made


def _log(made: Distillation) -> None:
    """Log the terms with their gains, and how often they are computed."""
    parts = []
    if made.predictions is not None:
        match = made.predictions.match
        parts.append(
            f"predictions x {made.gains['predictions']:g} ({len(match.levels)} levels, {len(match.classes)} classes)"
        )
    if made.features is not None:
        count = sum(weight.numel() for weight in made.features.parameters())
        parts.append(f"maps x {made.gains['features']:g} ({count} weights of adapters)")
    if made.average is not None:
        parts.append(f"own average x {made.gains['average']:g} (reached after {made.warmup} batches)")
    source = f" from {made.teacher.path.name}" if made.teacher else ""
    often = f", every {made.every} batches" if made.every > 1 else ""
    LOGGER.info(f"distillation{source}: {', '.join(parts)}{often}; each teacher costs a pass without gradients")
