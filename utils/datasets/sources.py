"""What `--source` names, read as one sequence of frames: images, videos, folders, globs, lists, cameras, streams."""

import glob
import http.client
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np

from utils.datasets.streams import (
    DEFAULT_BACKOFF,
    Backoff,
    OpenCapture,
    StreamReader,
    public_address,
    read_streams,
    refuse_unsupported,
)
from utils.datasets.video import VideoReader, open_capture, silence_opencv
from utils.errors import DataError, nearest
from utils.files import read_text, refuse_special, walk_files
from utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, count_images, jpeg_damage, read_image
from utils.log import LOGGER

_STREAM_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt")
_DOWNLOAD_TIMEOUT_S = 30
_TRANSPORT_SYNC = 0x47  # begins each packet of an MPEG transport stream
_LIVE_SUFFIXES = frozenset((".flv", ".m2ts", ".mts", ".ts"))  # behind http(s), these are mostly streams without an end
_JPEG_SUFFIXES = (".jpeg", ".jpg", ".mpo")
_LIST_SUFFIXES = (".txt", ".streams")
_RESERVED_FOLDERS = ("crops", "labels")  # of a run folder: what lies in such a folder of a source goes beside them
# What cameras and programs write beside what is read here: passed over in folders, but not in silence.
_FOREIGN_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".jpe", ".jfif", ".exr", ".hdr", ".pfm", ".pgm", ".ppm", ".tga"),
        *(".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".rw2", ".psd", ".svg"),
        *(".264", ".265", ".divx", ".f4v", ".h264", ".h265", ".hevc", ".insv", ".ivf", ".mpe", ".mxf", ".rm", ".y4m"),
    )
)


@dataclass(frozen=True)
class Frame:
    """One image to detect in.

    Attributes:
        image: (H, W, 3) uint8 RGB at native size.
        path: The file, camera number or URL that it came from, without a password.
        name: Path relative to the output folder, different for each input and equal for the frames of one.
        kind: What the input is.
        index: Index of the input.
        total: Number of inputs.
        number: Frame number from 1 in a video or stream; 0 for images.
        frames: Number of frames that a video claims; 0 otherwise.
        fps: Rate at which frames are delivered; 0 for images.
        seconds: Time in the video or stream; 0 for images.
        pixel_aspect: Width of a pixel divided by its height: not 1 in anamorphic videos.
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


@dataclass(frozen=True)
class Failure:
    """An input that could not be read, or whose results could not be written, and why."""

    path: str
    reason: str


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

    def __len__(self) -> int:
        return len(self.paths) + len(self.refused)

    def __iter__(self) -> Iterator[Frame]:
        silence_opencv()  # a damaged file is one line, ours
        self.failures.clear()
        self._failed.clear()
        for failure in self.refused:
            self._note(failure)
        for index, (path, name) in enumerate(zip(self.paths, self.names, strict=True)):
            frames = self._video if _suffix(path) in VIDEO_SUFFIXES else self._image
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
        if index not in self._failed:
            self._failed.add(index)
            self._note(_failure(self.paths[index], error))

    def _note(self, failure: Failure) -> None:
        self.failures.append(failure)
        LOGGER.warning(f"WARNING: skipped {failure.reason}")

    def close(self) -> None:
        """Do nothing: no file stays open after its last frame."""

    def _image(self, index: int, path: str, name: str) -> Iterator[Frame]:
        image = _fetch_image(path) if _is_url(path) else read_image(path)[0]
        remark = "" if _is_url(path) else _remark(path)
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
    return jpeg_damage(path) if _suffix(path) in _JPEG_SUFFIXES else ""


def _failure(path: str, error: Exception) -> Failure:
    """A failure whose reason is one line that names the input, without a password."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    path, reason = (" ".join(public_address(part).split()) for part in (path, text))
    return Failure(path, reason if path in reason else f"{path}: {reason}")


class StreamSource:
    """Cameras and network streams, read together; yields the newest frame of each in turn until all have ended.

    A stream that does not answer at the start is skipped with a warning and counted in `failures`; iterating raises
    DataError if none answers.

    Args:
        addresses: Camera numbers and URLs.
        vid_stride: Deliver every n-th frame.
        keep_all: Whether every frame is delivered and none is dropped.
        backoff: When and how often to reconnect.
        connect: Opens a capture for an address.
    """

    live = True

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        vid_stride: int = 1,
        keep_all: bool = False,
        backoff: Backoff = DEFAULT_BACKOFF,
        connect: OpenCapture = open_capture,
    ):
        self.addresses = tuple(addresses)
        self.failures: list[Failure] = []
        self._names = unique_names([f"{stream_stem(address)}.mp4" for address in addresses])
        self._stride = vid_stride
        self._arrived = threading.Condition()
        self._readers = [
            StreamReader(
                address, arrived=self._arrived, stride=vid_stride, keep_all=keep_all, backoff=backoff, connect=connect
            )
            for address in addresses
        ]

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Frame]:
        try:
            started = self._start()
            for position, frame in read_streams([self._readers[index] for index in started], self._arrived):
                index = started[position]
                yield Frame(
                    frame.image,
                    public_address(self.addresses[index]),
                    self._names[index],
                    "stream",
                    index,
                    len(self),
                    frame.number,
                    0,
                    self._readers[index].fps / self._stride,
                    frame.seconds,
                )
        finally:
            self.close()

    def _start(self) -> list[int]:
        """Start the streams and return the indices of those that answer. Raises DataError if none does."""
        self.failures.clear()
        started = []
        for index, reader in enumerate(self._readers):
            try:
                reader.start()
            except DataError as error:
                if len(self.failures) + 1 == len(self):
                    raise
                self.failures.append(_failure(reader.address, error))
                LOGGER.warning(f"WARNING: skipped {self.failures[-1].reason}")
            else:
                started.append(index)
                LOGGER.info(f"{public_address(reader.address)}: connected, {reader.fps:.2f} frames/s")
        return started

    def close(self) -> None:
        """End the reading threads; safe to call twice."""
        for reader in self._readers:
            reader.close()


def open_source(text: str | Path, *, vid_stride: int = 1, stream_buffer: bool = False) -> FileSource | StreamSource:
    """Return the source of frames that `--source` names; no frame is read before iterating.

    A number is a camera. A URL is a stream, or a file if it is http(s) and has a media suffix. *.txt and
    *.streams are lists of streams or of files, one per line. A folder is searched recursively, hidden files left out.

    Args:
        text: The value of `--source`.
        vid_stride: Read every n-th frame of videos and streams; at least 1.
        stream_buffer: Whether every frame of a stream is delivered; otherwise the newest.

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
    text = _local_path(text)
    listed = _suffix(text) in _LIST_SUFFIXES and not _is_url(text) and not Path(text).is_dir()
    entries = _read_list(text) if listed else [text]
    for entry in entries:
        refuse_unsupported(entry)
    streams = [entry for entry in entries if _is_stream(entry)]
    if streams and len(streams) < len(entries):
        raise DataError(f"{text}: a list holds either streams or files; {streams[0]} is a stream and others are not")
    if streams:
        return StreamSource(streams, vid_stride=vid_stride, keep_all=bool(stream_buffer))
    found, refused = _expand_list(entries, f"{text}: ") if listed else (_expand(text, "--source "), [])
    return FileSource([path for path, _ in found], unique_names([name for _, name in found]), vid_stride, refused)


def _local_path(text: str) -> str:
    """The path in a file:// address; any other text unchanged."""
    return url2pathname(urlsplit(text).path) if text.lower().startswith("file://") else text


def _suffix(text: str) -> str:
    return PurePosixPath(_url_path(text) if _is_url(text) else text.replace("\\", "/")).suffix.lower()


def _url_path(address: str) -> str:
    """The path in an address. Raises DataError if it is none, such as http://[a/b.jpg."""
    try:
        return urlsplit(address).path
    except ValueError as error:
        raise DataError(f"{public_address(address)}: is not a valid address ({error})") from None


def _is_url(text: str) -> bool:
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in _STREAM_SCHEMES))


def _is_stream(text: str) -> bool:
    """Return whether this is a camera number or a stream address, as v6.1: not an http(s) address of a media file."""
    if not _is_url(text):
        return (text.isdigit() and not Path(text).exists()) or re.fullmatch(r"/dev/video\d+", text) is not None
    files = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES} - _LIVE_SUFFIXES
    return not text.lower().startswith("http") or _suffix(text) not in files


def _read_list(file: str) -> list[str]:
    """Return the entries of a list file without blank lines and comments; paths are looked up beside the list too."""
    refuse_special(file)
    if not Path(file).is_file():
        raise DataError(f"--source {file}: no such list" + nearest(Path(file).name, _siblings(Path(file))))
    entries = [_local_path(line.strip()) for line in read_text(file).splitlines()]
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    if not entries:
        raise DataError(f"{file}: the list is empty; write one stream address, image or video path per line")
    return [entry if _is_url(entry) or entry.isdigit() else _beside(file, entry) for entry in entries]


def _beside(file: str, entry: str) -> str:
    """Return the path of an entry: relative to the list if it starts with `./` or exists only there, else unchanged.

    Quotes around it are dropped; backslashes are folders if that makes it exist.
    """
    entry = entry[1:-1] if len(entry) > 2 and entry[0] == entry[-1] and entry[0] in "'\"" else entry
    for text in (entry, entry.replace("\\", "/")):
        local = Path(file).parent / text
        if text.startswith("./") or (not Path(text).exists() and local.exists()):
            return str(local)
        if Path(text).exists():
            return text
    return entry


def _expand_list(entries: Sequence[str], origin: str) -> tuple[list[tuple[str, str]], list[Failure]]:
    """Return what the entries of a list name, and those that name nothing. Raises DataError if none names anything."""
    found: list[tuple[str, str]] = []
    refused: list[Failure] = []
    for entry in entries:
        try:
            found += _expand(entry, origin)
        except DataError as error:
            if len(refused) + 1 == len(entries):
                raise
            refused.append(_failure(entry, error))
    return found, refused


def _expand(text: str, origin: str) -> list[tuple[str, str]]:
    """Return (path, output name) of each image and video that an entry names; error texts begin with `origin`."""
    if _is_url(text):
        return [(text, _name_of_address(text))]
    path = Path(text).expanduser()
    if path.is_dir():
        return _expand_folder(path, origin)
    if path.exists():
        if not _is_media(path):
            kind = path.suffix or "a file without suffix"
            remedy = "cannot be read here, convert it to .jpg or .mp4" if kind.lower() in _FOREIGN_SUFFIXES else ""
            raise DataError(f"{origin}{text}: {kind} {remedy or 'is neither image nor video'} ({_suffix_help()})")
        return [(str(path), path.name)]
    if glob.has_magic(text):
        matches = sorted(Path(file) for file in glob.glob(str(path), recursive=True))
        files = [file for file in matches if _is_media(file) and not file.is_dir()]
        if not files:
            raise DataError(f"{origin}{text}: no image or video matches this pattern ({_suffix_help()})")
        return [(str(file), file.name) for file in files]
    raise DataError(f"{origin}{text}: no such file or folder" + nearest(path.name, _siblings(path)))


def _expand_folder(folder: Path, origin: str) -> list[tuple[str, str]]:
    """Return (path, output name) of the images and videos below a folder; warn about what is passed over."""

    def unreadable(error: OSError) -> None:
        LOGGER.warning(f"WARNING: {error.filename}: passed over, cannot be read: {error.strerror}")

    every = sorted(Path(file) for file in walk_files(folder, unreadable))
    files = [file for file in every if _is_media(file) and not _is_program_text(file)]
    foreign = Counter(file.suffix.lower() for file in every if file.suffix.lower() in _FOREIGN_SUFFIXES)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(foreign.items()))
    if not files:
        others = f"; {kinds} cannot be read here, convert them" if foreign else ""
        raise DataError(f"{origin}{folder}: no image or video lies in this folder ({_suffix_help()}){others}")
    if foreign:
        LOGGER.warning(
            f"WARNING: {folder}: passed over {kinds}, which cannot be read here; convert them to .jpg or .mp4"
        )
    return [(str(file), file.relative_to(folder).as_posix()) for file in files]


def _is_program_text(file: Path) -> bool:
    """Return whether a .ts or .mts file is no transport stream: TypeScript has these suffixes, too."""
    if file.suffix.lower() not in (".ts", ".mts"):
        return False
    try:
        refuse_special(file)
        with file.open("rb") as stream:
            start = stream.read(5)
    except (DataError, OSError):
        return False  # whoever reads it says why not
    return bool(start) and _TRANSPORT_SYNC not in (start[0], start[-1])  # the fifth byte if time codes precede packets


def _name_of_address(address: str) -> str:
    """The file name in an address; "file" if it has none that is safe to write."""
    name = PurePosixPath(unquote(_url_path(address)).replace("\\", "/").replace("\0", "")).name
    return name if name.strip(". ") else f"file{_suffix(address)}"


def _siblings(path: Path) -> list[str]:
    return [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _suffix_help() -> str:
    """Which suffixes are read, for messages."""
    return "images: " + " ".join(sorted(IMAGE_SUFFIXES)) + "; videos: " + " ".join(sorted(VIDEO_SUFFIXES))


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with _2, _3, ... before the suffix if two would write the same output.

    Outputs share a stem (labels of a.jpg and a.png are both a.txt), and labels of a video's frames are
    stem_<number>.txt. Names that differ only in letter case are equal here, as they are in some file systems.
    """
    names = [_beside_reserved(name) for name in names]
    result = [""] * len(names)
    taken: set[str] = set()
    frames_of: set[str] = set()  # stems that a video must not have, since a frame of it would be named like an image
    copies: Counter[str] = Counter()
    is_video = [_suffix(name) in VIDEO_SUFFIXES for name in names]
    # Images first: a video then avoids every image that is named like one of its frames.
    for index in sorted(range(len(names)), key=is_video.__getitem__):
        path = PurePosixPath(names[index])
        first = _stem(path)
        candidate = path
        while _stem(candidate) in taken or (is_video[index] and _stem(candidate) in frames_of):
            copies[first] += 1
            candidate = path.with_name(f"{path.stem}_{copies[first] + 1}{path.suffix}")
        stem = _stem(candidate)
        taken.add(stem)
        frames_of.update(re.findall(r"(?s)\A(.*)_\d+\Z", stem))
        result[index] = str(candidate)
    return result


def _stem(path: PurePosixPath) -> str:
    return str(path.with_suffix("")).lower()


def _beside_reserved(name: str) -> str:
    """The name, its first folder followed by _2 if the run folder has one of that name for other files."""
    first, separator, rest = name.partition("/")
    return f"{first}_2/{rest}" if separator and first.lower() in _RESERVED_FOLDERS else name


def stream_stem(address: str) -> str:
    """Return a file name for a stream: its address without user name and password, other characters as underscores."""
    return re.sub(r"[^\w.-]+", "_", public_address(address)).strip("_")[:100] or "stream"


def _fetch_image(url: str) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB at an http(s) address; naming it as a source is the request to fetch it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"image{_suffix(url)}"
        try:
            with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as answer, file.open("wb") as stream:
                shutil.copyfileobj(answer, stream)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
            raise DataError(f"{public_address(url)}: cannot be fetched ({error})") from None
        return read_image(file)[0]
