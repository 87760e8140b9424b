"""Figures of what an attention block applied: a row per record, of bars, overlays, matrices, arrows and kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.canvas import saved_figure
from utils.plots.heat_figures import ColorScale, OverlayPanel, add_color_bar, draw_panel
from utils.plots.study_figures import FAINT, GRID, INK, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SIGNED = "RdBu_r"
_ARROWS = "#37e6ff"
_COLUMNS = 6
_SIDE = 2.5  # inches


@dataclass(frozen=True)
class DrawnView:
    """A panel whose places are pixels of the image.

    Attributes:
        form: "bars", "overlay", "matrix", "arrows" or "kernel"; "image" is the image with its boxes.
        panel: Title, and for an overlay its values over the image, boxes and the query point.
        values: Of bars (n,), of matrices and kernels (rows, columns), of arrows (n, 4) x, y, dx, dy in pixels.
        labels: Of the first bars.
    """

    form: str
    panel: OverlayPanel
    values: np.ndarray
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class DrawnRecord:
    """A row of a figure.

    Attributes:
        title: The paper's name of what was applied, with its size.
        views: Its panels.
    """

    title: str
    views: tuple[DrawnView, ...]


def scale_of(views: Sequence[DrawnView]) -> ColorScale | None:
    """Return the one color scale of the panels of a record that have colors: their raw values; None without such.

    Kernels and matrices with negative values have a scale that is white at zero.
    """
    planes = [np.asarray(view.panel.values) for view in views if view.form == "overlay"]
    tables = [view.values for view in views if view.form in ("matrix", "kernel")]
    if not planes and not tables:
        return None
    values = np.concatenate([each.ravel() for each in (tables or planes)])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if tables and low < 0:
        top = max(-low, high)
        return ColorScale("value", -top, top, SIGNED)
    return ColorScale("value", low, high if high > low else low + (abs(low) or 1.0))


def draw_records(file: Path, image: np.ndarray, title: str, records: Sequence[DrawnRecord]) -> Path:
    """Write the figure of a block.

    Args:
        file: The image file to write.
        image: (H, W, 3) uint8 RGB.
        title: Above it.
        records: What the block applied, in its order.

    Returns:
        `file`.
    """
    columns = max(_even_columns(len(record.views)) for record in records)
    lines = [-(-len(record.views) // columns) for record in records]
    aspect = min(max(image.shape[0] / image.shape[1], 0.6), 1.4)
    panel = (_SIDE, _SIDE * aspect + 0.5)
    size = (max(columns * panel[0] + 0.9, 5.5), sum(lines) * panel[1] + 0.35 * len(records) + 0.3)
    with saved_figure(file, *size, dpi=170) as figure:
        figure.suptitle(title, fontsize=10, color=INK)
        parts = figure.subfigures(len(records), 1, height_ratios=lines, squeeze=False)[:, 0]
        for part, record, count in zip(parts, records, lines, strict=True):
            _draw_record(part, image, record, (count, columns))
    return file


def _even_columns(count: int) -> int:
    """The columns of panels in lines of much the same length."""
    return -(-count // -(-count // _COLUMNS))


def _draw_record(part: "SubFigure", image: np.ndarray, record: DrawnRecord, shape: tuple[int, int]) -> None:
    part.suptitle(record.title, fontsize=8.5, color=FAINT)
    grid = part.subplots(*shape, squeeze=False)
    scale = scale_of(record.views)
    tables = {"matrix", "kernel"} & {view.form for view in record.views}
    for index, axes in enumerate(grid.flat):
        if index < len(record.views):
            view = record.views[index]
            own = scale_of([view]) if view.form == "overlay" and tables else scale
            _draw_view(axes, image, view, own)
        else:
            axes.set_visible(False)
    if scale is not None:
        used = grid if len(record.views) >= shape[1] else grid[:, : len(record.views)]
        add_color_bar(part, used, scale, plain=bool(tables))


def _draw_view(axes: "Axes", image: np.ndarray, view: DrawnView, scale: ColorScale | None) -> None:
    if view.form in ("overlay", "arrows", "image"):
        draw_panel(axes, image, view.panel, scale or ColorScale(""))
        if view.form == "arrows":
            _draw_arrows(axes, view.values)
        return
    axes.set_title(view.panel.title, fontsize=8, color=INK)
    axes.tick_params(labelsize=6.5, color=FAINT)
    if view.form == "bars":
        _draw_bars(axes, view)
        return
    assert scale is not None
    axes.imshow(view.values, cmap=scale.colormap, vmin=scale.low, vmax=scale.high, interpolation="nearest")
    if view.form == "matrix":
        axes.set_xlabel("channel that is read", fontsize=7, color=INK)
        axes.set_ylabel("channel that takes", fontsize=7, color=INK)
    elif len(view.values) <= 7:
        for (row, column), value in np.ndenumerate(view.values):
            dark = abs(value - (scale.low + scale.high) / 2) > 0.3 * (scale.high - scale.low)
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color="white" if dark else INK)
        axes.set_xticks([])
        axes.set_yticks([])


def _draw_bars(axes: "Axes", view: DrawnView) -> None:
    values = view.values
    low = min(float(values.min()), 0.0)
    span = max(float(values.max()) - low, 1e-9)
    named = len(view.labels) == len(values)  # shares of a few, which have their values beside them
    if (
        not named and float(values.max() - values.min()) < 0.25 * span
    ):  # all alike: the axis begins near them, and says so
        low = float(values.min()) - 0.35 * max(float(values.max() - values.min()), 0.02 * span)
    axes.bar(np.arange(len(values)), values - low, bottom=low, width=1.0 if len(values) > 40 else 0.8, color=SERIES[1])
    axes.set_ylim(low, float(values.max()) + 0.12 * (float(values.max()) - low))
    if named:
        axes.set_xticks(range(len(values)), view.labels)
        for index, value in enumerate(values):
            axes.text(index, max(float(value), 0.0), f"{value:.3g}", ha="center", va="bottom", fontsize=6.5, color=INK)
    else:
        axes.text(
            0.98, 0.97, "strongest " + " ".join(view.labels), transform=axes.transAxes, fontsize=6.5, ha="right",
            va="top", color=INK,
        )  # fmt: skip
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_arrows(axes: "Axes", values: np.ndarray) -> None:
    x, y, dx, dy = values.T
    view = (axes.get_xlim(), axes.get_ylim())
    axes.scatter(x, y, s=7, color=_ARROWS, edgecolors="black", linewidths=0.4, zorder=3)  # also where nothing moves
    axes.quiver(
        x, y, dx, dy, angles="xy", scale_units="xy", scale=1, color=_ARROWS, width=0.009, headwidth=3.5, minlength=0,
        edgecolor="black", linewidth=0.4, clip_on=True, zorder=4,
    )  # fmt: skip
    axes.set(xlim=view[0], ylim=view[1])  # samples may lie outside of the image
