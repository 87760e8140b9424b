"""`AutoShape`: v6.1's wrapper that takes images of any kind and answers with detections in their pixels.

It is the project's predictor (`utils.engine.predictor.predict`) behind v6.1's signature. Each image is predicted by
itself in its own smallest rectangle, so its detections are those of detect.py, whatever else is in the list.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.inference import largest_stride
from utils.calibration import AUTO
from utils.compat.hub_detections import HubDetections
from utils.compat.multi_backend import DetectMultiBackend
from utils.config import PredictOptions
from utils.datasets.source_entries import is_url
from utils.datasets.sources import Frame, fetch_image
from utils.device import autocast
from utils.engine.predictor import DEFAULT_SIZE, Prediction, Predictor, class_names, predict
from utils.errors import ConfigError, DataError, cut
from utils.files import is_dir
from utils.images import MIN_SIDE, is_video, read_image

_CHANNELS = (1, 2, 3, 4)  # gray, gray with alpha, RGB, RGB with alpha
_DEEP = ("I", "F")  # first letters of PIL's modes whose values may exceed 255; converting them to RGB clips
_LARGEST = 16384  # pixels of a side of the network's input: beyond, one image is gigabytes


class AutoShape(nn.Module):
    """A detector that is called with images: `model("bus.jpg").print()`.

    Args:
        model: A network, or a `DetectMultiBackend`.
        verbose: Taken as v6.1 has it; nothing is logged here.
        download: Whether images may be fetched from http(s) addresses.

    Attributes:
        model: The same.
        conf: Least confidence of a detection, 0..1, or "auto" for the calibrated confidence of the weights.
        iou: IoU above which NMS drops the weaker box, 0..1.
        agnostic: Whether boxes of different classes suppress each other.
        multi_label: Whether a box counts for every class above `conf`, not only for its best.
        classes: Ids or names of the classes to keep; None keeps all.
        max_det: Most detections per image.
        amp: Mixed precision on CUDA.
        batch_size: Most images of one shape that pass the network together. Beyond 1, which is faster on CUDA, numbers
            agree to rounding instead of to the last bit.
        names: Class names by class id.
        stride: Pixels of which the sides of the network's input are multiples.
    """

    def __init__(self, model: nn.Module, verbose: bool = True, download: bool = False):
        super().__init__()
        self.model: Any = model.eval()
        self.download = download
        self.conf: float | str = 0.25
        self.iou = 0.45
        self.agnostic = False
        self.multi_label = False
        self.classes: Sequence[int | str] | int | str | None = None
        self.max_det = 1000
        self.amp = False
        self.batch_size = 1
        self.names = list(class_names(self.network))
        self.stride = largest_stride(self.network)

    @property
    def dmb(self) -> bool:
        """Whether the model is a `DetectMultiBackend`."""
        return isinstance(self.model, DetectMultiBackend)

    @property
    def pt(self) -> bool:
        """Whether the model is a checkpoint's network, not an exported file."""
        return self.model.pt if isinstance(self.model, DetectMultiBackend) else True

    @property
    def network(self) -> nn.Module:
        """The network inside: a `Model`, an `Ensemble` or a `RuntimeNetwork`."""
        return self.model.model if isinstance(self.model, DetectMultiBackend) else self.model

    @torch.no_grad()
    def forward(
        self,
        imgs: Any,
        size: int | Sequence[int] = DEFAULT_SIZE,
        augment: bool = False,
        profile: bool = False,
        download: bool | None = None,
    ) -> Any:
        """Return the detections of one image or of a list of images; of a tensor, the network's own output.

        Args:
            imgs: A path, a PIL image, a uint8 array (H, W, 3) or (3, H, W) in RGB (an image of OpenCV as
                `image[..., ::-1]`) or (H, W) in gray, or a list of these, of any sizes; an http(s) address with
                `download`. A floating-point tensor (B, 3, H, W) of values 0..1 is passed to the network.
            size: Side in pixels that the long side of each image is brought to, or (height, width).
            augment: Test-time augmentation.
            profile: Taken as v6.1 has it; times are always measured, see `HubDetections.t`.
            download: Replaces the attribute for this call.

        Returns:
            A `HubDetections`, or what the network returns for a tensor.

        Raises:
            DataError: If an image cannot be read; names it.
            ConfigError: If a setting cannot be.
        """
        if isinstance(imgs, Tensor):
            return self._of_tensor(imgs, augment)
        frames = list(self._frames(imgs, self.download if download is None else download))
        predictor, options = self._predictor(), self._options(size, augment)
        mixed = autocast(predictor.device, torch.float16 if self.amp and not predictor.half else None)
        with self._evaluating(), mixed:
            predictions: list[Prediction] = list(predict(predictor, frames, options))
        return HubDetections.of(predictions, self.names, predictor.device)

    def _of_tensor(self, images: Tensor, augment: bool) -> Any:
        if not images.is_floating_point():
            raise ConfigError(
                f"a tensor goes to the network as it is, in 0..1; this one is {images.dtype}: divide it by 255, "
                "or pass an array"
            )
        kernel = next((each for each in self.network.parameters() if each.ndim == 4), None)
        channels = 3 if kernel is None else kernel.shape[1]  # an exported file has no parameters to read
        if images.ndim != 4 or images.shape[1] != channels or not images.numel():
            raise ConfigError(
                f"a tensor goes to the network as it is, (B, {channels}, H, W); this one is {tuple(images.shape)}"
                + ("; add the batch with tensor[None]" if images.ndim == 3 else "")
            )
        parameter = next(self.network.parameters())
        return self.model(images.to(parameter.device).type_as(parameter), augment=augment)

    def _predictor(self) -> Predictor:
        parameter = next(self.network.parameters())
        return Predictor(
            self.network, parameter.device, tuple(self.names), self.stride, parameter.dtype == torch.float16
        )

    def _options(self, size: int | Sequence[int], augment: bool) -> PredictOptions:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if name == "conf" and isinstance(value, str) and value == AUTO:
                continue
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ConfigError(f"model.{name} = {value!r}: expected a number in 0..1")
        for name in ("max_det", "batch_size"):
            value = getattr(self, name)
            if not _is_count(value):
                raise ConfigError(f"model.{name} = {value!r}: expected a whole number of at least 1")
        sides = tuple(size) if isinstance(size, (list, tuple)) else (size,)
        if len(sides) not in (1, 2) or not all(_is_count(each) and each <= _LARGEST for each in sides):
            raise ConfigError(f"size = {size!r}: expected pixels, such as 640, or (height, width), up to {_LARGEST}")
        is_fixed = self._predictor().fixed_shape is not None
        classes = [self.classes] if isinstance(self.classes, (int, str)) else self.classes
        return PredictOptions(
            imgsz=None if is_fixed and size == DEFAULT_SIZE else size,
            conf_thres=self._predictor().least_confidence(self.conf, "model.conf ="),
            iou_thres=self.iou,
            max_det=int(self.max_det),
            classes=None if classes is None else [each if isinstance(each, str) else int(each) for each in classes],
            agnostic=self.agnostic,
            augment=augment,
            multi_label=self.multi_label,
            batch_size=self.batch_size,
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Predict in evaluation mode, whatever mode the network is in."""
        was_training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(was_training)

    def _frames(self, images: Any, download: bool) -> Iterator[Frame]:
        """Yield the images as frames, in RGB at their own size."""
        several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
        listed = list(images) if several else [images]
        for index, image in enumerate(listed):
            array, name = _read(image, f"image{index}", download)
            yield Frame(array, name, Path(name).with_suffix(".jpg").name, "image", index, len(listed))


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def _read(image: Any, name: str, download: bool) -> tuple[np.ndarray, str]:
    """Return an image as RGB uint8 (H, W, 3), and its name: that of its file, or `name`."""
    if isinstance(image, (str, Path)):
        return _read_file(str(image), download), str(image)
    if isinstance(image, np.ndarray):
        return _rgb(image, name), name
    if hasattr(image, "convert") and hasattr(image, "getexif"):  # a PIL image, without importing PIL
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(image)
        file = str(getattr(image, "filename", "") or name)
        array = np.asarray(upright if upright.mode.startswith(_DEEP) else upright.convert("RGB"))
        return _rgb(array, file), file
    kind = "a tensor in a list; pass one tensor (B, 3, H, W) by itself" if isinstance(image, Tensor) else type(image)
    raise DataError(f"{name}: expected a path, an array or a PIL image, got {kind}")


def _read_file(text: str, download: bool) -> np.ndarray:
    if is_url(text):
        if not download:
            raise DataError(f"{cut(text)}: is an address; model(..., download=True) fetches it, or save it first")
        return fetch_image(text)
    if is_dir(text):
        raise DataError(f"{cut(text)}: a folder; pass the paths of its images, or use detect.run(source=...)")
    if is_video(text):
        raise DataError(f"{cut(text)}: a video; pass its frames as arrays, or use detect.run(source=...)")
    return read_image(text)[0]


def _rgb(image: np.ndarray, name: str) -> np.ndarray:
    """Return an array as RGB uint8 (H, W, 3): channels last, gray repeated, alpha dropped."""
    shape = image.shape
    if image.ndim == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in _CHANNELS:
        raise DataError(f"{name}: expected an array (H, W, 3), (3, H, W) or (H, W), got {shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise DataError(f"{name}: {shape} is smaller than {MIN_SIDE} pixels")
    image = np.repeat(image[..., :1], 3, 2) if image.shape[2] < 3 else image[..., :3]
    return np.ascontiguousarray(_bytes(image, name))


def _bytes(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind not in "iuf":
        raise DataError(f"{name}: expected an array of numbers 0..255, got {image.dtype}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 255) or (image.dtype.kind == "f" and 0 < high <= 1):
        raise DataError(f"{name}: expected values 0..255, got {image.dtype} from {low:g} to {high:g}; scale them")
    return np.rint(image).astype(np.uint8)
