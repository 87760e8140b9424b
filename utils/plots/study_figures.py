"""Figures of a comparison: accuracy against cost with intervals, learning curves with bands, differences per class.

Each is written as a png on white, and returned as an svg without a background, whose text is text and whose colors are
exactly those of `series_color`, INK, FAINT, GRID and PAPER, so that a page can replace them.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import cut
from utils.plots.canvas import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1d2126", "#5b646e", "#dfe3e8", "#fefefe"
SERIES = ("#4a525b", "#1f67c7", "#c2540a", "#17835a", "#9443bd", "#9a7400", "#c12f62", "#08808f", "#6d5f4c")
_MARKERS = "soD^vPX*<>hd"
_LONGEST_NAME = 34
_PANELS_PER_ROW = 4


@dataclass(frozen=True)
class Mark:
    """One model in a plot of accuracy against cost.

    Attributes:
        name: Of the model.
        series: Index of its color, 0 for the baseline.
        x: Its cost.
        y: Its mean accuracy in points.
        low: Lower end of its interval in points, nan if there is none; `high` is the upper end.
        seeds: The accuracy of each seed in points.
        filled: Whether it is the baseline or differs from it by the verdict.
    """

    name: str
    series: int
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    seeds: tuple[float, ...] = ()
    filled: bool = True


@dataclass(frozen=True)
class LearningCurves:
    """The learning curves of one model.

    Attributes:
        name: Of the model.
        series: Index of its color, 0 for the baseline.
        values: By title of the panel, (seeds, epochs), nan past a training's end.
    """

    name: str
    series: int
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class ClassDifferences:
    """The differences of one model to the baseline, per class.

    Attributes:
        name: Of the model.
        series: Index of its color.
        rows: Per class (difference, low, high) in points, nan if there is none.
        filled: Per class whether the verdict is that it differs.
    """

    name: str
    series: int
    rows: tuple[tuple[float, float, float], ...]
    filled: tuple[bool, ...]


def series_color(series: int) -> str:
    """Return the color of a model as #rrggbb; the baseline, 0, is gray, the other colors repeat after eight."""
    return SERIES[0] if series == 0 else SERIES[1 + (series - 1) % (len(SERIES) - 1)]


def plot_tradeoff(marks: Sequence[Mark], file: Path, x_label: str, y_label: str) -> str:
    """Write accuracy against a cost: each model's mean with its interval and its seeds, the baseline as a dashed line.

    Args:
        marks: One per model.
        file: The png to write.
        x_label: The cost and its unit.
        y_label: The metric and its unit.

    Returns:
        The figure as an <svg> element.
    """
    with saved_figure(file, 6.4, 3.9 + 0.24 * math.ceil(len(marks) / 2)) as figure:
        axes = figure.subplots()
        for mark in marks:
            color, shape = series_color(mark.series), _MARKERS[mark.series % len(_MARKERS)]
            axes.plot([mark.x] * len(mark.seeds), mark.seeds, "_", color=color, alpha=0.6, markersize=15, zorder=2)
            if math.isfinite(mark.low) and math.isfinite(mark.high):
                errors = [[mark.y - mark.low], [mark.high - mark.y]]
                axes.errorbar([mark.x], [mark.y], errors, color=color, capsize=4, linewidth=1.6, zorder=3)
            axes.plot(
                [mark.x],
                [mark.y],
                shape,
                color=color,
                markerfacecolor=color if mark.filled else PAPER,
                markersize=8,
                markeredgewidth=1.8,
                label=_shortened(mark.name),
                zorder=4,
            )
            if mark.series == 0:
                axes.axhline(mark.y, color=color, linestyle=(0, (5, 4)), linewidth=1, zorder=1)
        axes.margins(x=0.12, y=0.1)
        _style_axes(axes, x_label, y_label)
        _legend(figure, axes)
        return _svg(figure, file)


def plot_learning_curves(curves: Sequence[LearningCurves], file: Path) -> str:
    """Write learning curves: mean over seeds up to the end of the first training, and a band from lowest to highest.

    Args:
        curves: One per model.
        file: The png to write.

    Returns:
        The figure as an <svg> element.
    """
    panels = list(dict.fromkeys(panel for curve in curves for panel in curve.values))
    with saved_figure(file, 5.2 * len(panels) + 0.6, 3.9 + 0.24 * math.ceil(len(curves) / 3)) as figure:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for curve in curves:
                if panel in curve.values:
                    _draw_curves(axes, curve, curve.values[panel])
            _style_axes(axes, "epoch", panel)
            axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure, figure.axes[0], 3)
        return _svg(figure, file)


def _draw_curves(axes: "Axes", curve: LearningCurves, values: np.ndarray) -> None:
    """Draw the values (seeds, epochs) of one panel."""
    values = values[:, np.isfinite(values).all(0).cumprod().astype(bool)]
    epochs, color = np.arange(values.shape[1]), series_color(curve.series)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.14, linewidth=0)
    dashes = (0, (5, 2)) if curve.series == 0 else "-"
    marker = "." if values.shape[1] == 1 else None
    axes.plot(
        epochs,
        values.mean(0),
        color=color,
        linestyle=dashes,
        marker=marker,
        linewidth=1.8,
        label=_shortened(curve.name),
    )


def plot_class_differences(models: Sequence[ClassDifferences], names: Sequence[str], file: Path, x_label: str) -> str:
    """Write the differences per class: one panel per model, one row per class, zero (the baseline) as a line.

    All panels have one scale. Intervals of rare classes that would make all others tiny are cut, with an arrow.

    Args:
        models: Their differences.
        names: Of the classes.
        file: The png to write.
        x_label: The metric and its unit.

    Returns:
        The figure as an <svg> element.
    """
    columns = min(len(models), _PANELS_PER_ROW)
    rows = math.ceil(len(models) / columns)
    height = rows * (0.95 + 0.26 * len(names)) + 0.4
    shown = [_shortened(name, 22) for name in names]
    with saved_figure(file, max(2.4 * columns + 1.6, 5.0), height, names=shown) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        limit = axis_limit(models)
        grid[0, 0].set_xlim(-limit, limit)
        for axes, model in zip(grid.flat, models, strict=False):
            _draw_differences(axes, model, limit)
            axes.set_title(_shortened(model.name, 26), fontsize=9, color=INK, parse_math=False)
            _style_axes(axes, "", "")
        for axes in list(grid.flat)[len(models) :]:
            axes.axis("off")
        # the rows are shared by all panels
        grid[0, 0].set_yticks(range(len(names)), shown, parse_math=False)
        grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel(x_label, fontsize=9, color=FAINT)
        return _svg(figure, file)


def axis_limit(models: Sequence[ClassDifferences]) -> float:
    """Return the panels' limit from zero: it includes every difference and most intervals, at most all of them."""
    differences, lows, highs = np.abs([row for model in models for row in model.rows]).T
    ends = np.maximum(lows, highs)
    ends, differences = ends[np.isfinite(ends)], differences[np.isfinite(differences)]
    if not len(differences):
        return 1.0
    farthest = differences.max()
    if not len(ends):
        return 1.15 * farthest or 1.0
    usual = max(farthest, 1.5 * float(np.quantile(ends, 0.75)))
    return 1.08 * min(usual, max(farthest, ends.max())) or 1.0


def _draw_differences(axes: "Axes", model: ClassDifferences, limit: float) -> None:
    color = series_color(model.series)
    axes.axvline(0, color=SERIES[0], linestyle=(0, (5, 4)), linewidth=1)
    positions, (differences, lows, highs) = np.arange(len(model.rows)), np.array(model.rows).T
    whole, there = np.isfinite(lows) & np.isfinite(highs), np.isfinite(differences)
    axes.hlines(positions[whole], lows[whole].clip(-limit), highs[whole].clip(None, limit), color=color, linewidth=1.8)
    for beyond, edge, arrow in ((whole & (lows < -limit), -limit, "<"), (whole & (highs > limit), limit, ">")):
        if beyond.any():  # an empty line that is not clipped would upset the layout
            axes.plot(np.full(beyond.sum(), edge), positions[beyond], arrow, color=color, markersize=6, clip_on=False)
    for filled in (True, False):
        drawn = there & (np.array(model.filled) == filled)
        axes.plot(
            differences[drawn],
            positions[drawn],
            "o",
            color=color,
            markerfacecolor=color if filled else PAPER,
            markersize=5.5,
        )
    for position in positions[~there]:
        axes.text(0, position, "– ", color=FAINT, fontsize=9, ha="right", va="center")


def _shortened(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name that fits a legend: its middle is cut out, because names differ at their ends."""
    name, half = cut(name), (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _style_axes(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9, color=FAINT)
    axes.set_ylabel(y_label, fontsize=9, color=FAINT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def _legend(figure: "Figure", axes: "Axes", columns: int = 2) -> None:
    """Put the names below the axes; dollar signs are not read as mathematics."""
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _svg(figure: "Figure", file: Path) -> str:
    """Return the figure as an <svg> element for a page: without prologue and fixed size, with unique ids."""
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
