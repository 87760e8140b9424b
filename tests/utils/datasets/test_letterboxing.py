"""Letterbox: shapes as YOLOv5 makes them, and boxes that come back to the pixel."""

import numpy as np
import pytest

from utils.datasets.letterboxing import GRAY, fit, fitted_size, letterbox, minimal_shape


def plain_image(height, width, value=200):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    "native, auto, scale_up, shape, resized, pad",
    [
        ((720, 1280), True, True, (384, 640), (360, 640), (0, 12)),  # zidane.jpg
        ((1080, 810), True, True, (640, 480), (640, 480), (0, 0)),  # bus.jpg
        ((720, 1280), False, True, (640, 640), (360, 640), (0, 140)),
        ((375, 500), True, True, (480, 640), (480, 640), (0, 0)),
        ((100, 201), False, False, (640, 640), (100, 201), (219, 270)),  # 439 columns of border: 219 left, 220 right
        ((100, 201), True, False, (128, 224), (100, 201), (11, 14)),  # 540 % 32 = 28 rows, 439 % 32 = 23 columns remain
        ((3, 5000), False, True, (640, 640), (1, 640), (0, 319)),  # would be 0 rows: keeps one
    ],
)
def test_shapes_and_borders(native, auto, scale_up, shape, resized, pad):
    canvas, record = letterbox(plain_image(*native), 640, auto=auto, scale_up=scale_up)
    assert canvas.shape == (*shape, 3) and record.shape == shape and record.native == native
    assert record.pad == pad
    left, top = pad
    filled = (canvas == 200).all(2)
    assert filled[top : top + resized[0], left : left + resized[1]].all() and filled.sum() == resized[0] * resized[1]
    assert (canvas[~filled] == GRAY).all()


def test_record_maps_there_and_back():
    _, record = letterbox(plain_image(431, 787), (416, 640), auto=False)
    boxes = np.array([[0, 0, 787, 431], [10.5, 20.25, 300, 400]], np.float32)
    inside = record.from_native(boxes)
    assert inside[0] == pytest.approx(
        [0, 33, 640, 383], abs=1e-3
    )  # 431 * 640 / 787 = 350.5 -> 350 rows, 33 above and below
    assert record.to_native(inside) == pytest.approx(boxes, abs=1e-3)
    assert record.to_native(np.float32([[-5, 0, 700, 416]]))[0] == pytest.approx([0, 0, 787, 431])


@pytest.mark.parametrize(
    "native, size",
    [((427, 640), (427, 640)), ((480, 500), (615, 640)), ((333, 1000), (214, 640)), ((1, 6400), (1, 640))],
)
def test_fitted_size_rounds_up(native, size):
    assert fitted_size(native, 640) == size


@pytest.mark.parametrize(
    "native, pad, shape",
    [
        ((480, 640), 0.5, (512, 672)),
        ((480, 640), 0.0, (480, 640)),
        ((427, 640), 0.5, (448, 672)),
        ((427, 640), 0.0, (448, 640)),
        ((640, 428), 0.5, (672, 448)),
        ((50, 50), 0.5, (672, 672)),
    ],
)
def test_minimal_shape(native, pad, shape):
    assert minimal_shape(native, 640, 32, pad) == shape


def test_fit_averages_when_shrinking():
    """Stripes one pixel wide become their mean: no stripe is skipped."""
    image = plain_image(64, 128, 0)
    image[:, ::2] = 200
    canvas, record = fit(image, (64, 128), 64, (64, 96))
    assert canvas.shape == (64, 96, 3) and record.pad == (16, 16) and record.ratio == (0.5, 0.5)
    assert (canvas[16:48, 16:80] == 100).all()
    assert (canvas[:16] == GRAY).all() and (canvas[:, 80:] == GRAY).all()
