"""The checks of heat maps: likeness of maps, randomization, deletion and insertion."""

import numpy as np
import pytest
import torch

from models.yolo import Model
from utils.heatmaps.deletion import (
    FILL,
    ScoreOf,
    TrustCurve,
    TrustSettings,
    blur,
    forward_images,
    orders,
    pixel_order,
    trust_curves,
)
from utils.heatmaps.detection_target import HeatTarget
from utils.heatmaps.randomization import by_depth, cascade, depths, randomize, verdict
from utils.heatmaps.similarity import ranks, spearman, ssim
from utils.types import Detections, Letterbox


@pytest.mark.oracle
def test_rank_correlation_knows_ties():
    assert ranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
    a = np.random.default_rng(0).random((20, 30)).round(1)
    b = a**3 + 5
    assert spearman(a, b) == pytest.approx(1) and spearman(a, -b) == pytest.approx(-1)
    assert spearman(a, np.ones_like(a)) == 0
    stats = pytest.importorskip(
        "scipy.stats", reason="the oracle: scipy, which scikit-learn brings (requirements-oracle.txt)"
    )
    c = np.random.default_rng(1).random((20, 30)).round(1)
    assert spearman(a, c) == pytest.approx(stats.spearmanr(a.ravel(), c.ravel())[0], abs=1e-12)


def test_structural_similarity_is_its_equation():
    rng = np.random.default_rng(0)
    a, b = rng.random((9, 8)), rng.random((9, 8))
    values = []
    for i in range(3):
        for j in range(2):
            x, y = a[i : i + 7, j : j + 7].ravel(), b[i : i + 7, j : j + 7].ravel()
            both = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + 1e-4) * (2 * both[0, 1] + 9e-4)
            values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (both[0, 0] + both[1, 1] + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9) and ssim(a, a) == pytest.approx(1)


def test_randomized_parameters_keep_mean_and_deviation():
    layer = torch.nn.Conv2d(30, 40, 3)
    before = layer.weight.detach().clone()
    randomize(layer, torch.Generator().manual_seed(0))
    assert abs(spearman(before.numpy(), layer.weight.detach().numpy())) < 0.05
    assert float(layer.weight.detach().std()) == pytest.approx(float(before.std()), rel=0.05)


def test_the_cascade_goes_from_the_head_to_the_image_and_leaves_the_network():
    model = Model("yolov5n.yaml", nc=2, report=False).eval()
    state = {name: values.clone() for name, values in model.state_dict().items()}
    seen = []

    def make_map(network):
        changed = [
            index
            for index, row in enumerate(network.model)
            if any(not torch.equal(p, state[f"model.{index}.{n}"]) for n, p in row.named_parameters())
        ]
        seen.append(changed)
        return torch.linspace(0, 1, 100).view(10, 10).double() if len(changed) < 3 else torch.zeros(10, 10).double()

    steps = list(cascade(model, make_map, draws=2, seed=0))
    assert len(steps) == 2 * depths(model) and [step.row for step in steps[:4]] == ["", "24 Detect", "23 C3", "21 Conv"]
    assert seen[1:4] == [[24], [23, 24], [21, 23, 24]] and len(seen[depths(model) - 1]) == depths(model) - 1
    assert by_depth(steps, "spearman")[:, :4].tolist() == pytest.approx(np.array([[1, 1, 1, 0]] * 2))
    assert [step.flat for step in steps[:4]] == [False, False, False, True]
    assert verdict(steps).startswith("passes")
    assert verdict([*steps[:2], *steps[1:2]][:2]).startswith("fails")
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())


def test_pixels_are_ordered_by_value_and_equal_ones_at_random():
    values = np.zeros((10, 10))
    values[3, 4], values[8, 1] = 2, 1
    order = pixel_order(values, 0)
    assert order[3, 4] == 0 and order[8, 1] == pytest.approx(0.01)
    assert sorted((order.ravel() * 100).round().tolist()) == list(range(100))
    rest = np.delete(order.ravel(), [34, 81])
    assert abs(spearman(rest, np.arange(98))) < 0.3
    assert np.array_equal(order, pixel_order(values, 0)) and not np.array_equal(order, pixel_order(values, 1))


def test_curves_of_a_score_that_counts_pixels():
    """The score is the mean of the left half: the map of the left half deletes and inserts it first."""
    placed = Letterbox((8, 16), (1.0, 1.0), (0, 4), (16, 16))
    image = torch.full((1, 3, 16, 16), FILL)
    image[:, :, 4:12] = 1.0
    values = torch.zeros(8, 16).double()
    values[:, :8] = 1

    def score(images):
        assert (images[:, :, :4] == images[:, :, -4:]).all()  # the border never changes
        return ((images[:, :, 4:12, :8].mean((1, 2, 3)) - FILL) / (1 - FILL)).numpy()

    settings = TrustSettings(steps=4, draws=2)
    maps = orders(values, (4, 8), [(0, 0, 16, 8)], settings)
    counted = []
    curves = {
        (each.kind, each.order): each for each in trust_curves(score, image, placed, maps, settings, counted.append)
    }
    assert sum(counted) == forward_images(maps, settings) == 2 * 5 * 5
    deletion = curves["deletion", "map"]
    np.testing.assert_allclose(deletion.scores, [1, 0.5, 0, 0, 0], atol=1e-6)
    assert deletion.area == pytest.approx(0.25, abs=1e-6)
    assert curves["deletion", "random"].area == pytest.approx(0.5, abs=0.15)
    inserted = curves["insertion", "map"].scores
    assert inserted[2] == pytest.approx(1, abs=1e-6) and inserted[0] < inserted[1] < 1


def test_baselines_are_the_center_and_the_box():
    maps = orders(torch.zeros(9, 21), (3, 3), [(2, 1, 6, 5)], TrustSettings(draws=2))
    assert [len(each) for each in maps.values()] == [1, 2, 1, 1]
    assert maps["center"][0].argmax() == 4 * 21 + 10
    inside = (maps["box"][0] > 0).nonzero()
    assert inside.min(0).values.tolist() == [1, 2] and inside.max(0).values.tolist() == [4, 5]


def test_a_target_is_found_again_by_its_box():
    rows = torch.zeros(2, 3, 7)
    rows[:, :, 2:5] = torch.tensor([20.0, 20, 0.8])
    rows[0, :, 0], rows[0, :, 1] = torch.tensor([50.0, 52, 90]), 50
    rows[0, :, 6] = torch.tensor([0.5, 0.75, 1])  # the third is elsewhere
    rows[1, :, :2] = 200
    rows[1, :, 6] = 1
    model = torch.nn.Module()
    model.forward = lambda images: (rows, None)
    found = Detections(torch.tensor([[40.0, 40, 60, 60]]), torch.tensor([0.9]), torch.tensor([1]))
    target = HeatTarget(torch.tensor([0]), torch.tensor([1]), (0,), (0,))
    np.testing.assert_allclose(ScoreOf(model, found, target)(torch.zeros(2, 3, 8, 8)), [0.6, 0], rtol=1e-6)


def test_a_blur_keeps_the_mean_and_spreads():
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 32, 32] = 1
    blurred = blur(image)
    assert float(blurred.sum()) == pytest.approx(3, rel=1e-4)
    spread = ((torch.arange(64) - 32) ** 2 * blurred[0, 0].sum(0)).sum()
    assert float(spread) ** 0.5 == pytest.approx(64 * 5 / 224, rel=0.05)


def test_an_area_is_the_mean_over_the_shares():
    assert TrustCurve("deletion", "map", np.array([0, 0.5, 1]), np.array([1, 0.5, 0])).area == pytest.approx(0.5)
