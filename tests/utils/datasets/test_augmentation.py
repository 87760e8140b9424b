"""Augmentation against its literal form: tiles pasted on a canvas of four times the area, which is then warped."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from literal_scenes import SIDE, STILL, VIEWS, Album, literal_boxes, literal_canvas, literal_view, some_labels

from utils.datasets.augmentation import augmented, mixup, quadrupled
from utils.datasets.color_jitter import STRIP, Jitter, random_jitter
from utils.datasets.geometry import (
    Objects,
    Tile,
    View,
    objects_on_canvas,
    polygon_boxes,
    random_view,
    snapped,
    transform,
    visible_objects,
    worth_keeping,
)
from utils.datasets.pasting import copy_paste
from utils.datasets.rendering import render
from utils.datasets.scenes import Scene, mosaic_scene, single_scene
from utils.types import Labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("mosaic", [True, False], ids=["mosaic", "single"])
def test_one_resampling_equals_canvas_and_warp(kind, seed, mosaic):
    album, hyp = Album(), replace(STILL, **VIEWS[kind])
    scene = (mosaic_scene if mosaic else single_scene)(album, seed, (SIDE, SIDE), hyp, np.random.default_rng([seed, 7]))
    image, cls, xyxy = render(album, scene, Jitter())
    expected = literal_view(literal_canvas(album, scene), scene.view)
    difference = np.abs(image.astype(int) - expected).max(2)
    # seams blend over a pixel in the literal form; elsewhere only rounding remains
    assert np.quantile(difference, 0.9) <= 2 and difference.mean() < 1.5
    assert np.concatenate((cls[:, None], xyxy), 1) == pytest.approx(literal_boxes(album, scene), abs=1e-4)


def test_snapping_moves_a_view_by_less_than_a_pixel():
    rng = np.random.default_rng(0)
    for _ in range(50):
        view = random_view((2 * SIDE, 2 * SIDE), (SIDE, SIDE), replace(STILL, scale=0.9, translate=0.3), rng)
        tiles = [Tile(0, (97, 181), side, (160, 107)) for side in ((-1, -1), (1, -1), (-1, 1), (1, 1))]
        moved, sized = snapped(view, tiles)
        for old, new in zip(tiles, sized, strict=True):
            for before, after in zip(
                old.visible(view.canvas)[:2] + old.visible(view.canvas)[2:], new.visible(view.canvas), strict=True
            ):
                assert abs(before - after) * view.scale < 1.01
            corner = transform(np.array([new.corner]), moved.matrix)
            assert corner == pytest.approx(np.round(corner), abs=1e-9)
            assert np.array(new.size) * view.scale == pytest.approx(np.round(np.array(new.size) * view.scale), abs=1e-9)
        assert np.abs(moved.matrix - view.matrix).max() <= 0.5


def test_centre_of_the_mosaic_stays_in_the_middle_half_and_the_view_is_centred():
    album, centers = Album(), []
    for seed in range(200):
        scene = mosaic_scene(album, 0, (SIDE, SIDE), STILL, np.random.default_rng(seed))
        assert 0 in [tile.index for tile in scene.tiles] and len({tile.anchor for tile in scene.tiles}) == 1
        centers.append(scene.tiles[0].anchor)
        assert scene.view.matrix == pytest.approx(np.array([[1, 0, -SIDE / 2], [0, 1, -SIDE / 2], [0, 0, 1]]))
    centers = np.array(centers)
    assert centers.min() >= SIDE / 2 and centers.max() < 3 * SIDE / 2 and centers.mean() == pytest.approx(SIDE, abs=6)


def test_view_matrix_turns_clockwise_zooms_and_shifts():
    class Fixed:
        """Gives the highest value of every range."""

        def uniform(self, low, high, size=None):
            return high if size is None else np.full(size, high)

    view = random_view((200, 300), (100, 150), replace(STILL, degrees=90, scale=0.5, translate=0.1), Fixed())
    # the canvas center goes to 0.6 of the output; a step right on the canvas becomes one and a half up
    assert view.scale == 1.5
    assert transform(np.array([[150.0, 100], [151, 100]]), view.matrix) == pytest.approx(
        np.array([[90, 60], [90, 58.5]])
    )


def test_tiles_out_of_view_are_not_read():
    album = Album()
    tiles = [Tile(0, (40, 40), (-1, -1), (160, 120)), Tile(1, (40, 40), (1, 1), (90, 160))]
    view = View(np.array([[1.0, 0, -60], [0, 1, -60], [0, 0, 1]]), 1.0, (320, 320), (SIDE, SIDE))
    render(
        album, Scene(tiles, objects_on_canvas(tiles, [album.labels(0), album.labels(1)], (320, 320)), view), Jitter()
    )
    assert album.reads == [1]


def test_minified_tiles_are_averaged():
    """Stripes of one pixel, shown at a fifth: gray, not whichever stripe is hit."""
    album = Album()
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 200
    album.image = lambda index, zoom: stripes
    for degrees in (0.0, 30.0):
        hyp = replace(STILL, degrees=degrees)
        image, _, _ = render(album, single_scene(album, 2, (SIDE, SIDE), hyp, np.random.default_rng(1)), Jitter())
        assert np.abs(image[60:100, 60:100].astype(int) - 100).max() <= 30


@pytest.mark.parametrize(
    "inside, box",
    [
        ([(-50, 20), (50, 20), (50, 60), (-50, 60)], (0, 20, 50, 60)),
        ([(10, -20), (40, 50), (-30, 90)], None),
        ([(-10, -10), (200, -10), (200, 200), (-10, 200)], (0, 0, 100, 80)),  # the frame lies inside
        ([(-30, -40), (60, -40), (30, 140), (-30, 140)], (0, 0, 160 / 3, 80)),  # covers the left side whole
        ([(120, 10), (180, 10), (180, 60)], (0, 0, 0, 0)),
        ([(20, 30), (80, 30), (80, 70)], (20, 30, 80, 70)),
    ],
)
def test_polygon_boxes_are_exact(inside, box):
    polygon, limit = np.array(inside, float), np.array([100.0, 80.0])
    together = polygon_boxes(
        [np.array([[1.0, 1], [5, 1], [5, 9]]), polygon, np.array([[7.0, 7], [9, 7], [9, 8]])], limit
    )
    assert together[[0, 2]] == pytest.approx(np.array([[1, 1, 5, 9], [7, 7, 9, 8]]))
    if box is None:  # against the area itself, sampled
        x, y = np.meshgrid(np.arange(0.05, 100, 0.1), np.arange(0.05, 80, 0.1))
        contour = (polygon * 16).astype(np.float32)
        points = np.stack((x.ravel()[::7], y.ravel()[::7]), 1)
        hit = points[[cv2.pointPolygonTest(contour, (a * 16, b * 16), False) >= 0 for a, b in points]]
        box = (*hit.min(0), *hit.max(0))
    assert together[1] == pytest.approx(box, abs=0.8 if inside[0] == (10, -20) else 1e-9)


def test_closing_edge_of_an_outline_counts():
    """The widest point in view lies on the edge from the last point to the first."""
    polygon = np.array([[150.0, 40], [50, -100], [50, -50], [-40, 40]])  # last to first: along y = 40 through the frame
    assert polygon_boxes([polygon], np.array([100.0, 80.0]))[0, 3] == pytest.approx(40)


def test_outlines_give_tighter_boxes_and_a_smaller_area_threshold():
    corners = np.array([[40.0, 0], [80, 40], [40, 80], [0, 40]])  # a diamond in the box 0..80
    objects = Objects(np.array([3, 3]), np.array([[0, 0, 80, 80.0]] * 2), np.zeros(2, int), (corners, None))
    turning = np.array([[np.cos(0.7), -np.sin(0.7), 60], [np.sin(0.7), np.cos(0.7), 0], [0, 0, 1]])
    turned = View(turning, 1.0, (160, 160), (160, 160))
    _, boxes = visible_objects(objects, turned)
    assert np.prod(boxes[0, 2:] - boxes[0, :2]) < 0.75 * np.prod(boxes[1, 2:] - boxes[1, :2])
    sliver = View(
        np.array([[1.0, 0, -72], [0, 1, 0], [0, 0, 1]]), 1.0, (160, 160), (160, 160)
    )  # a tenth of the width remains
    cls, boxes = visible_objects(replace(objects, xyxy=np.array([[0, 0, 80, 80.0], [0, 0, 79.0, 80]])), sliver)
    assert len(cls) == 1 and boxes[0] == pytest.approx([0, 32, 8, 48])


def test_worth_keeping():
    before = np.array([[0, 0, 100, 100.0]] * 6)
    after = np.array(
        [[0, 0, 2, 90], [0, 0, 31, 31], [0, 0, 32, 32], [0, 0, 300, 2.9], [0, 0, 299, 3.1], [0, 0, 90, 1.9]]
    )
    assert worth_keeping(before, after, 0.1).tolist() == [False, False, True, False, False, False]
    assert worth_keeping(before, after, 0.01).tolist() == [False, True, True, False, True, False]


def test_copy_paste_draws_mirrored_objects_black_pixels_too():
    album = Album(polygons=True)
    images = {2: np.full((160, 160, 3), 90, np.uint8)}
    polygon = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.4], [0.1, 0.4]], np.float32)
    images[2][16:64, 16:48] = (0, 0, 0)
    album.image = lambda index, zoom: images[index]
    album.labels = lambda index: Labels(np.array([5]), np.float32([[0.2, 0.25, 0.2, 0.3]]), (polygon,))
    tile = Tile(2, (0, 0), (1, 1), (160, 160))
    objects, pasted = copy_paste(
        objects_on_canvas([tile], [album.labels(2)], (320, 320)), 320, 1.0, np.random.default_rng(0)
    )
    assert pasted == (0,) and objects.xyxy[1] == pytest.approx([272, 16, 304, 64]) and objects.owner.tolist() == [0, 0]
    view = View(np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]]), 0.5, (320, 320), (160, 160))
    image, cls, xyxy = render(album, Scene([tile], objects, view, pasted), Jitter())
    assert cls.tolist() == [5, 5] and xyxy[1] == pytest.approx([136, 8, 152, 32])
    assert image[9:31, 137:151].max() == 0, "the copy is there, black as it is"
    assert (image[:, 84:134] == 114).all() and (image[35:] != 0).all()


def test_copy_paste_covers_no_object_by_thirty_percent_and_needs_outlines():
    boxes = np.array([[0, 0, 40, 40.0], [70, 0, 100, 40], [0, 60, 40, 90]])
    outlines = tuple(np.array([[x0, y0], [x1, y0], [x1, y1]]) for x0, y0, x1, y1 in boxes)
    objects = Objects(np.arange(3), boxes, np.zeros(3, int), outlines)
    result, pasted = copy_paste(objects, 100, 1.0, np.random.default_rng(0))
    assert pasted == (2,)  # 0 would fall on 1 and the other way round
    assert result.cls.tolist() == [0, 1, 2, 2] and result.xyxy[3].tolist() == [60, 60, 100, 90]
    assert len(result.polygons) == len(result) == 4
    assert copy_paste(replace(objects, polygons=(None,) * 3), 100, 1.0, np.random.default_rng(0))[1] == ()
    assert copy_paste(objects, 100, 0.0, np.random.default_rng(0))[1] == ()


def test_labels_with_and_without_outlines_share_a_mosaic():
    tiles = [Tile(0, (100, 100), (-1, -1), (80, 80)), Tile(1, (100, 100), (1, 1), (80, 80))]
    objects = objects_on_canvas(tiles, [some_labels(0, True), some_labels(1, False)], (200, 200))
    assert objects.outlined.tolist() == [True] * 6 + [False] * 6 and len(objects.polygons) == len(objects)


def literal_jitter(image, factors):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(float)
    hsv[..., 0] = np.floor(hsv[..., 0] * factors[0]) % 180
    hsv[..., 1:] = np.clip(np.round(hsv[..., 1:] * factors[1:]), 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def test_colour_jitter():
    image = np.random.default_rng(0).integers(0, 256, (150, 70, 3), dtype=np.uint8)
    factors = 1 + np.random.default_rng(5).uniform(-1, 1, 3) * (0.015, 0.7, 0.4)
    jitter = random_jitter(0.015, 0.7, 0.4, np.random.default_rng(5))
    changed = np.empty_like(image)
    jitter.apply(image, changed)
    assert np.abs(changed.astype(int) - literal_jitter(image, factors)).max() <= 1
    assert random_jitter(0, 0, 0, np.random.default_rng(5)) == Jitter()
    Jitter().apply(image, changed)
    assert (changed == image).all()


@pytest.mark.parametrize("shape", [(1100, 130, 3), (1, 70_000, 3), (492, 130, 3)])
def test_color_jitter_in_strips_equals_that_of_the_whole(shape, monkeypatch):
    """Exact: a pixel's color depends on that pixel alone."""
    image, jitter = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8), Jitter(1.012, 1.43, 0.71)
    h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    h = (np.arange(256) * jitter.hue % 180).astype(np.uint8)[h]
    s, v = cv2.convertScaleAbs(s, alpha=jitter.saturation), cv2.convertScaleAbs(v, alpha=jitter.value)
    expected = cv2.cvtColor(cv2.merge((h, s, v)), cv2.COLOR_HSV2RGB)
    lookups, look_up = [], cv2.LUT
    monkeypatch.setattr(cv2, "LUT", lambda *args, **more: lookups.append(args[0].size) or look_up(*args, **more))
    changed, before = np.empty_like(image), image.copy()
    jitter.apply(image, changed)
    assert (changed == expected).all() and (image == before).all()
    assert sum(lookups) == image.size // 3 and len(lookups) == -(-shape[0] // max(STRIP // shape[1], 1))
    jitter.apply(image, image)
    assert (image == expected).all()


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_jitter_while_painting_equals_jitter_afterwards(degrees):
    hyp, jitter = replace(STILL, degrees=degrees, scale=0.5, translate=0.2), Jitter(1.01, 0.6, 1.3)
    scene = mosaic_scene(Album(), 0, (SIDE, SIDE), hyp, np.random.default_rng(0))
    plain, cls, _ = render(Album(), scene, Jitter())
    expected = np.empty_like(plain)
    jitter.apply(plain, expected)
    image, same, _ = render(Album(), scene, jitter)
    difference = np.abs(image.astype(int) - expected)  # enlarged tiles take their colors before they are resized
    assert (
        difference.mean() < 0.7
        and np.quantile(difference, 0.99) <= 3
        and (plain == 114).all(2).any()
        and (cls == same).all()
    )


@pytest.mark.parametrize("left_right, up_down", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_flips_turn_pixels_and_boxes(left_right, up_down):
    plain, labels = augmented(Album(), 1, (SIDE, SIDE), STILL, np.random.default_rng(3))
    hyp = replace(STILL, fliplr=left_right, flipud=up_down)
    flipped, turned = augmented(Album(), 1, (SIDE, SIDE), hyp, np.random.default_rng(3))
    expected = plain[:: -1 if up_down else 1, :: -1 if left_right else 1]
    assert (flipped == expected).all() and len(labels) > 3
    signs, shift = np.float32([-1 if left_right else 1, -1 if up_down else 1]), np.float32([left_right, up_down])
    assert turned.xywhn == pytest.approx(
        np.concatenate((labels.xywhn[:, :2] * signs + shift, labels.xywhn[:, 2:]), 1), abs=1e-6
    )


def test_mixup_blends_two_and_keeps_all_objects():
    one = np.full((4, 4, 3), 100, np.uint8), np.array([1]), np.float32([[0, 0, 2, 2]])
    other = np.full((4, 4, 3), 200, np.uint8), np.array([2, 3]), np.float32([[0, 0, 3, 3], [1, 1, 4, 4]])
    image, cls, xyxy = mixup(one, other, 0.25)
    assert (image == 175).all() and cls.tolist() == [1, 2, 3] and xyxy.shape == (3, 4)
    rng = np.random.default_rng(0)
    plain, mixed = (
        sum(len(augmented(Album(), i, (SIDE, SIDE), replace(STILL, mixup=chance), rng)[1]) for i in range(5))
        for chance in (0.0, 1.0)
    )
    assert mixed > 1.5 * plain


def rare_album():
    """Image 4 alone has objects of class 1, image 3 none; the others have class 0."""
    album, boxes = Album(), some_labels(0).xywhn
    album.labels = lambda index: Labels.none() if index == 3 else Labels(np.full(6, int(index == 4)), boxes)
    return album


def test_gated_mixup_is_about_rare_images_and_only_if_they_make_objects_rarer():
    """Literally: the second mosaic is drawn from the rare image, and blended if its objects are rarer on average."""
    album, hyp = rare_album(), replace(STILL, mixup=1.0, mixup_gate=1.0)
    census, blended, rare = album.census, 0, 0
    for seed in range(60):
        image, labels = augmented(album, 0, (SIDE, SIDE), hyp, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.uniform(-1, 1, 3), rng.random(4)  # jitter, flips, mosaic, mixup
        assert rng.random() < 1  # the gate's share
        second = census.draw_image(rng)
        scenes = [mosaic_scene(album, each, (SIDE, SIDE), hyp, rng) for each in (0, second)]
        counts = {0: 18, 1: 6}
        rarity = [np.mean([1 / counts[c] for c in scene.visible()[0].tolist()] or [0]) for scene in scenes]
        rendered = [render(album, scene, Jitter())[0] for scene in scenes]
        if rarity[1] > rarity[0]:
            share = rng.beta(32.0, 32.0)
            assert (image == cv2.addWeighted(rendered[0], share, rendered[1], 1 - share, 0)).all()
            assert len(labels) == sum(len(scene.visible()[0]) for scene in scenes)
            blended += 1
        else:
            assert (image == rendered[0]).all() and len(labels) == len(scenes[0].visible()[0])
        rare += second == 4
        assert second != 3
    # its weight is 1/6 of 1/6 + 3/18
    assert rare == pytest.approx(30, abs=14) and 10 < blended < 50


def test_a_share_of_blends_is_gated():
    album = rare_album()
    album.labels = lambda index: Labels(np.zeros(6, int), some_labels(0).xywhn)
    plain, mixed = (
        [len(augmented(album, 0, (SIDE, SIDE), replace(STILL, **more), np.random.default_rng(n))[1]) for n in range(80)]
        for more in (dict(mixup=1.0, mixup_gate=0.5), dict(mixup=1.0, mixup_gate=1.0))
    )
    # one class: none is rarer, so every gated blend is left out
    alone = [len(augmented(album, 0, (SIDE, SIDE), STILL, np.random.default_rng(n))[1]) for n in range(80)]
    assert np.mean(mixed) == pytest.approx(np.mean(alone), rel=0.1)
    assert np.mean(plain) == pytest.approx(1.5 * np.mean(alone), rel=0.15)


def test_quad_sheet_and_enlargement():
    box = np.float32([[0.5, 0.5, 0.2, 0.4]])
    four = [(np.full((2, 4, 3), value, np.uint8), Labels(np.array([value]), box)) for value in range(4)]
    image, labels = quadrupled(four, enlarge=False)
    assert image[::2, ::4, 0].tolist() == [[0, 2], [1, 3]] and image.shape == (4, 8, 3)
    assert labels.cls.tolist() == [0, 1, 2, 3]
    assert labels.xywhn == pytest.approx(np.float32([[x, y, 0.1, 0.2] for x in (0.25, 0.75) for y in (0.25, 0.75)]))
    image, labels = quadrupled(four, enlarge=True)
    assert image.shape == (4, 8, 3) and (image == 0).all() and labels.xywhn.tolist() == four[0][1].xywhn.tolist()


@pytest.mark.parametrize("enlarged", [1, 2, 3])
def test_labels_do_not_depend_on_the_size_a_file_is_read_at(enlarged):
    reference, larger = Album(), Album(enlarged=enlarged)
    hyp = replace(STILL, scale=0.5, translate=0.1)
    image, labels = augmented(reference, 0, (SIDE, SIDE), hyp, np.random.default_rng(2))
    other, same = augmented(larger, 0, (SIDE, SIDE), hyp, np.random.default_rng(2))
    assert (labels.xywhn == same.xywhn).all() and image.shape == other.shape
