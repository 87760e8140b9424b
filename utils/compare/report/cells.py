"""How a figure is written: points, intervals, p, durations; and what stands where there is none.

A table is columns and rows of `Cell`s. Accuracies are 0..1 in the records and percentage points (0..100) in every table, with
two decimals; a figure that does not exist is an en dash, and its cell says why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NONE = "–"
_ROLES = ("baseline", "control")


@dataclass(frozen=True)
class Cell:
    """text: as shown; value: what it is sorted by (None: it goes last); reason: why there is no figure; tone: "better", "worse",
    "unclear", "failed", "baseline" or "control", where the cell carries such a mark; series: number of the variant's colour.
    """

    text: str
    value: float | str | None = None
    reason: str = ""
    tone: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Column:
    """title: its name; unit: of every figure in it, "" for text; figures: whether it is aligned as numbers are."""

    title: str
    unit: str = ""
    figures: bool = True

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Table:
    """rows: as many cells each as there are columns, the first names the row. key: its place in files and links."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.key!r}: a row of {len(row)} cells under {len(self.columns)} columns")

    @property
    def reasons(self) -> dict[str, str]:
        """The reasons of its missing figures, each once, by the letter that stands for it: a, b, ..., z, aa, ..."""
        distinct = dict.fromkeys(cell.reason for row in self.rows for cell in row if cell.reason)
        return {reason: letter(place) for place, reason in enumerate(distinct)}


def letter(place: int) -> str:
    """Return a for 0, b for 1, ..., aa for 26."""
    return (letter(place // 26 - 1) if place >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[place % 26]


def is_figure(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def missing(reason: str) -> Cell:
    return Cell(NONE, None, reason or "not recorded")


def number(value: float | None, decimals: int, reason: str = "", scale: float = 1.0) -> Cell:
    """Return value · scale with so many decimals and thousands separated, or the reason why there is none."""
    return Cell(plain(value * scale, decimals), value * scale) if is_figure(value) else missing(reason)


def plain(value: float, decimals: int) -> str:
    """Return a figure as text; one that rounds to zero carries no minus."""
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not any(digit in text for digit in "123456789") else text


def points(value: float | None, reason: str = "") -> Cell:
    """Return an accuracy of 0..1 in percentage points."""
    return number(value, 2, reason, scale=100.0)


def mean_and_sd(mean: float, sd: float, reason: str = "") -> Cell:
    """Return "mean ± sd" in points; the mean alone, with the reason, where the seeds have no spread."""
    if not is_figure(mean):
        return missing(reason)
    if is_figure(sd):
        return Cell(f"{plain(100 * mean, 2)} ± {plain(100 * sd, 2)}", 100 * mean)
    return Cell(plain(100 * mean, 2), 100 * mean, "one seed only: no standard deviation")


def signed(value: float | None, reason: str = "") -> Cell:
    """Return a difference of accuracies in points with its sign."""
    return Cell(sign_text(value), 100 * value) if is_figure(value) else missing(reason)


def sign_text(value: float) -> str:
    text = plain(100 * value, 2)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def interval(low: float, high: float, reason: str = "") -> Cell:
    """Return "low to high" in points; it is sorted by its lower end."""
    if not (is_figure(low) and is_figure(high)):
        return missing(reason)
    return Cell(f"{sign_text(low)} to {sign_text(high)}", 100 * low)


def probability(value: float | None, reason: str = "") -> Cell:
    if not is_figure(value):
        return missing(reason)
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def duration(seconds: float | None, reason: str = "") -> Cell:
    """Return h:mm:ss."""
    if not is_figure(seconds):
        return missing(reason)
    whole = round(seconds)
    return Cell(f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}", seconds)


def verdict_cell(verdict: str) -> Cell:
    """Return the verdict in the record's words, toned; what is neither better nor worse is toned unclear."""
    return Cell(verdict, verdict, tone=verdict if verdict in ("better", "worse") else "unclear")


def name_cell(name: str, role: str, series: int) -> Cell:
    return Cell(name, name, tone=role if role in _ROLES else "", series=series)


def text_cell(text: object, reason: str = "") -> Cell:
    shown = str(text).strip()
    return Cell(shown, shown) if shown else missing(reason)


def listed(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
