"""Detection on pictures, videos and streams: weights and a source in, one record a picture out."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import xyxy_to_xywhn
from utils.datasets.letterbox import letterbox
from utils.datasets.sources import FileSource, Frame, StreamSource, open_source
from utils.device import Timer, network_input, select_device
from utils.errors import ConfigError
from utils.log import warn_once
from utils.nms import non_max_suppression
from utils.types import Detections, Speeds


@dataclass(frozen=True)
class Prediction:
    """What was found in one frame.

    detections: in pixels of the frame, on the CPU, by falling confidence; names: class names by number;
    shape: (height, width) of the network input.
    """

    frame: Frame
    detections: Detections
    names: tuple[str, ...]
    shape: tuple[int, int]
    times: Speeds

    def __len__(self) -> int:
        return len(self.detections)

    def rows(self) -> Tensor:
        """(n, 6) float32 in v6.1's order: xyxy pixels of the frame, confidence, class."""
        return self.detections.rows()

    def name_of(self, number: int) -> str:
        """Return the class's name, or its number as text where there is none."""
        return self.names[number] if number < len(self.names) else str(number)

    def xywhn(self) -> np.ndarray:
        """(n, 4) float64 centre and size in 0..1 of the frame."""
        height, width = self.frame.image.shape[:2]
        return xyxy_to_xywhn(self.detections.xyxy.double().numpy(), width, height)

    def records(self) -> list[dict]:
        """Return a dict of plain values a detection: where it was seen, what it is, and its box in pixels."""
        frame, found = self.frame, self.detections
        return [
            {
                "file": frame.path,
                "frame": frame.number,
                "time": round(frame.seconds, 3),
                "class_id": number,
                "name": self.name_of(number),
                "confidence": round(confidence, 5),
                "x1": round(left, 2),
                "y1": round(top, 2),
                "x2": round(right, 2),
                "y2": round(bottom, 2),
            }
            for (left, top, right, bottom), confidence, number in zip(
                found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist()
            )
        ]

    def summary(self) -> str:
        """Return "4 persons, 1 bus, " in order of class number, or "" when nothing was found."""
        counts = Counter(self.detections.cls.tolist())
        return "".join(
            f"{counts[number]} {self.name_of(number)}{'s' * (counts[number] > 1)}, " for number in sorted(counts)
        )


@dataclass(frozen=True)
class Predictor:
    """A network ready to detect: in evaluation mode, on its device, in the precision it will run in."""

    model: nn.Module
    device: torch.device
    names: tuple[str, ...]
    stride: int
    half: bool

    def input_shape(self, imgsz: int | Sequence[int]) -> tuple[int, int]:
        """Return (height, width) rounded up to multiples of the stride, with a warning where that changed them."""
        sides = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz) * (2 if len(imgsz) == 1 else 1)
        height, width = (max(math.ceil(side / self.stride), 1) * self.stride for side in sides)
        if (height, width) != tuple(sides):
            warn_once(
                f"--imgsz {' '.join(map(str, sides))} is no multiple of the largest stride {self.stride}; "
                f"using {height} {width}"
            )
        return height, width

    def tensor(self, canvas: np.ndarray) -> Tensor:
        """Return (1, 3, H, W) in 0..1 on the device from a letterboxed (H, W, 3) uint8 picture."""
        return network_input(
            torch.from_numpy(np.ascontiguousarray(canvas)).permute(2, 0, 1)[None], self.device, self.half
        )


def as_predictor(model: nn.Module, device: str | torch.device | None = None, half: bool = False) -> Predictor:
    """Return a predictor of a network that is already built; without `device` it stays where it is.

    The network is copied where precision, device or mode must change, so that the caller's stays as it was.
    """
    at = next(model.parameters()).device
    target = at if device is None else device if isinstance(device, torch.device) else select_device(device)
    if half and target.type != "cuda":
        warn_once("--half needs a CUDA device; computing in single precision")
        half = False
    dtype = torch.half if half else torch.float32
    if model.training or at != target or next(model.parameters()).dtype != dtype:
        model = copy.deepcopy(model).to(target, dtype).eval()
    stride = int(max(torch.as_tensor(model.stride).flatten().tolist()))
    return Predictor(model, target, tuple(model.names), max(stride, 32), half)


def load_predictor(
    weights: str | Path | Sequence[str | Path], device: str = "", half: bool = False, download: bool = False
) -> Predictor:
    """Return a predictor from one checkpoint, or an ensemble from several. Raises CheckpointError, ConfigError."""
    from utils.checkpoint import load_models

    target = select_device(device)
    return as_predictor(load_models(weights, target, fuse=True, download=download), target, half)


@torch.no_grad()  # not inference_mode: what a network caches must stay usable for training
def predict(
    model: Predictor | nn.Module | str | Path | Sequence[str | Path],
    source: str | Path | np.ndarray | FileSource | StreamSource,
    *,
    imgsz: int | Sequence[int] = 640,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 1000,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    augment: bool = False,
    half: bool = False,
    device: str | None = None,
    vid_stride: int = 1,
    stream_buffer: bool = False,
    before_frame: Callable[[Frame], None] | None = None,
) -> Iterator[Prediction]:
    """Yield a `Prediction` for every frame of `source`, as soon as it is there.

    model: a predictor, a network, or the path of weights (several: an ensemble); source: what `open_source` takes, an open
    source, or one (H, W, 3) uint8 RGB picture; imgsz: one side or (height, width) the picture is letterboxed into, with
    the smallest border that the stride allows; the thresholds are those of `non_max_suppression`; augment: test-time
    augmentation; before_frame: called with each frame before the network sees it. Raises UserError kinds.
    """
    predictor = _predictor(model, device, half)
    shape = predictor.input_shape(imgsz)
    unknown = [number for number in classes or () if not 0 <= number < len(predictor.names)]
    if unknown:
        raise ConfigError(
            f"--classes {unknown[0]}: the weights know {len(predictor.names)} classes, 0 to {len(predictor.names) - 1}"
        )
    options = dict(conf_thres=conf_thres, iou_thres=iou_thres, classes=classes, agnostic=agnostic, max_det=max_det)
    frames = _frames(source, vid_stride, stream_buffer)
    for frame in frames:
        if before_frame is not None:
            before_frame(frame)
        yield _predict_frame(predictor, frame, shape, augment, options)


def _predict_frame(
    predictor: Predictor, frame: Frame, shape: tuple[int, int], augment: bool, options: dict
) -> Prediction:
    timers = [Timer(predictor.device) for _ in range(3)]
    with timers[0]:
        canvas, placed = letterbox(frame.image, shape, auto=True, stride=predictor.stride)
        image = predictor.tensor(canvas)
    with timers[1]:
        decoded, _ = predictor.model(image, augment=augment)
    with timers[2]:
        found = non_max_suppression(decoded, **options)[0]
    times = Speeds(*(timer.seconds * 1000 for timer in timers))
    return Prediction(frame, found.to_native(placed).cpu(), predictor.names, canvas.shape[:2], times)


def _predictor(model, device: str | None, half: bool) -> Predictor:
    if isinstance(model, Predictor):
        return model
    if isinstance(model, nn.Module):
        return as_predictor(model, device, half)
    return load_predictor(model, device or "", half)


def _frames(source, vid_stride: int, stream_buffer: bool):
    if isinstance(source, np.ndarray):
        return [Frame(source, "array", "array.jpg", "image", 0, 1)]
    if isinstance(source, (str, Path)):
        return open_source(source, vid_stride=vid_stride, stream_buffer=stream_buffer)
    return source
