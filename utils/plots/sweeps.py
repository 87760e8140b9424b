"""Plots of sweeps: fitness by hyperparameter (evolve.png), accuracy and speed by image size (study.png)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.plots.canvas import saved_figure
from utils.plots.curves import read_results

_RESULTS = 7  # columns before the hyperparameters: P, R, mAP50, mAP50-95 and three losses


def plot_evolution(csv_path: Path | str) -> Path:
    """Write evolve.png beside an evolve.csv and return its path.

    The file has one row per generation: 7 results, then the hyperparameters.
    """
    columns = read_results(csv_path)
    names = list(columns)
    fitness = 0.1 * columns[names[2]] + 0.9 * columns[names[3]]
    best = int(np.nanargmax(fitness)) if np.isfinite(fitness).any() else 0
    hyperparameters = names[_RESULTS:]
    file = Path(csv_path).with_suffix(".png")
    lines = max(int(np.ceil(len(hyperparameters) / 5)), 1)
    with saved_figure(file, 12, 2.4 * lines, dpi=120) as figure:
        grid = figure.subplots(lines, 5, squeeze=False)
        for axes in grid.flat[len(hyperparameters) :]:
            axes.set_axis_off()
        for axes, name in zip(grid.flat, hyperparameters, strict=False):
            axes.scatter(columns[name], fitness, c=np.arange(len(fitness)), cmap="viridis", s=14, alpha=0.8)
            axes.plot(columns[name][best], fitness[best], "k+", markersize=14)
            axes.set_title(f"{name} = {columns[name][best]:.3g}", fontsize=9)
            axes.tick_params(labelsize=7)
        figure.supylabel("fitness", fontsize=10)
    return file


STUDY_SIZES = tuple(range(256, 1536 + 128, 128))
_PANELS = ("P", "R", "mAP@.5", "mAP@.5:.95", "pre-process (ms/image)", "inference (ms/image)", "NMS (ms/image)")
_COLUMNS = (0, 1, 2, 3, 7, 8, 9)


def plot_study(files: Sequence[Path | str], file: Path | str | None = None, sizes: Sequence[int] = STUDY_SIZES) -> Path:
    """Write study.png and return its path.

    Args:
        files: study_<data>_<model>.txt, one row per image size: P, R, mAP50, mAP50-95, three losses, three times in ms.
        file: The image to write; by default study.png beside the first of `files`.
        sizes: The image sizes of the rows, in pixels.

    Returns:
        The image's path.
    """
    target = Path(file) if file else Path(files[0]).parent / "study.png"
    tables = {Path(name).stem.removeprefix("study_"): np.loadtxt(name, ndmin=2) for name in files}
    with saved_figure(target, 14, 7, dpi=120) as figure:
        grid = figure.subplots(2, 4)
        for name, table in tables.items():
            widths = np.asarray(sizes[: len(table)])
            for axes, title, column in zip(grid.flat, _PANELS, _COLUMNS, strict=False):
                axes.plot(widths, table[: len(widths), column], ".-", label=name)
                axes.set(title=title, xlabel="image size")
            grid[1, 3].plot(table[:, 7:10].sum(1), table[:, 3] * 100, ".-", label=name)
        grid[1, 3].set(title="speed and accuracy", xlabel="ms/image", ylabel="mAP@.5:.95 (%)")
        for axes in grid.flat:
            axes.grid(alpha=0.3)
        grid[1, 3].legend(fontsize=8)
    return target
