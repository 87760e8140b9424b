"""Annotations as every reader gives them: images with objects in pixels, in the words of their files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.datasets.convert.remarks import RemarkLog, one_line
from utils.errors import DataError
from utils.files import read_text


@dataclass(frozen=True)
class AnnotatedObject:
    """One object.

    Attributes:
        name: Its class.
        box: (4,) xyxy pixels, or None: then the bounds of its outlines.
        outlines: (k, 2) pixels each; several are parts of one object; none if there is only a box.
        line: Line in the file, or its index from 1; 0 if unknown.
        difficult: Marked so.
    """

    name: str
    box: np.ndarray | None = None
    outlines: tuple[np.ndarray, ...] = ()
    line: int = 0
    difficult: bool = False


@dataclass
class AnnotatedImage:
    """One image with its objects.

    Attributes:
        file: The annotation file.
        line: Line in it; 0 is the whole file.
        wanted: Names that the image may have, the most trusted first, perhaps with folders of another machine.
        size: (height, width) in pixels that the coordinates refer to, or None if the file does not say.
        objects: Its objects; none is an image without objects.
        split: The split that the source itself puts it in, or "".
        embedded: The image file's bytes as base64 text, or "".
    """

    file: str
    line: int
    wanted: tuple[str, ...]
    size: tuple[int, int] | None
    objects: list[AnnotatedObject] = field(default_factory=list)
    split: str = ""
    embedded: str = ""


@dataclass(frozen=True)
class Annotations:
    """What a reader found.

    Attributes:
        images: The images.
        classes: Classes in the order in which the source declares them; empty if it declares none.
        categories: (file, the source's id of a class, its name), if the source numbers its classes.
        listed: Whether images that the source does not name were left out of its own splits on purpose.
    """

    images: list[AnnotatedImage]
    classes: tuple[str, ...] = ()
    categories: tuple[tuple[str, str, str], ...] = ()
    listed: bool = False


@dataclass(frozen=True)
class Source:
    """What a reader is given: the file or folder, where to put remarks, and VOC's way of counting pixels."""

    path: Path
    remarks: RemarkLog
    one_based: bool = False

    def files(self, suffix: str) -> list[Path]:
        """Return the source itself if it is a file, else the visible files with a suffix below it, sorted.

        Raises DataError if there is none.
        """
        if self.path.is_file():
            return [self.path]
        found = sorted(
            path
            for path in self.path.rglob("*")
            if path.suffix.lower() == suffix
            and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
            and path.is_file()
        )
        if not found:
            raise DataError(f"{self.path}: holds no {suffix} file; give the folder of the annotations, unpacked")
        return found

    def reading(self, files: list[Path], read: Callable[[Path], Any]) -> Iterator[tuple[Path, Any]]:
        """Yield each file with what `read` makes of it; a file that raises DataError becomes a remark.

        Args:
            files: The annotation files.
            read: Reads one.

        Yields:
            (file, content).
        """
        for file in files:
            try:
                yield file, read(file)
            except DataError as error:
                self.remarks.add("annotation-unreadable", file, 0, str(error).removeprefix(f"{file}: "))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError that names the file and the line."""
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {type(error).__name__}") from None


def class_name(value: object) -> str:
    """Return the name of a class as one clean line; "" if there is none. A number is taken as its text."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return one_line(str(value).encode("utf-8", "replace").decode("utf-8"))


def numbers(values: Any, count: int | None = None) -> np.ndarray | None:
    """Return numbers or texts of numbers as float64, or None unless all are finite and there are `count`.

    Args:
        values: A sequence from a file.
        count: How many are expected; None takes any number.

    Returns:
        (n,) float64, or None.
    """
    try:
        array = np.array([float(value) for value in values], np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    right = np.isfinite(array).all() and (np.abs(array) < 1e9).all() and count in (None, len(array))
    return array if right else None


def whole_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Return (height, width) if both are numbers of at least 1, else None.

    Args:
        height: As written in a file.
        width: As written in a file.

    Returns:
        Pixels, or None: files without a size often say 0.
    """
    sides = numbers((height, width))
    return None if sides is None or (sides < 1).any() else (int(sides[0]), int(sides[1]))
