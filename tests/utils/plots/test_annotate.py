"""Boxes and labels lie where they should, fit the image's size, and leave a crowd of objects visible."""

import numpy as np
import pytest
import torch

from utils.images import read_image
from utils.plots.annotate import Annotator, DrawingStyle, text_patch
from utils.plots.batches import plot_batch, plot_detections
from utils.plots.palette import class_color, text_color
from utils.types import Detections

GREEN, RED = (10, 200, 30), (200, 10, 30)


def label_pixels(annotator: Annotator, boxes, labels, color=GREEN) -> int:
    """Pixels of an image that labels change, compared with the boxes alone."""
    alone = Annotator(annotator.image, annotator.style)
    alone.boxes(boxes, [""] * len(boxes), [color] * len(boxes))
    annotator.boxes(boxes, labels, [color] * len(boxes))
    return int((annotator.image != alone.image).any(2).sum())


def test_box_and_label_lie_where_they_should():
    annotator = Annotator(np.zeros((100, 200, 3), np.uint8), DrawingStyle(2, 12))
    annotator.boxes(np.array([[50, 40, 150, 90]]), ["cat"], [GREEN])
    image = annotator.image
    assert tuple(image[90, 100]) == GREEN and tuple(image[65, 50]) == GREEN
    assert not image[60:80, 60:140].any() and not image[95:].any()
    patch = text_patch("cat", 12, text_color(GREEN), GREEN)
    assert (image[40 - patch.shape[0] : 40, 49 : 49 + patch.shape[1]] == patch).all()


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 20), (190, 5, 200, 50), (-50, -50, 500, 500), (90, 90, 90, 90), (300, 300, 400, 400)]
)
def test_labels_stay_inside_the_image(box):
    original = np.zeros((200, 300, 3), np.uint8)
    annotator = Annotator(original, DrawingStyle(3, 14))
    annotator.boxes(np.array([box]), ["a long name 0.99"], [(255, 255, 255)])
    assert annotator.image.shape == (200, 300, 3) and (annotator.image == 255).sum() > 500
    assert not original.any()  # the caller's image is untouched


@pytest.mark.parametrize("box", [(0, 0, 3, 3), (np.nan, 0, np.inf, 3), (-1e12, -1e12, 1e12, 1e12)])
def test_odd_boxes_and_tiny_images(box):
    tiny = Annotator(np.zeros((4, 4, 3), np.uint8))
    tiny.boxes(np.array([box]), ["name"], [RED])
    assert tiny.image.shape == (4, 4, 3) and tiny.style.line_width == 1


@pytest.mark.parametrize(
    "shape, boxes, style",
    [
        ((24, 18), 1, (1, 10)),
        ((480, 640), 1, (2, 10)),
        ((1080, 810), 5, (3, 13)),
        ((2160, 3840), 5, (9, 38)),
        ((2160, 3840), 80, (4, 19)),  # a fourth of the 20 boxes that count as few: half as wide
        ((2160, 3840), 1000, (3, 19)),  # never less than a third, and text that can be read
    ],
)
def test_lines_and_text_grow_with_the_image_and_shrink_in_a_crowd(shape, boxes, style):
    assert DrawingStyle.of(shape, boxes) == DrawingStyle(*style)


def test_a_width_that_is_asked_for_stays_in_a_crowd():
    assert DrawingStyle.of((2160, 3840), 1000, 5) == DrawingStyle(5, 22)


def test_a_label_evades_one_that_is_there():
    boxes = np.array([[50, 60, 150, 190], [52, 62, 152, 180], [51, 64, 150, 185]])
    annotator = Annotator(np.zeros((240, 320, 3), np.uint8), DrawingStyle(1, 12))
    annotator.boxes(boxes, ["cat"] * 3, [RED, GREEN, (90, 90, 255)])
    height, width = text_patch("cat", 12, (0, 0, 0), GREEN).shape[:2]
    first, second, third = (text_patch("cat", 12, text_color(c), c) for c in (RED, GREEN, (90, 90, 255)))
    assert (annotator.image[60 - height : 60, 50 : 50 + width] == first).all()  # above its box
    assert (annotator.image[62 : 62 + height, 52 : 52 + width] == second).all()  # inside the upper edge
    assert (annotator.image[185 : 185 + height, 51 : 51 + width] == third).all()  # below


def test_labels_of_a_crowd_cover_a_share_of_the_image_and_the_best_are_kept():
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 250, (300, 2))
    boxes = np.concatenate((corner, corner + generator.uniform(20, 60, (300, 2))), 1)
    annotator = Annotator(np.zeros((320, 320, 3), np.uint8), DrawingStyle.of((320, 320), 300))
    covered = label_pixels(annotator, boxes, [f"cell {index / 300:.2f}" for index in range(300)])
    assert 0.08 * 320 * 320 < covered < 0.15 * 320 * 320
    few = Annotator(np.zeros((320, 320, 3), np.uint8), annotator.style)
    few.boxes(boxes[:1], ["cell 0.00"], [GREEN])
    shown = (few.image == annotator.image).all(2)
    assert shown[few.image.any(2)].mean() > 0.9  # the first box and its label are on top


def test_one_label_larger_than_the_share_is_left_out():
    annotator = Annotator(np.zeros((40, 40, 3), np.uint8))
    assert label_pixels(annotator, np.array([[5, 20, 30, 35]]), ["person 0.87"]) == 0
    assert tuple(annotator.image[20, 15]) == GREEN


def test_a_tile_shows_its_best_hundred_boxes(tmp_path):
    """150 boxes in a grid, whose confidence rises: the last 100 are drawn, and the caption says so."""
    left, top = (value.ravel() for value in np.meshgrid(np.arange(15) * 40 + 10, np.arange(10) * 55 + 10))
    boxes = torch.tensor(np.stack((left, top, left + 20, top + 20), 1), dtype=torch.float32)
    found = Detections(boxes, torch.linspace(0.3, 0.9, 150), torch.zeros(150, dtype=torch.long))
    black = torch.zeros(1, 3, 640, 640, dtype=torch.uint8)
    plot_detections(black, [found], ["a.jpg"], tmp_path / "found.png", ["a"])
    image, _ = read_image(tmp_path / "found.png")
    drawn = [tuple(image[y + 20, x + 10]) == class_color(0) for x, y in zip(left, top, strict=True)]
    assert drawn == [False] * 50 + [True] * 100
    caption = text_patch("a.jpg, best 100 of 150", DrawingStyle.of((640, 640), 100).font_size, (255,) * 3, (40,) * 3)
    height, width = caption.shape[:2]
    assert (image[639 - height + 1 : 639, 2 : 2 + width] == caption[:-1]).all()


def test_a_tile_shows_its_largest_hundred_labels(tmp_path):
    left, top = (value.ravel() for value in np.meshgrid(np.arange(15) * 40 + 20, np.arange(10) * 55 + 20))
    side = np.where(np.arange(150) < 50, 10, 20)
    rows = np.stack((0 * left, 0 * left, left, top, side, side), 1) / [1, 1, 640, 640, 640, 640]
    plot_batch(
        torch.zeros(1, 3, 640, 640, dtype=torch.uint8), torch.tensor(rows), ["a.jpg"], tmp_path / "batch.png", ["a"]
    )
    image, _ = read_image(tmp_path / "batch.png")
    drawn = [tuple(image[y + half, x]) == class_color(0) for x, y, half in zip(left, top, side // 2, strict=True)]
    assert drawn == [False] * 50 + [True] * 100
