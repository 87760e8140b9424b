"""The rows of a label file."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from utils.config.label_reading import LabelReading
from utils.datasets.label_problems import CLIPPED, DROPPED, TOKEN, Problem, grouped
from utils.datasets.long_rows import LongRows, in_common
from utils.errors import DataError, cut, nearest, shown
from utils.files import read_text

TINY = 1e-3  # coordinates that leave 0..1 by no more than this are always set to 0 or 1
CLASS_LIMIT = 2**31  # no class number reaches it, even if class numbers are not compared with the data yaml


@dataclass(frozen=True)
class RowRules:
    """How the rows of a dataset are read.

    Attributes:
        nc: Number of classes; None does not check class ids against it.
        names: Class names.
        reading: What `--labels` says.
        keypoints: Number of key points of each row and numbers of each, if the data yaml gives them.
    """

    nc: int | None
    names: tuple[str, ...] = ()
    reading: LabelReading = LabelReading()
    keypoints: tuple[int, int] | None = None

    def is_box(self, count: int) -> bool:
        """Return whether a row of so many values is a box, perhaps with more behind it that is not read."""
        if count <= 5 or self.reading.shape == "boxes":
            return True
        points, dims = self.keypoints or (0, 0)
        return self.reading.shape == "auto" and bool(points) and count == 5 + points * dims

    @cached_property
    def by_name(self) -> dict[tuple[str, ...], int]:
        """Class id by the words of the class's name, and by those in lower case if that is one class's."""
        exact = {tuple(name.split()): class_id for class_id, name in enumerate(self.names)}
        lower: dict[tuple[str, ...], list[int]] = {}
        for words, class_id in exact.items():
            lower.setdefault(tuple(word.lower() for word in words), []).append(class_id)
        return {**{words: ids[0] for words, ids in lower.items() if len(ids) == 1}, **exact}

    def named_class(self, fields: Sequence[str]) -> tuple[int, int] | None:
        """Return (class id, number of words) of the class name that a row begins with, the longest, or None."""
        longest = max(map(len, self.by_name), default=0)
        for count in range(min(longest, len(fields)), 0, -1):
            words = tuple(fields[:count])
            class_id = self.by_name.get(words, self.by_name.get(tuple(word.lower() for word in words)))
            if class_id is not None:
                return class_id, count
        return None


@dataclass(frozen=True)
class Meaning:
    """What rows of more than five values mean, seen together.

    Attributes:
        rules: How they are to be read.
        notes: What is to be reported about them.
        ambiguity: Both readings and how to choose, if nothing says which is right; "" otherwise.
    """

    rules: RowRules
    notes: tuple[Problem, ...] = ()
    ambiguity: str = ""


def interpret(long: LongRows, rules: RowRules) -> Meaning:
    """Return what the rows of more than five values mean.

    Args:
        long: What they have in common.
        rules: How they were read.

    Returns:
        The same rules, or those under which the rows have to be read again.
    """
    reading, points = rules.reading, long.keypoints()
    if not long.count or reading.shape == "polygons":
        return Meaning(rules)
    if reading.shape == "boxes":
        return Meaning(rules, (long.note(True, (points or (0, 0))[1]),))
    if long.width > 5 and rules.is_box(long.width):
        return Meaning(rules, (long.note(True, (rules.keypoints or (0, 0))[1]),))
    if points and long.cannot_be_polygons():
        return Meaning(replace(rules, reading=replace(reading, shape="boxes")), (long.note(True, points[1]),))
    if points:
        file, line = long.first
        return Meaning(rules, (), f"{file}:{line} {long.ambiguity(points[1])}")
    return Meaning(rules, (long.note(False),) if long.are_oriented() else ())


@dataclass(frozen=True)
class UnknownClass:
    """A row's class number that the data yaml does not have.

    Attributes:
        file: The label file.
        line: From 1.
        value: The number.
        reason: What is wrong.
    """

    file: str
    line: int
    value: int
    reason: str


@dataclass
class Rows:
    """The usable rows of one label file.

    Attributes:
        cls: (n,) int64 class ids.
        xywhn: (n, 4) float32 in 0..1.
        segments: n polygons (k, 2) float32 in 0..1, or none.
        problems: What is wrong with rows, used or not; equal ones are one.
        lines: (n,) int64 line of each row in the file, from 1.
        unknown: Rows whose class the data yaml does not have.
        long: What rows of more than five values have in common.
    """

    cls: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    xywhn: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    segments: list[np.ndarray] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    unknown: tuple[UnknownClass, ...] = ()
    long: LongRows = LongRows()


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


class UnknownClassRow(BadRow):
    """A row whose class number the data yaml does not have."""

    def __init__(self, value: int, reason: str):
        super().__init__(reason)
        self.value = value


def read_rows(file: str, rules: RowRules) -> Rows:
    """Return the rows of one label file and what is wrong in it.

    Rows of 5 values are boxes `class xc yc w h`, those of an odd number from 7 polygons `class x1 y1 x2 y2 ...`,
    whose boxes are their bounds, unless `rules` say that they are boxes with more behind them.

    Args:
        file: The label file.
        rules: How rows are read.

    Returns:
        The rows; those with a class that the data yaml does not have are in `unknown` and no others.

    Raises:
        DataError: The file cannot be read.
    """
    lines = [(number, line.split()) for number, line in enumerate(_text(file).splitlines(), 1)]
    lines = [(number, fields) for number, fields in lines if fields]
    if not lines:
        return Rows()
    rows = None if rules.reading.by_name else _clean_boxes([fields for _, fields in lines], rules.nc)
    if rows is None:
        return _read_slowly(file, lines, rules)
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
    limit = CLASS_LIMIT if nc is None else nc
    good = ((cls == np.floor(cls)) & (cls >= 0) & (cls < limit) & np.isfinite(cls)).all() and (
        (boxes >= 0) & (boxes <= 1)
    ).all()
    if not good or not (boxes[:, 2:] > 0).all():
        return None
    xywhn = boxes.astype(np.float32)
    rows = {(*box, number) for box, number in zip(map(tuple, xywhn.tolist()), cls.tolist(), strict=True)}
    if len(rows) < len(cls):  # repeated; numpy's search for unique rows took a quarter of a scan
        return None
    return Rows(cls.astype(np.int64), xywhn)


def _read_slowly(file: str, lines: list[tuple[int, list[str]]], rules: RowRules) -> Rows:
    """Row by row, with a reason for each that cannot be used as it is."""
    rows = Rows()
    kept: list[tuple[int, int, np.ndarray]] = []  # line, class, box
    earlier: set[tuple[int, bytes]] = set()
    unknown: list[UnknownClass] = []
    problems: list[Problem] = []
    longer: list[tuple[int, np.ndarray]] = []
    outlines = False
    for number, fields in lines:
        try:
            cls, words = _class(fields, rules)
            numbers = _numbers(fields[words:])
            if len(numbers) > 4:
                longer.append((number, numbers))
            outline = not rules.is_box(len(numbers) + 1)
            box, segment, clipped = _shape(numbers, outline, rules.reading.policy == "clip")
            if (cls, box.tobytes()) in earlier:
                raise BadRow("repeats an earlier row")
        except BadRow as reason:
            problems.append(Problem(file, number, str(reason), DROPPED))
            if isinstance(reason, UnknownClassRow):
                unknown.append(UnknownClass(file, number, reason.value, str(reason)))
            continue
        if clipped:
            problems.append(Problem(file, number, "leaves the image", CLIPPED))
        earlier.add((cls, box.tobytes()))
        kept.append((number, cls, box))
        rows.segments.append(segment)
        outlines = outlines or outline
    rows.cls = np.array([cls for _, cls, _ in kept], np.int64)
    rows.xywhn = np.array([box for _, _, box in kept], np.float32).reshape(-1, 4)
    rows.lines = np.array([number for number, _, _ in kept], np.int64)
    rows.problems, rows.unknown, rows.long = grouped(problems), tuple(unknown), in_common(file, longer)
    if not outlines:
        rows.segments = []
    return rows


def _class(fields: list[str], rules: RowRules) -> tuple[int, int]:
    """(class id, number of words that say it) of a row."""
    named = rules.named_class(fields)
    if rules.reading.by_name and named:
        return named
    try:
        value = float(fields[0])
    except ValueError:
        pass
    else:
        return _class_number(fields[0], value, rules.nc), 1
    if rules.reading.by_name:
        return _unknown_name(fields, rules)
    if named:
        name = " ".join(fields[: named[1]])
        raise BadRow(f"begins with the class name {shown(name, TOKEN)}: --labels names reads names")
    raise BadRow(f"class {shown(fields[0], TOKEN)} is not a number{_separator_hint(fields[0])}")


def _class_number(text: str, value: float, nc: int | None) -> int:
    if not value.is_integer():
        raise BadRow(f"class {cut(text, TOKEN)} is not a whole number")
    if value < 0 or value >= (CLASS_LIMIT if nc is None else nc):
        allowed = "0 to 2147483647" if nc is None else f"one of 0 to {nc - 1}"
        raise UnknownClassRow(int(value), f"class {cut(text, TOKEN)} must be {allowed}")
    return int(value)


def _unknown_name(fields: list[str], rules: RowRules) -> tuple[int, int]:
    """A name that the data yaml does not have: class 0 if all classes are taken as one, otherwise an error."""
    words = next((index for index, text in enumerate(fields) if _is_number(text)), len(fields))
    if rules.nc is None:
        return 0, words
    name = " ".join(fields[:words])
    raise UnknownClassRow(
        -1, f"class {shown(name, TOKEN)} must be one of the names in the data yaml{nearest(name, rules.names)}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _separator_hint(text: str) -> str:
    """The remedy for a value that is several joined by commas or semicolons, or has a decimal comma."""
    if text[:1].isdigit() and any(mark in text for mark in ",;"):
        return ": write spaces between values and points in decimals"
    return ""


def _numbers(values: Sequence[str]) -> np.ndarray:
    """The numbers behind the class as float64, or BadRow."""
    if len(values) < 4:
        raise BadRow(f"has {len(values) + 1} values, expected 5: class, x center, y center, width, height")
    try:
        numbers = np.array([float(text) for text in values])
    except ValueError:
        wrong = next(text for text in values if not _is_number(text))
        raise BadRow(f"{shown(wrong, TOKEN)} is not a number{_separator_hint(wrong)}") from None
    if not np.isfinite(numbers).all():
        raise BadRow("holds a value that is not a finite number")
    return numbers


def _shape(numbers: np.ndarray, outline: bool, clip: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """(xywhn float32, outline (k, 2), whether it was cut to the image) of a row's numbers."""
    if not outline:
        return _box(numbers[:4], clip)
    count = len(numbers) + 1
    if count % 2 == 0:
        more = "one more, such as a confidence or an angle" if count == 6 else f"{count - 5} more"
        raise BadRow(
            f"has {count} values, neither a box (5) nor a polygon (a class and at least 3 pairs x y); if it is a box "
            f"and {more}, --labels boxes reads the box"
        )
    return _polygon(numbers, clip)


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
