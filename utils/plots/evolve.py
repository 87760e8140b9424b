"""How an evolution went: each hyperparameter's values against the fitness they reached."""

from pathlib import Path

import numpy as np

from utils.plots.canvas import canvas
from utils.plots.curves import read_results

_RESULTS = 7  # columns before the hyperparameters: P, R, mAP50, mAP50-95 and three losses


def plot_evolution(csv_path: Path | str) -> Path:
    """Write evolve.png beside an evolve.csv (7 results, then the hyperparameters; a row a generation) and return its path."""
    columns = read_results(csv_path)
    names = list(columns)
    fitness = 0.1 * columns[names[2]] + 0.9 * columns[names[3]]
    best = int(np.nanargmax(fitness)) if np.isfinite(fitness).any() else 0
    hyperparameters = names[_RESULTS:]
    file = Path(csv_path).with_suffix(".png")
    lines = max(int(np.ceil(len(hyperparameters) / 5)), 1)
    with canvas(file, 12, 2.4 * lines, dpi=120) as figure:
        grid = figure.subplots(lines, 5, squeeze=False)
        for axes in grid.flat[len(hyperparameters) :]:
            axes.set_axis_off()
        for axes, name in zip(grid.flat, hyperparameters):
            axes.scatter(columns[name], fitness, c=np.arange(len(fitness)), cmap="viridis", s=14, alpha=0.8)
            axes.plot(columns[name][best], fitness[best], "k+", markersize=14)
            axes.set_title(f"{name} = {columns[name][best]:.3g}", fontsize=9)
            axes.tick_params(labelsize=7)
        figure.supylabel("fitness", fontsize=10)
    return file
