"""Variable frame rate: the times of an MP4's frames, written into a file whose frames were written at a constant rate.

OpenCV's writer gives every frame the same duration. The durations stand in one table of the file's index (`stts`), and
the index stands behind the frames: so it can be written anew without touching them. ISO/IEC 14496-12.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby

TICKS = 10_000  # per second, of the times that are written: a length of up to 119 hours has 32 bits
_CONTAINERS = (b"trak", b"edts", b"mdia", b"minf", b"stbl")
_LARGEST_INDEX = 1 << 30  # bytes
_LONGEST = (1 << 32) - 1


def write_frame_times(file: str, durations: Sequence[int]) -> bool:
    """Give each frame of an MP4 a duration of its own.

    Args:
        file: A file with one video track, whose index stands behind its frames, as OpenCV writes it.
        durations: Ticks of each frame, at least 1.

    Returns:
        False if the file is another, which is then left as it is.
    """
    total = sum(durations)
    with open(file, "r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        at, size = _index_box(stream, end)
        if not size or at + size != end or size > _LARGEST_INDEX or total > _LONGEST:
            return False
        stream.seek(at)
        movie = stream.read(size)
        try:
            changed = _movie_with_times(movie, durations, total)
        except (ValueError, struct.error):
            return False
        stream.seek(at)
        stream.write(changed)
        stream.truncate()
    return True


def _index_box(stream, end: int) -> tuple[int, int]:
    """Offset and size of the file's `moov` box; (0, 0) if it has none."""
    at = 0
    while at + 8 <= end:
        stream.seek(at)
        size, kind = struct.unpack(">I4s", stream.read(8))
        if size == 1:
            (size,) = struct.unpack(">Q", stream.read(8))
        if kind == b"moov":
            return at, size
        if size < 8:
            break
        at += size
    return 0, 0


def _movie_with_times(movie: bytes, durations: Sequence[int], total: int) -> bytes:
    """The index with other times. Raises ValueError if it is not as simple as OpenCV's."""
    boxes = list(_boxes(movie[8:]))
    if sum(kind == b"trak" for kind, _ in boxes) != 1:
        raise ValueError("one track is expected")
    (header,) = (content for kind, content in boxes if kind == b"mvhd")
    scale = struct.unpack_from(">I", header, 20 if header[0] else 12)[0]
    length = -(-total * scale // TICKS)
    return _box(b"moov", b"".join(_changed(kind, content, durations, total, length) for kind, content in boxes))


def _changed(kind: bytes, content: bytes, durations: Sequence[int], total: int, length: int) -> bytes:
    """A box of the index with other times, which are `total` in ticks and `length` in units of the whole movie."""
    if kind in _CONTAINERS:
        inner = (_changed(*box, durations, total, length) for box in _boxes(content))
        return _box(kind, b"".join(inner))
    if kind == b"ctts":
        raise ValueError("frames are shown in another order than they are stored")
    if kind == b"stts":
        runs = [(len(list(run)), ticks) for ticks, run in groupby(durations)]
        return _box(kind, struct.pack(">II", 0, len(runs)) + b"".join(struct.pack(">II", *run) for run in runs))
    changed = bytearray(content)
    if kind in (b"mvhd", b"tkhd", b"mdhd"):
        wide = content[0] == 1
        at = {b"mvhd": (24, 16), b"tkhd": (28, 20), b"mdhd": (24, 16)}[kind][not wide]
        struct.pack_into(">Q" if wide else ">I", changed, at, total if kind == b"mdhd" else length)
        if kind == b"mdhd":
            struct.pack_into(">I", changed, at - 4, TICKS)
    elif kind == b"elst":
        count = struct.unpack_from(">I", content, 4)[0]
        wide = content[0] == 1
        if count != 1 or struct.unpack_from(">q" if wide else ">i", content, 16 if wide else 12)[0] != 0:
            raise ValueError("an edit list that shows the whole track is expected")
        struct.pack_into(">Q" if wide else ">I", changed, 8, length)
    return _box(kind, bytes(changed))


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        if size < 8 or at + size > len(content):
            raise ValueError("a box is damaged")
        yield kind, content[at + 8 : at + size]
        at += size


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
