"""Opening cameras, streams and videos, and reading the frames of a video file."""

import functools
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from utils.datasets.mp4_boxes import read_mp4_track
from utils.errors import DataError
from utils.files import pointer_problem, refuse_special
from utils.log import LOGGER

DEFAULT_FPS = 30.0  # if a container does not say
_MAX_GAP = 30  # consecutive frames that may be undecodable before reading ends
READ_TIMEOUT_S = 10.0  # of a URL, also for opening it
_MATROSKA_HEADERS = 1 << 16  # bytes at the start of an .mkv or .webm that hold the names of its codecs
_MAX_ASPECT = 10  # of a pixel; what claims more is damaged
# Codecs, by the four characters of containers, that OpenCV's FFmpeg opens without a decoder for them.
_CODECS = {
    **{"av01": "AV1", "vvc1": "H.266/VVC", "vvi1": "H.266/VVC", "h266": "H.266/VVC", "evc1": "EVC", "lvc1": "LC-EVC"},
    **{"avs3": "AVS3", "apv1": "APV", "braw": "Blackmagic RAW", "crxd": "Canon RAW", "encv": "encrypted (DRM)"},
}


def open_capture(address: str) -> cv2.VideoCapture:
    """Return a capture of a camera number, a file or a URL; a URL that does not answer fails after 10 seconds.

    Errors are reported by the caller; OpenCV and FFmpeg print nothing.
    """
    silence_opencv()
    if address.isdigit():
        return cv2.VideoCapture(int(address))
    if "://" not in address:  # FFmpeg takes what precedes a colon, as in 2026-05-01T12:30.mp4, for a protocol
        with path_for_opencv(os.path.abspath(address) if ":" in address else address) as path:
            return cv2.VideoCapture(path)
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(address)
    timeout_ms = int(READ_TIMEOUT_S * 1000)
    # FFmpeg alone: the other backends would try it once more, without these timeouts
    return cv2.VideoCapture(
        address,
        cv2.CAP_FFMPEG,
        [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms],
    )


@contextmanager
def path_for_opencv(path: str) -> Iterator[str]:
    """Yield a path that OpenCV can open, and that may be gone once it is open.

    A name with bytes that are not UTF-8, as in archives from other systems, would end the process (OpenCV 5.0.0), so it
    is opened by a link of another name.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            suffix = os.path.splitext(path)[1]
            link = os.path.join(folder, f"video{suffix if suffix.isascii() else ''}")
            os.symlink(os.path.abspath(path), link)
            yield link
    else:
        yield path


@functools.lru_cache(maxsize=1)
def silence_opencv() -> None:
    """Switch off the console messages of OpenCV and its decoders, unless its environment variables ask for them."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's "quiet"; read when the first video is opened
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoReader:
    """The frames of one video file or finite URL, rotated and mirrored as its metadata says.

    Args:
        path: The file or URL.

    Attributes:
        fps: Frames per second; 30 if unknown. The mean if the rate varies and the container knows it.
        frames: Number of frames that are shown, according to the container; 0 if unknown.
        pixel_aspect: Width of a pixel divided by its height, in the frames as they are read; 1 for most videos.

    Raises:
        DataError: If the file cannot be opened.
    """

    def __init__(self, path: str):
        self.path = str(path)
        refuse_special(self.path)
        self._track = read_mp4_track(self.path)
        self._capture = open_capture(self.path)
        if not self._capture.isOpened():
            raise DataError(f"{self.path}: {self._why_closed()}")
        self._mirror = self._track if self._track and self._track.mirrored else None
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0 if self._mirror else 1)
        self.fps = fps_or_default(self._capture.get(cv2.CAP_PROP_FPS))
        self.pixel_aspect = self._pixel_aspect()
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._coded = int(claimed) if math.isfinite(claimed) and 0 < claimed < 2**31 else 0
        shown = round(self._track.shown_s * self.fps) if self._track else 0
        self.frames = min(self._coded, shown) if shown else self._coded

    def read(self, stride: int = 1) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield (frame number from 1, seconds, image (H, W, 3) uint8 RGB) of frames 1, 1 + stride, 1 + 2·stride, ...

        Reading ends at the end of the file, whatever count the container claims. Damaged frames in between are left
        out, and counted in a warning.

        Raises:
            DataError: If no frame can be decoded; says so if this OpenCV lacks the codec.
        """
        number, gap, decoded, seconds = 0, 0, 0, 0.0
        try:
            while True:
                number += 1
                wanted = (number - 1) % stride == 0
                image = None
                if self._capture.grab():
                    gap, decoded = 0, decoded + 1
                    seconds = self._seconds(number, seconds)
                    _, image = self._capture.retrieve() if wanted else (False, None)
                else:
                    gap += 1
                    if number > self._coded or gap > _MAX_GAP:
                        self._check_losses(decoded, number - gap, seconds)
                        return
                if image is not None:
                    yield number, seconds, self._as_shown(image)
        finally:
            self.close()

    @property
    def capture(self) -> cv2.VideoCapture:
        """OpenCV's capture, which is asked for properties of the video."""
        return self._capture

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def _as_shown(self, image: np.ndarray) -> np.ndarray:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self._mirror.shown(image) if self._mirror else image

    def _seconds(self, number: int, before: float) -> float:
        """The time of the frame just grabbed: the container's if it moves on, else that of a constant rate."""
        at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return at if math.isfinite(at) and at > before else max((number - 1) / self.fps, before)

    def _pixel_aspect(self) -> float:
        width, height = (self._capture.get(flag) for flag in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
        if not (width > 0 and height > 0 and 1 / _MAX_ASPECT <= width / height <= _MAX_ASPECT):
            return 1.0
        quarter = self._capture.get(cv2.CAP_PROP_ORIENTATION_META) in (90, 270)
        transposed = self._mirror.transposed if self._mirror else quarter
        return height / width if transposed else width / height

    def _why_closed(self) -> str:
        """Why the file cannot be opened, if the system, its size or the name of its codec tells."""
        start = b""
        if "://" not in self.path:
            try:
                with open(self.path, "rb") as stream:
                    start = stream.read(_MATROSKA_HEADERS)
            except (OSError, ValueError) as error:  # ValueError: a null byte in the path
                return f"cannot be read: {getattr(error, 'strerror', None) or error}"
            if not start:
                return "is empty"
        codec = _CODECS.get(self._track.codec.lower(), "") if self._track else "AV1" if b"V_AV1" in start else ""
        if pointer_problem(start):
            return pointer_problem(start)
        return f"cannot be opened as a video{_lacking(codec) if codec else ''}"

    def _check_losses(self, decoded: int, last: int, seconds: float) -> None:
        """Warn about missing frames: some before the last one, or many after it. Raise DataError if none came."""
        if not decoded:
            code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
            codec = _CODECS.get(code.to_bytes(4, "little").decode("latin-1").lower(), "")
            raise DataError(f"{self.path}: no frame of this video can be decoded{_lacking(codec) if codec else ''}")
        expected = max(self.frames, last)
        # Claimed counts are estimates, and so is a container's length in frames if the rate varies: time decides.
        missing = expected - decoded - max(_MAX_GAP // 10, expected // 50)
        lacking_s = self.frames / self.fps - (seconds + 1 / self.fps)
        late = missing > 0 and lacking_s > max(_MAX_GAP // 10 / self.fps, self.frames / self.fps / 50)
        if decoded < last or (late and self._counts_frames()):
            LOGGER.warning(f"WARNING: {self.path}: damaged or cut short; {decoded} of {expected} frames could be read")
        elif late:
            LOGGER.warning(
                f"WARNING: {self.path}: the last frame is at {seconds:.1f} s, and the file says that it lasts "
                f"{self.frames / self.fps:.1f} s: it is cut short, or its sound is longer"
            )

    def _counts_frames(self) -> bool:
        """Whether the container counts the frames of its video; others give a length in time, sound included."""
        if "://" in self.path:
            return False
        with open(self.path, "rb") as stream:
            return self._track is not None or stream.read(4) == b"RIFF"


def _lacking(codec: str) -> str:
    return (
        f": its codec is {codec}, which this OpenCV ({cv2.__version__}) does not decode; convert it, for example with "
        "ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
    )


def fps_or_default(fps: float) -> float:
    """Return `fps`, or 30 if it is not a rate that a video can have (0, negative, infinite, NaN, above 1000)."""
    return float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
