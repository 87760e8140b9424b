"""What the texts that `--source` takes name: files, folders, patterns, lists, and which are streams."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from utils.datasets.streams import public_address
from utils.errors import DataError, nearest
from utils.files import read_text, refuse_special, walk_files
from utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from utils.log import LOGGER

_STREAM_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt")
_TRANSPORT_SYNC = 0x47  # begins each packet of an MPEG transport stream
_LIVE_SUFFIXES = frozenset((".flv", ".m2ts", ".mts", ".ts"))  # behind http(s), these are mostly streams without an end
_PROGRAM_SUFFIXES = (".ts", ".mts")  # of transport streams, and of TypeScript
LIST_SUFFIXES = (".txt", ".streams")
# What cameras and programs write beside what is read here: passed over in folders, but not in silence.
_FOREIGN_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".jpe", ".jfif", ".exr", ".hdr", ".pfm", ".pgm", ".ppm", ".tga"),
        *(".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".rw2", ".psd", ".svg"),
        *(".264", ".265", ".divx", ".f4v", ".h264", ".h265", ".hevc", ".insv", ".ivf", ".mpe", ".mxf", ".rm", ".y4m"),
    )
)


@dataclass(frozen=True)
class Failure:
    """An input that could not be read, or whose results could not be written, and why."""

    path: str
    reason: str


def failure_of(path: str, error: Exception) -> Failure:
    """Return a failure whose reason is one line that names the input, without a password.

    Args:
        path: The input.
        error: Why it failed.

    Returns:
        The record.
    """
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    path, reason = (" ".join(public_address(part).split()) for part in (path, text))
    return Failure(path, reason if path in reason else f"{path}: {reason}")


def local_path(text: str) -> str:
    """Return the path in a file:// address; any other text unchanged."""
    return url2pathname(_url_path(text)) if text.lower().startswith("file://") else text


def suffix_of(text: str) -> str:
    """Return the suffix of a path or of the path in an address, in lower case, with its dot."""
    return PurePosixPath(_url_path(text) if is_url(text) else text.replace("\\", "/")).suffix.lower()


def _url_path(address: str) -> str:
    """The path in an address. Raises DataError if it is none, such as http://[a/b.jpg."""
    try:
        return urlsplit(address).path
    except ValueError as error:
        raise DataError(f"{public_address(address)}: is not a valid address ({error})") from None


def is_url(text: str) -> bool:
    """Return whether a text is an address of a kind that frames are read from."""
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in _STREAM_SCHEMES))


def is_stream(text: str) -> bool:
    """Return whether this is a camera number or a stream address, as v6.1: not an http(s) address of a media file."""
    if not is_url(text):
        return (text.isdigit() and not Path(text).exists()) or re.fullmatch(r"/dev/video\d+", text) is not None
    files = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES} - _LIVE_SUFFIXES
    return not text.lower().startswith("http") or suffix_of(text) not in files


def read_list(file: str) -> list[str]:
    """Return the entries of a list file without blank lines and comments; paths are looked up beside the list too."""
    refuse_special(file)
    if not Path(file).is_file():
        raise DataError(f"--source {file}: no such list" + nearest(Path(file).name, _siblings(Path(file))))
    entries = [local_path(line.strip()) for line in read_text(file).splitlines()]
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    if not entries:
        raise DataError(f"{file}: the list is empty; write one stream address, image or video path per line")
    return [entry if is_url(entry) or entry.isdigit() else _beside(file, entry) for entry in entries]


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


def expand_list(entries: Sequence[str], origin: str) -> tuple[list[tuple[str, str]], list[Failure]]:
    """Return what the entries of a list name, and those that name nothing.

    Args:
        entries: Files, folders, patterns and addresses of files.
        origin: Begins error texts.

    Returns:
        (path, output name) of each image and video, and the entries that name none.

    Raises:
        DataError: If no entry names anything.
    """
    found: list[tuple[str, str]] = []
    refused: list[Failure] = []
    for entry in entries:
        try:
            found += expand(entry, origin)
        except DataError as error:
            if len(refused) + 1 == len(entries):
                raise
            refused.append(failure_of(entry, error))
    return found, refused


def expand(text: str, origin: str) -> list[tuple[str, str]]:
    """Return what one entry names.

    Args:
        text: A file, a folder, a pattern or the address of a file.
        origin: Begins error texts.

    Returns:
        (path, output name) of each image and video.

    Raises:
        DataError: If it names none.
    """
    if is_url(text):
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

    every = sorted(walk_files(folder, unreadable), key=lambda file: file.split(os.sep))
    suffixes = [os.path.splitext(file)[1].lower() for file in every]
    media = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    files = [
        file
        for file, suffix in zip(every, suffixes, strict=True)
        if suffix in media and not (suffix in _PROGRAM_SUFFIXES and _is_program_text(Path(file)))
    ]
    foreign = Counter(suffix for suffix in suffixes if suffix in _FOREIGN_SUFFIXES)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(foreign.items()))
    if not files:
        others = f"; {kinds} cannot be read here, convert them" if foreign else ""
        raise DataError(f"{origin}{folder}: no image or video lies in this folder ({_suffix_help()}){others}")
    if foreign:
        LOGGER.warning(
            f"WARNING: {folder}: passed over {kinds}, which cannot be read here; convert them to .jpg or .mp4"
        )
    begin = len(os.path.join(folder, ""))
    if str(folder) == ".":  # which paths made of it do not begin with
        files = [os.path.normpath(file) for file in files]
        begin = 0
    return [(file, file[begin:].replace(os.sep, "/")) for file in files]


def _is_program_text(file: Path) -> bool:
    """Return whether a .ts or .mts file is no transport stream: TypeScript has these suffixes, too."""
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
    return name if name.strip(". ") else f"file{suffix_of(address)}"


def _siblings(path: Path) -> list[str]:
    return [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _suffix_help() -> str:
    """Which suffixes are read, for messages."""
    return "images: " + " ".join(sorted(IMAGE_SUFFIXES)) + "; videos: " + " ".join(sorted(VIDEO_SUFFIXES))
