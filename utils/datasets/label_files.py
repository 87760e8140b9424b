"""The images of a dataset, their label files, and the rows in those."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import read_text, walk_files
from utils.images import IMAGE_SUFFIXES, is_image

POLICIES = ("skip", "clip", "strict")
TINY = 1e-3  # coordinates that leave 0..1 by no more than this are always set to 0 or 1

DROPPED, CLIPPED, LEFT_OUT, USED, REFUSED = "row dropped", "clipped", "image left out", "image used", "run stopped"


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file.

    Attributes:
        file: The image or label file.
        line: From 1; 0 is the whole file.
        reason: What is wrong.
        action: What was done about it.
    """

    file: str
    line: int
    reason: str
    action: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.reason}" if self.line else f"{self.file} {self.reason}"


@dataclass
class Rows:
    """The usable rows of one label file.

    Attributes:
        cls: (n,) int64 class ids.
        xywhn: (n, 4) float32 in 0..1.
        segments: n polygons (k, 2) float32 in 0..1, or none.
        problems: What is wrong with rows, used or not.
        lines: (n,) int64 line of each row in the file, from 1.
    """

    cls: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    xywhn: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    segments: list[np.ndarray] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


def list_images(sources: Path | str | Sequence[Path | str]) -> list[str]:
    """Return the paths of all images of a folder (with its subfolders), of a .txt list, or of several of those, sorted.

    Raises DataError if a source is missing or holds no image.
    """
    several = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found = []
    for source in map(Path, several):
        if source.is_dir():
            paths = [path for path in walk_files(source) if is_image(path)]
        elif is_image(source) and source.is_file():
            raise DataError(f"{source}: is an image; give its folder, or a .txt list that names it")
        elif source.is_file():
            paths = _listed(source)
        else:
            raise DataError(f"{source}: no such folder or list of images")
        if not paths:
            raise DataError(f"{source}: holds no image; looked for names that end in {' '.join(IMAGE_SUFFIXES)}")
        found += paths
    return sorted(found)


def _listed(file: Path) -> list[str]:
    """The images named in a text file, one per line.

    "./" is relative to the file's folder; any other relative path to the working folder or, if it is not there, to the
    file's folder.
    """
    paths = []
    for line in read_text(file).splitlines():
        name = line.strip()
        if not name or not is_image(name):
            continue
        beside = os.path.join(file.parent, name[2:] if name.startswith("./") else name)
        paths.append(beside if name.startswith("./") or not os.path.exists(name) else name)
    return paths


def label_path(image: Path | str) -> str:
    """Return the label file of an image.

    The last folder named images in the path becomes labels and the suffix .txt; without such a folder it is the text
    file beside the image.
    """
    stem = os.path.splitext(str(image))[0]
    head, separator, tail = stem.replace("/", os.sep).rpartition(f"{os.sep}images{os.sep}")
    if separator:
        return f"{head}{os.sep}labels{os.sep}{tail}.txt"
    if stem.startswith(f"images{os.sep}"):  # a relative path
        return f"labels{stem[len('images') :]}.txt"
    return f"{stem}.txt"


def read_rows(file: str, nc: int | None, policy: str = "skip", stop: bool = True) -> Rows:
    """Return the rows of one label file and what is wrong in it.

    Rows are `class xc yc w h`; in a file in which some row has more than 8 values, rows with more than 5 are polygons
    `class x1 y1 x2 y2 ...`, whose boxes are their bounds.

    Args:
        file: The label file.
        nc: Number of classes; None does not check class ids against it.
        policy: "clip" cuts boxes that leave the image; otherwise their rows are dropped.
        stop: Raise for a class id that the data yaml does not have; False drops the row.

    Returns:
        The rows.

    Raises:
        DataError: With file and line, for a class id that is not in 0..nc-1, under every policy: then the file and the
            data yaml do not belong together. Also if the file cannot be read.
    """
    lines = [(number, line.split()) for number, line in enumerate(_text(file).splitlines(), 1)]
    lines = [(number, fields) for number, fields in lines if fields]
    if not lines:
        return Rows()
    polygons = any(len(fields) > 8 for _, fields in lines)
    rows = None if polygons else _clean_boxes([fields for _, fields in lines], nc)
    if rows is None:
        return _read_slowly(file, lines, nc, policy, polygons, stop)
    rows.lines = np.array([number for number, _ in lines], np.int64)
    return rows


def _text(file: str) -> str:
    try:
        return read_text(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def _clean_boxes(fields: list[list[str]], nc: int | None) -> Rows | None:
    """The rows of a file without any flaw, all at once; None if a row needs a closer look."""
    try:
        numbers = np.array(fields, dtype=np.float64)
    except ValueError:
        return None
    if numbers.ndim != 2 or numbers.shape[1] != 5:
        return None
    cls, boxes = numbers[:, 0], numbers[:, 1:]
    limit = np.inf if nc is None else nc
    good = ((cls == np.floor(cls)) & (cls >= 0) & (cls < limit) & np.isfinite(cls)).all() and (
        (boxes >= 0) & (boxes <= 1)
    ).all()
    if not good or not (boxes[:, 2:] > 0).all():
        return None
    xywhn = boxes.astype(np.float32)
    keys = np.concatenate((cls[:, None].astype(np.float32), xywhn), 1)
    if len(keys) > 1 and len(np.unique(keys, axis=0)) < len(keys):
        return None
    return Rows(cls.astype(np.int64), xywhn)


def _read_slowly(
    file: str, lines: list[tuple[int, list[str]]], nc: int | None, policy: str, polygons: bool, stop: bool
) -> Rows:
    """Row by row, with a reason for each that cannot be used as it is."""
    rows = Rows()
    classes: list[int] = []
    boxes: list[np.ndarray] = []
    kept: list[int] = []
    earlier: set[tuple[int, bytes]] = set()
    for number, fields in lines:
        try:
            cls = _class(fields[0], nc, file, number, stop)
            outline = polygons and len(fields) != 5
            box, segment, clipped = (_polygon if outline else _box)(_numbers(fields, outline), policy == "clip")
            if (cls, box.tobytes()) in earlier:
                raise BadRow("repeats an earlier row")
        except BadRow as reason:
            rows.problems.append(Problem(file, number, str(reason), DROPPED))
            continue
        if clipped:
            rows.problems.append(Problem(file, number, "leaves the image", CLIPPED))
        earlier.add((cls, box.tobytes()))
        classes.append(cls)
        boxes.append(box)
        kept.append(number)
        rows.segments.append(segment)
    rows.cls = np.array(classes, np.int64)
    rows.xywhn = np.array(boxes, np.float32).reshape(-1, 4)
    rows.lines = np.array(kept, np.int64)
    if not polygons:
        rows.segments = []
    return rows


def _class(text: str, nc: int | None, file: str, line: int, stop: bool) -> int:
    try:
        value = float(text)
    except ValueError:
        raise BadRow(f"class {text!r} is not a number") from None
    if not value.is_integer():
        raise BadRow(f"class {text} is not a whole number")
    if value < 0 or nc is not None and value >= nc:
        allowed = "at least 0" if nc is None else f"one of 0 to {nc - 1}"
        if not stop:
            raise BadRow(f"class {text} must be {allowed}")
        raise DataError(
            f"{file}:{line} class {text} must be {allowed}; correct the label or nc and names in the data yaml"
        )
    return int(value)


def _numbers(fields: list[str], outline: bool) -> np.ndarray:
    """The coordinates of a row as float64, or BadRow."""
    if outline and (len(fields) < 7 or len(fields) % 2 == 0):
        raise BadRow(f"has {len(fields)} values; a polygon has a class and at least 3 pairs x y")
    if not outline and len(fields) != 5:
        raise BadRow(f"has {len(fields)} values, expected 5: class, x center, y center, width, height")
    try:
        numbers = np.array([float(text) for text in fields[1:]])
    except ValueError as error:
        raise BadRow(str(error)) from None
    if not np.isfinite(numbers).all():
        raise BadRow("holds a value that is not a finite number")
    return numbers


def _box(numbers: np.ndarray, clip: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """(xywhn float32, its four corners (4, 2), whether it was cut to the image) of four numbers."""
    if (numbers[2:] < 0).any():
        raise BadRow("width or height is negative")
    outside = (numbers < -TINY).any() or (numbers > 1 + TINY).any()
    if outside and not clip:
        raise BadRow(f"{_worst(numbers):g} is outside 0..1; coordinates are divided by the image's width and height")
    half = numbers[2:] / 2
    low, high = numbers[:2] - half, numbers[:2] + half
    if outside:
        low, high = low.clip(0, 1), high.clip(0, 1)
        numbers = np.concatenate(((low + high) / 2, high - low))
    box = numbers.clip(0, 1).astype(np.float32)
    _refuse_empty(box)
    corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])], np.float32)
    return box, corners.clip(0, 1), bool(outside)


def _polygon(numbers: np.ndarray, clip: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """(xywhn float32 of its bounds, the points (k, 2), whether it was cut to the image)."""
    outside = (numbers < -TINY).any() or (numbers > 1 + TINY).any()
    if outside and not clip:
        raise BadRow(f"{_worst(numbers):g} is outside 0..1; coordinates are divided by the image's width and height")
    points = numbers.reshape(-1, 2).clip(0, 1)
    low, high = points.min(0), points.max(0)
    box = np.concatenate(((low + high) / 2, high - low)).astype(np.float32)
    _refuse_empty(box)
    return box, points.astype(np.float32), bool(outside)


def _worst(numbers: np.ndarray) -> float:
    """The number farthest outside 0..1."""
    return float(numbers[np.abs(numbers - 0.5).argmax()])


def _refuse_empty(box: np.ndarray) -> None:
    if not (box[2:] > 0).all():
        raise BadRow("width or height is zero")
