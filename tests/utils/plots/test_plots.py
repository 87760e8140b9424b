"""Plots: images are written, show what they should, and survive empty and odd input."""

import contextlib
import csv
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils.engine.hooks import RESULT_COLUMNS
from utils.errors import DataError
from utils.files import ROOT
from utils.images import read_image
from utils.metrics.average_precision import Curves
from utils.plots.batches import plot_batch, plot_detections
from utils.plots.canvas import saved_figure
from utils.plots.curves import gaussian_mean, moving_average, plot_results, plot_threshold_curves, read_results
from utils.plots.error_plots import plot_confusion, plot_errors
from utils.plots.features import save_features
from utils.plots.label_statistics import plot_labels
from utils.plots.palette import PALETTE, class_color, text_color
from utils.plots.sweeps import plot_evolution, plot_study
from utils.types import Detections


def is_drawn(file, smallest: int = 200) -> bool:
    """Whether `file` is an image of some size that has more than one color."""
    image, (height, width) = read_image(file)
    return min(height, width) >= smallest and image.std() > 3


def write_table(file, header, rows) -> None:
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([f"{name:>20s}" for name in header])
        writer.writerows([[f"{value:20.5g}" for value in row] for row in rows])


def test_colors():
    assert len(set(PALETTE)) == len(PALETTE) == 24 and class_color(25) == class_color(1)
    distance = min(
        sum(abs(a - b) for a, b in zip(class_color(i), class_color(j), strict=True)) for i in range(8) for j in range(i)
    )
    assert distance > 60  # the first eight classes can be told apart
    assert text_color((255, 255, 0)) == (0, 0, 0) and text_color((60, 0, 160)) == (255, 255, 255)


@pytest.mark.parametrize("count, side", [(1, 1), (3, 2), (20, 4)])
def test_batch_grid(tmp_path, count, side):
    images = torch.full((count, 3, 60, 80), 7, dtype=torch.uint8)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]])
    plot_batch(images, targets, [f"folder/{index}.jpg" for index in range(count)], tmp_path / "batch.png", ["a", "b"])
    image, _ = read_image(tmp_path / "batch.png")
    lines = -(-min(count, 16) // side)
    assert image.shape == (lines * 60, side * 80, 3)
    assert tuple(image[30, 20]) == class_color(1) and tuple(image[30, 60]) == class_color(
        1
    )  # the box's left and right edges
    assert image[30, 40].max() == 7


def test_batch_grid_is_scaled_to_its_limit(tmp_path):
    images = torch.zeros(4, 3, 320, 640)
    plot_batch(images, torch.zeros(0, 6), ["x"] * 4, tmp_path / "图.png", max_size=400)
    assert read_image(tmp_path / "图.png")[0].shape == (200, 400, 3)


def test_detections_below_a_quarter_are_not_drawn(tmp_path):
    boxes = torch.tensor([[10.0, 100, 50, 180], [110, 100, 150, 180]])
    found = Detections(boxes, torch.tensor([0.9, 0.2]), torch.tensor([2, 2]))
    black = torch.zeros(2, 3, 200, 200, dtype=torch.uint8)
    plot_detections(black, [found, Detections.none()], ["a.jpg", "b.jpg"], tmp_path / "found.png", ["x", "y", "z"])
    image, _ = read_image(tmp_path / "found.png")
    assert tuple(image[140, 10]) == class_color(2) and not image[140, 60:190].any() and not image[140, 210:390].any()


def test_results(tmp_path):
    rows = [[epoch, *np.linspace(0.1, 1, 13) / (epoch + 1)] for epoch in range(30)]
    rows[4][9] = np.nan
    write_table(tmp_path / "results.csv", RESULT_COLUMNS, rows)
    columns = read_results(tmp_path / "results.csv")
    assert list(columns) == list(RESULT_COLUMNS) and columns["epoch"].tolist() == list(range(30))
    assert plot_results(tmp_path / "results.csv") == tmp_path / "results.png" and is_drawn(tmp_path / "results.png")
    write_table(tmp_path / "one.csv", RESULT_COLUMNS, rows[:1])
    assert is_drawn(plot_results(tmp_path / "one.csv"))
    write_table(tmp_path / "none.csv", RESULT_COLUMNS, [])
    with pytest.raises(DataError, match="no epoch is recorded"):
        plot_results(tmp_path / "none.csv")


@pytest.mark.parametrize("epochs, lines", [(1, 1), (9, 1), (10, 2)])
def test_results_are_smoothed_from_ten_epochs_on_and_their_axes_have_names(tmp_path, monkeypatch, epochs, lines):
    figures = kept_figures(monkeypatch, "utils.plots.curves.saved_figure")
    write_table(
        tmp_path / "results.csv", RESULT_COLUMNS, [[epoch, *np.linspace(0.1, 1, 13)] for epoch in range(epochs)]
    )
    plot_results(tmp_path / "results.csv")
    panels = figures[0].axes
    assert [len(axes.lines) for axes in panels] == [lines] * 10
    assert [axes.get_xlabel() for axes in panels] == ["epoch"] * 10
    assert panels[0].get_ylabel() == "box loss of training" and panels[8].get_ylabel() == "mAP at IoU 0.5 (0 to 1)"
    assert (panels[0].get_legend() is not None) == (lines == 2)


def test_smoothing():
    values = np.random.default_rng(0).normal(size=50)
    weight = [[np.exp(-0.5 * ((i - j) / 3) ** 2) for j in range(50)] for i in range(50)]
    slow = [sum(w * value for w, value in zip(row, values, strict=True)) / sum(row) for row in weight]
    assert gaussian_mean(values) == pytest.approx(slow)
    assert gaussian_mean(np.array([2.0, np.nan, 2.0])) == pytest.approx([2, 2, 2])
    assert moving_average(np.arange(10.0), 0.1) == pytest.approx([1 / 3, *range(1, 9), 26 / 3])


def curves(classes: int) -> Curves:
    px = np.linspace(0, 1, 1000)
    values = np.stack([1 - px ** (index + 1) for index in range(classes)]) if classes else np.zeros((0, 1000))
    return Curves(
        px=px,
        precision=values,
        recall=values,
        f1=values,
        pr_precision=values,
        classes=np.arange(classes),
        ap50=values.mean(1),
    )


@pytest.mark.parametrize("classes", [0, 1, 3, 40])
def test_threshold_curves(tmp_path, classes):
    plot_threshold_curves(curves(classes), ["first", "second"], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "F1_curve.png",
        "PR_curve.png",
        "P_curve.png",
        "R_curve.png",
    ]
    assert all(is_drawn(file) for file in tmp_path.iterdir())


def kept_figures(monkeypatch, name):
    """The figures that a module draws from now on, for a look after they are written."""
    figures = []

    @contextlib.contextmanager
    def kept(*size, dpi=60):
        with saved_figure(*size, dpi=60) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(name, kept)
    return figures


def test_confusion_axes_and_numbers(tmp_path, monkeypatch):
    figures = kept_figures(monkeypatch, "utils.plots.error_plots.saved_figure")
    plot_confusion(
        np.array([[6, 0, 1], [2, 3, 0], [2, 1, 0]]), ["cat", "dog"], tmp_path / "matrix.png", note="confidence > 0.3"
    )
    axes = figures[0].axes[0]
    assert axes.get_title() == ("Confusion matrix: shares, which sum to 1 in a column, and counts\nconfidence > 0.3")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("True", "Predicted")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "background"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "background"]
    shown = {tuple(text.get_position()): tuple(text.get_text().split()) for text in axes.texts}  # (column, row)
    assert shown == {
        (0, 0): ("0.60", "6"),
        (0, 1): ("0.20", "2"),
        (0, 2): ("0.20", "2"),
        (1, 1): ("0.75", "3"),
        (1, 2): ("0.25", "1"),
        (2, 0): ("1.00", "1"),
    }
    assert is_drawn(tmp_path / "matrix.png")


def test_the_grid_of_a_confusion_matrix_is_one_collection(tmp_path, monkeypatch):
    figures = kept_figures(monkeypatch, "utils.plots.error_plots.saved_figure")
    plot_confusion(np.eye(41), [f"class {index}" for index in range(40)], tmp_path / "matrix.png")
    axes = figures[0].axes[0]
    (grid,) = axes.collections
    edges = np.arange(42) - 0.5
    segments = np.array(grid.get_segments())  # (lines, two ends, x and y)
    assert segments.shape == (2 * 42, 2, 2)
    np.testing.assert_array_equal(segments[:42, :, 0], np.stack((edges, edges), 1))
    np.testing.assert_array_equal(segments[42:, :, 1], np.stack((edges, edges), 1))
    assert not axes.xaxis.get_minorticklocs().size and axes.get_xlim() == (-0.5, 40.5)


def test_errors_by_kind_are_bars(tmp_path, monkeypatch):
    figures = kept_figures(monkeypatch, "utils.plots.error_plots.saved_figure")
    plot_errors([("background", 7, 0.125), ("missed", 0, 0.0)], 0.3, tmp_path / "errors.png")
    costs, counts = figures[0].axes
    assert [bar.get_width() for bar in costs.patches] == [12.5, 0] and [bar.get_width() for bar in counts.patches] == [
        7,
        0,
    ]
    assert [label.get_text() for label in costs.get_yticklabels()] == ["background", "missed"]
    assert "0.3" in counts.get_xlabel() and is_drawn(tmp_path / "errors.png", 150)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.eye(90) * 5])
def test_confusion_of_nothing_and_of_many(tmp_path, matrix):
    names = [f"class {index}" for index in range(len(matrix) - 1)]
    plot_confusion(matrix, names, tmp_path / "matrix.png", normalize=len(matrix) > 3)
    assert is_drawn(tmp_path / "matrix.png")


@pytest.mark.parametrize("count", [0, 1500])
def test_labels(tmp_path, count):
    rng = np.random.default_rng(count)
    plot_labels(rng.integers(0, 3, count), rng.uniform(0.01, 1, (count, 4)), ["a", "b", "c"], tmp_path)
    assert is_drawn(tmp_path / "labels.jpg") and is_drawn(tmp_path / "labels_correlogram.jpg")


def test_evolution_study_and_features(tmp_path):
    rng = np.random.default_rng(0)
    header = (*RESULT_COLUMNS[4:11], "lr0", "lrf")
    write_table(tmp_path / "evolve.csv", header, rng.uniform(size=(6, 9)))
    assert is_drawn(plot_evolution(tmp_path / "evolve.csv"))
    np.savetxt(tmp_path / "study_coco_yolov5n.txt", rng.uniform(size=(11, 10)), fmt="%10.4g")
    assert plot_study([tmp_path / "study_coco_yolov5n.txt"]) == tmp_path / "study.png"
    assert is_drawn(tmp_path / "study.png")
    features = torch.rand(1, 40, 6, 5)
    assert save_features(features, "models.layers.Conv", 3, tmp_path) == tmp_path / "stage3_Conv_features.png"
    assert is_drawn(tmp_path / "stage3_Conv_features.png")
    assert (np.load(tmp_path / "stage3_Conv_features.npy") == features.numpy()).all()
    assert save_features(torch.rand(1, 8, 1, 1), "Pool", 4, tmp_path) is None
    assert save_features([features], "Detect", 5, tmp_path) is None


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), saved_figure(tmp_path / "half.png", 3, 3):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_when_used_and_pyplot_never(tmp_path):
    code = """if True:
        import sys
        from utils.plots import annotate, batches, curves, error_plots, features
        from utils.plots import label_statistics, study_figures, sweeps
        assert not any(name == "matplotlib" or name == "PIL" for name in sys.modules), "imported at the top"
        import numpy
        error_plots.plot_confusion(numpy.eye(3), ["a", "b"], sys.argv[1])
        assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.png")], cwd=ROOT, check=True)
    assert is_drawn(tmp_path / "m.png")
