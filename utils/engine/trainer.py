"""The training loop, over components that are already built: it knows nothing of files or flags.

Hooks see what happens (the console, tables, images and checkpoints are hooks); a feature that is off is a hook that is
absent. A loss that is not finite stops the run before the optimizer's step.

Right after an optimizer step no gradient is pending, so a state of then is complete: `TrainState.batches_done` says
where in its epoch a training stands, and one that is resumed there gets exactly the batches that remain. A signal that
asks the program to end is taken after a step; a validation is broken off at once, and made again by a resumed training.
"""

import contextlib
import math
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.identity_start import gate_strengths
from models.norms import count_images
from utils.device import autocast, network_input, resize_long_side
from utils.engine.autobatch import is_out_of_memory
from utils.engine.distilling import Distillation, StudentPass
from utils.engine.evaluator import Evaluation
from utils.engine.model_ema import ModelEMA
from utils.engine.noise_scale import NoiseScale
from utils.engine.nonfinite import describe_gradients, describe_outputs
from utils.engine.optim import apply_step_settings
from utils.engine.weight_average import WeightAverage
from utils.errors import MemoryShortageError, NonFiniteError, UserError
from utils.log import LOGGER
from utils.processes import ALONE, Processes, checksum
from utils.stop_signals import StopRequest, interruption_by
from utils.types import Batch, LossParts, StepSettings, TrainState

GRADIENT_CLIP = 10.0  # largest norm of all gradients together
LAUNCHER_GONE = (
    "the launcher ended without its processes, as SIGUSR1 does unless torchrun has --signals-to-handle "
    "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
)
CHECKED_STEPS = 3  # first steps in which processes compare their gradients


class EpochLoader(Protocol):
    """Batches of one epoch, decided by its number: all, or those whose places in it are given."""

    def epoch(self, epoch: int, batches: Sequence[int] | None = None) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class TrainingLoss(Protocol):
    """A loss with a state of its own, such as the running mean of Wise-IoU."""

    def __call__(self, raw_maps: list[Tensor], targets: Tensor, counts: bool = True) -> tuple[Tensor, LossParts]: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


@dataclass
class TrainingComponents:
    """Everything a training needs, built.

    Attributes:
        model: The network, on `device`.
        loss: Takes the raw maps and targets (M, 6); returns the scalar to minimize and its parts.
        optimizer: Over every trainable parameter.
        step_settings: Schedule: step -> learning rates, momentum, accumulation.
        ema: Exponential moving average of the weights; it is what is validated and saved.
        loader: Batches per epoch.
        device: Where the network runs.
        scaler: Gradient scaler.
        amp: Type in which the forward pass runs in mixed precision, None without.
        image_size: (epoch, batch index) -> side in pixels that a batch is resized to, or None to leave it.
        stride: Largest stride of the model in pixels.
        processes: Those that train together.
        wrapper: The model as the training pass runs it in several processes, which averages their gradients.
        compiled: The model's training pass as torch.compile makes it; None runs the model itself.
        average: Mean of the weights after each of the last epochs; None keeps none.
        smooth_fitness: Share of the running mean of the fitness that an epoch keeps, for early stopping; 0 keeps none.
        noise: Decides, within the schedule's number, how many batches a step has; None takes the schedule's.
        distillation: What is learned from other networks beside the labels, None for nothing.
    """

    model: nn.Module
    loss: TrainingLoss
    optimizer: torch.optim.Optimizer
    step_settings: Callable[[int], StepSettings]
    ema: ModelEMA
    loader: EpochLoader
    device: torch.device
    scaler: torch.amp.GradScaler
    amp: torch.dtype | None = None
    image_size: Callable[[int, int], int | None] = lambda epoch, batch: None
    stride: int = 32
    processes: Processes = ALONE
    wrapper: DistributedDataParallel | None = None
    compiled: Callable[[Tensor], list[Tensor]] | None = None
    average: WeightAverage | None = None
    smooth_fitness: float = 0.0
    noise: NoiseScale | None = None
    distillation: Distillation | None = None

    @property
    def trained(self) -> list[Tensor]:
        """All that the optimizer trains: of the model, and what distillation has beside it."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def forward(self, images: Tensor, counts: bool) -> list[Tensor]:
        """Return the raw maps of a training pass.

        Args:
            images: (B, 3, H, W) of this process.
            counts: Whether they enter the statistics of batch norm, or only stand in.

        Returns:
            Raw maps (B, na, H, W, 5+nc) per level.
        """
        if self.wrapper is None:
            return (self.compiled or self.model)(images)
        count_images(self.model, counts)
        return self.wrapper(images)

    def losses(self, images: Tensor, targets: Tensor, counts: bool, step: int) -> tuple[Tensor, LossParts]:
        """Return the scalar to minimize for a batch, and the parts of its detection loss.

        Args:
            images: (B, 3, H, W) of this process.
            targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized.
            counts: Whether the images count, or only stand in.
            step: Batches seen before.

        Returns:
            () the loss, with what distillation adds, and the three parts.
        """
        distillation = self.distillation
        if distillation is None or not distillation.is_due(step):
            return self.loss(self.forward(images, counts), targets, counts)
        with distillation.watching(self.model) as features:
            raw_maps = self.forward(images, counts)
        total, parts = self.loss(raw_maps, targets, counts)
        student = StudentPass(images, raw_maps, features, counts)
        return total + distillation(student, self.ema.module, step), parts

    def averaging(self, is_due: bool) -> contextlib.AbstractContextManager:
        """Return a context for forward and backward, in which gradients are averaged only if a step is due."""
        return contextlib.nullcontext() if is_due or self.wrapper is None else self.wrapper.no_sync()


@dataclass(frozen=True)
class EpochReport:
    """The results of an epoch.

    Attributes:
        epoch: Index of the epoch, from 0.
        losses: Means over its batches.
        evaluation: Results of its validation, None if that was skipped.
        lr: Learning rates of the first three parameter groups.
        seconds: Duration, validation included.
        is_best: Whether the fitness rose above every epoch before, or none was above 0 yet.
        is_last: Whether training ends with it.
        gates: Mean |gate| per attention block that started as the identity, by the block's name.
    """

    epoch: int
    losses: LossParts
    evaluation: Evaluation | None
    lr: tuple[float, ...]
    seconds: float
    is_best: bool
    is_last: bool
    gates: dict[str, float] = field(default_factory=dict)


class Hook:
    """Watches a training. Every method does nothing unless overridden; the trainer calls them by these names."""

    def start(self, trainer: "Trainer") -> None:
        """Run before the first epoch."""

    def before_epoch(self, trainer: "Trainer", epoch: int) -> None:
        """Run before an epoch's first batch.

        Args:
            trainer: The training.
            epoch: Index of the epoch.
        """

    def after_batch(self, trainer: "Trainer", batch: Batch, progress: "EpochProgress") -> None:
        """Run after a batch's backward pass and, if one was due, the optimizer's step.

        Args:
            trainer: The training.
            batch: The batch as the loader gave it.
            progress: State of the epoch, this batch included.
        """

    def after_step(self, trainer: "Trainer") -> None:
        """Run after an optimizer step, when `after_batch` was: no gradient is pending, so the state is complete."""

    def cut_off(self, trainer: "Trainer") -> None:
        """Run when an epoch ends by an error or a signal after which the state of its last step is still whole."""

    def after_epoch(self, trainer: "Trainer", report: EpochReport) -> None:
        """Run after an epoch and its validation.

        Args:
            trainer: The training.
            report: The results of the epoch.
        """

    def recover(self, trainer: "Trainer", error: NonFiniteError) -> bool:
        """Move the training back to a state from which it can go on, if this hook does so.

        Args:
            trainer: The training.
            error: Why it cannot go on from here.

        Returns:
            Whether it did.
        """
        return False

    def moved_back(self, trainer: "Trainer") -> None:
        """Run when a hook has moved the training back; `trainer.state` says where to."""

    def close(self, trainer: "Trainer") -> None:
        """Run when training ends, also after an error or Ctrl-C."""


@dataclass
class EpochProgress:
    """State of the current epoch.

    Attributes:
        epoch: Index of the epoch.
        batches: Batches in it.
        done: Batches trained so far.
        mean: Mean box, obj and cls loss so far.
        shape: (height, width) of the last network input.
    """

    epoch: int
    batches: int
    done: int = 0
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    shape: tuple[int, int] = (0, 0)

    def add(self, losses: Sequence[float]) -> None:
        """Count one batch with its box, obj and cls loss."""
        self.done += 1
        self.mean = [mean + (value - mean) / self.done for mean, value in zip(self.mean, losses, strict=True)]


class LossReader:
    """Brings a batch's losses to the host without emptying the device's queue.

    On CUDA the copy is queued right behind the loss and awaited only after the backward pass has been queued too, so
    that the device is at work while the host looks at the figures.
    """

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.host = torch.empty(4, pin_memory=True) if self.on_cuda else torch.empty(4)
        self.event = torch.cuda.Event() if self.on_cuda else None

    def queue(self, total: Tensor, parts: LossParts) -> None:
        """Queue the copy of a batch's losses.

        Args:
            total: The scalar to minimize.
            parts: Its box, obj and cls loss.
        """
        terms = (total, *(torch.as_tensor(part) for part in (parts.box, parts.obj, parts.cls)))
        values = torch.stack([term.detach().float().reshape(()) for term in terms])
        self.host.copy_(values, non_blocking=True)
        if self.event is not None:
            self.event.record()

    def read(self) -> list[float]:
        """Return [total, box, obj, cls] of the batch last queued."""
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


class Trainer:
    """Trains `components` from `state.epoch` to `epochs`.

    Args:
        components: What is trained, and with what.
        state: Where the training stands; it is moved on.
        epochs: Epochs in all.
        hooks: What watches it, called in order.
        evaluate: Validates a network; called after each epoch that `should_evaluate` names, and after the last.
        should_evaluate: epoch -> whether to validate after it.
        should_stop: state after an epoch -> whether to end early.

    Attributes:
        stop: Signals that came to this process.
        ending: The signal after which all processes end with the current step; 0 while they go on.
    """

    def __init__(
        self,
        components: TrainingComponents,
        state: TrainState,
        epochs: int,
        hooks: Sequence[Hook] = (),
        evaluate: Callable[[nn.Module], Evaluation] | None = None,
        should_evaluate: Callable[[int], bool] = lambda epoch: True,
        should_stop: Callable[[TrainState], bool] = lambda state: False,
    ):
        self.components, self.state, self.epochs = components, state, epochs
        self.hooks, self.evaluate = tuple(hooks), evaluate
        self.should_evaluate, self.should_stop = should_evaluate, should_stop
        self.losses = LossReader(components.device)
        self.checked_steps = 0
        self.stop = StopRequest()
        self.ending = 0

    def fit(self) -> TrainState:
        """Run the remaining epochs and return the final state.

        Raises Interruption after a signal that asks the program to end.
        """
        with self.stop.deferred():
            try:
                for hook in self.hooks:
                    hook.start(self)
                while self.state.epoch < self.epochs:
                    if self._finish_epoch():
                        break
            except (OSError, RuntimeError, UserError):  # of workers, say, that the same signal ended
                self.stop.check()
                raise
            finally:
                for hook in self.hooks:
                    hook.close(self)
        return self.state

    def _finish_epoch(self) -> bool:
        """Run the current epoch, or move back if its numbers are not finite; return whether training ends with it."""
        try:
            report = self.run_epoch(self.state.epoch)
            for hook in self.hooks:
                hook.after_epoch(self, report)
            self.components.processes.wait()  # the first one has written its files
        except NonFiniteError as error:
            if not any(hook.recover(self, error) for hook in self.hooks):
                raise
            for hook in self.hooks:
                hook.moved_back(self)
            return False
        self.ending = self.agreed_signal()
        if self.ending:
            for hook in self.hooks:
                hook.cut_off(self)
            raise interruption_by(self.ending)
        return report.is_last

    def run_epoch(self, epoch: int) -> EpochReport:
        """Train what is left of an epoch and validate; move the state past it."""
        started = time.perf_counter()
        for hook in self.hooks:
            hook.before_epoch(self, epoch)
        losses = self.train_epoch(epoch)
        state = self.state
        evaluation, is_best = None, state.best_fitness == 0  # while nothing was found, the newest is the best
        if self.evaluate and (self.should_evaluate(epoch) or epoch + 1 == self.epochs):
            with self._repeatable():
                evaluation = self.evaluate(self.components.ema.module)
            is_best = self._update_best(evaluation, epoch)
        state.end_epoch()
        is_last = state.epoch >= self.epochs or self.should_stop(state)
        lr = tuple(group["lr"] for group in self.components.optimizer.param_groups[:3])  # gates follow the first
        seconds, gates = time.perf_counter() - started, gate_strengths(self.components.model)
        return EpochReport(epoch, losses, evaluation, lr, seconds, is_best, is_last, gates)

    @contextlib.contextmanager
    def _repeatable(self) -> Iterator[None]:
        """Break a part off at a signal, and notify hooks if it did not come to its end."""
        is_done = False
        try:
            with self.stop.at_once():
                yield
            is_done = True
        finally:
            if not is_done:
                for hook in self.hooks:
                    hook.cut_off(self)

    def train_epoch(self, epoch: int) -> LossParts:
        """Make a pass over the batches of an epoch that are left; return the mean losses of all of them."""
        components, state = self.components, self.state
        components.model.train()
        components.optimizer.zero_grad(set_to_none=True)
        progress = EpochProgress(epoch, len(components.loader), state.batches_done, list(state.mean_losses))
        pending = 0
        for batch in components.loader.epoch(epoch, range(progress.done, progress.batches)):
            settings = self.step_settings()
            apply_step_settings(components.optimizer, settings)
            pending += 1
            # the epoch's last gradients are applied too: each image counts once, and an epoch leaves nothing behind
            is_due = pending >= settings.accumulate or progress.done + 1 == progress.batches
            with self._reporting_memory(pending - 1):
                with components.averaging(is_due):
                    progress.shape = self.backward(batch, epoch, progress.done, progress)
                if components.noise:
                    components.noise.see(batch, components.trained, pending)
                if is_due:
                    self.optimizer_step()
            state.step += 1
            for hook in self.hooks:
                hook.after_batch(self, batch, progress)
            if is_due:
                pending = 0
                self._after_step(progress)
        return LossParts(*progress.mean)

    def step_settings(self) -> StepSettings:
        """Return the settings of the current step; each return to an earlier state halves the learning rates."""
        settings = self.components.step_settings(self.state.step)
        if self.components.noise:
            settings = self.components.noise.limited(settings, self.state.noise)
        share = 0.5**self.state.rollbacks
        return replace(settings, lr=tuple(lr * share for lr in settings.lr)) if self.state.rollbacks else settings

    def _after_step(self, progress: EpochProgress) -> None:
        """Note how far the epoch has come, notify hooks, and end here if a signal asked for it."""
        self.state.batches_done, self.state.mean_losses = progress.done, list(progress.mean)
        self.ending = self.agreed_signal()
        for hook in self.hooks:
            hook.after_step(self)
        if self.ending:
            raise interruption_by(self.ending)

    def agreed_signal(self) -> int:
        """Return the signal that came, to whichever process, 0 for none: all end after the same step.

        Processes answer with the next step, so that none waits. Without its launcher a process would train on beside
        the one that is started in its place, so it asks all to end.
        """
        processes = self.components.processes
        if not processes.is_several:
            return self.stop.number or 0
        if processes.is_orphan:
            LOGGER.error(LAUNCHER_GONE)
        return processes.agree_next(self.stop.number or (signal.SIGTERM if processes.is_orphan else 0))

    @contextlib.contextmanager
    def _reporting_memory(self, pending: int) -> Iterator[None]:
        """Turn a lack of memory into one line; the state becomes that of the last step, and hooks are notified.

        Weights, their average and the optimizer are those of that step; running statistics have seen `pending` batches
        more.
        """
        try:
            yield
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the feature maps of the step
            reason = (str(error).splitlines() or ["no more memory"])[0]
        self.components.optimizer.zero_grad(set_to_none=True)
        self.state.step -= pending
        for hook in self.hooks:
            hook.cut_off(self)
        raise MemoryShortageError(f"out of memory in epoch {self.state.epoch}: {reason}")

    def backward(self, batch: Batch, epoch: int, index: int, progress: EpochProgress) -> tuple[int, int]:
        """Add one batch's gradients.

        Args:
            batch: The batch.
            epoch: Index of the epoch.
            index: Index of the batch in it.
            progress: State of the epoch, which counts the batch.

        Returns:
            (height, width) of the network input.

        Raises:
            NonFiniteError: If the loss is not finite.
        """
        components = self.components
        images = network_input(batch.images, components.device)
        images = resize_long_side(images, components.image_size(epoch, index), components.stride)
        targets = batch.targets.to(components.device, non_blocking=True)
        with autocast(components.device, components.amp):
            total, loss_parts = components.losses(images, targets, batch.counts, self.state.step)
        self.losses.queue(total, loss_parts)
        components.scaler.scale(total).backward()
        value, *losses = self.losses.read()
        if not all(map(math.isfinite, (value, *losses))):
            cause = describe_outputs(components.model, images)
            box, obj, cls = losses
            raise self.shared_error(
                f"epoch {epoch}, batch {index}: the loss is {value} (box {box:g}, obj {obj:g}, cls {cls:g}); {cause}; "
                f"images: {', '.join(batch.paths[:4])}; lower lr0 or check these labels",
                is_own=not math.isfinite(value),
            )
        progress.add(losses)
        height, width = images.shape[2:]
        return height, width

    def shared_error(self, message: str, is_own: bool) -> NonFiniteError:
        """Return the error that all processes raise: of the first whose own part of the loss is not finite.

        Args:
            message: What this process would say.
            is_own: Whether its own part is not finite.

        Returns:
            The error.
        """
        found = self.components.processes.gather((message, is_own))
        return NonFiniteError(next((text for text, is_cause in found if is_cause), message))

    def optimizer_step(self) -> None:
        """Clip the gradients, step, and update the EMA.

        On CUDA the scaler leaves out a step with non-finite gradients on the device itself; elsewhere such gradients
        end the run.
        """
        components = self.components
        if components.distillation is not None:
            components.distillation.average_gradients()
        components.scaler.unscale_(components.optimizer)
        weights = components.trained
        self.check_averaged(weights)
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if components.device.type == "cpu" and not bool(torch.isfinite(norm)):
            cause = describe_gradients(components.model)
            raise NonFiniteError(f"step {self.state.step}: {cause}; lower lr0 or the loss gains")
        torch.nn.utils.clip_grads_with_norm_(weights, GRADIENT_CLIP, norm)
        with self._noise_measured(norm):
            components.scaler.step(components.optimizer)
        components.scaler.update()
        components.optimizer.zero_grad(set_to_none=True)
        components.ema.update(components.model)

    @contextlib.contextmanager
    def _noise_measured(self, norm: Tensor) -> Iterator[None]:
        """Take a step whose number of batches follows the gradient noise, if it does; its gradients had this norm."""
        noise, scaler = self.components.noise, self.components.scaler
        if noise is None:
            yield
            return
        noise.measure(norm, scaler.get_scale(), self.state.noise)
        with noise.decay_in_share(self.components.optimizer):
            yield

    def check_averaged(self, weights: Sequence[Tensor]) -> None:
        """Raise RuntimeError if gradients of a first step were not averaged: processes would drift unnoticed."""
        if self.components.wrapper is None or self.checked_steps >= CHECKED_STEPS:
            return
        self.checked_steps += 1
        own = checksum([weight.grad for weight in weights if weight.grad is not None]).tolist()
        sums = self.components.processes.gather(own)
        if any(each != own for each in sums) and all(map(math.isfinite, (value for each in sums for value in each))):
            raise RuntimeError(f"step {self.state.step}: gradients differ between processes: their sums are {sums}")

    def _update_best(self, evaluation: Evaluation, epoch: int) -> bool:
        """Note AP per class, and the fitness if it is the best; return whether it is."""
        metrics = evaluation.metrics
        is_best = metrics.fitness > self.state.best_fitness or self.state.best_fitness == 0
        self.state.smooth(metrics.fitness, self.components.smooth_fitness)
        self.state.class_map = [float(value) for value in metrics.class_map]
        if is_best:
            self.state.best_fitness, self.state.best_epoch = metrics.fitness, epoch
        return is_best
