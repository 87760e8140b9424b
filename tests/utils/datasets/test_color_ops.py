"""Color operations against literal forms: one pixel and one channel at a time, in real numbers."""

from collections import Counter

import numpy as np
import pytest

from utils.datasets import color_ops
from utils.datasets.color_ops import COLOR_OPS, random_color_ops


def sample_image(seed=0, low=20, high=240):
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, (24, 31, 3), dtype=np.uint8)


def gray(pixel):
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def pixel_by_pixel(image, change):
    return np.array([[change(pixel) for pixel in row] for row in image.astype(float)])


def literal_brightness(image, s):
    return pixel_by_pixel(image, lambda p: p * (1 + 0.5 * s))


def literal_contrast(image, s):
    mean = np.mean([gray(p) for p in image.reshape(-1, 3).astype(float)])
    return pixel_by_pixel(image, lambda p: mean + (p - mean) * (1 + 0.5 * s))


def literal_saturation(image, s):
    return pixel_by_pixel(image, lambda p: gray(p) + (p - gray(p)) * (1 + 0.9 * s))


def literal_sharpness(image, s):
    padded, result = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), "edge"), image.astype(float)
    for y, x in np.ndindex(*image.shape[:2]):
        smooth = (padded[y : y + 3, x : x + 3].sum((0, 1)) + 4 * padded[y + 1, x + 1]) / 13
        result[y, x] = smooth + (padded[y + 1, x + 1] - smooth) * (1 + 0.9 * s)
    return result


def literal_posterize(image, s):
    bits = 8 - round(4 * abs(s))
    return pixel_by_pixel(image, lambda p: [int(format(int(v), "08b")[:bits].ljust(8, "0"), 2) for v in p])


def literal_solarize(image, s):
    return pixel_by_pixel(image, lambda p: [255 - v if v >= 256 - 64 * abs(s) else v for v in p])


def literal_equalize(image, s):
    result = image.astype(float)
    for channel in range(3):
        values = image[..., channel].ravel().tolist()
        least = sum(v == min(values) for v in values)
        for y, x in np.ndindex(*image.shape[:2]):
            below = sum(v <= image[y, x, channel] for v in values)
            result[y, x, channel] = (below - least) / (len(values) - least) * 255
    return result


def literal_autocontrast(image, s):
    result = image.astype(float)
    for channel in range(3):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        result[..., channel] = (result[..., channel] - low) * 255 / (high - low)
    return result


def literal_gamma(image, s):
    return pixel_by_pixel(image, lambda p: 255 * (p / 255) ** 1.5**s)


def literal_blur(image, s):
    sigma = abs(s) * 31 * color_ops.MAX_BLUR
    weights = np.exp(-np.square(np.arange(-4, 5)) / (2 * sigma**2)) if sigma else np.eye(9)[4]
    weights = np.outer(weights, weights) / weights.sum() ** 2
    padded, result = np.pad(image.astype(float), ((4, 4), (4, 4), (0, 0)), "edge"), image.astype(float)
    for y, x in np.ndindex(*image.shape[:2]):
        result[y, x] = (padded[y : y + 9, x : x + 9] * weights[..., None]).sum((0, 1))
    return result


def test_every_operation_has_a_literal_form():
    assert {f"literal_{name}" for name in COLOR_OPS} - {"literal_identity"} == {
        n for n in globals() if n.startswith("literal_")
    }


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", COLOR_OPS)
def test_operations_are_their_formulas(name, strength, monkeypatch):
    monkeypatch.setattr(color_ops, "MAX_BLUR", 1 / 31)  # the sample_image is small
    image = sample_image()
    changed = image.copy()
    COLOR_OPS[name](changed, strength)
    literal = (lambda image, s: image) if name == "identity" else globals()[f"literal_{name}"]
    expected = np.clip(literal(image, strength), 0, 255)
    assert changed.dtype == np.uint8 and np.abs(changed - expected).max() <= (
        1.6 if name in ("sharpness", "blur") else 1.01
    )
    if strength and name != "identity" and (name != "solarize" or strength == 1):
        assert (changed != image).mean() > 0.1
    if not strength and name not in ("equalize", "autocontrast"):
        assert (changed == image).all()


@pytest.mark.parametrize("name", COLOR_OPS)
def test_one_color_and_one_pixel(name):
    for shape in ((1, 1, 3), (5, 4, 3)):
        image = np.full(shape, 114, np.uint8)
        COLOR_OPS[name](image, 0.9)
        assert image.shape == shape and (image == image[0, 0, 0]).all()


@pytest.mark.parametrize("number", [1.0, 2.0, 1.5, 0.25])
def test_as_many_operations_as_asked_for_each_as_likely(number, monkeypatch):
    seen, counts = Counter(), []
    for name in COLOR_OPS:
        monkeypatch.setitem(COLOR_OPS, name, lambda image, strength, name=name: seen.update([(name, strength)]))
    for seed in range(600):
        before = seen.total()
        random_color_ops(sample_image(), number, 6.0, np.random.default_rng(seed))
        counts.append(seen.total() - before)
    assert {int(number), -int(-number // 1)} == set(counts)
    assert np.mean(counts) == pytest.approx(number, abs=0.06)
    expected = 600 * number / len(COLOR_OPS) / 2
    assert all(
        seen[name, way] == pytest.approx(expected, abs=5 * expected**0.5) for name in COLOR_OPS for way in (0.6, -0.6)
    )


def test_off_draws_nothing_and_a_seed_decides():
    image, rng = sample_image(), np.random.default_rng(4)
    random_color_ops(image, 0.0, 9.0, rng)
    assert (image == sample_image()).all() and rng.random() == np.random.default_rng(4).random()
    one, other = sample_image(), sample_image()
    random_color_ops(one, 3.0, 9.0, np.random.default_rng(5))
    random_color_ops(other, 3.0, 9.0, np.random.default_rng(5))
    assert (one == other).all() and (one != sample_image()).any()
    assert color_ops.FULL_MAGNITUDE == 10
