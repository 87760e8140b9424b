"""Writers of predictions: annotated images and videos, label files, crops, tables.

Each is a `PredictionHook`; one that is off is absent. Names inside the run folder come from `Frame.name`, so inputs of
one name do not collide, and a second run into the same folder replaces its files.
"""

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from utils.boxes import clip
from utils.datasets.sources import Frame
from utils.datasets.video import open_capture, path_for_opencv
from utils.engine.predictor import Prediction, PredictionHook
from utils.errors import UserError
from utils.images import writable_name, write_image
from utils.plots.annotate import Annotator, DrawingStyle
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color

STREAM_FPS = 30.0
_LONGEST_HOLD_S = 5.0  # a saved video does not stand still longer than this
_LONGEST_NAME = 60  # letters of a class name in a folder's name, which file systems limit to 255 bytes
_ROUNDING = 0.3  # of a frame
_NEARLY_FULL = 1 << 20  # bytes
_FIELDS = ("file", "frame", "time", "class_id", "name", "confidence", "x1", "y1", "x2", "y2")


def output_stem(prediction: Prediction) -> str:
    """Return the frame's output name without suffix, its number appended in videos and streams."""
    stem = str(PurePosixPath(prediction.frame.name).with_suffix(""))
    return stem if prediction.frame.kind == "image" else f"{stem}_{prediction.frame.number}"


class Artist:
    """Draws predictions; the window and the files share the image drawn last.

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
        self._last: tuple[Prediction, np.ndarray] | None = None

    def __call__(self, prediction: Prediction) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB: the frame with its boxes, the most confident on top."""
        if self._last is None or self._last[0] is not prediction:
            self._last = (prediction, self._draw(prediction))
        return self._last[1]

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

    An image whose format cannot be written, such as .dng, is written as .jpg. A video keeps its rate and every frame;
    a frame that stays longer, in a video of varying rate or in a stream, is repeated. Anamorphic videos are resampled
    to square pixels, since many players ignore the shape of pixels that a file gives.

    Args:
        save_dir: The run folder.
        artist: Draws the boxes.
    """

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
            self._videos[frame.name] = _Mp4(target, fps, display_size(frame), every_frame=frame.kind == "video")
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
        fps: Its rate.
        size: (width, height) in pixels.
        every_frame: Whether each frame is written at least once, also if frames come faster than the rate.
    """

    def __init__(self, file: Path, fps: float, size: tuple[int, int], every_frame: bool = False):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._fps, self._size, self._least = file, fps, size, int(every_frame)
        self._written = 0
        with path_for_opencv(str(file)) as path:
            self._writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise UserError(f"{file}: this OpenCV cannot write mp4 videos here; use --nosave to go without")
        self._start: float | None = None
        self._held: np.ndarray | None = None

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append the last frame again as often as it takes to reach a frame's time, in seconds, then that frame."""
        self._start = seconds if self._start is None else self._start
        times = self._frame_at(seconds) + 1 - self._written
        longest = max(int(_LONGEST_HOLD_S * self._fps), 1)
        if times > longest:
            self._start += (times - longest) / self._fps
            times = longest
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        times = max(times, self._least)
        for repeat in range(times):
            self._writer.write(bgr if self._held is None or repeat == times - 1 else self._held)
            self._written += 1
        self._held = bgr

    def _frame_at(self, seconds: float) -> int:
        """The frame, from 0, that begins at or before a time; times of files are rounded to milliseconds."""
        return int((seconds - (self._start or 0.0)) * self._fps + (_ROUNDING if self._least else 0.0))

    def close(self) -> None:
        """Finish the file. Raises OSError if the disk is full, or UserError, if it is not whole; then it is removed."""
        self._writer.release()
        capture = open_capture(str(self._file))
        whole = capture.isOpened() and int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == self._written
        capture.release()
        if whole:
            return
        free = shutil.disk_usage(self._file.parent).free if self._file.parent.is_dir() else 0
        self._file.unlink(missing_ok=True)
        if free < _NEARLY_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))
        raise UserError(f"{self._file}: the video could not be written whole (largest file, quota, or folder removed?)")


def _refuse_to_replace_input(target: Path, source: str) -> None:
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UserError(f"{target}: the result would replace the input; choose another --project or --name")


class LabelWriter(PredictionHook):
    """labels/<stem>.txt, for videos labels/<stem>_<frame>.txt: rows `class xc yc w h [confidence]`, normalized.

    Rows are sorted by rising confidence, as v6.1 writes them. A frame without detections has no file; one left there
    by an earlier run is removed.

    Args:
        save_dir: The run folder.
        save_conf: Append the confidence to each row.
    """

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

    def __init__(self, save_dir: Path, gain: float = 1.02, pad: float = 10):
        self._folder = save_dir / "crops"
        self._gain, self._pad = gain, pad
        self._used: set[Path] = set()
        self._copies: dict[Path, int] = {}

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
        copy = self._copies.get(base, 0)
        while True:
            copy += 1
            file = base.with_name(f"{base.name}{copy if copy > 1 else ''}.jpg")
            if file not in self._used:
                break
        self._copies[base] = copy
        self._used.add(file)
        return file


def safe_name(name: str) -> str:
    """Return a class name as a folder name on every system: no separators or reserved characters, not empty, short."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name)[:_LONGEST_NAME].strip(" .") or "_"


class CsvWriter(PredictionHook):
    """predictions.csv: one row per detection. A byte of a file name that is not UTF-8 is escaped."""

    def __init__(self, save_dir: Path):
        self._stream = (save_dir / "predictions.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace")
        self._table = csv.DictWriter(self._stream, _FIELDS)
        self._table.writeheader()

    def after_frame(self, prediction: Prediction) -> None:
        self._table.writerows(prediction.records())

    def close(self) -> None:
        self._stream.close()


class JsonWriter(PredictionHook):
    """predictions.json: a list of the same records, written as they come.

    A byte of a file name that is not UTF-8 stands as JSON's escape of the surrogate that Python reads it as.
    """

    def __init__(self, save_dir: Path):
        self._stream = (save_dir / "predictions.json").open("w", encoding="utf-8", errors="backslashreplace")
        self._lines = self._separators()

    def after_frame(self, prediction: Prediction) -> None:
        for record in prediction.records():
            self._stream.write(f"{next(self._lines)}{json.dumps(record, ensure_ascii=False)}")

    @staticmethod
    def _separators() -> Iterator[str]:
        yield "[\n"
        while True:
            yield ",\n"

    def close(self) -> None:
        if self._stream.closed:
            return
        self._stream.write("[]\n" if next(self._lines) == "[\n" else "\n]\n")
        self._stream.close()
