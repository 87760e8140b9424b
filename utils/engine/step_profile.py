"""`--profile-steps`: where the time of training steps and of frames goes, as a table and as a Chrome trace.

Both are hooks, absent unless asked for. That of a training puts its clock around the trainer's parts when training
starts and takes it away after the last step of interest, so that a training without it has nothing to pass by.
"""

import contextlib
import gzip
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.datasets.sources import Frame
from utils.engine.predictor import Prediction, PredictionHook
from utils.engine.trainer import Hook, Trainer
from utils.log import LOGGER
from utils.profile.components import Component, component_hooks
from utils.profile.part_times import PartClock, layer_labels, render_parts
from utils.types import Batch

WARM_UP = 3  # first steps, in which memory is taken and kernels are chosen
TRACED = 3  # steps of the trace: operators are recorded after the timed steps, since recording costs time
LARGE = 20 * 2**20  # bytes from which a trace is compressed; browsers' viewers read both
TRAINING_PARTS = ("loading", "transfer", "forward", "loss", "backward", "optimizer", "EMA", "hooks")
FRAME_PARTS = ("read", "letterbox", "forward", "NMS", "writing")


@dataclass
class StepProfile:
    """The steps of a profile: warm-up, timed steps, traced steps, and then the report.

    Attributes:
        steps: How many are timed.
        folder: The run folder, which gets profile.json.
        parts: The parts in the order of the table.
        unit: What a step is.
        finish: Called once, when no further step is of interest.
        at_once: Whether the report is logged then, in the midst of the run, or left to `report`.
    """

    steps: int
    folder: Path
    parts: Sequence[str]
    unit: str
    finish: Callable[[], None] = lambda: None
    clock: PartClock = field(default_factory=lambda: PartClock(torch.device("cpu")))
    at_once: bool = True
    _tracer: Any = None
    _trace: Path | None = None
    is_done: bool = False

    def after_step(self) -> None:
        """Go on to the trace, or to the report, if it is time for it."""
        done = len(self.clock.steps)
        if done == WARM_UP + self.steps:
            self._start_trace()
        elif done == WARM_UP + self.steps + TRACED:
            self.close()

    def close(self) -> None:
        """End the measurement, once."""
        if self.is_done:
            return
        self.is_done = True
        self.finish()
        self._trace = self._write_trace() if self._tracer is not None else None
        if self.at_once:
            self.report()

    def report(self) -> None:
        """Log what was measured."""
        timed = self.clock.steps[WARM_UP : WARM_UP + self.steps]
        if not timed:
            LOGGER.warning(
                f"WARNING: --profile-steps {self.steps}: the run ended after {len(self.clock.steps)} of {WARM_UP} "
                f"warm-up steps (a {self.unit} each), so nothing was timed"
            )
            return
        LOGGER.info(f"\n--profile-steps: the mean of {len(timed)} steps after {WARM_UP} of warm-up")
        LOGGER.info(render_parts(timed, self.parts, self.unit))
        if self._trace:
            LOGGER.info(f"trace of {TRACED} further steps: {self._trace} (chrome://tracing, ui.perfetto.dev)")
        else:
            LOGGER.info(f"no trace: it takes {TRACED} steps more than the run had")

    def _start_trace(self) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.clock.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._tracer = torch.profiler.profile(activities=kinds)
        self._tracer.start()
        self.clock.is_traced = True

    def _write_trace(self) -> Path | None:
        """Write the recorded steps and return the file, None if the run ended before the trace was whole."""
        self._tracer.stop()
        self.clock.is_traced = False
        if len(self.clock.steps) < WARM_UP + self.steps + TRACED:
            return None
        path = self.folder / "profile.json"
        self._tracer.export_chrome_trace(str(path))
        return _compressed(path) if path.stat().st_size > LARGE else path


def _compressed(path: Path) -> Path:
    """Replace a file by its .gz and return that."""
    smaller = path.with_name(f"{path.name}.gz")
    with open(path, "rb") as source, gzip.open(smaller, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    path.unlink()
    return smaller


class LayerParts(contextlib.ExitStack):
    """Makes each kind of layer a part of the forward pass, until it is closed.

    Args:
        model: Its layers are in `model.model`.
        clock: Gets the parts.
    """

    def __init__(self, model: nn.Module, clock: PartClock):
        super().__init__()
        labels = layer_labels(model)

        def enter(component: Component) -> None:
            if component in labels and clock.is_inside:
                clock.enter(labels[component])

        def leave(component: Component, output: object) -> None:
            if component in labels and clock.is_inside:
                clock.leave()

        self.enter_context(component_hooks(model, enter, leave))


class TrainingProfile(Hook):
    """Times the parts of a training's steps; a step is one batch.

    Args:
        steps: How many are timed, after the warm-up.
        folder: The run folder.
    """

    def __init__(self, steps: int, folder: Path):
        self.profile = StepProfile(steps, folder, TRAINING_PARTS, "batch", self._put_back)
        self._replaced: list[tuple[object, str, object]] = []
        self._layers: LayerParts | None = None

    def start(self, trainer: Trainer) -> None:
        components = trainer.components
        clock = self.profile.clock = PartClock(components.device)
        self._replace(components.loader, "epoch", self._timed_batches(components.loader.epoch))
        self._replace(trainer, "backward", self._timed(trainer.backward, "transfer"))
        self._replace(components, "forward", self._timed(components.forward, "forward"))
        self._replace(components, "loss", _TimedLoss(components.loss, self._timed(components.loss, "loss")))
        # the backward pass runs between the copy of the losses to the host and the look at them
        self._replace(trainer.losses, "queue", self._followed_by(trainer.losses.queue, "backward"))
        self._replace(trainer.losses, "read", self._followed_by(trainer.losses.read, "transfer"))
        self._replace(trainer, "optimizer_step", self._timed(trainer.optimizer_step, "optimizer"))
        self._replace(components.ema, "update", self._timed(components.ema.update, "EMA"))
        for hook in trainer.hooks:
            for name in ("after_batch", "after_step"):
                self._replace(hook, name, self._timed(getattr(hook, name), "hooks"))
        if components.compiled is None:  # a compiled pass is one piece
            self._layers = LayerParts(components.model, clock)

    def close(self, trainer: Trainer) -> None:
        self.profile.close()

    def _timed_batches(self, batches: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        def epoch(*arguments: Any) -> Iterator[Batch]:
            source = iter(batches(*arguments))
            clock = self.profile.clock
            while True:
                if self.profile.is_done:
                    yield from source
                    return
                clock.begin_step()
                clock.enter("loading")
                batch = next(source, None)
                if batch is None:
                    clock.drop_step()
                    return
                clock.leave()
                yield batch
                clock.end_step()
                self.profile.after_step()

        return epoch

    def _timed(self, function: Callable, part: str) -> Callable:
        clock = self.profile.clock

        def call(*arguments: Any, **options: Any) -> Any:
            if not clock.is_inside:
                return function(*arguments, **options)
            clock.enter(part)
            try:
                return function(*arguments, **options)
            finally:
                clock.leave()

        return call

    def _followed_by(self, function: Callable, part: str) -> Callable:
        clock = self.profile.clock

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if clock.is_inside:
                clock.rename(part)
            return result

        return call

    def _replace(self, owner: object, name: str, value: object) -> None:
        self._replaced.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, value)

    def _put_back(self) -> None:
        """Take the clock away from everything that it was put around."""
        for owner, name, before in reversed(self._replaced):
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._replaced.clear()
        if self._layers is not None:
            self._layers.close()


class _TimedLoss:
    """A loss whose calls are timed; its state is the loss's own."""

    def __init__(self, loss: Any, timed: Callable):
        self._loss, self._timed = loss, timed

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)


class FrameProfile(PredictionHook):
    """Times the parts of detect.py's frames. It comes before the other hooks, and its `last` after them.

    Args:
        steps: How many frames are timed, after the warm-up.
        folder: The run folder.
        model: The network, whose layers are parts of the forward pass if they can be told apart.
        device: Where it runs.
    """

    def __init__(self, steps: int, folder: Path, model: nn.Module, device: torch.device):
        self.profile = StepProfile(steps, folder, FRAME_PARTS, "frame", self._put_back, PartClock(device), False)
        has_layers = isinstance(getattr(model, "model", None), nn.Sequential)
        self._layers = LayerParts(model, self.profile.clock) if has_layers else None
        self.last = _AfterWriting(self)
        self.begin()

    def begin(self) -> None:
        """Begin the next frame, which is read first."""
        if not self.profile.is_done:
            self.profile.clock.begin_step()
            self.profile.clock.enter("read")

    def end(self) -> None:
        """End a frame, whose results are written."""
        if not self.profile.is_done:
            self.profile.clock.end_step()
            self.profile.after_step()
            self.begin()

    def before_frame(self, frame: Frame) -> None:
        if not self.profile.is_done:
            self.profile.clock.leave()

    def after_frame(self, prediction: Prediction) -> None:
        if not self.profile.is_done:
            clock = self.profile.clock
            before, inference, nms = (milliseconds / 1000 for milliseconds in prediction.times.row())
            between_layers = inference - clock.seconds("forward: ")
            clock.move({"letterbox": before, "forward": between_layers, "NMS": nms})
            # the layers lie inside the pass, and their time was never counted as "other"
            clock.enter("writing")

    def close(self) -> None:
        if not self.profile.is_done and self.profile.clock.is_inside:
            self.profile.clock.drop_step()
        self.profile.close()
        self.profile.report()  # behind the lines of the frames, where it is looked for

    def _put_back(self) -> None:
        if self._layers is not None:
            self._layers.close()


class _AfterWriting(PredictionHook):
    """The last hook of a frame: what the others did lies between the profile's own and this one."""

    def __init__(self, profile: FrameProfile):
        self.profile = profile

    def after_frame(self, prediction: Prediction) -> None:
        self.profile.end()
