"""Scenes: nine images, zoom by object, and the letterboxed place, against their literal forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from literal_scenes import SIDE, STILL, VIEWS, Album, PaintedAlbum, literal_boxes, literal_canvas, literal_view

from utils.datasets.augmentation import augmented
from utils.datasets.color_jitter import Jitter
from utils.datasets.geometry import View, random_view, shown, transform
from utils.datasets.letterboxing import pad_before
from utils.datasets.rendering import render
from utils.datasets.scenes import ZOOM_BY_OBJECT, mosaic_scene, random_focus, single_scene

SHAPE = SIDE, SIDE


def scenes(hyp, count, album=None, draw=mosaic_scene):
    return [draw(album or Album(), n % 5, SHAPE, hyp, np.random.default_rng([n, 11])) for n in range(count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", VIEWS)
def test_nine_images_equal_canvas_and_warp(kind, seed):
    album, hyp = Album(), replace(STILL, mosaic9=1, **VIEWS[kind])
    scene = mosaic_scene(album, seed, SHAPE, hyp, np.random.default_rng([seed, 7]))
    image, cls, xyxy = render(album, scene, Jitter())
    difference = np.abs(image.astype(int) - literal_view(literal_canvas(album, scene), scene.view)).max(2)
    # seams, of which there are more than of four, blend over a pixel in the literal form
    assert np.quantile(difference, 0.9) <= 2 and difference.mean() < 2
    assert image.shape == (*SHAPE, 3) and len(scene.tiles) == 9 and scene.view.canvas == (3 * SIDE, 3 * SIDE)
    assert np.concatenate((cls[:, None], xyxy), 1) == pytest.approx(literal_boxes(album, scene), abs=1e-4)


def test_nine_tiles_adjoin_and_do_not_overlap():
    for scene in scenes(replace(STILL, mosaic9=1, scale=0.5, translate=0.1), 60):
        corners = np.array([tile.corner for tile in scene.tiles])
        ends = corners + [tile.size for tile in scene.tiles]
        for one in range(9):
            for other in range(one):
                assert (np.minimum(ends[one], ends[other]) - np.maximum(corners[one], corners[other])).min() < 1e-6
        rows = corners[:, 0].reshape(3, 3), ends[:, 0].reshape(3, 3)
        assert rows[0][:, 1:] == pytest.approx(rows[1][:, :2]), "the tiles of a row adjoin"
        assert ends[:3, 1] == pytest.approx(corners[3:6, 1]) and corners[6:, 1] == pytest.approx(ends[3:6, 1].max())
        middle = 1.5 * SIDE
        assert (corners[4] <= middle + 0.51 / scene.view.scale).all() and (ends[4] >= middle - 0.51).all()
        places = transform(np.concatenate((corners, ends)), scene.view.matrix)
        assert places == pytest.approx(np.round(places), abs=1e-6), "whole pixels of the output"


def test_a_share_of_mosaics_has_nine_images_and_only_those_in_view_are_read():
    hyp = replace(STILL, mosaic9=0.3, scale=0.5)
    drawn = scenes(hyp, 400)
    assert np.mean([len(scene.tiles) == 9 for scene in drawn]) == pytest.approx(0.3, abs=0.07)
    for n, scene in enumerate(drawn):
        if len(scene.tiles) == 9:
            assert scene.tiles[4].index == n % 5
            album, (zoom, shift) = Album(), (scene.view.scale, scene.view.matrix[:2, 2])
            low = [zoom * np.array(tile.corner) + shift for tile in scene.tiles]
            high = [corner + zoom * np.array(tile.size) for corner, tile in zip(low, scene.tiles, strict=True)]
            inside = [(b > 0.5).all() and (a < SIDE - 0.5).all() for a, b in zip(low, high, strict=True)]
            render(album, scene, Jitter())
            expected = [tile.index for tile, seen in zip(scene.tiles, inside, strict=True) if seen]
            assert album.reads == list(dict.fromkeys(expected))


@pytest.mark.parametrize("draw", [mosaic_scene, single_scene])
def test_zoom_is_chosen_by_the_size_of_an_object(draw):
    """The view's zoom is the one that gives an object of the image a size; log-uniform if nothing bounds it."""
    album = Album()
    album.census = replace(album.census, size_range=(18.0, 36.0))
    low, high = album.census.size_range
    sizes, shares = [], []
    for n in range(400):
        hyp = replace(STILL, object_scale=0.5, mosaic9=0.5)
        focus = random_focus(album, n % 5, hyp, np.random.default_rng([n, 3]))
        shares.append(focus is not None)
        if focus is not None:
            height, width = album.fitted(n % 5)
            size = math.sqrt(focus.xywhn[2] * width * focus.xywhn[3] * height)
            assert (album.labels(n % 5).xywhn == focus.xywhn.astype(np.float32)).all(1).any()
            if ZOOM_BY_OBJECT[0] < low / size and high / size < ZOOM_BY_OBJECT[1]:
                sizes.append(math.log(size * focus.zoom / low) / math.log(high / low))
            assert ZOOM_BY_OBJECT[0] <= focus.zoom <= ZOOM_BY_OBJECT[1]
            assert low - 1e-6 <= size * focus.zoom <= high + 1e-6 or focus.zoom in ZOOM_BY_OBJECT
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert len(sizes) > 40 and np.mean(sizes) == pytest.approx(0.5, abs=0.1)
    assert np.std(sizes) == pytest.approx(12**-0.5, abs=0.06)
    zooms = [scene.view.scale for scene in scenes(replace(STILL, object_scale=1), 100, draw=draw)]
    assert min(zooms) < 0.6 and max(zooms) > 1.4
    assert {scene.view.scale for scene in scenes(STILL, 20, draw=draw)} == {1.0}


def test_the_object_that_decided_the_zoom_is_shown():
    """One object per image, in a corner: at a zoom of 2 it would mostly be out of view."""
    album = Album()
    label = Album().labels(0)
    album.labels = lambda index: replace(label, cls=np.array([index]), xywhn=np.float32([[0.1, 0.1, 0.1, 0.1]]))
    hyp, tested = replace(STILL, object_scale=1, translate=0.1), 0
    for draw, count in ((mosaic_scene, 60), (single_scene, 30)):
        for n, scene in enumerate(scenes(hyp, count, album, draw)):
            cls, _ = scene.visible()
            own = [tile for tile in scene.tiles if tile.index == n % 5]
            if len(own) == 1 and min(own[0].corner) >= 0:  # else it may lie outside the canvas
                assert n % 5 in cls.tolist()
                tested += 1
    assert tested > 30


@pytest.mark.parametrize("seed", range(20))
def test_a_view_moves_as_little_as_it_takes_to_show_a_box(seed):
    rng = np.random.default_rng(seed)
    view = random_view((320, 320), SHAPE, replace(STILL, degrees=30.0 * (seed % 2), scale=0.5, translate=0.3), rng)
    box = np.sort(rng.uniform(0, 320, (2, 2)), 0).reshape(-1)
    moved = shown(view, box)
    corners = transform(np.array([[box[a], box[b]] for a in (0, 2) for b in (1, 3)]), moved.matrix)
    shift = moved.matrix[:2, 2] - view.matrix[:2, 2]
    for axis in (0, 1):
        low, high = corners[:, axis].min(), corners[:, axis].max()
        if high - low > SIDE:
            assert low + high == pytest.approx(SIDE)
        else:
            assert low > -1e-9 and high < SIDE + 1e-9
            assert abs(shift[axis]) < 1e-9 or min(abs(low), abs(high - SIDE)) < 1e-9
    outside = np.array([330.0, 20, 400, 60])
    assert shown(view, outside) is view
    behind = View(np.array([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]), 1.0, (320, 320), SHAPE)
    assert shown(behind, box) is behind


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_letterboxed_images_lie_in_a_share_of_the_free_border(share):
    album = Album()
    for index in (1, 3):
        height, width = album.fitted(index)
        tops, lefts = zip(
            *(
                single_scene(album, index, SHAPE, replace(STILL, letterbox_jitter=share), np.random.default_rng(n))
                .tiles[0]
                .corner[::-1]
                for n in range(300)
            ),
            strict=True,
        )
        before = pad_before((height, width), SHAPE)
        for places, first, free in ((tops, before[0], SIDE - height), (lefts, before[1], SIDE - width)):
            assert min(places) >= 0 and max(places) <= free
            assert np.mean(places) == pytest.approx(first, abs=0.06 * free + 0.5)
            assert np.std(places) == pytest.approx(share * free / 12**0.5, abs=0.05 * free + 0.3)
        plain = single_scene(album, index, SHAPE, STILL, np.random.default_rng(0)).tiles[0].corner
        assert plain == before[::-1]


NEW = {
    "mosaic9": dict(mosaic9=1.0),
    "object_scale": dict(object_scale=1.0),
    "box_paste": dict(box_paste=1.0),
    "single": dict(mosaic=0.0, letterbox_jitter=1.0, object_scale=0.5, box_paste=1.0),
    "all": dict(mosaic=0.8, mosaic9=0.5, object_scale=0.5, box_paste=0.8, letterbox_jitter=0.7, flipud=0.5, fliplr=0.5),
}


@pytest.mark.parametrize("kind", NEW)
def test_boxes_surround_what_is_painted(kind):
    """Objects are painted in their class's color: each box is full of it, up to what is pasted over it, and no more
    of a color lies outside the boxes of its class than slivers of objects that the view cuts."""
    album, boxes, strays = PaintedAlbum(), 0, 0
    for n in range(40):
        hyp = replace(STILL, scale=0.3, translate=0.1, **NEW[kind])
        image, labels = augmented(album, n % 5, SHAPE, hyp, np.random.default_rng([n, 5]))
        assert (labels.xywhn[:, :2] - labels.xywhn[:, 2:] / 2 >= -1e-6).all()
        assert (labels.xywhn[:, :2] + labels.xywhn[:, 2:] / 2 <= 1 + 1e-6).all()
        for cls, color in enumerate(album.COLORS):
            painted = np.abs(image.astype(int) - color).max(2) <= 100
            known = np.zeros(SHAPE, bool)
            for x, y, w, h in labels.xywhn[labels.cls == cls] * SIDE:
                x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
                inner = painted[math.ceil(y0 + 0.4) : math.floor(y1 - 0.4), math.ceil(x0 + 0.4) : math.floor(x1 - 0.4)]
                known[
                    max(math.floor(y0 - 0.5), 0) : math.ceil(y1 + 0.5),
                    max(math.floor(x0 - 0.5), 0) : math.ceil(x1 + 0.5),
                ] = True
                boxes += 1
                assert inner.size == 0 or inner.mean() > (0.65 if hyp.box_paste else 0.97), (n, cls, x, y, w, h)
            strays += (painted & ~known).sum()
    assert boxes > 150 and strays < 2 * boxes


@pytest.mark.parametrize("mosaic, following", [(True, [764889, 455598, 945244]), (False, [554314, 452679, 678712])])
def test_without_new_gains_nothing_more_is_drawn(mosaic, following):
    """The number that comes next is that of v6.1's draws alone; numpy's generator gives it on every processor."""
    generators = [np.random.default_rng(n) for n in range(3)]
    hyp = replace(STILL, mosaic=0.7, mixup=0.5, copy_paste=0.5, color_magnitude=3.0)
    for n, generator in enumerate(generators):
        augmented(Album(polygons=True), n, SHAPE, hyp, generator, mosaic)
    assert [int(generator.integers(10**6)) for generator in generators] == following
