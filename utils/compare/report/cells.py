"""How figures are written: points, intervals, p, durations; and what is written for a figure that is missing.

A table is columns and rows of `Cell`s. Accuracies are 0..1 in the records and percentage points (0..100) in every
table, with two decimals; a missing figure is an en dash, and its cell says why.
"""

import math
from collections.abc import Sequence
from typing import TypeGuard

from utils.compare.results import BASELINE, PARAMETER_MATCHED
from utils.pages.html_tables import Cell, Column, Table, letter

__all__ = ["Cell", "Column", "Table", "letter"]

NONE = "–"
# What tables add to the name of a variant, by its role.
ROLE_TAGS = {BASELINE: "baseline", PARAMETER_MATCHED: "parameter-matched"}


def is_figure(value: float | None) -> TypeGuard[float]:
    """Return whether there is a finite number."""
    return value is not None and math.isfinite(value)


def missing(reason: str) -> Cell:
    """Return the cell of a missing figure."""
    return Cell(NONE, None, reason or "not recorded")


def number(value: float | None, decimals: int, reason: str = "", scale: float = 1.0) -> Cell:
    """Return the cell of a figure, thousands separated.

    Args:
        value: The figure, None or not finite if it is missing.
        decimals: Decimals to show.
        reason: Why it is missing.
        scale: Factor to the unit of the column.

    Returns:
        The figure times `scale`, or a dash with the reason.
    """
    return Cell(plain(value * scale, decimals), value * scale) if is_figure(value) else missing(reason)


def plain(value: float, decimals: int) -> str:
    """Return a figure as text, thousands separated; one that rounds to zero has no minus sign.

    Args:
        value: A finite number.
        decimals: Decimals to show.

    Returns:
        Such as "1,234.50".
    """
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not any(digit in text for digit in "123456789") else text


def points(value: float | None, reason: str = "") -> Cell:
    """Return the cell of an accuracy in percentage points.

    Args:
        value: The accuracy, 0..1.
        reason: Why it is missing.

    Returns:
        The cell.
    """
    return number(value, 2, reason, scale=100.0)


def mean_and_sd(mean: float, sd: float, reason: str = "") -> Cell:
    """Return the cell "mean ± sd" in points.

    Args:
        mean: Mean of an accuracy over seeds, 0..1.
        sd: Standard deviation, nan for one seed; the mean stands alone then.
        reason: Why the mean is missing.

    Returns:
        The cell, sorted by the mean.
    """
    if not is_figure(mean):
        return missing(reason)
    if is_figure(sd):
        return Cell(f"{plain(100 * mean, 2)} ± {plain(100 * sd, 2)}", 100 * mean)
    return Cell(plain(100 * mean, 2), 100 * mean, "one seed only: no standard deviation")


def signed(value: float | None, reason: str = "") -> Cell:
    """Return the cell of a difference of accuracies in points, with its sign.

    Args:
        value: The difference, -1..1.
        reason: Why it is missing.

    Returns:
        The cell.
    """
    return Cell(signed_text(value), 100 * value) if is_figure(value) else missing(reason)


def signed_text(value: float) -> str:
    """Return a difference (-1..1) in points with its sign; zero has none."""
    text = plain(100 * value, 2)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def interval(low: float, high: float, reason: str = "") -> Cell:
    """Return the cell "low to high" in points.

    Args:
        low: Lower end, -1..1; the cell is sorted by it.
        high: Upper end.
        reason: Why there is no interval.

    Returns:
        The cell.
    """
    if not (is_figure(low) and is_figure(high)):
        return missing(reason)
    return Cell(f"{signed_text(low)} to {signed_text(high)}", 100 * low)


def probability(value: float | None, reason: str = "") -> Cell:
    """Return the cell of a p-value, with three decimals.

    Args:
        value: The p-value, 0..1.
        reason: Why it is missing.

    Returns:
        The cell.
    """
    if not is_figure(value):
        return missing(reason)
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def duration(seconds: float | None, reason: str = "") -> Cell:
    """Return the cell of a duration, h:mm:ss.

    Args:
        seconds: The duration.
        reason: Why it is missing.

    Returns:
        The cell.
    """
    if not is_figure(seconds):
        return missing(reason)
    whole = round(seconds)
    return Cell(f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}", seconds)


def verdict_cell(verdict: str) -> Cell:
    """Return the cell of a verdict in the record's words; its tone is unclear unless it is better or worse."""
    return Cell(verdict, verdict, tone=verdict if verdict in ("better", "worse") else "unclear")


def name_cell(name: str, role: str, series: int) -> Cell:
    """Return the cell of a variant's name.

    Args:
        name: The name.
        role: Role of the variant (results.py).
        series: Index of its color.

    Returns:
        The cell, marked with the role if it is one of ROLE_TAGS.
    """
    return Cell(name, name, tone=role if role in ROLE_TAGS else "", series=series)


def text_cell(text: object, reason: str = "") -> Cell:
    """Return the cell of a text.

    Args:
        text: What to show.
        reason: Why it is empty, if it is.

    Returns:
        The cell.
    """
    shown = str(text).strip()
    return Cell(shown, shown) if shown else missing(reason)


def join_words(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
