"""What `--source` names, read as one sequence of frames: images, videos, folders, globs, lists, cameras, streams."""

import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from utils.datasets.output_names import stream_stem, unique_names
from utils.datasets.source_entries import (
    LIST_SUFFIXES,
    Failure,
    expand,
    expand_list,
    failure_of,
    is_stream,
    is_url,
    local_path,
    read_list,
    suffix_of,
)
from utils.datasets.streams import (
    DEFAULT_PATIENCE,
    OpenCapture,
    Patience,
    StreamFrame,
    StreamReader,
    public_address,
    read_streams,
    refuse_unsupported,
)
from utils.datasets.video import VideoReader, open_capture, silence_opencv
from utils.download import fetch
from utils.errors import DataError, UserError
from utils.images import VIDEO_SUFFIXES, count_images, jpeg_damage, read_image
from utils.log import LOGGER

_JPEG_SUFFIXES = (".jpeg", ".jpg", ".mpo")


@dataclass(frozen=True)
class Frame:
    """One image to detect in.

    Attributes:
        image: (H, W, 3) uint8 RGB at native size; (0, 0, 3) in a record that kept none.
        path: The file, camera number or URL that it came from, without a password.
        name: Path relative to the output folder, different for each input and equal for the frames of one.
        kind: What the input is.
        index: Index of the input.
        total: Number of inputs.
        number: Frame number from 1 in a video or stream; 0 for images.
        frames: Number of frames that a video claims; 0 otherwise.
        fps: Rate at which frames are delivered; 0 for images. Of a stream, that at which they arrive, 0 if unknown.
        seconds: Time in the video or stream; 0 for images.
        pixel_aspect: Width of a pixel divided by its height: not 1 in anamorphic videos.
        size: (height, width) of the image in pixels, also if it is not kept.
    """

    image: np.ndarray
    path: str
    name: str
    kind: Literal["image", "video", "stream"]
    index: int
    total: int
    number: int = 0
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    pixel_aspect: float = 1.0
    size: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.size == (0, 0):
            object.__setattr__(self, "size", self.image.shape[:2])

    def without_image(self) -> "Frame":
        """Return the same frame without its pixels, for records that are kept."""
        return replace(self, image=np.zeros((0, 0, 3), np.uint8))


@dataclass
class FileSource:
    """Images and videos, in the order given. An input that cannot be read is skipped with a warning.

    Iterating raises DataError at the end if no input could be read.

    Attributes:
        paths: Files and URLs.
        names: Output name of each, relative to the output folder.
        vid_stride: Read every n-th frame of videos.
        refused: Entries of a list that name no image or video; they count as inputs that failed.
        failures: The inputs of the latest iteration that could not be read, or were given up by `fail`.
        live: False: the inputs wait for their consumer.
    """

    paths: Sequence[str]
    names: Sequence[str]
    vid_stride: int = 1
    refused: Sequence[Failure] = ()
    failures: list[Failure] = field(default_factory=list)
    live: bool = False
    _failed: set[int] = field(default_factory=set, repr=False)
    _one_notes: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths) + len(self.refused)

    def __iter__(self) -> Iterator[Frame]:
        silence_opencv()  # a damaged file is one line, ours
        self.failures.clear()
        self._failed.clear()
        for failure in self.refused:
            self._note(failure)
        for index, (path, name) in enumerate(zip(self.paths, self.names, strict=True)):
            frames = self._video if suffix_of(path) in VIDEO_SUFFIXES else self._image
            try:
                yield from frames(index, path, name)
            except (DataError, OSError, MemoryError) as error:
                self.fail(index, error)
        if self.failures and len(self.failures) == len(self):
            raise DataError(f"none of the {len(self)} inputs could be read: {self.failures[0].reason}")

    def fail(self, index: int, error: Exception) -> None:
        """Note and log that an input failed; once per input.

        Args:
            index: The input's, as `Frame.index`.
            error: Why.
        """
        with self._one_notes:
            if index in self._failed:
                return
            self._failed.add(index)
        self._note(failure_of(self.paths[index], error))

    def _note(self, failure: Failure) -> None:
        self.failures.append(failure)
        LOGGER.warning(f"WARNING: skipped {failure.reason}")

    def close(self) -> None:
        """Do nothing: no file stays open after its last frame."""

    def _image(self, index: int, path: str, name: str) -> Iterator[Frame]:
        image = fetch_image(path) if is_url(path) else read_image(path)[0]
        remark = "" if is_url(path) else _remark(path)
        if remark:
            LOGGER.warning(f"WARNING: {path}: {remark}")
        yield Frame(image, public_address(path), name, "image", index, len(self.paths))

    def _video(self, index: int, path: str, name: str) -> Iterator[Frame]:
        reader = VideoReader(path)
        for number, seconds, image in reader.read(self.vid_stride):
            yield Frame(
                image,
                public_address(path),
                name,
                "video",
                index,
                len(self.paths),
                number,
                reader.frames,
                reader.fps / self.vid_stride,
                seconds,
                reader.pixel_aspect,
            )


def _remark(path: str) -> str:
    """What is to be known of an image file that was read, or ""."""
    held = count_images(path)
    if held > 1:
        return f"holds {held} frames or pages; the first is used"
    return jpeg_damage(path) if suffix_of(path) in _JPEG_SUFFIXES else ""


class StreamSource:
    """Cameras and network streams, read together; yields the newest frame of each in turn until all have ended.

    A stream that does not answer at the start is skipped with a warning and counted in `failures`; iterating raises
    DataError if none answers.

    Args:
        addresses: Camera numbers and URLs.
        vid_stride: Deliver every n-th frame.
        keep_all: Whether every frame is delivered and none is dropped.
        patience: How long a stream that stays away is waited for.
        connect: Opens a capture for an address.
    """

    live = True

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        vid_stride: int = 1,
        keep_all: bool = False,
        patience: Patience = DEFAULT_PATIENCE,
        connect: OpenCapture = open_capture,
    ):
        self.addresses = tuple(addresses)
        self.failures: list[Failure] = []
        self._names = unique_names([f"{stream_stem(address)}.mp4" for address in addresses])
        self._arrived = threading.Condition()
        self._started: list[int] = []
        self._readers = [
            StreamReader(
                address,
                arrived=self._arrived,
                stride=vid_stride,
                keep_all=keep_all,
                patience=patience,
                connect=connect,
            )
            for address in addresses
        ]

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Frame]:
        for frames in self.batches(1):
            yield from frames

    def batches(self, most: int) -> Iterator[list[Frame]]:
        """Yield the frames that have arrived, at most so many together, from the streams in turn."""
        try:
            self._start()
            readers = [self._readers[index] for index in self._started]
            for taken in read_streams(readers, self._arrived, most):
                yield [self._frame(self._started[position], frame) for position, frame in taken]
            self._note_silent()
        finally:
            self.close()

    def _frame(self, index: int, frame: StreamFrame) -> Frame:
        return Frame(
            frame.image(),
            public_address(self.addresses[index]),
            self._names[index],
            "stream",
            index,
            len(self),
            frame.number,
            0,
            frame.fps,
            frame.seconds,
        )

    def _start(self) -> None:
        """Connect to all streams at a time, and note those that answer. Raises DataError if none does."""
        self.failures.clear()
        for reader in self._readers:
            reader.start()
        for index, reader in enumerate(self._readers):
            try:
                reader.require_answer()
            except DataError as error:
                if len(self.failures) + 1 == len(self):
                    raise
                self.failures.append(failure_of(reader.address, error))
                LOGGER.warning(f"WARNING: skipped {self.failures[-1].reason}")
            else:
                self._started.append(index)
                LOGGER.info(f"{public_address(reader.address)}: connected")

    def _note_silent(self) -> None:
        """Note the streams that have ended without a frame. Nobody knows of those that were stopped."""
        for index in self._started:
            if not self._readers[index].frames:
                name = public_address(self.addresses[index])
                error = DataError(
                    f"{name}: connected, but no frame came that can be decoded; see in a player whether it sends video"
                )
                self.failures.append(failure_of(self.addresses[index], error))

    def close(self) -> None:
        """End the reading threads and log what came; safe to call twice."""
        for reader in self._readers:
            reader.close()
        while self._started:
            LOGGER.info(self._readers[self._started.pop(0)].summary())


def open_source(
    text: str | Path,
    *,
    vid_stride: int = 1,
    stream_buffer: bool = False,
    stream_timeout: float = DEFAULT_PATIENCE.give_up_s,
) -> FileSource | StreamSource:
    """Return the source of frames that `--source` names; no frame is read before iterating.

    A number is a camera. A URL is a stream, or a file if it is http(s) and has a media suffix. *.txt and
    *.streams are lists of streams or of files, one per line. A folder is searched recursively, hidden files left out.

    Args:
        text: The value of `--source`.
        vid_stride: Read every n-th frame of videos and streams; at least 1.
        stream_buffer: Whether every frame of a stream is delivered; otherwise the newest.
        stream_timeout: Seconds without a frame after which a stream is given up; 0 for never.

    Returns:
        A source of files or of streams; iterating yields its frames.

    Raises:
        DataError: If there is no such input, a list is empty or mixes streams and files, or `vid_stride` is below 1.
    """
    text = str(text).strip()
    if not text:
        raise DataError(
            "--source is empty; give an image, a video, a folder, a pattern, a list, a stream or a camera number"
        )
    if vid_stride < 1:
        raise DataError(f"--vid-stride {vid_stride}: expected 1 or more")
    text = local_path(text)
    listed = suffix_of(text) in LIST_SUFFIXES and not is_url(text) and not Path(text).is_dir()
    entries = read_list(text) if listed else [text]
    for entry in entries:
        refuse_unsupported(entry)
    streams = [entry for entry in entries if is_stream(entry)]
    if streams and len(streams) < len(entries):
        raise DataError(f"{text}: a list holds either streams or files; {streams[0]} is a stream and others are not")
    if streams:
        patience = Patience(give_up_s=stream_timeout or math.inf)
        return StreamSource(streams, vid_stride=vid_stride, keep_all=bool(stream_buffer), patience=patience)
    found, refused = expand_list(entries, f"{text}: ") if listed else (expand(text, "--source "), [])
    return FileSource([path for path, _ in found], unique_names([name for _, name in found]), vid_stride, refused)


def fetch_image(url: str) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB at an http(s) address; naming it as a source is the request to fetch it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"image{suffix_of(url)}"
        try:
            fetch(url, file, "an image", minimum=1, quiet=True, remedy="save it and pass the file")
            return read_image(file)[0]
        except UserError as error:  # of one input; the others are read
            raise DataError(str(error).replace(str(file), public_address(url))) from None
