"""Views of a detection run: console lines, a window, and the feature maps of the layers."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from torch import Tensor, nn

from utils.datasets.sources import Frame
from utils.engine.prediction_writers import Artist
from utils.engine.predictor import Prediction, PredictionHook
from utils.log import LOGGER, warn_once
from utils.plots.features import save_features


class ConsoleReporter(PredictionHook):
    """Logs one line per frame, and at the end the mean times, as v6.1 does.

    The first frame is left out of the means, and with it what was predicted in one batch with it (which has the same
    times): then memory is taken and kernels are chosen. If there is nothing else, the means are of it.
    """

    def __init__(self) -> None:
        self._frames = self._left_out = 0
        self._first = self._sums = np.zeros(3)  # milliseconds: pre-process, inference, NMS
        self._shape: tuple[int, int] = (0, 0)

    def after_frame(self, prediction: Prediction) -> None:
        height, width = self._shape = prediction.shape
        times = np.array(prediction.times.row())
        if not self._left_out:
            self._first = times
        if not self._frames and (times[1:] == self._first[1:]).all():
            self._left_out += 1
        else:
            self._frames += 1
            self._sums = self._sums + times
        LOGGER.info(
            f"{_frame_title(prediction.frame)}: {height}x{width} {prediction.summary()}Done. "
            f"({prediction.times.inference / 1000:.3f}s)"
        )

    def close(self) -> None:
        if self._left_out:
            pre, inference, nms = self._sums / self._frames if self._frames else self._first
            left_out = self._left_out if self._frames else 0
            frames = "first frame" if left_out == 1 else f"first {left_out} frames"
            LOGGER.info(
                f"Speed: {pre:.1f} ms pre-process, {inference:.1f} ms inference, {nms:.1f} ms NMS per image "
                f"at shape (1, 3, {self._shape[0]}, {self._shape[1]})" + (f", {frames} left out" if left_out else "")
            )


def _frame_title(frame: Frame) -> str:
    if frame.kind == "image":
        return f"image {frame.index + 1}/{frame.total} {frame.path}"
    if frame.kind == "video":
        return f"video {frame.index + 1}/{frame.total} ({frame.number}/{frame.frames or '?'}) {frame.path}"
    rate = f", {frame.fps:.1f} frames/s" if frame.fps else ""
    return f"stream {frame.index + 1}/{frame.total} ({frame.number}{rate}) {frame.path}"


class Window(PredictionHook):
    """Shows annotated frames until the user presses q. Without a display it warns once and does nothing."""

    def __init__(self, artist: Artist):
        self._artist = artist
        self._works = has_display()
        self.closed = False
        if not self._works:
            warn_once("--view-img: there is no display here; continuing without a window")

    def after_frame(self, prediction: Prediction) -> None:
        if not self._works:
            return
        try:
            title = prediction.frame.name.encode("utf-8", "backslashreplace").decode(
                "utf-8"
            )  # OpenCV takes UTF-8 alone
            cv2.imshow(title, cv2.cvtColor(self._artist(prediction), cv2.COLOR_RGB2BGR))
            self.closed = cv2.waitKey(1) & 0xFF == ord("q")
        except cv2.error:
            self._works = False
            warn_once("--view-img: this OpenCV has no windows (opencv-python-headless?); continuing without")

    def should_stop(self) -> bool:
        return self.closed

    def close(self) -> None:
        if self._works:
            cv2.destroyAllWindows()


def has_display() -> bool:
    """Return whether a window can be opened; OpenCV itself would end the process if it cannot."""
    if sys.platform.startswith(("win", "darwin")):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class FeatureMaps(PredictionHook):
    """One folder per frame with the feature maps of every layer but the head, taken by forward hooks.

    save_dir/<stem>/ for images, save_dir/<stem>/frame_<number>/ for videos. Of several passes over a frame (test-time
    augmentation) the first is written; of an ensemble, each model's in its own folder.

    Args:
        save_dir: The run folder.
        model: The network whose layers are watched.
    """

    def __init__(self, save_dir: Path, model: nn.Module):
        self._save_dir = save_dir
        self._folder = save_dir
        self._written: set[Path] = set()
        self._hooks = [
            layer.register_forward_hook(self._hook(prefix, index)) for prefix, index, layer in _layers(model)
        ]

    def before_frame(self, frame: Frame) -> None:
        """Note which frame the network will see next."""
        self._written.clear()
        self._folder = self._save_dir / PurePosixPath(frame.name).with_suffix("")
        if frame.kind != "image":
            self._folder /= f"frame_{frame.number}"

    def _hook(self, prefix: str, index: int) -> Callable[[nn.Module, object, Tensor], None]:
        def write(layer: nn.Module, _inputs: object, output: Tensor) -> None:
            folder = self._folder / prefix
            stage = folder / str(index)
            if stage not in self._written:
                self._written.add(stage)
                folder.mkdir(parents=True, exist_ok=True)
                save_features(output, type(layer).__name__, index, folder)

        return write

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _layers(model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield (folder, layer index, layer) of each layer but the head, of the model or of each member of an ensemble."""
    members = getattr(model, "models", None) or [model]
    for place, member in enumerate(members):
        for index, layer in enumerate(list(member.model)[:-1]):
            yield (f"model{place}" if len(members) > 1 else ""), index, layer
