"""Figures of a comparison: accuracy against cost with intervals, learning curves with bands, differences by class.

Each is written as a png on white, and returned as an svg without a background, whose text is text and whose colours are
exactly those of `series_color`, INK, FAINT, GRID and PAPER, so that a page can put its own in their place.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.plots.canvas import canvas

INK, FAINT, GRID, PAPER = "#1d2126", "#5b646e", "#dfe3e8", "#fefefe"
SERIES = ("#4a525b", "#1f67c7", "#c2540a", "#17835a", "#9443bd", "#9a7400", "#c12f62", "#08808f", "#6d5f4c")
_MARKERS = "soD^vPX*<>hd"
_LONGEST_NAME = 34
_PANELS_A_ROW = 4


@dataclass(frozen=True)
class Mark:
    """One model in a plane: x its cost; y, low, high its accuracy and the ends of its interval, in points (nan where there
    is none); seeds: the accuracy of each seed; series: number of its colour, 0 is the baseline; shown: whether it is the
    baseline or differs from it by the verdict, and so is filled.
    """

    name: str
    series: int
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    seeds: tuple[float, ...] = ()
    shown: bool = True


@dataclass(frozen=True)
class Course:
    """One model's trainings: values by panel, a (seeds, epochs) array each, nan past a training's end."""

    name: str
    series: int
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Gaps:
    """One model's differences to the baseline by class, in points: (difference, low, high), nan where there is none.

    shown: of each class, whether the verdict is that it differs; its point is filled then.
    """

    name: str
    series: int
    rows: tuple[tuple[float, float, float], ...]
    shown: tuple[bool, ...]


def series_color(series: int) -> str:
    """Return the colour of a model as #rrggbb; the baseline, 0, has its own grey, the others' repeat after eight."""
    return SERIES[0] if series == 0 else SERIES[1 + (series - 1) % (len(SERIES) - 1)]


def plot_tradeoff(marks: Sequence[Mark], file: Path, x_label: str, y_label: str) -> str:
    """Write accuracy against a cost: each model's mean with its interval, its seeds small, the baseline's height dashed."""
    with canvas(file, 6.4, 3.9 + 0.24 * math.ceil(len(marks) / 2)) as figure:
        axes = figure.subplots()
        for mark in marks:
            tint, shape = series_color(mark.series), _MARKERS[mark.series % len(_MARKERS)]
            axes.plot([mark.x] * len(mark.seeds), mark.seeds, "_", color=tint, alpha=0.6, markersize=15, zorder=2)
            if math.isfinite(mark.low) and math.isfinite(mark.high):
                reach = [[mark.y - mark.low], [mark.high - mark.y]]
                axes.errorbar([mark.x], [mark.y], reach, color=tint, capsize=4, linewidth=1.6, zorder=3)
            axes.plot(
                [mark.x],
                [mark.y],
                shape,
                color=tint,
                markerfacecolor=tint if mark.shown else PAPER,
                markersize=8,
                markeredgewidth=1.8,
                label=_shortened(mark.name),
                zorder=4,
            )
            if mark.series == 0:
                axes.axhline(mark.y, color=tint, linestyle=(0, (5, 4)), linewidth=1, zorder=1)
        axes.margins(x=0.12, y=0.1)
        _dress(axes, x_label, y_label)
        _legend(figure, axes)
        return _svg(figure, file)


def plot_courses(courses: Sequence[Course], file: Path) -> str:
    """Write learning curves: the mean over seeds as a line up to where the first training ends, lowest to highest as a band."""
    panels = list(dict.fromkeys(panel for course in courses for panel in course.values))
    with canvas(file, 5.2 * len(panels) + 0.6, 3.9 + 0.24 * math.ceil(len(courses) / 3)) as figure:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for course in courses:
                if panel in course.values:
                    _draw_course(axes, course, course.values[panel])
            _dress(axes, "epoch", panel)
            axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure, figure.axes[0], 3)
        return _svg(figure, file)


def _draw_course(axes: Any, course: Course, values: np.ndarray) -> None:
    """values: (seeds, epochs)."""
    values = values[:, np.isfinite(values).all(0).cumprod().astype(bool)]
    epochs, tint = np.arange(values.shape[1]), series_color(course.series)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=tint, alpha=0.14, linewidth=0)
    dashes = (0, (5, 2)) if course.series == 0 else "-"
    alone = "." if values.shape[1] == 1 else None
    axes.plot(
        epochs, values.mean(0), color=tint, linestyle=dashes, marker=alone, linewidth=1.8, label=_shortened(course.name)
    )


def plot_gaps(gaps: Sequence[Gaps], names: Sequence[str], file: Path, x_label: str) -> str:
    """Write the differences by class: a panel a model, a row a class, zero (the baseline) as a line, one scale for all.

    Intervals of rare classes that would leave the others no room are cut, with an arrow where they go on.
    """
    columns = min(len(gaps), _PANELS_A_ROW)
    rows = math.ceil(len(gaps) / columns)
    height = rows * (0.95 + 0.26 * len(names)) + 0.4
    with canvas(file, max(2.4 * columns + 1.6, 5.0), height) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        limit = reach_shown(gaps)
        grid[0, 0].set_xlim(-limit, limit)
        for axes, gap in zip(grid.flat, gaps):
            _draw_gaps(axes, gap, limit)
            axes.set_title(_shortened(gap.name, 26), fontsize=9, color=INK, parse_math=False)
            _dress(axes, "", "")
        for axes in list(grid.flat)[len(gaps) :]:
            axes.axis("off")
        grid[0, 0].set_yticks(
            range(len(names)), [_shortened(name, 22) for name in names], parse_math=False
        )  # shared by all
        grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel(x_label, fontsize=9, color=FAINT)
        return _svg(figure, file)


def reach_shown(gaps: Sequence[Gaps]) -> float:
    """Return how far from zero the panels reach: over every difference and most intervals, at most over all of them."""
    differences, lows, highs = (np.abs(column) for column in np.array([row for gap in gaps for row in gap.rows]).T)
    ends = np.maximum(lows, highs)
    ends, differences = ends[np.isfinite(ends)], differences[np.isfinite(differences)]
    if not len(differences):
        return 1.0
    farthest = differences.max()
    if not len(ends):
        return 1.15 * farthest or 1.0
    usual = max(farthest, 1.5 * float(np.quantile(ends, 0.75)))
    return 1.08 * min(usual, max(farthest, ends.max())) or 1.0


def _draw_gaps(axes: Any, gap: Gaps, limit: float) -> None:
    tint = series_color(gap.series)
    axes.axvline(0, color=SERIES[0], linestyle=(0, (5, 4)), linewidth=1)
    places, (differences, lows, highs) = np.arange(len(gap.rows)), np.array(gap.rows).T
    whole, there = np.isfinite(lows) & np.isfinite(highs), np.isfinite(differences)
    axes.hlines(places[whole], lows[whole].clip(-limit), highs[whole].clip(None, limit), color=tint, linewidth=1.8)
    for cut, edge, arrow in ((whole & (lows < -limit), -limit, "<"), (whole & (highs > limit), limit, ">")):
        if cut.any():  # an empty line that is not clipped would upset the layout
            axes.plot(np.full(cut.sum(), edge), places[cut], arrow, color=tint, markersize=6, clip_on=False)
    for filled in (True, False):
        those = there & (np.array(gap.shown) == filled)
        axes.plot(
            differences[those],
            places[those],
            "o",
            color=tint,
            markerfacecolor=tint if filled else PAPER,
            markersize=5.5,
        )
    for place in places[~there]:
        axes.text(0, place, "– ", color=FAINT, fontsize=9, ha="right", va="center")


def _shortened(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name that fits a legend: its middle gives way, since names differ at their ends."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _dress(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9, color=FAINT)
    axes.set_ylabel(y_label, fontsize=9, color=FAINT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def _legend(figure: Any, axes: Any, columns: int = 2) -> None:
    """Names below the axes; a name's dollars are dollars, not mathematics."""
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _svg(figure: Any, file: Path) -> str:
    """Return the figure as an <svg> element for a page: no prologue, no fixed size, ids of its own."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": file.stem}):
        anonymous = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=anonymous)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'(?<=\sid=")|(?<=url\(#)|(?<=xlink:href="#)', f"{file.stem}-", text)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
