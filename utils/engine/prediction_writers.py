"""Writers of predictions: annotated images and videos, frames, label files, crops.

Each is a `PredictionHook`; one that is off is absent. Names inside the run folder come from `Frame.name`, so inputs of
one name do not collide, and a second run into the same folder replaces its files.
"""

import errno
import os
import re
import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import ClassVar
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from utils.boxes import clip
from utils.datasets.mp4_times import TICKS, write_frame_times
from utils.datasets.sources import Frame
from utils.datasets.video import open_capture, path_for_opencv
from utils.engine.predictor import Prediction, PredictionHook
from utils.errors import UserError
from utils.images import writable_name, write_image
from utils.log import LOGGER
from utils.plots.annotate import Annotator, DrawingStyle
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color

STREAM_FPS = 30.0  # the nominal rate of a stream's video; each of its frames has its own time
_LONGEST_NAME = 60  # letters of a class name in a folder's name, which file systems limit to 255 bytes
_LARGEST_SHIFT = 0.5  # of a frame: times that differ less from those of a constant rate are a constant rate
_LATEST_TICK = (1 << 32) - 1
_NEARLY_FULL = 1 << 20  # bytes


def output_stem(prediction: Prediction) -> str:
    """Return the frame's output name without suffix, its number appended in videos and streams."""
    stem = str(PurePosixPath(prediction.frame.name).with_suffix(""))
    return stem if prediction.frame.kind == "image" else f"{stem}_{prediction.frame.number}"


class Artist:
    """Draws predictions, each once; the window and the files share the image.

    Args:
        folder: The run folder, for classes.txt if class names cannot be written.
        line_thickness: Width of the boxes in pixels; by default it follows from the image and the number of boxes.
        hide_labels: Draw boxes without text.
        hide_conf: Draw class names without confidences.
    """

    def __init__(
        self, folder: Path, line_thickness: int | None = None, hide_labels: bool = False, hide_conf: bool = False
    ):
        self._folder = folder
        self._line_thickness = line_thickness
        self._hide_labels = hide_labels
        self._hide_conf = hide_conf
        self._drawn: WeakKeyDictionary[Prediction, np.ndarray] = WeakKeyDictionary()
        self._one_draws = Lock()  # the window and the files have threads of their own

    def __call__(self, prediction: Prediction) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB: the frame with its boxes, the most confident on top."""
        with self._one_draws:
            image = self._drawn.get(prediction)
            if image is None:
                image = self._drawn[prediction] = self._draw(prediction)
            return image

    def _draw(self, prediction: Prediction) -> np.ndarray:
        image, found = prediction.frame.image, prediction.detections
        annotator = Annotator(image, DrawingStyle.of(image.shape, len(found), self._line_thickness))
        ids = found.cls.tolist()
        annotator.boxes(found.xyxy.numpy(), self._labels(prediction), [class_color(class_id) for class_id in ids])
        return annotator.image

    def _labels(self, prediction: Prediction) -> list[str]:
        """The text of each detection, its class as a number if no font can write the name."""
        ids, confidences = prediction.detections.cls.tolist(), prediction.detections.conf.tolist()
        if self._hide_labels:
            return [""] * len(ids)
        names = class_labels(prediction.names, self._folder)
        texts = [names[class_id] if class_id < len(names) else str(class_id) for class_id in ids]
        if self._hide_conf:
            return texts
        return [f"{text} {confidence:.2f}" for text, confidence in zip(texts, confidences, strict=True)]


class ImageWriter(PredictionHook):
    """Annotated images as save_dir/<name>, videos and streams as .mp4 there.

    An image whose format cannot be written, such as .dng, is written as .jpg. A video has every frame once, at the time
    that it has in its source or at which it arrived; its rate is constant if those times are. Anamorphic videos are
    resampled to square pixels, since many players ignore the shape of pixels that a file gives.

    Args:
        save_dir: The run folder.
        artist: Draws the boxes.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path, artist: Artist):
        self._save_dir = save_dir
        self._artist = artist
        self._videos: dict[str, _Mp4] = {}

    def after_frame(self, prediction: Prediction) -> None:
        frame = prediction.frame
        if frame.kind == "image":
            target = self._save_dir / writable_name(frame.name)
            _refuse_to_replace_input(target, frame.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, self._artist(prediction))
            return
        if frame.name not in self._videos:
            target = (self._save_dir / frame.name).with_suffix(".mp4")
            _refuse_to_replace_input(target, frame.path)
            fps = frame.fps if frame.kind == "video" else STREAM_FPS
            self._videos[frame.name] = _Mp4(target, fps, display_size(frame))
        self._videos[frame.name].write(self._artist(prediction), frame.seconds)

    def after_input(self, index: int) -> None:
        self.close()  # files come one after the other: the last one is complete

    def close(self) -> None:
        while self._videos:
            self._videos.popitem()[1].close()


def display_size(frame: Frame) -> tuple[int, int]:
    """Return the (width, height) in square pixels that a frame is shown in: the side that gains pixels is stretched."""
    height, width = frame.image.shape[:2]
    if frame.pixel_aspect == 1:
        return width, height
    wide = frame.pixel_aspect > 1
    stretched = width * frame.pixel_aspect if wide else height / frame.pixel_aspect
    even = 2 * round(stretched / 2)  # what the codec takes
    return (even, height) if wide else (width, even)


class _Mp4:
    """An mp4 file being written; frames of another size (of a stream that reconnected) are resized to the first's.

    Args:
        file: The file.
        fps: The rate that it has if the times of its frames fit.
        size: (width, height) in pixels.
    """

    def __init__(self, file: Path, fps: float, size: tuple[int, int]):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._fps, self._size = file, fps, size
        self._times = array("I")  # of each frame, in ticks since the first
        self._first_s = 0.0
        self._is_constant = True
        with path_for_opencv(str(file)) as path:
            self._writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise UserError(f"{file}: this OpenCV cannot write mp4 videos here; use --nosave to go without")

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame at its time in seconds."""
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not self._times:
            self._first_s = seconds
        number, since = len(self._times), seconds - self._first_s
        self._is_constant &= abs(since * self._fps - number) < _LARGEST_SHIFT
        earliest = self._times[-1] + 1 if number else 0
        self._times.append(min(max(round(since * TICKS), earliest), _LATEST_TICK))

    def _give_times(self) -> None:
        """Give the frames of the finished file their times, if they do not have them already."""
        if self._is_constant or len(self._times) < 2:
            return
        ticks = np.append(np.frombuffer(self._times, np.uint32).astype(np.int64), 0)
        ticks[-1] = ticks[-2] + max(round(TICKS / self._fps), 1)
        if not write_frame_times(str(self._file), np.diff(ticks).clip(1).tolist()):
            LOGGER.warning(f"WARNING: {self._file}: has {self._fps:g} frames/s; the times of its frames are lost")

    def close(self) -> None:
        """Finish the file. Raises OSError if the disk is full, or UserError, if it is not whole; then it is removed."""
        self._writer.release()
        capture = open_capture(str(self._file))
        whole = capture.isOpened() and int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == len(self._times)
        capture.release()
        if whole:
            self._give_times()
            return
        free = shutil.disk_usage(self._file.parent).free if self._file.parent.is_dir() else 0
        self._file.unlink(missing_ok=True)
        if free < _NEARLY_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))
        raise UserError(f"{self._file}: the video could not be written whole (largest file, quota, or folder removed?)")


def _refuse_to_replace_input(target: Path, source: str) -> None:
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UserError(f"{target}: the result would replace the input; choose another --project or --name")


class FrameWriter(PredictionHook):
    """frames/<stem>_<frame>.jpg: frames of videos and streams as they were read, named as their label files are.

    Args:
        save_dir: The run folder.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path):
        self._folder = save_dir / "frames"

    def after_frame(self, prediction: Prediction) -> None:
        if prediction.frame.kind == "image":
            return
        file = self._folder / f"{output_stem(prediction)}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, prediction.frame.image)


class LabelWriter(PredictionHook):
    """labels/<stem>.txt, for videos labels/<stem>_<frame>.txt: rows `class xc yc w h [confidence]`, normalized.

    Rows are sorted by rising confidence, as v6.1 writes them. A frame without detections has no file; one left there
    by an earlier run is removed.

    Args:
        save_dir: The run folder.
        save_conf: Append the confidence to each row.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path, save_conf: bool = False):
        self.folder = save_dir / "labels"
        self.written = 0
        self._save_conf = save_conf
        self.folder.mkdir(parents=True, exist_ok=True)

    def after_frame(self, prediction: Prediction) -> None:
        file = self.folder / f"{output_stem(prediction)}.txt"
        if not len(prediction):
            file.unlink(missing_ok=True)
            return
        found = prediction.detections
        rows = zip(found.cls.tolist(), prediction.xywhn().tolist(), found.conf.tolist(), strict=True)
        lines = [
            " ".join(f"{value:g}" for value in (class_id, *box, *([confidence] if self._save_conf else [])))
            for class_id, box, confidence in rows
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in reversed(lines)), encoding="utf-8")
        self.written += 1


class CropWriter(PredictionHook):
    """crops/<class>/<stem>.jpg, <stem>2.jpg, ...: each box, enlarged a little, cut from the frame without drawing.

    Args:
        save_dir: The run folder.
        gain: Factor by which a box is enlarged.
        pad: Pixels that are added to each side length.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path, gain: float = 1.02, pad: float = 10):
        self._folder = save_dir / "crops"
        self._gain, self._pad = gain, pad
        self._copies: dict[str, int] = {}  # by name without number: the last one that was written

    def after_frame(self, prediction: Prediction) -> None:
        stem = PurePosixPath(prediction.frame.name).with_suffix("")
        for crop, class_id in self.crops(prediction):
            if not crop.size:
                continue
            file = self._unused_file(self._folder / safe_name(prediction.name_of(class_id)) / stem)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(file, np.ascontiguousarray(crop))

    def crops(self, prediction: Prediction) -> Iterator[tuple[np.ndarray, int]]:
        """Yield (a view (h, w, 3) of the frame, class id) of each detection; one beside the frame has no pixels."""
        image = prediction.frame.image
        for box, class_id in zip(self._enlarged(prediction), prediction.detections.cls.tolist(), strict=True):
            left, top, right, bottom = box
            yield image[top : max(top, bottom), left : max(left, right)], class_id

    def _enlarged(self, prediction: Prediction) -> list[list[int]]:
        """The boxes enlarged about their centers, inside the frame, as whole pixels."""
        xyxy = prediction.detections.xyxy.numpy()
        center, side = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]) * self._gain + self._pad
        enlarged = np.concatenate((center - side / 2, center + side / 2), 1)
        return clip(enlarged, prediction.frame.image.shape[:2]).astype(int).tolist()

    def _unused_file(self, base: Path) -> Path:
        """The first of base.jpg, base2.jpg, ... that this run has not written."""
        name = str(base)
        copy = self._copies.get(name, 0) + 1
        while self._is_used(f"{name}{copy if copy > 1 else ''}"):
            copy += 1
        self._copies[name] = copy
        return base.with_name(f"{base.name}{copy if copy > 1 else ''}.jpg")

    def _is_used(self, name: str) -> bool:
        """Whether a name is that of a crop: the first of its own name, or the 23rd or 3rd of one that it continues."""
        digits = len(name) - len(name.rstrip("0123456789"))
        ends = (name[len(name) - count :] for count in range(1, digits + 1))
        numbers = {name[: -len(end)]: int(end) for end in ends if end[0] != "0" and end != "1"}
        return any(self._copies.get(base, 0) >= number for base, number in (*numbers.items(), (name, 1)))


def safe_name(name: str) -> str:
    """Return a class name as a folder name on every system: no separators or reserved characters, not empty, short."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name)[:_LONGEST_NAME].strip(" .") or "_"
