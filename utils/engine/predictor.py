"""Detection on images, videos and streams: weights and a source in, one record per frame out."""

import copy
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.inference import largest_stride
from utils.background import ReadAhead
from utils.boxes import xyxy_to_xywhn
from utils.calibration import least_confidence
from utils.class_choice import class_ids
from utils.config import PredictOptions
from utils.datasets.letterboxing import letterbox, round_to_stride
from utils.datasets.sources import Frame, StreamSource, open_source
from utils.device import Timer, network_input, select_device
from utils.engine.evaluator import usable_half
from utils.engine.tiled_inference import TiledInference
from utils.errors import NAME_LIMIT, cut
from utils.nms import non_max_suppression
from utils.runtimes.network import fixed_shape, give_thresholds, load_network, require_size, runtime_networks
from utils.types import Detections, Letterbox, Speeds

DEFAULT_SIZE = 640  # pixels


@dataclass(frozen=True, eq=False)
class Prediction:
    """The detections in one frame.

    Attributes:
        frame: The frame.
        detections: In pixels of the frame, on the CPU, by falling confidence.
        names: Class names by class id.
        shape: (height, width) of the network input in pixels.
        times: Milliseconds that the frame took; of a batch, its share.
    """

    frame: Frame
    detections: Detections
    names: tuple[str, ...]
    shape: tuple[int, int]
    times: Speeds

    def __len__(self) -> int:
        return len(self.detections)

    def rows(self) -> Tensor:
        """Return (n, 6) float32 in v6.1's order: xyxy pixels of the frame, confidence, class."""
        return self.detections.rows()

    def name_of(self, class_id: int) -> str:
        """Return a class's name, or its id as text if it has none."""
        return self.names[class_id] if class_id < len(self.names) else str(class_id)

    def xywhn(self) -> np.ndarray:
        """Return (n, 4) float64 center and size in 0..1 of the frame."""
        height, width = self.frame.size
        return xyxy_to_xywhn(self.detections.xyxy.double().numpy(), width, height)

    def records(self) -> list[dict]:
        """Return one dict of plain values per detection: file and frame, class, confidence, and its box in pixels."""
        frame, found = self.frame, self.detections
        return [
            {
                "file": frame.path,
                "frame": frame.number,
                "time": round(frame.seconds, 3),
                "class_id": class_id,
                "name": self.name_of(class_id),
                "confidence": round(confidence, 5),
                "x1": round(left, 2),
                "y1": round(top, 2),
                "x2": round(right, 2),
                "y2": round(bottom, 2),
            }
            for (left, top, right, bottom), confidence, class_id in zip(
                found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True
            )
        ]

    def without_image(self) -> "Prediction":
        """Return the same prediction without the pixels of its frame, for records that are kept."""
        return replace(self, frame=self.frame.without_image())

    def summary(self) -> str:
        """Return "4 persons, 1 bus, " in order of class id, or "" if nothing was found."""
        counts = Counter(self.detections.cls.tolist())
        return "".join(
            f"{counts[class_id]} {cut(self.name_of(class_id), NAME_LIMIT)}{'s' * (counts[class_id] > 1)}, "
            for class_id in sorted(counts)
        )


@dataclass(frozen=True)
class Predictor:
    """A network ready to detect: in evaluation mode, on its device, in the precision it will run in."""

    model: nn.Module
    device: torch.device
    names: tuple[str, ...]
    stride: int
    half: bool

    @property
    def fixed_shape(self) -> tuple[int, int] | None:
        """The one (height, width) that an exported file takes, None if any multiples of the stride will do."""
        return fixed_shape(self.model)

    def least_confidence(self, asked: float | str, flag: str = "--conf-thres") -> float:
        """Return the threshold that is asked for.

        Args:
            asked: A number, or "auto" for the calibrated confidence of the weights.
            flag: How it was asked for, for the message.

        Returns:
            The number.

        Raises:
            ConfigError: With "auto", if the weights carry none, or are several.
        """
        return least_confidence(asked, getattr(self.model, "confidence", None), flag)

    def input_shape(self, imgsz: int | Sequence[int] | None = None) -> tuple[int, int]:
        """Return (height, width) rounded up to multiples of the stride, with a warning if that changed them.

        None is 640 or, of a file that takes one size only, that size; it raises ConfigError for another one.
        """
        if imgsz is None:
            imgsz = self.fixed_shape or DEFAULT_SIZE
        sides = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz) * (2 if len(imgsz) == 1 else 1)
        require_size(self.model, sides)
        height, width = round_to_stride(sides, self.stride)
        return height, width

    def tensor(self, canvases: np.ndarray) -> Tensor:
        """Return (B, 3, H, W) in 0..1 on the device from letterboxed (B, H, W, 3) uint8 images."""
        return network_input(torch.from_numpy(canvases).permute(0, 3, 1, 2), self.device, self.half)


def as_predictor(model: nn.Module, device: str | torch.device | None = None, half: bool = False) -> Predictor:
    """Return a predictor of a network that is already built.

    The network is copied if precision, device or mode must change, so that the caller's stays as it was.

    Args:
        model: A detector or an ensemble.
        device: Where it will run; None leaves it where it is.
        half: Run in half precision (CUDA only).

    Returns:
        The predictor.
    """
    at = next(model.parameters()).device
    target = at if device is None else device if isinstance(device, torch.device) else select_device(device)
    half = usable_half(half, target)
    dtype = torch.half if half else torch.float32
    if model.training or at != target or next(model.parameters()).dtype != dtype:
        model = copy.deepcopy(model).to(target, dtype).eval()
    return Predictor(model, target, class_names(model), largest_stride(model), half)


def class_names(model: nn.Module) -> tuple[str, ...]:
    """Return the class names of a detector or an ensemble, in the order of their ids."""
    names = getattr(model, "names", ())
    return tuple(names.values()) if isinstance(names, dict) else tuple(names)


def load_predictor(
    weights: str | Path | Sequence[str | Path],
    device: str = "",
    half: bool = False,
    download: bool = False,
    dnn: bool = False,
) -> Predictor:
    """Return a predictor from one checkpoint or exported file, or an ensemble from several.

    Args:
        weights: Checkpoints, names of published ones, or exported files.
        device: v6.1's --device text.
        half: Run in half precision (CUDA only).
        download: Fetch published weights that are not on disk.
        dnn: Let OpenCV run .onnx files.

    Returns:
        The predictor.

    Raises:
        CheckpointError: If a file cannot be read, or several have different classes.
        ConfigError: If the device or a runtime is not there.
    """
    target = select_device(device)
    network = load_network(weights, target, download, dnn)
    if runtime_networks(network):  # its files are on their devices and in their precision
        return as_predictor(network)
    return as_predictor(network, target, half)


class PredictionHook:
    """Watches a detection run. Every method does nothing unless overridden.

    Attributes:
        background: Whether the methods that get predictions may be called in a thread of their own, behind the network.
            Such a hook sees no `before_frame` and stops no run.
    """

    background: ClassVar[bool] = False

    def before_frame(self, frame: Frame) -> None:
        """Run before the network sees a frame."""

    def after_frame(self, prediction: Prediction) -> None:
        """Run with every prediction, in order."""

    def after_input(self, index: int) -> None:
        """Run after the last frame of an image or a video file; `index` is the input's, as `Frame.index`."""

    def should_stop(self) -> bool:
        """Return whether to end the run after this frame."""
        return False

    def close(self) -> None:
        """Run once at the end, also after an error."""


@torch.no_grad()  # not inference_mode: what a network caches must stay usable for training
def predict(
    model: Predictor | nn.Module | str | Path | Sequence[str | Path],
    source: str | Path | np.ndarray | Iterable[Frame],
    options: PredictOptions | None = None,
    before_frame: Callable[[Frame], None] | None = None,
) -> Generator[Prediction, None, None]:
    """Yield a `Prediction` for every frame of a source, in their order, as soon as its batch is there.

    Args:
        model: A predictor, a network, or the path of weights (several make an ensemble).
        source: What `open_source` takes, an open source or other frames, or one (H, W, 3) uint8 RGB image.
        options: Image size, thresholds, classes and batch size; `PredictOptions()` if None.
        before_frame: Called with each frame before the network sees it; of a batch, with all of them.

    Yields:
        Boxes in pixels of each frame.

    Raises:
        ConfigError: If a class is not one of the weights'.
        UserError: If weights or source cannot be read.
    """
    options = options or PredictOptions()
    predictor = _as_any_predictor(model)
    shape = predictor.input_shape(options.imgsz)
    give_thresholds(predictor.model, options.conf_thres, options.iou_thres)
    options = replace(options, classes=class_ids(options.classes, predictor.names))
    passes = _Passes(predictor, shape, options, TiledInference.of_frames(predictor.model, options))
    with closing(passes.inputs(_frames(source))) as batches:
        for inputs in batches:
            if before_frame is not None:
                for each in inputs:
                    before_frame(each.frame)
            yield from passes.predictions(inputs)


@dataclass(frozen=True)
class _Input:
    """A frame as the network gets it.

    Attributes:
        frame: The frame.
        canvas: Letterboxed, (h, w, 3) uint8; None if its tiles alone are predicted.
        placed: How it lies there.
        milliseconds: What letterboxing took.
    """

    frame: Frame
    canvas: np.ndarray | None
    placed: Letterbox
    milliseconds: float

    @property
    def bytes(self) -> int:
        return self.frame.image.nbytes + (0 if self.canvas is None else self.canvas.nbytes)


@dataclass(frozen=True)
class _Passes:
    """Frames through the network: letterboxed, batched by shape, suppressed, and merged with their tiles."""

    predictor: Predictor
    shape: tuple[int, int]
    options: PredictOptions
    tiles: TiledInference | None

    def inputs(self, frames: Iterable[Frame]) -> Generator[list[_Input], None, None]:
        """Yield frames, letterboxed, as many together as a batch takes.

        Frames of files are read and letterboxed by a thread if the options say so. Streams have threads of their own,
        and what waited behind those would no longer be the newest frame.
        """
        if isinstance(frames, StreamSource):
            for arrived in frames.batches(self.options.batch_size):
                yield [self._input(frame) for frame in arrived]
            return
        batches = _grouped((self._input(frame) for frame in frames), self.options.batch_size)
        yield from ReadAhead(batches, _bytes_of) if self.options.read_ahead else batches

    def _input(self, frame: Frame) -> _Input:
        native = (frame.image.shape[0], frame.image.shape[1])
        if self.tiles is not None and not self.tiles.needs_whole(native):
            shape = self.tiles.input_shape(native)
            return _Input(frame, None, Letterbox(native, (1.0, 1.0), (0.0, 0.0), shape), 0.0)
        is_fixed, stride = self.predictor.fixed_shape is not None, self.predictor.stride
        with Timer() as timer:
            canvas, placed = letterbox(frame.image, self.shape, auto=not is_fixed, stride=stride)
        return _Input(frame, canvas, placed, timer.seconds * 1000)

    def predictions(self, inputs: Sequence[_Input]) -> Iterator[Prediction]:
        """Yield the predictions of frames in their order."""
        found: dict[int, tuple[Detections, Speeds]] = {}  # of whole frames, by their index
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, each in enumerate(inputs):
            if each.canvas is not None:
                by_shape.setdefault(each.placed.shape, []).append(index)
        for indices in by_shape.values():
            found.update(zip(indices, self._whole([inputs[index] for index in indices]), strict=True))
        for index, each in enumerate(inputs):
            detections, times = found.pop(index, (None, Speeds(0.0, 0.0, 0.0)))
            if self.tiles is not None:
                timers = [Timer(self.predictor.device) for _ in range(3)]
                detections = self.tiles.merged(each.frame.image, detections, timers)
                taken = (timer.seconds * 1000 for timer in timers)
                times = Speeds(*(before + own for before, own in zip(times.row(), taken, strict=True)))
            assert detections is not None
            yield Prediction(each.frame, detections, self.predictor.names, each.placed.shape, times)

    def _whole(self, inputs: Sequence[_Input]) -> list[tuple[Detections, Speeds]]:
        """The detections of one pass over frames of one network shape, in their pixels and on the CPU, and times."""
        predictor, options = self.predictor, self.options
        timers = [Timer(predictor.device) for _ in range(3)]
        with timers[0]:
            images = predictor.tensor(np.stack([each.canvas for each in inputs if each.canvas is not None]))
        with timers[1]:
            decoded, _ = predictor.model(images, augment=options.augment)
        with timers[2]:
            found = non_max_suppression(
                decoded,
                options.conf_thres,
                options.iou_thres,
                classes=class_ids(options.classes, predictor.names),
                agnostic=options.agnostic,
                multi_label=options.multi_label,
                max_det=options.max_det,
            )
        shared, inference, nms = (timer.seconds * 1000 / len(inputs) for timer in timers)
        return [
            (detections.to_native(each.placed).cpu(), Speeds(each.milliseconds + shared, inference, nms))
            for each, detections in zip(inputs, found, strict=True)
        ]


def _grouped(inputs: Iterator[_Input], most: int) -> Iterator[list[_Input]]:
    while batch := list(islice(inputs, most)):
        yield batch


def _bytes_of(inputs: Sequence[_Input]) -> int:
    return sum(each.bytes for each in inputs)


def _as_any_predictor(model: Predictor | nn.Module | str | Path | Sequence[str | Path]) -> Predictor:
    if isinstance(model, Predictor):
        return model
    return as_predictor(model) if isinstance(model, nn.Module) else load_predictor(model)


def _frames(source: str | Path | np.ndarray | Iterable[Frame]) -> Iterable[Frame]:
    if isinstance(source, np.ndarray):
        return [Frame(source, "array", "array.jpg", "image", 0, 1)]
    return open_source(source) if isinstance(source, (str, Path)) else source
