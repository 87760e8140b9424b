"""Plots of a dataset's labels: objects per class, positions and sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.canvas import axis_label, saved_figure, unit_color
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OVERLAID_BOXES = 1000
_MOST_NAMED = 30
_VARIABLES = ("x", "y", "width", "height")


def plot_labels(cls: np.ndarray, xywhn: np.ndarray, names: Sequence[str], save_dir: Path | str) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        cls: (n,) class ids; n may be 0.
        xywhn: (n, 4) xywh normalized.
        names: Of the classes.
        save_dir: The folder to write to.
    """
    cls = np.asarray(cls).astype(int).reshape(-1)
    xywhn = np.asarray(xywhn, dtype=np.float64).reshape(-1, 4)
    labels = class_labels(names, save_dir, in_plot=True)
    _plot_overview(cls, xywhn, labels, Path(save_dir) / "labels.jpg")
    _plot_correlogram(xywhn, Path(save_dir) / "labels_correlogram.jpg")


def _plot_overview(cls: np.ndarray, xywhn: np.ndarray, names: Sequence[str], file: Path) -> None:
    with saved_figure(file, 10, 10, dpi=120) as figure:
        ((histogram, overlay), (positions, sizes)) = figure.subplots(2, 2)
        _draw_histogram(histogram, cls, names)
        _draw_overlay(overlay, cls, xywhn)
        _draw_density(positions, xywhn[:, 0], xywhn[:, 1], "x", "y")
        positions.invert_yaxis()  # as in the image: y grows downwards
        _draw_density(sizes, xywhn[:, 2], xywhn[:, 3], "width", "height")
        positions.set_title("Centers")
        sizes.set_title("Sizes")


def _draw_histogram(axes: "Axes", cls: np.ndarray, names: Sequence[str]) -> None:
    count = max(len(names), int(cls.max()) + 1 if len(cls) else 0, 1)
    axes.bar(
        range(count),
        np.bincount(cls, minlength=count),
        color=[unit_color(class_color(index)) for index in range(count)],
    )
    axes.set(ylabel="objects", title=f"{len(cls)} objects of {count} classes")
    if 0 < len(names) <= _MOST_NAMED:
        axes.set_xticks(range(len(names)), [axis_label(name) for name in names], rotation=90, fontsize=9)
    else:
        axes.set_xlabel("class")
    axes.grid(axis="y", alpha=0.3)


def _draw_overlay(axes: "Axes", cls: np.ndarray, xywhn: np.ndarray) -> None:
    """Draw the outlines of the first boxes, all with the same center."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    shown = xywhn[:_OVERLAID_BOXES]
    outlines = [Rectangle((0.5 - width / 2, 0.5 - height / 2), width, height) for width, height in shown[:, 2:]]
    edges = [unit_color(class_color(class_id)) for class_id in cls[:_OVERLAID_BOXES]]
    axes.add_collection(
        PatchCollection(outlines, facecolor="none", edgecolor=edges or "none", linewidth=0.6, alpha=0.6)
    )
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xticks=[],
        yticks=[],
        title="Boxes on one center" + (f" (first {_OVERLAID_BOXES})" if len(xywhn) > _OVERLAID_BOXES else ""),
    )


def _draw_density(axes: "Axes", x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, bins: int = 50) -> None:
    """Draw a two-dimensional histogram over the unit square; empty cells stay white."""
    axes.hist2d(x, y, bins=bins, range=((0, 1), (0, 1)), cmap="viridis", cmin=1 if len(x) else None)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))


def _plot_correlogram(xywhn: np.ndarray, file: Path) -> None:
    """Plot x, y, width and height against each other; on the diagonal the histogram of each."""
    with saved_figure(file, 10, 10, dpi=120) as figure:
        grid = figure.subplots(4, 4)
        for row, column in np.ndindex(4, 4):
            axes = grid[row, column]
            if column > row:
                axes.set_axis_off()
            elif column == row:
                axes.hist(xywhn[:, row], bins=50, range=(0, 1), color="steelblue")
                axes.set(xlabel=_VARIABLES[column], ylabel="objects", xlim=(0, 1))
            else:
                _draw_density(axes, xywhn[:, column], xywhn[:, row], _VARIABLES[column], _VARIABLES[row])
            axes.label_outer()
