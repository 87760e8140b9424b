"""Curves: learning curves from results.csv, and precision, recall and F1 against confidence."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import DataError
from utils.metrics.average_precision import Curves
from utils.plots.canvas import axis_label, saved_figure, unit_color
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The ten panels of results.png, row by row, each with the name of its y axis; the learning rates stay in the file.
_PANELS = {
    "train/box_loss": "box loss of training",
    "train/obj_loss": "object loss of training",
    "train/cls_loss": "class loss of training",
    "metrics/precision": "precision (0 to 1)",
    "metrics/recall": "recall (0 to 1)",
    "val/box_loss": "box loss of validation",
    "val/obj_loss": "object loss of validation",
    "val/cls_loss": "class loss of validation",
    "metrics/mAP_0.5": "mAP at IoU 0.5 (0 to 1)",
    "metrics/mAP_0.5:0.95": "mAP at IoU 0.5 to 0.95 (0 to 1)",
}
_FEWEST_SMOOTHED = 10  # epochs: of fewer, a Gaussian three epochs wide shows its own form and not the training's
_MANY_CLASSES = 21  # from here on there is no legend line per class


def read_results(file: Path | str) -> dict[str, np.ndarray]:
    """Return the columns of a results.csv, (epochs,) float64 each, by their names without padding.

    Cells that are empty or not numbers become NaN. Raises DataError for a file without rows.
    """
    with open(file, newline="", encoding="utf-8") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    if len(rows) < 2:
        raise DataError(f"{file}: no epoch is recorded in it")
    header, body = rows[0], rows[1:]
    columns = (
        [_float_or_nan(row[index]) if index < len(row) else np.nan for row in body] for index in range(len(header))
    )
    return {name: np.array(column) for name, column in zip(header, columns, strict=True)}


def _float_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def gaussian_mean(values: np.ndarray, sigma: float = 3.0) -> np.ndarray:
    """Return values smoothed with a Gaussian; at the ends and beside NaN only existing values are weighted.

    Args:
        values: (n,), NaN for missing ones.
        sigma: Of the Gaussian, in steps.

    Returns:
        (n,).
    """
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / sigma) ** 2)
    weights = weights * np.isfinite(values)
    total = weights.sum(1)
    return np.divide(weights @ np.nan_to_num(values), total, out=np.full(len(values), np.nan), where=total > 0)


def plot_results(csv_path: Path | str) -> Path:
    """Write results.png beside a results.csv and return its path.

    It has ten panels and one of the attention gates if there are any. From ten epochs on, the ten also show the
    smoothed curve, dotted.
    """
    columns = read_results(csv_path)
    gates = {name.removeprefix("gate/"): values for name, values in columns.items() if name.startswith("gate/")}
    epochs = columns.get("epoch", np.arange(len(next(iter(columns.values())))))
    file = Path(csv_path).with_suffix(".png")
    with saved_figure(file, 17 if gates else 14, 6, dpi=120) as figure:
        panels = figure.subplots(2, 6 if gates else 5)
        for axes, (name, y_label) in zip(panels[:, :5].flat, _PANELS.items(), strict=True):
            values = columns.get(name, np.full(len(epochs), np.nan))
            axes.plot(epochs, values, marker=".", markersize=5, linewidth=1.5, color="tab:blue", label="each epoch")
            if len(epochs) >= _FEWEST_SMOOTHED:
                smooth = gaussian_mean(values)
                axes.plot(epochs, smooth, linestyle=":", linewidth=2, color="tab:orange", label="smoothed")
            axes.set_title(name, fontsize=11)
            _name_epoch_axes(axes, y_label)
        if len(epochs) >= _FEWEST_SMOOTHED:
            figure.axes[0].legend(fontsize=8)
        if gates:
            _plot_gates(panels[:, 5], epochs, gates)
    return file


def _name_epoch_axes(axes: "Axes", y_label: str) -> None:
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.locator_params(axis="x", integer=True)


def _plot_gates(column: np.ndarray, epochs: np.ndarray, gates: dict[str, np.ndarray]) -> None:
    """Draw mean |gate| of each block in the upper of two panels, and the legend in the lower."""
    upper, lower = column
    for name, values in gates.items():
        upper.plot(epochs, values, marker=".", markersize=5, linewidth=1.5, label=name)
    upper.set_title("gates of attention", fontsize=11)
    _name_epoch_axes(upper, "mean |gate|")
    lower.axis("off")
    lower.legend(*upper.get_legend_handles_labels(), fontsize=8, loc="upper left")


def plot_threshold_curves(curves: Curves, names: Sequence[str], save_dir: Path | str) -> None:
    """Write F1_curve.png, P_curve.png, R_curve.png and PR_curve.png.

    Args:
        curves: Of the classes that have labels.
        names: Of all classes; a class without a name is written as its id.
        save_dir: The folder to write to.
    """
    folder, names = Path(save_dir), class_labels(names, save_dir, in_plot=True)
    labels = [axis_label(names[class_id]) if class_id < len(names) else str(class_id) for class_id in curves.classes]
    _plot_against_confidence(curves, curves.f1, "F1", labels, folder / "F1_curve.png")
    _plot_against_confidence(curves, curves.precision, "Precision", labels, folder / "P_curve.png")
    _plot_against_confidence(curves, curves.recall, "Recall", labels, folder / "R_curve.png")
    _plot_precision_recall(curves, labels, folder / "PR_curve.png")


def _plot_against_confidence(curves: Curves, values: np.ndarray, title: str, labels: list[str], file: Path) -> None:
    """Plot values (k, 1000), one curve per class, and their mean as a thick line with its peak in the legend."""
    with saved_figure(file, 9, 6) as figure:
        axes = figure.subplots()
        _draw_classes(axes, curves.px, values, labels, curves.classes)
        if len(values):
            mean = values.mean(0)
            peak = int(moving_average(mean, 0.05).argmax())
            axes.plot(
                curves.px,
                mean,
                linewidth=3,
                color="black",
                label=f"all classes {mean[peak]:.2f} at {curves.px[peak]:.3f}",
            )
        _finish(axes, "Confidence", title)


def _plot_precision_recall(curves: Curves, labels: list[str], file: Path) -> None:
    with saved_figure(file, 9, 6) as figure:
        axes = figure.subplots()
        with_ap = [f"{label} {ap:.3f}" for label, ap in zip(labels, curves.ap50, strict=True)]
        _draw_classes(axes, curves.px, curves.pr_precision, with_ap, curves.classes)
        if len(curves.pr_precision):
            axes.plot(
                curves.px,
                curves.pr_precision.mean(0),
                linewidth=3,
                color="black",
                label=f"all classes {np.mean(curves.ap50):.3f} mAP@0.5",
            )
        _finish(axes, "Recall", "Precision")


def _draw_classes(axes: "Axes", x: np.ndarray, values: np.ndarray, labels: list[str], classes: np.ndarray) -> None:
    few = len(values) < _MANY_CLASSES
    for row, label, class_id in zip(values, labels, classes, strict=True):
        if few:
            axes.plot(x, row, linewidth=1.2, color=unit_color(class_color(class_id)), label=label)
        else:
            axes.plot(x, row, linewidth=0.8, color="0.75")


def _finish(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.01), title=f"{y_label} against {x_label.lower()}")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", borderaxespad=0, fontsize=9)


def moving_average(values: np.ndarray, fraction: float) -> np.ndarray:
    """Return the moving average of values over a centered window, the edge values repeated.

    Args:
        values: (n,).
        fraction: Half of the window's length as a share of n; the window has at least three values.

    Returns:
        (n,).
    """
    half = max(round(len(values) * fraction), 1)
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")
