"""Clips: detection frame by frame, and the annotated copy that a browser can play."""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.config import PredictOptions
from utils.datasets.sources import Frame
from utils.datasets.video import path_for_opencv, silence_opencv
from utils.engine.prediction_writers import Artist
from utils.engine.predictor import Prediction
from utils.serve.answers import detection_rows
from utils.serve.network_worker import NetworkWorker
from utils.serve.serve_options import ServeConfig
from utils.serve.served_models import ServedModel
from utils.serve.uploads import UploadError, clip_file, open_clip

KEPT_S = 15 * 60  # seconds that an annotated clip can be fetched
MOST_KEPT = 20
_PREVIEW_SIDE = 960  # pixels: the long side of the annotated copy


class ClipShelf:
    """Annotated clips under random names, in a temporary folder that is gone when the page ends."""

    def __init__(self) -> None:
        self._folder = Path()
        self._made: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "ClipShelf":
        self._folder = Path(tempfile.mkdtemp(prefix="clips-"))
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def new(self) -> tuple[str, Path]:
        """Return a new token and its file, which does not exist yet; the oldest clips are removed."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._made[token] = time.monotonic()
            old = [each for each, made in self._made.items() if time.monotonic() - made > KEPT_S]
            for each in {*old, *list(self._made)[:-MOST_KEPT]}:
                self._path(each).unlink(missing_ok=True)
                del self._made[each]
        return token, self._path(token)

    def find(self, token: str) -> Path | None:
        """Return the file of a token that was given out, None for any other text: it is looked up, not opened."""
        with self._lock:
            path = self._path(token) if token in self._made else None
        return path if path is not None and path.is_file() else None

    def _path(self, token: str) -> Path:
        return self._folder / f"{token}.webm"


def detect_clip(
    raw: bytes,
    model: ServedModel,
    options: PredictOptions,
    worker: NetworkWorker,
    shelf: ClipShelf,
    config: ServeConfig,
) -> Iterator[dict[str, Any]]:
    """Yield one record per frame, and at last one with the address of the annotated clip.

    Args:
        raw: The clip's bytes.
        model: The model.
        options: Image size, thresholds and classes.
        worker: Runs the network.
        shelf: Keeps the annotated clip.
        config: Limits.

    Yields:
        {"frame", "seconds", "frames", "fps", "width", "height", "detections"}, and {"clip", "frames", "cut"}.

    Raises:
        UploadError: If it is no clip, or its frames are too large.
    """
    token, target = shelf.new()
    with clip_file(raw) as path:
        artist = Artist(path.parent)
        reader = open_clip(path)
        writer, number = None, 0
        try:
            for number, seconds, image in reader.read():
                height, width = image.shape[:2]
                if height * width > config.max_pixels * 1e6:
                    raise UploadError(f"the clip has frames of {width} x {height} pixels: send a smaller one", 413)
                if number > config.max_frames:
                    break
                answer = worker.detect(model.predictor, image, options).result()
                frame = Frame(image, "clip", "clip", "video", 0, 1, number, reader.frames, reader.fps, seconds)
                prediction = Prediction(frame, answer.detections, model.predictor.names, answer.shape, answer.times)
                drawn = _preview(artist(prediction), reader.pixel_aspect)
                writer = writer or _open_writer(target, reader.fps, drawn)
                writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                yield {
                    "frame": number,
                    "seconds": round(seconds, 3),
                    "frames": reader.frames,
                    "fps": round(reader.fps, 3),
                    "width": width,
                    "height": height,
                    "detections": [row.model_dump() for row in detection_rows(model, answer)],
                }
        finally:
            if writer is not None:
                writer.release()
            reader.close()
    yield {"clip": f"/v1/clips/{token}", "frames": min(number, config.max_frames), "cut": number > config.max_frames}


def _preview(image: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Return a frame in square pixels, of even sides, its long side at most `_PREVIEW_SIDE`."""
    height, width = image.shape[0], image.shape[1] * pixel_aspect
    scale = min(_PREVIEW_SIDE / max(height, width), 1)
    size = tuple(max(2 * round(side * scale / 2), 2) for side in (width, height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _open_writer(target: Path, fps: float, first: np.ndarray) -> cv2.VideoWriter:
    silence_opencv()
    with path_for_opencv(str(target)) as path:
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"VP80"), fps, first.shape[1::-1])
    if not writer.isOpened():
        raise UploadError("this OpenCV cannot write WebM, so clips are not annotated here: use detect.py", 501)
    return writer
