"""Opening cameras, streams and videos, and reading the frames of a video file."""

import functools
import math
import os
from collections.abc import Iterator

import cv2
import numpy as np

from utils.errors import DataError
from utils.log import LOGGER

DEFAULT_FPS = 30.0  # where a container does not say
_LONGEST_GAP = 30  # consecutive frames that may be undecodable before the rest is given up
_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 10_000


def open_capture(address: str):
    """Return a cv2.VideoCapture of a camera number, a file or a URL; a URL that keeps silent fails after 10 seconds.

    What goes wrong is told by its caller in a line of ours, and not by OpenCV and FFmpeg besides.
    """
    _quieten_opencv()
    if address.isdigit():
        return cv2.VideoCapture(int(address))
    if "://" not in address:
        return cv2.VideoCapture(address)
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(address)
    # FFmpeg alone: the other back ends would try it once more, without these timeouts
    return cv2.VideoCapture(
        address,
        cv2.CAP_FFMPEG,
        [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS],
    )


@functools.lru_cache(maxsize=1)
def _quieten_opencv() -> None:
    """Switch off the console messages of OpenCV's video part, unless its environment variables ask for them."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's "quiet"; read when the first video is opened
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoReader:
    """The frames of one video file or finite URL, oriented as its metadata says.

    fps: frames a second (30 where unknown); frames: how many the container claims, 0 where it does not know.
    Raises DataError when the file cannot be opened.
    """

    def __init__(self, path: str):
        self.path = str(path)
        self._capture = open_capture(self.path)
        if not self._capture.isOpened():
            raise DataError(f"{self.path}: cannot be opened as a video")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(claimed) if math.isfinite(claimed) and 0 < claimed < 2**31 else 0

    def read(self, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame number from 1, (H, W, 3) uint8 RGB) of frames 1, 1 + stride, 1 + 2·stride, ...

        The file's end decides, not the claimed count; damaged frames in between are left out, and counted in a warning.
        """
        number, gap, decoded = 0, 0, 0
        try:
            while True:
                number += 1
                wanted = (number - 1) % stride == 0
                image = None
                if self._capture.grab():
                    gap, decoded = 0, decoded + 1
                    _, image = self._capture.retrieve() if wanted else (False, None)
                else:
                    gap += 1
                    if number > self.frames or gap > _LONGEST_GAP:
                        self._tell_losses(decoded, number - gap)
                        return
                if image is not None:
                    yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            self.close()

    def _tell_losses(self, decoded: int, last: int) -> None:
        """Warn about frames that did not come: some before the last one, or many that the container claims after it."""
        promised = max(self.frames, last)
        if decoded < last or decoded < promised - max(_LONGEST_GAP // 10, promised // 50):  # claims are estimates
            LOGGER.warning(f"WARNING: {self.path}: damaged or cut short; {decoded} of {promised} frames could be read")

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


def sane_fps(fps: float) -> float:
    """Return `fps`, or 30 where it is no rate a video can have (0, negative, infinite, beyond 1000)."""
    return float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
