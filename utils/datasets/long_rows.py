"""Rows of more than five values: polygons, boxes with key points behind them, or oriented boxes.

A polygon is `class x1 y1 x2 y2 ...`; a row of key points is `class xc yc w h`, then `x y` or `x y v` for each, with v
0, 1 or 2; an oriented box is the four corners `class x1 y1 ... x4 y4`. The numbers of one row fit more than one of
them. All rows of a dataset together tell: key points lie in their box in every row, and all rows have the same length.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.datasets.label_problems import BOX_READ, OUTER_READ, Problem

CORNERS = 9  # values of an oriented box
SURE = 0.95  # share of rows that must fit, so that single bad rows do not hide what all others are
APART = 0.25  # share of rows whose width and height, taken as a point, must lie far from all others
MANY = 10  # rows of more than four points each that drawn polygons would not all have the same number of
_MARGIN = 0.05  # of a box's side: key points may lie outside of it by so much
_EDGE = 0.02  # of the image: boxes may leave it by so much
_PARALLEL = 5e-3  # opposite sides of an oriented box may differ by so much


@dataclass(frozen=True)
class LongRows:
    """What the rows of more than five values of one file, or of many, have in common.

    Attributes:
        count: Number of rows.
        width: Values of each; 0 if there are none.
        others: Further rows, which have another number of values.
        pairs: Rows whose first four numbers are a box that holds the others as points x y.
        triples: The same for points x y v with v 0, 1 or 2.
        apart: Rows whose third and fourth number, as a point, lie far from all others.
        beyond: Rows with a v of 2, which no polygon has.
        slanted: Rows of four corners that are a parallelogram, no side of it upright.
        upright: Rows of four corners that are an upright rectangle.
        first: File and line of the first.
    """

    count: int = 0
    width: int = 0
    others: int = 0
    pairs: int = 0
    triples: int = 0
    apart: int = 0
    beyond: int = 0
    slanted: int = 0
    upright: int = 0
    first: tuple[str, int] = ("", 0)

    def __add__(self, other: "LongRows") -> "LongRows":
        if not self.count or not other.count:
            return self if self.count else other
        if self.width != other.width:
            more, less = (self, other) if self.count >= other.count else (other, self)
            return replace(more, others=more.others + less.others + less.count)
        names = ("count", "others", "pairs", "triples", "apart", "beyond", "slanted", "upright")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def keypoints(self) -> tuple[int, int] | None:
        """Return (number of key points, numbers of each) if the rows seem to be boxes with key points, else None."""
        enough, more = SURE * self.count, self.width - 5
        if not self._is_uniform():
            return None
        if more % 3 == 0 and self.triples >= enough:
            return more // 3, 3
        no_polygons = self.apart >= APART * self.count or self.count >= MANY and self.width > CORNERS
        if more % 2 == 0 and self.pairs >= enough and no_polygons and not self.are_oriented():
            return more // 2, 2
        return None

    def cannot_be_polygons(self) -> bool:
        """Return whether no row can be a polygon: an even number of values, or one that is not in 0..1."""
        return self.width % 2 == 0 or self.beyond >= APART * self.count

    def are_oriented(self) -> bool:
        """Return whether the rows seem to be oriented boxes."""
        both = self.slanted + self.upright
        return self._is_uniform() and self.width == CORNERS and self.slanted > 0 and both >= SURE * self.count

    def _is_uniform(self) -> bool:
        """Whether there are rows, and nearly all have the same number of values."""
        return self.count > 0 and self.others <= (1 - SURE) * self.count

    def describe(self) -> str:
        """Return how many rows there are, of how many values."""
        rows = "the one row" if self.count + self.others == 1 else f"all {self.count} rows"
        if self.others:
            rows = f"{self.count} of the {self.count + self.others} long rows, those"
        return f"{rows} of {self.width} values"

    def note(self, boxes: bool, dims: int = 0) -> Problem:
        """Return what was made of the rows, for the report on labels.

        Args:
            boxes: Whether the boxes in front were read, otherwise the outer boxes of four corners.
            dims: Numbers of each key point; 0 if they were not recognized as key points.

        Returns:
            A note on the first row.
        """
        if not boxes:
            what = f"{self.describe()} are oriented boxes; their outer boxes are read"
            return Problem(*self.first, what, OUTER_READ, self.count)
        points = (self.width - 5) // dims if dims else 0
        behind = f"{points} key point{'s' * (points != 1)} {'x y v' if dims == 3 else 'x y'}" if points else "more"
        what = f"{self.describe()} are boxes with {behind} behind them; the boxes are read"
        return Problem(*self.first, what, BOX_READ, self.count + self.others)

    def ambiguity(self, dims: int) -> str:
        """Return the two readings of rows that may be key points or polygons, and how to choose.

        Args:
            dims: Numbers of each key point.

        Returns:
            One line for the user.
        """
        points = (self.width - 5) // dims
        return (
            f"{self.describe()} may be boxes with {points} key point{'s' * (points != 1)} or polygons of "
            f"{(self.width - 1) // 2} points: --labels boxes reads the boxes, --labels polygons the polygons; "
            f"`kpt_shape: [{points}, {dims}]` in the data yaml says the first"
        )


def in_common(file: str, rows: Sequence[tuple[int, np.ndarray]]) -> LongRows:
    """Return what the rows of more than five values of a file have in common.

    Args:
        file: The label file.
        rows: (line, all numbers but the class, finite) of each.

    Returns:
        A record of the most frequent number of values; it is empty if there are no rows.
    """
    lengths = Counter(len(numbers) for _, numbers in rows)
    if not lengths:
        return LongRows()
    ((length, count),) = lengths.most_common(1)
    alike = [(line, numbers) for line, numbers in rows if len(numbers) == length]
    if 2 * count <= len(rows):  # polygons: what else would differ so much
        return LongRows(count, length + 1, len(rows) - count, first=(file, alike[0][0]))
    found = LongRows()
    for line, numbers in alike:
        found += measure(numbers, file, line)
    return replace(found, others=len(rows) - count)


def measure(numbers: np.ndarray, file: str, line: int) -> LongRows:
    """Return what one row of more than five values can be.

    Args:
        numbers: All its numbers but the class, finite.
        file: The label file.
        line: Line of the row.

    Returns:
        A record of one row, to be added to others.
    """
    box, more = numbers[:4], numbers[4:]
    is_box = bool((box[2:] > 0).all() and (box[:2] >= 0).all() and _reach(box) <= 1 + _EDGE)
    pairs = is_box and len(more) % 2 == 0 and _holds(box, more.reshape(-1, 2))
    visible = len(more) % 3 == 0 and bool(np.isin(more[2::3], (0, 1, 2)).all())
    triples = is_box and visible and _holds(box, more.reshape(-1, 3)[:, :2])
    slanted, upright = _corners(numbers)
    return LongRows(
        1,
        len(numbers) + 1,
        0,
        int(pairs),
        int(triples),
        int(pairs and _is_apart(box, more.reshape(-1, 2))),
        int(triples and (more[2::3] == 2).any()),
        int(slanted),
        int(upright),
        (file, line),
    )


def _reach(box: np.ndarray) -> float:
    """How far a box xywh reaches to the right, bottom, left or top, as 1 at the edges of the image."""
    half = box[2:] / 2
    return float(max((box[:2] + half).max(), (1 - box[:2] + half).max()))


def _holds(box: np.ndarray, points: np.ndarray) -> bool:
    """Whether a box holds all points (k, 2) but those at (0, 0), which are points that were not labeled."""
    labeled = points[(points != 0).any(1)]
    return bool((np.abs(labeled - box[:2]) <= box[2:] * (0.5 + _MARGIN) + 1e-3).all())


def _is_apart(box: np.ndarray, points: np.ndarray) -> bool:
    """Whether (w, h) as a point is farther from all others than these are from one another."""
    others = np.concatenate((box[None, :2], points[(points != 0).any(1)]))
    low, high = others.min(0), others.max(0)
    return bool(np.maximum(low - box[2:], box[2:] - high).max() > (high - low).max())


def _corners(numbers: np.ndarray) -> tuple[bool, bool]:
    """(whether four corners are a slanted parallelogram, whether an upright rectangle)."""
    if len(numbers) != CORNERS - 1:
        return False, False
    corners = numbers.reshape(4, 2)
    parallel = bool((np.abs(corners[0] + corners[2] - corners[1] - corners[3]) <= _PARALLEL).all())
    sides = np.abs(np.diff(corners, axis=0))
    upright = bool((sides.min(1) <= _PARALLEL).all())
    return parallel and not upright, parallel and upright
