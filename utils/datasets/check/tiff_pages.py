"""The pages of a TIFF or DNG file, read from its directories alone."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SUB_DIRECTORIES = 254, 256, 257, 258, 262, 330
_WANTED = (_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SUB_DIRECTORIES)
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of tags that hold whole numbers
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MOST_PAGES, _MOST_ENTRIES, _MOST_VALUES = 1000, 4096, 256
MIN_IS_WHITE = 0


@dataclass(frozen=True)
class TiffPage:
    """One image of a file.

    Attributes:
        width: Pixels.
        height: Pixels.
        bits: Largest number of bits per sample.
        photometric: PhotometricInterpretation; 0 if the smallest sample is white.
        is_preview: Marked as a reduced version of another page.
        is_mask: Marked as a mask of another page.
        is_main: In the chain of main directories, where readers look.
    """

    width: int
    height: int
    bits: int
    photometric: int
    is_preview: bool
    is_mask: bool
    is_main: bool


def read_pages(path: Path | str) -> list[TiffPage]:
    """Return the pages of a file in the order of their directories, [] if it is no TIFF.

    Directories that cannot be read end the list, as they do for decoders.
    """
    with open(path, "rb") as stream:
        start = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        version = struct.unpack(f"{order}H", start[2:4])[0] if order and len(start) == 16 else 0
        if version not in (42, 43):
            return []
        big = version == 43
        first = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)[0]
        return _Directories(stream, order or "", big).pages(first)


class _Directories:
    """Reads the directories of an open file, classic (offsets of 4 bytes) or big (8 bytes)."""

    def __init__(self, stream: BinaryIO, order: str, big: bool):
        self.stream, self.order = stream, order
        self.word, self.count = ("Q", "Q") if big else ("I", "H")
        self.visited: set[int] = set()

    def pages(self, first: int) -> list[TiffPage]:
        """Return the pages of the chain that begins at `first`, each followed by those of its sub-directories."""
        found: list[TiffPage] = []
        place = first
        while place and place not in self.visited and len(found) < _MOST_PAGES:
            try:
                tags, place = self._directory(place)
            except struct.error:
                return found
            found.append(_page(tags, is_main=True))
            for below in tags.get(_SUB_DIRECTORIES, ()):
                if below in self.visited:
                    continue
                try:
                    found.append(_page(self._directory(below)[0], is_main=False))
                except struct.error:
                    break
        return found

    def _directory(self, place: int) -> tuple[dict[int, tuple[int, ...]], int]:
        """(the wanted tags, where the next directory is) of one directory."""
        self.visited.add(place)
        self._seek(place)
        (entries,) = self._read(self.count)
        if entries > _MOST_ENTRIES:
            raise struct.error("more entries than a directory has")
        raw = [self._read(f"HH{self.word}{struct.calcsize(self.word)}s") for _ in range(entries)]
        (following,) = self._read(self.word)
        return {tag: self._values(*rest) for tag, *rest in raw if tag in _WANTED}, following

    def _values(self, kind: int, count: int, held: bytes) -> tuple[int, ...]:
        """The values of a tag, which stand in its entry if there is room, else where it says."""
        form = _FORMATS.get(kind)
        if form is None or not 0 < count <= _MOST_VALUES:
            return ()
        if struct.calcsize(f"{self.order}{count}{form}") <= len(held):
            return struct.unpack_from(f"{self.order}{count}{form}", held)
        self._seek(struct.unpack(f"{self.order}{self.word}", held)[0])
        return self._read(f"{count}{form}")

    def _seek(self, place: int) -> None:
        if place >= 1 << 62:
            raise struct.error("beyond any file")
        self.stream.seek(place, io.SEEK_SET)

    def _read(self, form: str) -> tuple:
        size = struct.calcsize(f"{self.order}{form}")
        return struct.unpack(f"{self.order}{form}", self.stream.read(size))


def _page(tags: dict[int, tuple[int, ...]], is_main: bool) -> TiffPage:
    def value(tag: int, default: int) -> int:
        return next(iter(tags.get(tag, ())), default)

    kind = value(_SUBFILE, 0)
    return TiffPage(
        value(_WIDTH, 0),
        value(_HEIGHT, 0),
        max(tags.get(_BITS, ()), default=1),
        value(_PHOTOMETRIC, 1),
        bool(kind & _REDUCED),
        bool(kind & _MASK),
        is_main,
    )
