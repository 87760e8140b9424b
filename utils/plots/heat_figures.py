"""Figures of heat maps: overlays side by side on one color scale, and the curves of their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.canvas import saved_figure
from utils.plots.study_figures import FAINT, GRID, INK, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

COLORMAP = "inferno"  # perceptually uniform, and legible in print without color
_PANEL = 3.1  # inches: a panel's longer side
_TITLE = 0.42  # inches above a panel
_BAR = 0.75  # inches right of the panels
_STRENGTH = (0.12, 0.78)  # of the map over the image, from its lowest to its highest values: the image stays legible
_LIGHT = (0.2, 0.95)  # of the gray image below a map
_TARGET, _OTHER = "#37e6ff", "#ffffff"


@dataclass(frozen=True)
class OverlayBox:
    """A detection in an overlay.

    Attributes:
        xyxy: In pixels of the image.
        label: Drawn above it; "" for none.
        is_target: Whether the map explains it.
    """

    xyxy: tuple[float, float, float, float]
    label: str = ""
    is_target: bool = False


@dataclass(frozen=True)
class OverlayPanel:
    """One panel of a figure.

    Attributes:
        title: One or two lines.
        values: (h, w) over the whole image, nan where there is none; None shows the image alone.
        boxes: Drawn on it.
        point: (x, y) in pixels of the image, marked by a cross.
    """

    title: str
    values: np.ndarray | None = None
    boxes: tuple[OverlayBox, ...] = ()
    point: tuple[float, float] | None = None


@dataclass(frozen=True)
class ColorScale:
    """The one color scale of a figure.

    Attributes:
        label: What its numbers are.
        low: Value of the darkest color.
        high: Value of the lightest color.
        colormap: A name of matplotlib's.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    colormap: str = COLORMAP


def gray_below(image: np.ndarray) -> np.ndarray:
    """Return an RGB image (H, W, 3) uint8 as gray (H, W) 0..1 of little contrast, on which colors can be read."""
    luminance = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    return _LIGHT[0] + luminance * (_LIGHT[1] - _LIGHT[0])


def blended(image: np.ndarray, values: np.ndarray, scale: ColorScale) -> np.ndarray:
    """Return the pixels of an overlay.

    Args:
        image: (H, W, 3) uint8 RGB.
        values: (H, W).
        scale: From values to colors.

    Returns:
        (H, W, 3) 0..1: the colors of the map over the gray image.
    """
    from matplotlib import colormaps

    span = scale.high - scale.low
    share = np.nan_to_num(np.clip((values - scale.low) / span, 0, 1)) if span > 0 else np.zeros(values.shape)
    colors = colormaps[scale.colormap](share)[..., :3]
    strength = _STRENGTH[0] + (_STRENGTH[1] - _STRENGTH[0]) * share[..., None]
    gray = gray_below(image)[..., None]
    return np.where(np.isnan(values)[..., None], gray, (1 - strength) * gray + strength * colors)


def draw_overlays(
    file: Path, image: np.ndarray, rows: Sequence[Sequence[OverlayPanel]], scale: ColorScale, names: Sequence[str] = ()
) -> Path:
    """Write a figure of panels, all on one color scale, with its color bar.

    Args:
        file: The image file to write.
        image: (H, W, 3) uint8 RGB.
        rows: Panels by row; rows may be of different lengths.
        scale: From values to colors.
        names: Class names, so that one which cannot be written becomes its number.

    Returns:
        `file`.
    """
    height, width = image.shape[:2]
    side = _PANEL / max(height, width)
    columns = max(map(len, rows))
    panel = (max(width * side, 1.9), height * side)
    has_bar = any(each.values is not None for row in rows for each in row)
    size = (columns * (panel[0] + 0.12) + _BAR * has_bar, len(rows) * (panel[1] + _TITLE))
    with saved_figure(file, *size, dpi=200, names=names) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, panels in zip(grid, rows, strict=True):
            for axes in line[len(panels) :]:
                axes.set_visible(False)
            for axes, each in zip(line, panels, strict=False):
                draw_panel(axes, image, each, scale)
        if has_bar:
            add_color_bar(figure, grid, scale)
    return file


def draw_panel(axes: "Axes", image: np.ndarray, panel: OverlayPanel, scale: ColorScale) -> None:
    """Draw one panel.

    Args:
        axes: Where to.
        image: (H, W, 3) uint8 RGB.
        panel: Its values, boxes and title.
        scale: From values to colors.
    """
    height, width = image.shape[:2]
    plain = panel.values is None
    shown = image / 255 if plain else blended(image, stretched(np.asarray(panel.values), (height, width)), scale)
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set_title(panel.title, fontsize=8, color=INK, linespacing=1.25)
    for box in sorted(panel.boxes, key=lambda each: each.is_target):
        _draw_box(axes, box)
    if panel.point is not None:
        axes.plot(*panel.point, marker="+", markersize=9, markeredgewidth=2.6, color="black")
        axes.plot(*panel.point, marker="+", markersize=8, markeredgewidth=1.3, color=_TARGET)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_box(axes: "Axes", box: OverlayBox) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box.xyxy
    color, line = (_TARGET, 1.5) if box.is_target else (_OTHER, 0.7)
    place = ((left, top), right - left, bottom - top)
    axes.add_patch(Rectangle(*place, fill=False, edgecolor="black", linewidth=line + 0.9))
    axes.add_patch(Rectangle(*place, fill=False, edgecolor=color, linewidth=line))
    if box.label:
        inside = {"facecolor": _TARGET, "edgecolor": "none", "pad": 1.0}
        below = top < 0.06 * axes.get_images()[0].get_extent()[2]
        far = left > 0.75 * axes.get_images()[0].get_extent()[1]
        axes.text(
            right if far else max(left, 0), max(top, 0), box.label, fontsize=6.5, color="black",
            ha="right" if far else "left", va="top" if below else "bottom", bbox=inside, clip_on=True,
        )  # fmt: skip


def stretched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map (h, w) at the size of the image: each value fills its cell, so that cells can be seen.

    Args:
        values: (h, w).
        size: (height, width).

    Returns:
        `size`, the same array if it has it.
    """
    if values.shape == tuple(size):
        return values
    rows, columns = ((np.arange(full) + 0.5) * cells // full for full, cells in zip(size, values.shape, strict=True))
    return values[rows.astype(int)[:, None], columns.astype(int)[None]]


def add_color_bar(figure: "FigureBase", grid: np.ndarray, scale: ColorScale, plain: bool = False) -> None:
    """Draw the color bar of all panels of a grid.

    Args:
        figure: The figure, or the part of one that the grid is in.
        grid: (rows, columns) of axes.
        scale: From values to colors.
        plain: Whether the panels have the colors of the scale themselves; else they are mixed with a gray image, and
            the bar has the colors of the overlay over a gray of medium light.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    steps = np.linspace(scale.low, scale.high, 256)[None]
    colors = blended(np.full((1, 256, 3), 127, np.uint8), steps, scale)[0]
    colormap = scale.colormap if plain else ListedColormap(colors)
    mappable = ScalarMappable(Normalize(scale.low, scale.high), colormap)
    bar = figure.colorbar(mappable, ax=list(grid.flat), shrink=0.85 / len(grid), pad=0.012, aspect=24)
    bar.set_label(scale.label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)


@dataclass(frozen=True)
class PlottedCurve:
    """A curve of a check, with the band between its lowest and highest run.

    Attributes:
        label: In the legend.
        x: (n,).
        runs: (runs, n) values.
        series: Index of its color; 1 is the map.
    """

    label: str
    x: np.ndarray
    runs: np.ndarray
    series: int


@dataclass(frozen=True)
class CurvePlot:
    """One plot of a check.

    Attributes:
        title: Above it.
        x_label: Below it.
        y_label: Beside it.
        curves: What it shows.
        ticks: Texts of the whole numbers on the x axis, if it has no numbers.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[PlottedCurve, ...]
    ticks: tuple[str, ...] = ()


def draw_curves(file: Path, plots: Sequence[CurvePlot], title: str = "") -> Path:
    """Write plots of curves side by side.

    Args:
        file: The image file to write.
        plots: One or more.
        title: Above them all.

    Returns:
        `file`.
    """
    wide = max(len(plot.ticks) for plot in plots) * 0.22
    with saved_figure(file, max(4.2, wide) * len(plots), 3.6 + 0.5 * bool(wide), dpi=200) as figure:
        for axes, plot in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
            for curve in plot.curves:
                color = SERIES[curve.series % len(SERIES)]
                mark = "o" if plot.ticks else None
                axes.plot(curve.x, curve.runs.mean(0), color=color, label=curve.label, linewidth=1.5, marker=mark, ms=3)
                if len(curve.runs) > 1:
                    low, high = curve.runs.min(0), curve.runs.max(0)
                    axes.fill_between(curve.x, low, high, color=color, alpha=0.16, linewidth=0)
            _finish(axes, plot)
        if title:
            figure.suptitle(title, fontsize=9, color=INK)
    return file


def _finish(axes: "Axes", plot: CurvePlot) -> None:
    axes.set_title(plot.title, fontsize=9, color=INK)
    axes.set_xlabel(plot.x_label, fontsize=8, color=INK)
    axes.set_ylabel(plot.y_label, fontsize=8, color=INK)
    if plot.ticks:
        axes.set_xticks(range(len(plot.ticks)), plot.ticks, rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=7, color=FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
