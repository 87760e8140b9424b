"""Scenes of augmentation: which images lie where on a canvas, which objects are on them, and what of it is shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.config import Hyperparameters
from utils.datasets.geometry import (
    Objects,
    Tile,
    View,
    mosaic_tiles,
    objects_on_canvas,
    random_view,
    shown,
    snapped,
    visible_objects,
)
from utils.datasets.image_source import ImageSource
from utils.datasets.letterboxing import pad_before
from utils.datasets.pasting import Patch, box_patches, copy_paste

ZOOM_BY_OBJECT = 0.5, 2.0  # least and most, whatever size is drawn for an object


@dataclass(frozen=True)
class Scene:
    """A canvas and a view of it.

    Attributes:
        tiles: Images on the canvas.
        objects: The objects on them.
        view: What of the canvas is shown.
        pasted: Indices of the objects whose mirrored copies are pasted.
        patches: Boxes of another image that are pasted into what is shown.
    """

    tiles: list[Tile]
    objects: Objects
    view: View
    pasted: tuple[int, ...] = ()
    patches: tuple[Patch, ...] = ()

    def visible(self) -> tuple[np.ndarray, np.ndarray]:
        """Return cls (n,) and xyxy (n, 4) float32 pixels of the objects in the output, pasted ones last."""
        cls, xyxy = visible_objects(self.objects, self.view)
        if not self.patches:
            return cls, xyxy
        return (
            np.concatenate([cls, *(patch.cls for patch in self.patches)]),
            np.concatenate([xyxy, *(patch.xyxy for patch in self.patches)]),
        )


def mosaic_scene(
    images: ImageSource, index: int, shape: tuple[int, int], hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    """Draw a mosaic of an image and three others on a canvas of twice the output's size, and a view of it.

    Args:
        images: The dataset.
        index: One of the four images.
        shape: (height, width) of the output in pixels.
        hyp: Gains of the view, `copy_paste`, and `mosaic9`, the probability of nine images (see `nine_scene`).
        generator: Decides center, images, order, view and copies.

    Returns:
        The scene, to be rendered.
    """
    if hyp.mosaic9 and generator.random() < hyp.mosaic9:
        return nine_scene(images, index, shape, hyp, generator)
    canvas = 2 * shape[0], 2 * shape[1]
    center = (
        int(generator.integers(shape[1] // 2, 3 * shape[1] // 2)),
        int(generator.integers(shape[0] // 2, 3 * shape[0] // 2)),
    )
    indices = [index, *(int(i) for i in generator.integers(len(images), size=3))]
    order = generator.permutation(4).tolist()
    indices = [indices[place] for place in order]
    focus = random_focus(images, index, hyp, generator)
    view = random_view(canvas, shape, hyp, generator, focus.zoom if focus else None)
    tiles = mosaic_tiles(indices, [images.fitted(i) for i in indices], center)
    return _mosaic_of(images, tiles, _focused(view, focus, tiles[order.index(0)]), hyp, generator)


def nine_scene(
    images: ImageSource, index: int, shape: tuple[int, int], hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    """Draw a mosaic of an image and eight others on a canvas of three times the output's size, and a view of it.

    The image's own tile lies in the middle, see `nine_tiles`; the view is that of a mosaic of four (Bochkovskiy et al.
    2020, "YOLOv4", who take four), which shows more than four of the nine where the four would leave gray.

    Args:
        images: The dataset.
        index: The image in the middle.
        shape: (height, width) of the output in pixels.
        hyp: Gains of the view, and `copy_paste`.
        generator: Decides images, places, view and copies.

    Returns:
        The scene, to be rendered.
    """
    canvas = 3 * shape[0], 3 * shape[1]
    indices = [int(i) for i in generator.integers(len(images), size=9)]
    indices[4] = index
    offsets = generator.random(4)
    focus = random_focus(images, index, hyp, generator)
    view = random_view(canvas, shape, hyp, generator, focus.zoom if focus else None)
    tiles = nine_tiles(indices, [images.fitted(i) for i in indices], offsets, view)
    return _mosaic_of(images, tiles, _focused(view, focus, tiles[4]), hyp, generator)


def _mosaic_of(
    images: ImageSource, tiles: list[Tile], view: View, hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    view, tiles = snapped(view, tiles)
    objects = objects_on_canvas(tiles, [images.labels(tile.index) for tile in tiles], view.canvas)
    objects, copied = copy_paste(objects, view.canvas[1], hyp.copy_paste, generator)
    return Scene(tiles, objects, view, copied)


def nine_tiles(
    indices: Sequence[int], sizes: Sequence[tuple[int, int]], offsets: Sequence[float] | np.ndarray, view: View
) -> list[Tile]:
    """Return nine tiles in three rows that do not overlap; the fifth lies over the middle of the canvas.

    The tiles of a row adjoin, and so do the rows. The upper row stands on the middle one, whose tiles hang from its
    upper edge. The middle one of each row lies over the middle of the canvas, at a random place of its own, so that
    rows are shifted like bricks.

    Args:
        indices: Nine images, row by row.
        sizes: (height, width) of each on the canvas in pixels.
        offsets: Where in the middle tile of each row, from the left, and in the fifth, from the top, the middle of the
            canvas lies: four numbers in 0..1.
        view: Of the canvas; if it is aligned, sizes and places are whole pixels of the output, else of the canvas.

    Returns:
        The tiles.
    """
    scale = view.scale if view.aligned else 1.0

    def whole(side: float, least: int = 0) -> float:
        return max(round(side * scale), least) / scale

    middle_y, middle_x = view.canvas[0] / 2, view.canvas[1] / 2
    heights = [whole(height, 1) for height, _ in sizes]
    widths = [whole(width, 1) for _, width in sizes]
    top = middle_y - whole(offsets[3] * heights[4])
    edges = top, top, top + max(heights[3:6])
    tiles = []
    for row, (edge, side) in enumerate(zip(edges, (-1, 1, 1), strict=True)):
        left = middle_x - whole(offsets[row] * widths[3 * row + 1])
        for column, x in enumerate((left, left, left + widths[3 * row + 1])):
            tile = 3 * row + column
            tiles.append(Tile(indices[tile], (x, edge), (1 if column else -1, side), (widths[tile], heights[tile])))
    return tiles


def single_scene(
    images: ImageSource, index: int, shape: tuple[int, int], hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    """Draw a view of one letterboxed image.

    Args:
        images: The dataset.
        index: Which image.
        shape: (height, width) of the output in pixels.
        hyp: Gains of the view, and `letterbox_jitter`: within which middle share of its free border the image lies.
        generator: Decides place and view.

    Returns:
        The scene, to be rendered.
    """
    size = images.fitted(index)
    top, left = pad_before(size, shape)
    if hyp.letterbox_jitter:
        shift = generator.uniform(-0.5, 0.5, 2) * hyp.letterbox_jitter
        top, left = (
            min(max(before + round(moved * (outer - inner)), 0), max(outer - inner, 0))
            for before, moved, outer, inner in zip((top, left), shift, shape, size, strict=True)
        )
    tile = Tile(index, (left, top), (1, 1), (size[1], size[0]))
    focus = random_focus(images, index, hyp, generator)
    view = random_view(shape, shape, hyp, generator, focus.zoom if focus else None)
    view, tiles = snapped(_focused(view, focus, tile), [tile])
    return Scene(tiles, objects_on_canvas(tiles, [images.labels(index)], shape), view)


def pasted(images: ImageSource, scene: Scene, hyp: Hyperparameters, generator: np.random.Generator) -> Scene:
    """Return a scene with, at a probability of `hyp.box_paste`, boxes of another image pasted into what it shows.

    Args:
        images: The dataset.
        scene: Tiles, objects and view.
        hyp: Its `box_paste`.
        generator: Decides whether, which and where.

    Returns:
        The scene.
    """
    if not hyp.box_paste or generator.random() >= hyp.box_paste:
        return scene
    return replace(scene, patches=box_patches(images, scene.visible()[1], scene.view.shape, generator))


@dataclass(frozen=True)
class ZoomChoice:
    """A zoom, and the object that it was chosen for.

    Attributes:
        zoom: Of the view.
        xywhn: (4,) the object's box in its image.
    """

    zoom: float
    xywhn: np.ndarray


def random_focus(
    images: ImageSource, index: int, hyp: Hyperparameters, generator: np.random.Generator
) -> ZoomChoice | None:
    """Draw, for a share `hyp.object_scale` of views, the zoom by the size of one of an image's objects.

    Data-anchor sampling (Tang et al. 2018, "PyramidBox", section 3.3) without anchors: the zoom is s_target / s_object,
    where s is the square root of the area and log s_target is uniform between the sizes that 5 % and 95 % of the
    objects of the dataset do not exceed. It is kept within 0.5 to 2.

    Args:
        images: The dataset.
        index: The image that the view is about.
        hyp: Its `object_scale`.
        generator: Decides whether, which object and which size.

    Returns:
        Zoom and object; None for a view whose zoom is that of `random_view`.
    """
    if not hyp.object_scale or generator.random() >= hyp.object_scale:
        return None
    labels, (height, width) = images.labels(index), images.fitted(index)
    if not len(labels):
        return None
    xywhn = labels.xywhn[generator.integers(len(labels))].astype(np.float64)
    target = math.exp(generator.uniform(*np.log(images.census.size_range)))
    size = math.sqrt(xywhn[2] * width * xywhn[3] * height)
    return ZoomChoice(min(max(target / max(size, 1e-3), ZOOM_BY_OBJECT[0]), ZOOM_BY_OBJECT[1]), xywhn)


def _focused(view: View, focus: ZoomChoice | None, tile: Tile) -> View:
    """A view moved as little as it takes to show the object that its zoom was chosen for."""
    if focus is None:
        return view
    center, half = focus.xywhn[:2] * tile.size + tile.corner, focus.xywhn[2:] * tile.size / 2
    return shown(view, np.concatenate((center - half, center + half)))
