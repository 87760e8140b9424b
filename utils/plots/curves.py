"""Curves: a training's course from results.csv, and precision, recall and F1 against confidence."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.metrics.average_precision import Curves
from utils.plots.canvas import canvas, unit_color
from utils.plots.colors import color

# The ten panels of results.png, row by row; the learning rates stay in the file.
_PANELS = (
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
)
_MANY_CLASSES = 21  # beyond this a legend line a class says nothing


def read_results(file: Path | str) -> dict[str, np.ndarray]:
    """Return the columns of a results.csv, (epochs,) float64 each, by their names without padding.

    Cells that are empty or no numbers become NaN. Raises DataError for a file without rows.
    """
    with open(file, newline="", encoding="utf-8") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    if len(rows) < 2:
        raise DataError(f"{file}: no epoch is recorded in it")
    header, body = rows[0], rows[1:]
    columns = ([_number(row[index]) if index < len(row) else np.nan for row in body] for index in range(len(header)))
    return {name: np.array(column) for name, column in zip(header, columns)}


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def smooth(values: np.ndarray, sigma: float = 3.0) -> np.ndarray:
    """Return (n,) values weighted by a Gaussian of `sigma` steps; at the ends, and beside NaN, by what there is of it."""
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / sigma) ** 2)
    weights = weights * np.isfinite(values)
    total = weights.sum(1)
    return np.divide(weights @ np.nan_to_num(values), total, out=np.full(len(values), np.nan), where=total > 0)


def plot_results(csv_path: Path | str) -> Path:
    """Write results.png beside a results.csv and return its path: ten panels, each with its smoothed course dotted, and
    one of the attention gates where there are any.
    """
    columns = read_results(csv_path)
    gates = {name.removeprefix("gate/"): values for name, values in columns.items() if name.startswith("gate/")}
    epochs = columns.get("epoch", np.arange(len(next(iter(columns.values())))))
    file = Path(csv_path).with_suffix(".png")
    with canvas(file, 17 if gates else 14, 6, dpi=120) as figure:
        panels = figure.subplots(2, 6 if gates else 5)
        for axes, name in zip(panels[:, :5].flat, _PANELS):
            values = columns.get(name, np.full(len(epochs), np.nan))
            axes.plot(epochs, values, marker=".", markersize=5, linewidth=1.5, color="tab:blue", label="epoch")
            axes.plot(epochs, smooth(values), linestyle=":", linewidth=2, color="tab:orange", label="smoothed")
            axes.set_title(name, fontsize=11)
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.axes[0].legend(fontsize=8)
        if gates:
            _plot_gates(panels[:, 5], epochs, gates)
        figure.supxlabel("epoch", fontsize=10)
    return file


def _plot_gates(column, epochs: np.ndarray, gates: dict[str, np.ndarray]) -> None:
    """Draw mean |gate| of each block into the upper of two panels, and their names into the lower."""
    upper, lower = column
    for name, values in gates.items():
        upper.plot(epochs, values, marker=".", markersize=5, linewidth=1.5, label=name)
    upper.set_title("mean |gate| of attention", fontsize=11)
    upper.grid(alpha=0.3)
    upper.xaxis.get_major_locator().set_params(integer=True)
    lower.axis("off")
    lower.legend(*upper.get_legend_handles_labels(), fontsize=8, loc="upper left")


def plot_threshold_curves(curves: Curves, names: Sequence[str], save_dir: Path | str) -> None:
    """Write F1_curve.png, P_curve.png, R_curve.png and PR_curve.png into save_dir.

    curves holds, for the k classes that have labels: px (1000,) the confidences and, for the precision-recall curve,
    the recalls; precision, recall, f1, pr_precision (k, 1000); ap50 (k,); classes (k,) their numbers.
    """
    folder = Path(save_dir)
    labels = [names[number] if number < len(names) else str(number) for number in curves.classes]
    _plot_against_confidence(curves, curves.f1, "F1", labels, folder / "F1_curve.png")
    _plot_against_confidence(curves, curves.precision, "Precision", labels, folder / "P_curve.png")
    _plot_against_confidence(curves, curves.recall, "Recall", labels, folder / "R_curve.png")
    _plot_precision_recall(curves, labels, folder / "PR_curve.png")


def _plot_against_confidence(curves: Curves, values: np.ndarray, title: str, labels: list[str], file: Path) -> None:
    """values: (k, 1000), one curve a class; their mean is drawn thick, with its peak in the legend."""
    with canvas(file, 9, 6) as figure:
        axes = figure.subplots()
        _draw_classes(axes, curves.px, values, labels, curves.classes)
        if len(values):
            mean = values.mean(0)
            peak = int(smooth_box(mean, 0.05).argmax())
            axes.plot(
                curves.px,
                mean,
                linewidth=3,
                color="black",
                label=f"all classes {mean[peak]:.2f} at {curves.px[peak]:.3f}",
            )
        _finish(axes, "Confidence", title)


def _plot_precision_recall(curves: Curves, labels: list[str], file: Path) -> None:
    with canvas(file, 9, 6) as figure:
        axes = figure.subplots()
        with_ap = [f"{label} {ap:.3f}" for label, ap in zip(labels, curves.ap50)]
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


def _draw_classes(axes, x: np.ndarray, values: np.ndarray, labels: list[str], classes: Sequence[int]) -> None:
    few = len(values) < _MANY_CLASSES
    for row, label, number in zip(values, labels, classes):
        if few:
            axes.plot(x, row, linewidth=1.2, color=unit_color(color(number)), label=label)
        else:
            axes.plot(x, row, linewidth=0.8, color="0.75")


def _finish(axes, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.01), title=f"{y_label} against {x_label.lower()}")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", borderaxespad=0, fontsize=9)


def smooth_box(values: np.ndarray, fraction: float) -> np.ndarray:
    """Return (n,) values averaged over a window of `fraction` of them (odd length), the edge values repeated."""
    half = max(round(len(values) * fraction), 1)
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")
