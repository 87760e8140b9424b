"""Plots of a detector's errors: the confusion matrix, and errors by kind with the mAP that each kind costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.plots.canvas import axis_label, saved_figure, unit_color
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_WITH_NUMBERS = 30  # classes: with more, numbers in the cells cannot be read
_MOST_WITH_NAMES = 99
_GRID_ORDER = 1.5  # above images, below lines and numbers, where matplotlib draws its grids


def plot_confusion(
    matrix: np.ndarray, names: Sequence[str], file: Path | str, normalize: bool = True, note: str = ""
) -> None:
    """Write an image of a confusion matrix.

    Args:
        matrix: (nc + 1, nc + 1) counts, row = predicted class, column = true class, the last of each the background:
            the last row holds missed objects, the last column predictions without an object.
        names: Of the classes; a class without a name is written as its id.
        file: The image to write.
        normalize: Whether a column is colored by shares of its sum, which stand above the counts; else by counts.
        note: A second line of the title, such as the thresholds.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    count, names = len(matrix), class_labels(names, Path(file).parent, in_plot=True)
    shown = matrix / np.maximum(matrix.sum(0, keepdims=True), 1e-9) if normalize else matrix
    labels = [
        *(axis_label(names[index]) if index < len(names) else str(index) for index in range(count - 1)),
        "background",
    ]
    size = min(max(4.5 + 0.42 * count, 6.0), 22.0)
    with saved_figure(file, size + 1.2, size, dpi=150 if count <= _MOST_WITH_NUMBERS else 100) as figure:
        axes = figure.subplots()
        image = axes.imshow(
            np.where(matrix > 0, shown, np.nan), cmap="Blues", vmin=0.0, vmax=1.0 if normalize else None
        )
        figure.colorbar(image, ax=axes, fraction=0.046, label="share of the column" if normalize else "objects")
        _write_numbers(axes, matrix, shown, normalize)
        _name_axes(axes, labels)
        axes.set_title(
            "Confusion matrix"
            + (": shares, which sum to 1 in a column, and counts" if normalize else ": counts")
            + (f"\n{note}" if note else "")
        )


def _write_numbers(axes: "Axes", matrix: np.ndarray, shown: np.ndarray, normalize: bool) -> None:
    count = len(matrix)
    if count > _MOST_WITH_NUMBERS + 1:
        return
    dark = 0.5 if normalize else 0.5 * shown.max()  # half of the color scale
    for row, column in np.argwhere(matrix > 0):
        count_text = f"{matrix[row, column]:.0f}"
        text = f"{shown[row, column]:.2f}\n{count_text}" if normalize else count_text
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9 if count < 12 else 7,
            linespacing=1.05,
            color="white" if shown[row, column] > dark else "0.15",
        )


def _name_axes(axes: "Axes", labels: list[str]) -> None:
    axes.set(xlabel="True", ylabel="Predicted")
    if len(labels) <= _MOST_WITH_NAMES:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=9)
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
    _draw_grid(axes, len(labels))


def _draw_grid(axes: "Axes", count: int) -> None:
    """Draw lines between the cells: one collection, because a tick per line costs more than all else in the figure."""
    from matplotlib.collections import LineCollection

    edges, ends = np.arange(count + 1) - 0.5, (-0.5, count - 0.5)
    lines = [[(edge, end) for end in ends] for edge in edges] + [[(end, edge) for end in ends] for edge in edges]
    axes.add_collection(LineCollection(lines, colors="0.9", linewidths=0.5, zorder=_GRID_ORDER), autolim=False)


def plot_errors(rows: Sequence[tuple[str, int, float]], confidence: float, file: Path | str) -> None:
    """Write an image of two bar charts: the mAP50 that each kind of error costs, and the number of errors.

    Args:
        rows: Kind, number of errors from `confidence` on, and cost in mAP50, 0..1.
        confidence: The threshold of the counts, 0..1.
        file: The image to write.
    """
    kinds = [kind for kind, _, _ in rows]
    panels: tuple[tuple[str, list[float], str], ...] = (
        ("mAP50 lost (points)", [100 * cost for _, _, cost in rows], "{:.1f}"),
        (f"errors with confidence >= {confidence:g}; labels missed", [count for _, count, _ in rows], "{:.0f}"),
    )
    colors = [unit_color(class_color(index)) for index in range(len(kinds))]
    with saved_figure(file, 9, 3.2, dpi=150) as figure:
        for axes, (title, values, form) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            bars = axes.barh(kinds, values, color=colors)
            axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=9)
            axes.set_xlabel(title)
            axes.margins(x=0.15)
            axes.spines[["top", "right"]].set_visible(False)
            axes.axvline(0, color="0.3", linewidth=0.8)
        figure.axes[0].invert_yaxis()
        figure.suptitle("Errors by kind (TIDE)")
