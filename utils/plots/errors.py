"""Errors by kind as bars: how many there are, and what mAP each kind costs."""

from collections.abc import Sequence
from pathlib import Path

from utils.plots.canvas import canvas, unit_color
from utils.plots.colors import color


def plot_errors(rows: Sequence[tuple[str, int, float]], confidence: float, file: Path | str) -> None:
    """Write two panels of bars to `file`. rows: kind, number of errors from `confidence` on, and cost in mAP50 (0..1)."""
    kinds = [kind for kind, _, _ in rows]
    panels = (
        ("mAP50 lost (points)", [100 * cost for _, _, cost in rows], "{:.1f}"),
        (f"errors with confidence >= {confidence:g}; labels missed", [count for _, count, _ in rows], "{:.0f}"),
    )
    colors = [unit_color(color(number)) for number in range(len(kinds))]
    with canvas(file, 9, 3.2, dpi=150) as figure:
        for axes, (title, values, form) in zip(figure.subplots(1, 2, sharey=True), panels):
            bars = axes.barh(kinds, values, color=colors)
            axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=9)
            axes.set_xlabel(title)
            axes.margins(x=0.15)
            axes.spines[["top", "right"]].set_visible(False)
            axes.axvline(0, color="0.3", linewidth=0.8)
        figure.axes[0].invert_yaxis()
        figure.suptitle("Errors by kind (TIDE)")
