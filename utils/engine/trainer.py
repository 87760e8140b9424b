"""The training loop, over parts that are already built: it knows nothing of files or flags.

A hook sees what happens (pictures, tables, checkpoints are hooks); a feature that is off is a
hook that is absent. A loss that is not finite stops the run before the optimizer's step.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from models.identity_start import gate_strengths
from utils.device import autocast, network_input, resized
from utils.engine.model_ema import ModelEMA
from utils.engine.nonfinite import describe_gradients, describe_outputs
from utils.engine.optim import apply_step_settings
from utils.errors import NonFiniteError
from utils.types import Batch, LossParts, StepSettings, TrainState

GRADIENT_CLIP = 10.0  # largest norm of all gradients together


class EpochLoader(Protocol):
    """Batches of one epoch, decided by its number."""

    def epoch(self, epoch: int) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


@dataclass
class TrainingComponents:
    """Everything a training needs, built.

    loss(raw maps, targets (M, 6)) returns the scalar to minimise and its LossParts;
    knobs(step) returns the schedule's StepSettings; image_size(epoch, batch number) returns the side in
    pixels to which a batch is resized, or None to leave it; stride is the model's largest.
    """

    model: nn.Module
    loss: Callable[[list[Tensor], Tensor], tuple[Tensor, LossParts]]
    optimizer: torch.optim.Optimizer
    knobs: Callable[[int], StepSettings]
    ema: ModelEMA
    loader: EpochLoader
    device: torch.device
    scaler: torch.amp.GradScaler
    amp: bool = False
    image_size: Callable[[int, int], int | None] = lambda epoch, batch: None
    stride: int = 32


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to: losses are means over its batches; evaluation is None where
    validation was skipped; is_best says whether the fitness rose above every epoch before, or none was above 0 yet;
    gates: mean |gate| of each attention block that started as the identity, by its name.
    """

    epoch: int
    losses: LossParts
    evaluation: object | None
    lr: tuple[float, ...]
    seconds: float
    is_best: bool
    is_last: bool
    gates: dict[str, float] = field(default_factory=dict)


class Hook:
    """Something that watches a training. Every method does nothing unless overridden."""

    def start(self, trainer: "Trainer") -> None:
        """Before the first epoch."""

    def before_epoch(self, trainer: "Trainer", epoch: int) -> None:
        """Before an epoch's first batch."""

    def after_batch(self, trainer: "Trainer", batch: Batch, progress: "EpochProgress") -> None:
        """After a batch's backward pass and, where one was due, the optimizer's step."""

    def after_epoch(self, trainer: "Trainer", report: EpochReport) -> None:
        """After an epoch and its validation."""

    def close(self, trainer: "Trainer") -> None:
        """When training ends, also where an error or Ctrl-C ended it."""


@dataclass
class EpochProgress:
    """Where the current epoch stands: mean losses so far, batches done, the batch's input shape."""

    epoch: int
    batches: int
    done: int = 0
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    shape: tuple[int, int] = (0, 0)

    def add(self, parts: Sequence[float]) -> None:
        self.done += 1
        self.mean = [mean + (value - mean) / self.done for mean, value in zip(self.mean, parts)]


class LossReader:
    """Brings a batch's losses to the host without emptying the device's queue.

    On CUDA the copy is queued right behind the loss and awaited only after the backward pass has
    been queued too, so that the device is at work while the host looks at the figures.
    """

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.host = torch.empty(4, pin_memory=True) if self.on_cuda else torch.empty(4)
        self.event = torch.cuda.Event() if self.on_cuda else None

    def queue(self, total: Tensor, parts: LossParts) -> None:
        values = torch.stack([value.detach().float().reshape(()) for value in (total, parts.box, parts.obj, parts.cls)])
        self.host.copy_(values, non_blocking=True)
        if self.event is not None:
            self.event.record()

    def read(self) -> list[float]:
        """[total, box, obj, cls] of the batch last queued."""
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


class Trainer:
    """Trains `parts` from `state.epoch` to `epochs`.

    evaluate(module) returns an object with .metrics (DetectionMetrics); it is called after each
    epoch for which should_evaluate(epoch) holds, and after the last. should_stop(state) ends the run early.
    """

    def __init__(
        self,
        parts: TrainingComponents,
        state: TrainState,
        epochs: int,
        hooks: Sequence[Hook] = (),
        evaluate: Callable[[nn.Module], object] | None = None,
        should_evaluate: Callable[[int], bool] = lambda epoch: True,
        should_stop: Callable[[TrainState], bool] = lambda state: False,
    ):
        self.parts, self.state, self.epochs = parts, state, epochs
        self.hooks, self.evaluate = tuple(hooks), evaluate
        self.should_evaluate, self.should_stop = should_evaluate, should_stop
        self.losses = LossReader(parts.device)

    def fit(self) -> TrainState:
        """Run the remaining epochs and return the final state."""
        try:
            self._tell("start")
            while self.state.epoch < self.epochs:
                report = self.run_epoch(self.state.epoch)
                self._tell("after_epoch", report)
                if report.is_last:
                    break
        finally:
            self._tell("close")
        return self.state

    def run_epoch(self, epoch: int) -> EpochReport:
        """Train and validate one epoch; move the state past it."""
        started = time.perf_counter()
        self._tell("before_epoch", epoch)
        losses = self.train_epoch(epoch)
        state = self.state
        state.epoch = epoch + 1
        evaluation, is_best = None, state.best_fitness == 0  # while nothing was found, the newest is the best
        if self.evaluate and (self.should_evaluate(epoch) or epoch + 1 == self.epochs):
            evaluation = self.evaluate(self.parts.ema.module)
            is_best = self._note(evaluation, epoch)
        is_last = state.epoch >= self.epochs or self.should_stop(state)
        lr = tuple(group["lr"] for group in self.parts.optimizer.param_groups[:3])  # gates follow the first
        return EpochReport(
            epoch,
            losses,
            evaluation,
            lr,
            time.perf_counter() - started,
            is_best,
            is_last,
            gate_strengths(self.parts.model),
        )

    def train_epoch(self, epoch: int) -> LossParts:
        """One pass over the loader; returns the mean losses."""
        parts = self.parts
        parts.model.train()
        parts.optimizer.zero_grad(set_to_none=True)
        progress = EpochProgress(epoch, len(parts.loader))
        pending = 0
        for number, batch in enumerate(parts.loader.epoch(epoch)):
            knobs = parts.knobs(self.state.step)
            apply_step_settings(parts.optimizer, knobs)
            progress.shape = self.backward(batch, epoch, number, progress)
            pending += 1
            # the epoch's last gradients are applied too: each picture counts once, and an epoch leaves nothing behind
            if pending >= knobs.accumulate or number + 1 == progress.batches:
                self.optimizer_step()
                pending = 0
            self.state.step += 1
            self._tell("after_batch", batch, progress)
        return LossParts(*progress.mean)

    def backward(self, batch: Batch, epoch: int, number: int, progress: EpochProgress) -> tuple[int, int]:
        """Add one batch's gradients; returns the input's (height, width). Raises NonFiniteError."""
        parts = self.parts
        images = resized(network_input(batch.images, parts.device), parts.image_size(epoch, number), parts.stride)
        targets = batch.targets.to(parts.device, non_blocking=True)
        with autocast(parts.device, parts.amp):
            total, loss_parts = parts.loss(parts.model(images), targets)
        self.losses.queue(total, loss_parts)
        parts.scaler.scale(total).backward()
        value, *items = self.losses.read()
        if not all(map(math.isfinite, (value, *items))):
            where = describe_outputs(parts.model, images)
            raise NonFiniteError(
                f"epoch {epoch}, batch {number}: the loss is {value} "
                f"(box {items[0]:g}, obj {items[1]:g}, cls {items[2]:g}); {where}; pictures: {', '.join(batch.paths[:4])}; lower lr0 or check these labels"
            )
        progress.add(items)
        return tuple(images.shape[2:])

    def optimizer_step(self) -> None:
        """Clip, step, and move the average. On CUDA the scaler leaves out a step with non-finite
        gradients on the device itself; elsewhere such gradients end the run.
        """
        parts = self.parts
        parts.scaler.unscale_(parts.optimizer)
        weights = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if parts.device.type == "cpu" and not bool(torch.isfinite(norm)):
            raise NonFiniteError(
                f"step {self.state.step}: {describe_gradients(parts.model)}; lower lr0 or the loss gains"
            )
        torch.nn.utils.clip_grads_with_norm_(weights, GRADIENT_CLIP, norm)
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        parts.optimizer.zero_grad(set_to_none=True)
        parts.ema.update(parts.model)

    def _note(self, evaluation: object, epoch: int) -> bool:
        metrics = evaluation.metrics
        is_best = metrics.fitness > self.state.best_fitness or self.state.best_fitness == 0
        self.state.class_map = [float(value) for value in metrics.class_map]
        if is_best:
            self.state.best_fitness, self.state.best_epoch = metrics.fitness, epoch
        return is_best

    def _tell(self, event: str, *arguments) -> None:
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)
