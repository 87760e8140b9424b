"""Opening cameras, streams and videos, and reading the frames of a video file."""

import functools
import math
import os
from collections.abc import Iterator

import cv2
import numpy as np

from utils.errors import DataError
from utils.log import LOGGER

DEFAULT_FPS = 30.0  # if a container does not say
_MAX_GAP = 30  # consecutive frames that may be undecodable before reading ends
_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 10_000


def open_capture(address: str) -> cv2.VideoCapture:
    """Return a capture of a camera number, a file or a URL; a URL that does not answer fails after 10 seconds.

    Errors are reported by the caller; OpenCV and FFmpeg print nothing.
    """
    _silence_opencv()
    if address.isdigit():
        return cv2.VideoCapture(int(address))
    if "://" not in address:
        return cv2.VideoCapture(address)
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(address)
    # FFmpeg alone: the other backends would try it once more, without these timeouts
    return cv2.VideoCapture(
        address,
        cv2.CAP_FFMPEG,
        [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS],
    )


@functools.lru_cache(maxsize=1)
def _silence_opencv() -> None:
    """Switch off the console messages of OpenCV's video part, unless its environment variables ask for them."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's "quiet"; read when the first video is opened
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoReader:
    """The frames of one video file or finite URL, oriented as its metadata says.

    Args:
        path: The file or URL.

    Attributes:
        fps: Frames per second; 30 if unknown.
        frames: Number of frames according to the container; 0 if unknown.

    Raises:
        DataError: If the file cannot be opened.
    """

    def __init__(self, path: str):
        self.path = str(path)
        self._capture = open_capture(self.path)
        if not self._capture.isOpened():
            raise DataError(f"{self.path}: cannot be opened as a video")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.fps = fps_or_default(self._capture.get(cv2.CAP_PROP_FPS))
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(claimed) if math.isfinite(claimed) and 0 < claimed < 2**31 else 0

    def read(self, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame number from 1, image (H, W, 3) uint8 RGB) of frames 1, 1 + stride, 1 + 2·stride, ...

        Reading ends at the end of the file, whatever count the container claims. Damaged frames in between are left
        out, and counted in a warning.
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
                    if number > self.frames or gap > _MAX_GAP:
                        self._warn_about_losses(decoded, number - gap)
                        return
                if image is not None:
                    yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            self.close()

    def _warn_about_losses(self, decoded: int, last: int) -> None:
        """Warn about missing frames: some before the last one, or many that the container claims after it."""
        expected = max(self.frames, last)
        if decoded < last or decoded < expected - max(_MAX_GAP // 10, expected // 50):  # claimed counts are estimates
            LOGGER.warning(f"WARNING: {self.path}: damaged or cut short; {decoded} of {expected} frames could be read")

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


def fps_or_default(fps: float) -> float:
    """Return `fps`, or 30 if it is not a rate that a video can have (0, negative, infinite, NaN, above 1000)."""
    return float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
