"""Reading the frames of a video file."""

import math
from collections.abc import Iterator

import cv2
import numpy as np

from utils.errors import DataError

DEFAULT_FPS = 30.0  # where a container does not say
_LONGEST_GAP = 30  # consecutive frames that may be undecodable before the rest is given up


class VideoReader:
    """The frames of one video file or finite URL, oriented as its metadata says.

    fps: frames a second (30 where unknown); frames: how many the container claims, 0 where it does not know.
    Raises DataError when the file cannot be opened."""

    def __init__(self, path: str):
        self.path = str(path)
        self._capture = cv2.VideoCapture(self.path)
        if not self._capture.isOpened():
            raise DataError(f"{self.path}: cannot be opened as a video")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(claimed) if math.isfinite(claimed) and 0 < claimed < 2**31 else 0

    def read(self, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame number from 1, (H, W, 3) uint8 RGB) of frames 1, 1 + stride, 1 + 2·stride, ...

        The file's end decides, not the claimed count; damaged frames in between are left out."""
        number, gap = 0, 0
        try:
            while True:
                number += 1
                wanted = (number - 1) % stride == 0
                image = None
                if self._capture.grab():
                    gap = 0
                    _, image = self._capture.retrieve() if wanted else (False, None)
                else:
                    gap += 1
                    if number > self.frames or gap > _LONGEST_GAP:
                        return
                if image is not None:
                    yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


def sane_fps(fps: float) -> float:
    """Return `fps`, or 30 where it is no rate a video can have (0, negative, infinite, beyond 1000)."""
    return float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
