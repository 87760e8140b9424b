"""Cameras and network streams, each read in its own thread, so that slow inference gets the newest frame."""

import queue
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from utils.datasets.video import DEFAULT_FPS, fps_or_default, open_capture
from utils.download import public_address
from utils.errors import DataError
from utils.log import LOGGER

_READ_ATTEMPTS = 3  # a camera may miss a frame without being gone
_BUFFERED_FRAMES = 256  # with --stream-buffer the reader waits while this many are not yet consumed


@dataclass(frozen=True)
class Backoff:
    """How long to wait before connecting again, and how often.

    Attributes:
        first: Seconds before the first new attempt; doubled for each further one.
        longest: Upper limit of the delay in seconds.
        attempts: Failures in a row after which the stream is given up.
    """

    first: float = 0.5
    longest: float = 15.0
    attempts: int = 8

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after `failures` (from 1) failures in a row."""
        return min(self.first * 2 ** (failures - 1), self.longest)


DEFAULT_BACKOFF = Backoff()
OpenCapture = Callable[[str], cv2.VideoCapture]  # from an address


@dataclass(frozen=True)
class StreamFrame:
    """One frame of a stream.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        number: Frame number from 1, frames that the stride leaves out included.
        seconds: Time since the stream was first connected.
    """

    image: np.ndarray
    number: int
    seconds: float


def _web_page_hint(address: str) -> str:
    page = address.lower().startswith(("http://", "https://"))
    return "; a web page that shows a video is no stream: pass the address of the video itself" if page else ""


class StreamReader:
    """One stream, read by a daemon thread from `start()` until `close()` or until reconnecting has failed too often.

    Args:
        address: A camera number or a URL.
        arrived: Notified of each frame and of the end.
        stride: Deliver every n-th frame.
        keep_all: Whether every frame is kept, and the thread waits for the consumer; otherwise only the newest is.
        backoff: When and how often to reconnect.
        connect: Opens a capture for the address; isOpened, read, get and release of it are called.

    Attributes:
        fps: Frames per second that the stream claims; 30 before `start()` and if unknown.
        connections: Number of connections that succeeded, from 1 once the thread runs.
        finished: Whether the thread has ended.
    """

    _capture: cv2.VideoCapture

    def __init__(
        self,
        address: str,
        *,
        arrived: threading.Condition,
        stride: int = 1,
        keep_all: bool = False,
        backoff: Backoff = DEFAULT_BACKOFF,
        connect: OpenCapture = open_capture,
    ):
        self.address = address
        self.fps = DEFAULT_FPS
        self.connections = 0
        self.finished = False
        self._arrived = arrived
        self._stride = stride
        self._keep_all = keep_all
        self._backoff = backoff
        self._connect = connect
        self._frames: queue.Queue[StreamFrame] = queue.Queue(_BUFFERED_FRAMES if keep_all else 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stream {public_address(address)}", daemon=True)

    def start(self) -> None:
        """Connect, in the caller's thread, and start reading.

        Raises:
            DataError: If no stream answers.
        """
        capture = self._connect(self.address)
        if not capture.isOpened():
            capture.release()
            raise DataError(
                f"{public_address(self.address)}: no camera or stream answers there{_web_page_hint(self.address)}"
            )
        self.fps = fps_or_default(capture.get(cv2.CAP_PROP_FPS))
        self._capture = capture
        self._thread.start()

    def take(self) -> StreamFrame | None:
        """Return the next frame without waiting; None if there is none."""
        try:
            return self._frames.get_nowait()
        except queue.Empty:
            return None

    @property
    def exhausted(self) -> bool:
        """Whether no frame is left and the thread has ended."""
        return self.finished and self._frames.empty()

    def close(self, timeout: float = 2.0) -> None:
        """Ask the thread to end and wait for it at most `timeout` seconds (a read in progress may take longer)."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        started = time.monotonic()
        number, failures = 0, 0
        capture: cv2.VideoCapture | None = self._capture
        self.connections = 1
        while not self._stop.is_set():
            image = _read(capture)
            if image is not None:
                failures = 0
                number += 1
                if (number - 1) % self._stride == 0:
                    self._deliver(
                        StreamFrame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number, time.monotonic() - started)
                    )
                continue
            failures += 1
            if failures > self._backoff.attempts:
                LOGGER.warning(
                    f"WARNING: {public_address(self.address)}: gave up after {self._backoff.attempts} attempts"
                )
                break
            capture = self._reconnect(capture, failures)
        if capture is not None:
            capture.release()
        self.finished = True
        self._notify_arrived()

    def _reconnect(self, capture: cv2.VideoCapture | None, failures: int) -> cv2.VideoCapture | None:
        """Release the old connection if there is one, wait, and return a new one or None."""
        if capture is not None:
            capture.release()
        delay = self._backoff.delay(failures)
        LOGGER.warning(
            f"WARNING: {public_address(self.address)}: no frame; reconnecting in {delay:g} s "
            f"({failures}/{self._backoff.attempts})"
        )
        if self._stop.wait(delay):
            return None
        capture = self._connect(self.address)
        if capture.isOpened():
            self.connections += 1
            return capture
        capture.release()
        return None

    def _deliver(self, frame: StreamFrame) -> None:
        """Queue a frame: wait for room with `keep_all`, otherwise replace the waiting one."""
        while not self._stop.is_set():
            try:
                self._frames.put(frame, timeout=0.2 if self._keep_all else 0)
                break
            except queue.Full:
                if not self._keep_all:
                    self.take()  # the consumer is behind: the newest frame replaces the waiting one
        self._notify_arrived()

    def _notify_arrived(self) -> None:
        with self._arrived:
            self._arrived.notify_all()


def _read(capture: cv2.VideoCapture | None) -> np.ndarray | None:
    """Return the next image (BGR), or None if there is no connection or several reads in a row fail."""
    if capture is None:
        return None
    for _ in range(_READ_ATTEMPTS):
        read, image = capture.read()
        if read and image is not None:
            return image
    return None


def read_streams(readers: list[StreamReader], arrived: threading.Condition) -> Iterator[tuple[int, StreamFrame]]:
    """Yield frames of the readers in turn as they arrive, until every reader is exhausted or closed.

    Args:
        readers: Started readers.
        arrived: The condition that these readers notify.

    Yields:
        Index of the reader, and its frame.
    """
    while True:
        any_taken = False
        for index, reader in enumerate(readers):
            frame = reader.take()
            if frame is not None:
                any_taken = True
                yield index, frame
        if any_taken:
            continue
        if all(reader.exhausted for reader in readers):
            return
        with arrived:
            arrived.wait(timeout=0.05)  # short: a frame may have come between take() and wait()


def refuse_unsupported(address: str) -> None:
    """Raise an error for what shows a video and is neither a file nor a stream: web pages, and the screen.

    Raises:
        DataError: If the address is a YouTube page, or asks for the screen; says what to do instead.
    """
    if re.fullmatch(r"screen(\s+-?\d+)*", address, re.IGNORECASE) and not Path(address).exists():
        raise DataError(
            f"--source {address}: the screen is not read; record it and pass the file, for example with "
            "ffmpeg -f x11grab -i :0 screen.mp4 (Windows: -f gdigrab -i desktop, macOS: -f avfoundation -i 1), "
            "or let a program such as OBS show it as a virtual camera and pass the camera's number"
        )
    try:
        host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:  # a path or a damaged address, which whoever opens it will name
        return
    if re.fullmatch(r"([\w-]+\.)?(youtube(-nocookie)?\.com|youtu\.be)", host) and not Path(address).exists():
        raise DataError(
            f"--source {address}: YouTube pages are not streams and nothing is downloaded from there; save the video "
            f"yourself, for example with yt-dlp -f mp4 -o video.mp4 {shlex.quote(address)}, and pass the file, or pass "
            "a direct http or rtsp stream address"
        )
