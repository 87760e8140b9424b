"""Cameras and network streams, each read in its own thread, so that slow inference gets the newest frame.

A connection is read by a thread of its own, because a read may block for as long as it likes; a second thread watches
it, gives it up when no frame comes, and connects again.
"""

import atexit
import re
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from utils.background import BoundedBuffer
from utils.datasets.video import READ_TIMEOUT_S, open_capture
from utils.download import public_address
from utils.errors import DataError
from utils.log import LOGGER

_READ_ATTEMPTS = 3  # a camera may miss a frame without being gone
_BUFFERED_FRAMES = 256  # with --stream-buffer the reader waits while this many are not yet consumed
_RATE_FRAMES = 60  # the rate is the mean over as many frames
_RATE_S = 0.5  # and unknown before: the first ones come in a burst
_MOST_HANGING = 3  # threads of a stream that hang in a read; no further connection is made while there are so many
_POLL_S = 0.1
_LAST_JOIN_S = 12.0  # at the program's end: over OpenCV's 10; Python aborts if a thread comes back from OpenCV later
_JOIN_S = 2.0


@dataclass(frozen=True)
class Patience:
    """How long a stream is waited for.

    Attributes:
        give_up_s: Seconds without a frame after which a stream is given up; infinite for never.
        stall_s: Seconds without a frame after which a connection counts as lost.
        answer_s: Seconds that connecting may take.
        first_delay: Seconds before the second attempt to connect again (the first is made at once); doubled for each
            further one.
        longest_delay: Upper limit of that delay.
        steady_s: Seconds for which a connection must hold, so that the delays begin anew.
    """

    give_up_s: float = 60.0
    stall_s: float = READ_TIMEOUT_S
    answer_s: float = 15.0
    first_delay: float = 0.5
    longest_delay: float = 15.0
    steady_s: float = 5.0

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row (from 1): none, then 0.5, 1, 2, ..."""
        return min(self.first_delay * 2.0 ** min(failures - 2, 60), self.longest_delay) if failures > 1 else 0.0


DEFAULT_PATIENCE = Patience()
OpenCapture = Callable[[str], cv2.VideoCapture]  # from an address


@dataclass(frozen=True)
class StreamFrame:
    """One frame of a stream.

    Attributes:
        bgr: (H, W, 3) uint8 as OpenCV reads it.
        number: Frame number from 1, frames that were left out included.
        seconds: Time since the stream was first connected.
        fps: Frames per second that arrive; 0 while it is unknown.
    """

    bgr: np.ndarray
    number: int
    seconds: float
    fps: float

    def image(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB."""
        return cv2.cvtColor(self.bgr, cv2.COLOR_BGR2RGB)


class _Connection:
    """One connection to a stream, opened and read by a daemon thread until it fails or is given up.

    Args:
        address: The stream's.
        connect: Opens a capture.
        deliver: Called with this connection and each image (BGR).
        changed: Notified when it is open and when it has ended.
        capture: One that is already open.
    """

    def __init__(
        self,
        address: str,
        connect: OpenCapture,
        deliver: Callable[["_Connection", np.ndarray], None],
        changed: threading.Condition,
        capture: cv2.VideoCapture | None = None,
    ):
        self.is_open = False
        self.ended = False
        self.waiting = False  # for the consumer, who is behind: no reason to give it up
        self.reason = ""
        self.begun = self.latest = time.monotonic()
        self._address, self._connect, self._deliver, self._changed = address, connect, deliver, changed
        self._capture = capture
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stream {public_address(address)}", daemon=True)
        self._thread.start()

    def give_up(self) -> None:
        """Let the thread end as soon as it can; frames that it still reads are not delivered."""
        self._given_up.set()

    @property
    def is_given_up(self) -> bool:
        return self._given_up.is_set()

    @property
    def lasted_s(self) -> float:
        """Seconds from when it was open to its latest frame."""
        return self.latest - self.begun if self.is_open else 0.0

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for the thread, which may hang in a read, no longer than this."""
        self._thread.join(seconds)

    def _run(self) -> None:
        capture = self._capture
        try:
            capture = self._connect(self._address) if capture is None else capture
            if capture.isOpened():
                self._note_open()
                while not self.is_given_up and (image := _read(capture)) is not None:
                    self.latest = time.monotonic()
                    self._deliver(self, image)
                    self.latest = time.monotonic()
        except (cv2.error, OSError, MemoryError, RuntimeError, ValueError) as error:  # an outage of this stream alone
            self.reason = f" ({' '.join(str(error).split())[:200] or type(error).__name__})"
        finally:
            if capture is not None:
                capture.release()
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _note_open(self) -> None:
        with self._changed:
            self.is_open = True
            self.begun = self.latest = time.monotonic()
            self._changed.notify_all()


class StreamReader:
    """One stream, read by threads from `start()` until `close()` or until it stays away too long.

    Args:
        address: A camera number or a URL.
        arrived: Notified of each frame and of the end.
        stride: Deliver every n-th frame.
        keep_all: Whether every frame is kept, and the stream waits for the consumer; otherwise only the newest is.
        patience: How long it is waited for.
        connect: Opens a capture for the address; isOpened, read and release of it are called.

    Attributes:
        connections: Number of connections from which frames came.
        frames: Number of frames that arrived.
        delivered: Number of frames that were taken.
        finished: Whether the stream has ended.
    """

    def __init__(
        self,
        address: str,
        *,
        arrived: threading.Condition,
        stride: int = 1,
        keep_all: bool = False,
        patience: Patience = DEFAULT_PATIENCE,
        connect: OpenCapture = open_capture,
    ):
        self.address = address
        self.connections = self.frames = self.delivered = 0
        self.finished = False
        self._name = public_address(address)
        self._arrived, self._stride, self._keep_all = arrived, stride, keep_all
        self._patience, self._connect = patience, connect
        self._waiting: BoundedBuffer[StreamFrame] = BoundedBuffer(_BUFFERED_FRAMES if keep_all else 1)
        self._times: deque[float] = deque(maxlen=_RATE_FRAMES)  # when the latest frames of this connection came
        self._began = self._latest = 0.0  # when the stream was connected, and when its latest frame came
        self._is_lost = False
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._hanging: list[_Connection] = []
        self._connection: _Connection | None = None
        self._watch = threading.Thread(target=self._run, name=f"watch {self._name}", daemon=True)

    def start(self) -> None:
        """Begin to connect. A camera of this computer is opened in the caller's thread, as some systems demand."""
        is_camera = "://" not in self.address and self._connect is open_capture
        self._connection = self._new_connection(self._connect(self.address) if is_camera else None)

    def require_answer(self) -> None:
        """Wait until the stream is connected, and begin to watch it.

        Raises:
            DataError: If no stream answers.
        """
        connection = self._connection
        assert connection is not None, "start() comes first"
        answered = self._await(lambda: connection.is_open or connection.ended, self._patience.answer_s)
        if not connection.is_open:
            connection.give_up()
            waited = "" if answered else f" within {self._patience.answer_s:g} s"
            raise DataError(
                f"{self._name}: no camera or stream answers there{waited}{connection.reason}"
                f"{_web_page_hint(self.address)}"
            )
        with self._changed:
            self._note_begun(connection)
        self._watch.start()

    def take(self) -> StreamFrame | None:
        """Return the next frame without waiting; None if there is none."""
        frame = self._waiting.take()
        self.delivered += frame is not None
        return frame

    @property
    def exhausted(self) -> bool:
        """Whether no frame is left and the stream has ended."""
        return self.finished and not len(self._waiting)

    def close(self) -> None:
        """End the threads, and wait for them at most 2 seconds: a read in progress may take longer. Once is enough."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._waiting.close(drop=True)
        until = time.monotonic() + _JOIN_S
        if self._watch.is_alive():
            self._watch.join(_JOIN_S)
        for connection in (*self._hanging, *([self._connection] if self._connection else [])):
            connection.give_up()
            connection.join(max(until - time.monotonic(), 0.0))
            if connection.is_alive and self._connect is open_capture:
                atexit.register(connection.join, _LAST_JOIN_S)

    def summary(self) -> str:
        """Return "x: 250 frames in 10.0 s (25.0 frames/s), 120 used, 1 reconnect" for the end of a run."""
        again, length = max(self.connections - 1, 0), self._latest - self._began
        rate = f" ({self.frames / length:.1f} frames/s)" if length > 0 else ""
        return (
            f"{self._name}: {self.frames} frames in {length:.1f} s{rate}, {self.delivered} used, "
            f"{again} reconnect{'s' * (again != 1)}"
        )

    def _new_connection(self, capture: cv2.VideoCapture | None = None) -> _Connection:
        return _Connection(self.address, self._connect, self._receive, self._changed, capture)

    def _run(self) -> None:
        """Watch the connection, and connect again when it is lost, until `close()` or until it stays away too long."""
        failures, connection = 0, self._connection
        while connection is not None:
            self._await(partial(self._is_over, connection))
            if self._stop.is_set():
                break
            failures = 1 if connection.lasted_s >= self._patience.steady_s else failures + 1
            self._note_outage(connection)
            connection.give_up()
            self._hanging.append(connection)
            connection = self._connect_again(failures)
        self.finished = True
        self._notify_arrived()

    def _note_begun(self, connection: _Connection) -> None:
        """Count this stream's time from its first connection."""
        if not self._began:
            self._began = self._latest = connection.begun

    def _is_over(self, connection: _Connection) -> bool:
        if connection.ended or connection.waiting:
            return connection.ended
        now, patience = time.monotonic(), self._patience
        since, limit = (
            (connection.latest, patience.stall_s) if connection.is_open else (connection.begun, patience.answer_s)
        )
        return now - since >= limit or (self._is_lost and self._time_left() <= 0)

    def _time_left(self) -> float:
        """Seconds until the stream is given up, if no frame comes."""
        return self._latest + self._patience.give_up_s - time.monotonic()

    def _note_outage(self, connection: _Connection) -> None:
        """Log that the stream is lost; once until a frame comes."""
        with self._changed:
            was_lost, self._is_lost = self._is_lost, True
            self._times.clear()
        if not was_lost:
            limit = self._patience.give_up_s
            what = "connection lost" if connection.ended else f"no frame for {self._patience.stall_s:g} s"
            until = "" if limit == float("inf") else f" for up to {limit:g} s"
            LOGGER.warning(f"WARNING: {self._name}: {what}{connection.reason}; connecting again{until}")

    def _connect_again(self, failures: int) -> _Connection | None:
        """Wait as long as is due after so many failures and return a new connection; None at the end."""
        due = time.monotonic() + self._patience.delay(failures)
        while not self._stop.is_set():
            self._hanging = [connection for connection in self._hanging if connection.is_alive]
            if self._time_left() <= 0:
                LOGGER.warning(f"WARNING: {self._name}: given up: no frame for {self._patience.give_up_s:g} s")
                return None
            wait = due - time.monotonic()
            if wait <= 0 and len(self._hanging) < _MOST_HANGING:
                with self._changed:
                    self._connection = self._new_connection()
                return self._connection
            self._stop.wait(min(wait, self._time_left()) if wait > 0 else _POLL_S)
        return None

    def _receive(self, connection: _Connection, bgr: np.ndarray) -> None:
        """Take an image from a connection's thread."""
        with self._changed:
            if connection.is_given_up:
                return
            self._note_begun(connection)  # the first frame may come before anyone waits for an answer
            now = time.monotonic()
            lost_s = now - self._latest
            is_back, self._is_lost = self._is_lost, False
            self.connections += not self._times
            self.frames += 1
            self._latest = now
            self._times.append(now)
            length = now - self._times[0]
            rate = (len(self._times) - 1) / length if length >= _RATE_S else 0.0
            frame = StreamFrame(bgr, self.frames, now - self._began, rate)
        if is_back:
            LOGGER.info(f"{self._name}: back after {lost_s:.1f} s")
        if (frame.number - 1) % self._stride == 0:
            self._deliver(connection, frame)
            self._notify_arrived()

    def _deliver(self, connection: _Connection, frame: StreamFrame) -> None:
        """Queue a frame: wait for room with `keep_all`, otherwise replace the waiting one."""
        if not self._keep_all:
            self._waiting.replace(frame, frame.bgr.nbytes)
            return
        connection.waiting = True
        self._waiting.put(frame, frame.bgr.nbytes)
        self._latest = connection.latest = time.monotonic()
        connection.waiting = False

    def _await(self, condition: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait until a condition holds, or for `close()`, or so many seconds; return whether it holds."""
        until = time.monotonic() + seconds
        with self._changed:
            while not condition():
                if self._stop.is_set() or time.monotonic() >= until:
                    return False
                self._changed.wait(_POLL_S)
        return True

    def _notify_arrived(self) -> None:
        with self._arrived:
            self._arrived.notify_all()


def _read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Return the next image (BGR), or None if several reads in a row fail."""
    for _ in range(_READ_ATTEMPTS):
        read, image = capture.read()
        if read and image is not None:
            return image
    return None


def _web_page_hint(address: str) -> str:
    page = address.lower().startswith(("http://", "https://"))
    return "; a web page that shows a video is no stream: pass the address of the video itself" if page else ""


def read_streams(
    readers: Sequence[StreamReader], arrived: threading.Condition, most: int = 1
) -> Iterator[list[tuple[int, StreamFrame]]]:
    """Yield the frames that are there, from the readers in turn, until every reader is exhausted or closed.

    Args:
        readers: Started readers.
        arrived: The condition that these readers notify.
        most: Largest number of frames that are yielded together; nobody waits until there are so many.

    Yields:
        (index of the reader, its frame) of one frame or more.
    """
    following = 0  # the reader whose turn it is
    while True:
        taken: list[tuple[int, StreamFrame]] = []
        idle = 0
        while len(taken) < most and idle < len(readers):
            frame = readers[following].take()
            idle = 0 if frame is not None else idle + 1
            if frame is not None:
                taken.append((following, frame))
            following = (following + 1) % len(readers)
        if taken:
            yield taken
        elif all(reader.exhausted for reader in readers):
            return
        else:
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
