"""Pasted boxes against a literal form: one pixel, one object and one place at a time."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from literal_scenes import SIDE, STILL, Album, PaintedAlbum, smooth_image

from utils.datasets.color_jitter import Jitter
from utils.datasets.image_source import ObjectCensus
from utils.datasets.pasting import Patch, box_patches, covered, soft_weights
from utils.datasets.rendering import render
from utils.datasets.scenes import mosaic_scene, pasted
from utils.types import Labels

SHAPE = SIDE, SIDE


def literal_share(box, other):
    """Share of `other` that `box` covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / ((other[2] - other[0]) * (other[3] - other[1]))


def with_border(patch):
    x0, y0, x1, y1 = patch.rectangle
    return x0 - patch.border, y0 - patch.border, x1 + patch.border, y1 + patch.border


def drawn(count, album=None, present=None):
    present = np.float32([[10, 10, 60, 60], [80, 30, 150, 90], [20, 100, 50, 140]]) if present is None else present
    for n in range(count):
        yield present, box_patches(album or Album(), present, SHAPE, np.random.default_rng([n, 2]))


def test_patches_leave_objects_seventy_percent_lie_in_the_output_and_apart():
    pasted_boxes = zooms = 0
    for present, patches in drawn(150):
        for other in present:
            assert sum(literal_share(with_border(patch), other) for patch in patches) <= 0.3 + 1e-9
        for k, patch in enumerate(patches):
            x0, y0, x1, y1 = patch.rectangle
            assert x0 >= 0 and y0 >= 0 and x1 <= SIDE and y1 <= SIDE and 0.5 <= patch.zoom <= 1.5
            assert patch.border == max(round(0.1 * min(x1 - x0, y1 - y0)), 2)
            assert all(literal_share(with_border(patch), with_border(other)) == 0 for other in patches[:k])
            pasted_boxes, zooms = pasted_boxes + 1, zooms + patch.zoom
    assert pasted_boxes > 100 and zooms / pasted_boxes == pytest.approx(0.95, abs=0.12)  # the largest find no place


def test_boxes_of_a_patch_are_those_of_its_image_at_its_size():
    album = Album()
    for _, patches in drawn(60, album, np.zeros((0, 4), np.float32)):
        assert patches
        for patch in patches:
            height, width = album.fitted(patch.index)
            assert patch.size == (max(round(width * patch.zoom), 1), max(round(height * patch.zoom), 1))
            labels, expected = album.labels(patch.index), []
            own = None
            for cls, (x, y, w, h) in zip(labels.cls, labels.xywhn.astype(float), strict=True):
                box = [(x - w / 2) * patch.size[0] + patch.corner[0], (y - h / 2) * patch.size[1] + patch.corner[1]]
                box += [box[0] + w * patch.size[0], box[1] + h * patch.size[1]]
                rounded = [math.floor(box[0] + 1e-6), math.floor(box[1] + 1e-6)]
                rounded += [math.ceil(box[2] - 1e-6), math.ceil(box[3] - 1e-6)]
                if tuple(rounded) == patch.rectangle:
                    own = box
                expected.append((cls, box))
            assert own is not None
            kept = [(cls, box) for cls, box in expected if literal_share(own, box) >= 0.7]
            shown = [(max(b[0], own[0]), max(b[1], own[1]), min(b[2], own[2]), min(b[3], own[3])) for _, b in kept]
            assert patch.cls.tolist() == [cls for cls, _ in kept]
            assert patch.xyxy == pytest.approx(np.array(shown), abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("enlarged", [1, 3])
def test_patch_is_blended_as_pixel_by_pixel(seed, enlarged):
    album = Album(enlarged=enlarged)
    scene = mosaic_scene(album, 0, SHAPE, STILL, np.random.default_rng(seed))
    plain, cls, xyxy = render(album, scene, Jitter())
    patches = box_patches(album, np.zeros((0, 4)), SHAPE, np.random.default_rng(seed))
    image, more, boxes = render(album, replace(scene, patches=patches), Jitter())
    expected = plain.astype(float)
    for patch in patches:
        source = cv2.resize(album.image(patch.index, 1.0), patch.size, interpolation=cv2.INTER_LINEAR).astype(float)
        x0, y0, x1, y1 = with_border(patch)
        for y in range(max(y0, 0), min(y1, SIDE)):
            for x in range(max(x0, 0), min(x1, SIDE)):
                weight = 1.0
                for at, first, last in ((x + 0.5, *patch.rectangle[::2]), (y + 0.5, *patch.rectangle[1::2])):
                    outside = max(first - at, at - last, 0)
                    weight *= 0.5 * (1 + math.cos(math.pi * outside / patch.border))
                row = min(max(y - patch.corner[1], 0), patch.size[1] - 1)
                column = min(max(x - patch.corner[0], 0), patch.size[0] - 1)
                expected[y, x] += weight * (source[row, column] - expected[y, x])
    assert patches and np.abs(image - expected).max() <= 8 and np.abs(image - expected).mean() < 0.4
    assert more.tolist() == [*cls, *(c for patch in patches for c in patch.cls)]
    assert boxes[len(cls) :] == pytest.approx(np.concatenate([patch.xyxy for patch in patches]))
    assert (boxes[: len(cls)] == xyxy).all()


def test_colors_of_patches_change_with_the_image():
    album, jitter = Album(), Jitter(1.0, 0.7, 1.2)
    scene = mosaic_scene(album, 0, SHAPE, STILL, np.random.default_rng(0))
    scene = replace(scene, patches=box_patches(album, np.zeros((0, 4)), SHAPE, np.random.default_rng(1)))
    plain = render(album, scene, Jitter())[0]
    expected = np.empty_like(plain)
    jitter.apply(plain, expected)
    difference = np.abs(render(album, scene, jitter)[0].astype(int) - expected)
    # enlarged, it takes its colors before it is resized, and saturation is not linear
    assert scene.patches and difference.mean() < 0.7 and np.quantile(difference, 0.99) <= 8


def test_each_class_is_as_likely_and_objects_in_a_box_come_with_it():
    album = Album()
    boxes = np.float32([[0.3, 0.5, 0.4, 0.6], [0.3, 0.5, 0.1, 0.1], [0.8, 0.2, 0.1, 0.1], [0.51, 0.5, 0.1, 0.1]])
    album.labels = lambda index: Labels(np.array([0, 1, 1, 2]) if index else np.array([0, 1, 1, 1]), boxes)
    first, nested = [], 0
    for _, patches in drawn(600, album, np.zeros((0, 4))):
        if patches:
            found = patches[0].cls
            first.append(found[0])
            nested += len(found) > 1
            assert found.tolist() in ([0, 1], [1], [2]), "the last one lies in the large box by less than 70 %"
    shares = np.bincount(first, minlength=3) / len(first)
    assert len(first) > 500 and shares == pytest.approx([1 / 3] * 3, abs=0.07) and nested == sum(np.array(first) == 0)


def test_a_share_of_scenes_gets_patches():
    album = PaintedAlbum()
    scenes = [mosaic_scene(album, 0, SHAPE, STILL, np.random.default_rng(n)) for n in range(200)]
    changed = [
        bool(pasted(album, scene, replace(STILL, box_paste=0.4), np.random.default_rng(n)).patches)
        for n, scene in enumerate(scenes)
    ]
    assert np.mean(changed) == pytest.approx(0.4, abs=0.1)
    assert pasted(album, scenes[0], STILL, np.random.default_rng(0)) is scenes[0]


def test_nothing_to_paste():
    album, rng = Album(), np.random.default_rng(0)
    assert len(album.census) == 30
    album.labels = lambda index: Labels.none()  # a neighbor without objects stands in for an unreadable image
    assert box_patches(album, np.zeros((0, 4)), SHAPE, rng) == ()
    empty = Album()
    empty.labels = lambda index: Labels.none()
    assert isinstance(empty.census, ObjectCensus) and box_patches(empty, np.zeros((0, 4)), SHAPE, rng) == ()
    everywhere = np.float32([[x, y, x + 4, y + 4] for x in range(0, SIDE, 4) for y in range(0, SIDE, 4)])
    assert all(patches == () for _, patches in drawn(10, Album(), everywhere))


def test_border_beyond_the_image_repeats_its_edge():
    """An object at its image's edge: what is outside continues the edge and fades out."""
    album = Album()
    album.image = lambda index, zoom: smooth_image(160, 160, 2)
    scene = mosaic_scene(album, 0, SHAPE, STILL, np.random.default_rng(0))
    patch = Patch(2, 1.0, (60, 60), (160, 160), (60, 60, 100, 90), 3, np.array([1]), np.float32([[60, 60, 100, 90]]))
    plain = render(album, scene, Jitter())[0].astype(float)
    image = render(album, replace(scene, patches=(patch,)), Jitter())[0]
    weight = soft_weights(40, 3)[2]
    source = smooth_image(160, 160, 2)[5, 0].astype(float)
    assert image[65, 59] == pytest.approx(weight * source + (1 - weight) * plain[65, 59], abs=1)
    assert (image[60:90, 60:100] == smooth_image(160, 160, 2)[:30, :40]).all()
    assert (image[:57] == plain[:57]).all() and (image[:, 103:] == plain[:, 103:]).all()


def test_covered_of_many_boxes():
    rng = np.random.default_rng(0)
    boxes, others = (
        np.concatenate((low, low + rng.uniform(1, 50, low.shape)), -1)
        for low in (rng.uniform(0, 50, (3, 5, 2)), rng.uniform(0, 50, (7, 2)))
    )
    expected = [[[literal_share(box, other) for other in others] for box in row] for row in boxes]
    assert covered(boxes, others) == pytest.approx(np.array(expected)) and covered(boxes[0, 0], others).shape == (7,)
