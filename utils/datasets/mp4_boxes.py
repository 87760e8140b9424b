"""What an MP4's boxes say of its video track and OpenCV does not: the time that is shown, its mirroring, its codec.

ISO/IEC 14496-12; the same boxes are in MOV, M4V, 3GP and 3G2 files. Only headers are read, never the frames.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

_TOP_LEVEL = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"pnot")  # what such a file begins with
_MAX_BOXES = 10_000  # per level: a damaged file may claim any number
_MAX_EDITS = 10_000
_MATRIX_AT = {0: 40, 1: 52}  # offset in tkhd by its version
_ONE = 1 << 16  # 1.0 in 16.16 fixed point


@dataclass(frozen=True)
class Mp4Track:
    """The first video track of a file.

    Attributes:
        codec: Four characters, such as "avc1", or "" if the file does not say.
        shown_s: Seconds of it that the edit list shows; 0 if there is no edit list.
        matrix: (a, b, c, d) in -1, 0 and 1: a pixel at (x, y) is shown at (a·x + c·y, b·x + d·y). (1, 0, 0, 1) is
            upright, also for files with another matrix than the eight that exchange or mirror axes.
    """

    codec: str = ""
    shown_s: float = 0.0
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1)

    @property
    def mirrored(self) -> bool:
        """Whether the track is shown as in a mirror, as selfie cameras do; OpenCV rotates it instead."""
        a, b, c, d = self.matrix
        return a * d - b * c < 0

    @property
    def transposed(self) -> bool:
        """Whether width and height are exchanged."""
        return self.matrix[0] == 0

    def shown(self, image: np.ndarray) -> np.ndarray:
        """Return a stored image (H, W, 3) as the matrix shows it."""
        a, b, c, d = self.matrix
        columns, rows = (c, b) if self.transposed else (a, d)
        image = image.transpose(1, 0, 2) if self.transposed else image
        return np.ascontiguousarray(image[:: rows or 1, :: columns or 1])


def read_mp4_track(file: str) -> Mp4Track | None:
    """Return the first video track of an MP4-like file; None if the file is another, or has no readable track."""
    try:
        with open(file, "rb") as stream:
            if stream.read(8)[4:] not in _TOP_LEVEL:
                return None
            return _track(stream, stream.seek(0, 2))
    except (OSError, ValueError, struct.error):  # ValueError: a null byte in the path
        return None


def _track(stream: BinaryIO, end: int) -> Mp4Track | None:
    movie = _find(stream, (0, end), b"moov")
    if movie is None:
        return None
    header = _content(stream, _find(stream, movie, b"mvhd"), 32)
    (timescale,) = struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)
    for kind, track in _boxes(stream, movie):
        media = _find(stream, track, b"mdia") if kind == b"trak" else None
        if media is None or _content(stream, _find(stream, media, b"hdlr"), 12)[8:12] != b"vide":
            continue
        entry = _content(stream, _find(stream, media, b"minf", b"stbl", b"stsd"), 16)[12:16]
        return Mp4Track(
            entry.decode("latin-1").strip() if len(entry) == 4 else "",
            _shown_units(_content(stream, _find(stream, track, b"edts", b"elst"), 8 + 20 * _MAX_EDITS)) / timescale
            if timescale
            else 0.0,
            _matrix(_content(stream, _find(stream, track, b"tkhd"), 96)),
        )
    return None


def _boxes(stream: BinaryIO, span: tuple[int, int]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield (kind, (begin, end) of the content) of the boxes between two offsets, as far as they are well formed."""
    at, end = span
    for _ in range(_MAX_BOXES):
        stream.seek(at)
        header = stream.read(16)
        if at + 8 > end or len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        begin = at + 8
        if size == 1 and len(header) == 16:  # 64 bit
            size, begin = struct.unpack_from(">Q", header, 8)[0], at + 16
        size = size or end - at  # 0: to the end of the file
        if size < begin - at:
            return
        yield kind, (begin, min(at + size, end))
        at += size


def _find(stream: BinaryIO, span: tuple[int, int] | None, *path: bytes) -> tuple[int, int] | None:
    """The content of the first box along a path of kinds, or None."""
    for wanted in path:
        if span is None:
            return None
        span = next((content for kind, content in _boxes(stream, span) if kind == wanted), None)
    return span


def _content(stream: BinaryIO, span: tuple[int, int] | None, most: int) -> bytes:
    """At most `most` bytes of a box's content; none if there is no such box."""
    if span is None:
        return b""
    stream.seek(span[0])
    return stream.read(min(span[1] - span[0], most))


def _shown_units(edits: bytes) -> int:
    """The length that an edit list shows, in units of the movie's time scale; 0 without an edit list."""
    if len(edits) < 8:
        return 0
    version, count = edits[0], struct.unpack_from(">I", edits, 4)[0]
    entry = ">Qqi" if version == 1 else ">Iii"
    total, size = 0, struct.calcsize(entry)
    for index in range(min(count, (len(edits) - 8) // size)):
        duration, media_time, _ = struct.unpack_from(entry, edits, 8 + index * size)
        if media_time < 0:  # an empty edit: the track begins later
            continue
        if duration == 0:  # to the end of the track, as fragmented files say it
            return 0
        total += duration
    return total


def _matrix(header: bytes) -> tuple[int, int, int, int]:
    """(a, b, c, d) of a track header; upright if it is none of the eight that exchange or mirror axes."""
    at = _MATRIX_AT.get(header[0] if header else -1)
    if at is None or len(header) < at + 20:
        return (1, 0, 0, 1)
    a, b, _, c, d = (value / _ONE for value in struct.unpack_from(">5i", header, at))
    if {abs(a), abs(d)} | {abs(b), abs(c)} != {0.0, 1.0} or abs(a) != abs(d) or abs(b) != abs(c):
        return (1, 0, 0, 1)
    return (int(a), int(b), int(c), int(d))
