"""Augmentation of training images: mosaic, copy-paste, mixup, random views, flips and color jitter.

Pure functions of images, labels, gains and a generator. An image is never drawn on the large mosaic canvas: each tile's
placement and the random view are composed and the tile is resampled once, into the output.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from utils.config import Hyperparameters
from utils.datasets.color_jitter import Jitter, random_jitter
from utils.datasets.geometry import (
    Objects,
    Tile,
    View,
    mosaic_tiles,
    objects_on_canvas,
    random_view,
    snapped,
    transform,
    visible_objects,
)
from utils.datasets.letterboxing import GRAY, pad_before
from utils.types import Labels

SLACK = 8  # pixels a resized rectangle may reach out of view to meet whole source pixels
MAX_COVERED = 0.30  # copy-paste: share of a present object that a pasted one may cover


class ImageSource(Protocol):
    """What augmentation reads of a dataset of `len()` images."""

    def __len__(self) -> int: ...

    def fitted(self, index: int) -> tuple[int, int]:
        """Return (height, width) with the long side brought to the training size."""

    def labels(self, index: int) -> Labels: ...

    def image(self, index: int, zoom: float) -> np.ndarray:
        """Return an image for use at a multiple of its fitted size.

        Args:
            index: Which image.
            zoom: Multiple of the fitted size that it will be shown at.

        Returns:
            (H, W, 3) uint8 RGB, at least that large if the file is.
        """


@dataclass(frozen=True)
class Scene:
    """A canvas and a view of it.

    Attributes:
        tiles: Images on the canvas.
        objects: The objects on them.
        view: What of the canvas is shown.
        pasted: Indices of the objects whose mirrored copies are pasted.
    """

    tiles: list[Tile]
    objects: Objects
    view: View
    pasted: tuple[int, ...] = ()


def augmented(
    images: ImageSource,
    index: int,
    shape: tuple[int, int],
    hyp: Hyperparameters,
    generator: np.random.Generator,
    mosaic: bool = True,
) -> tuple[np.ndarray, Labels]:
    """Return one training image and its labels.

    Args:
        images: The dataset.
        index: The image that it is about.
        shape: (height, width) of the output in pixels.
        hyp: Gains of views, flips and colors; with `mosaic`, `hyp.mosaic` is the probability of four images in one and
            `hyp.mixup` that of blending two such.
        generator: Decides everything.
        mosaic: Whether mosaics are allowed; otherwise the image is letterboxed into `shape`.

    Returns:
        (H, W, 3) uint8 RGB and its labels.
    """
    jitter = random_jitter(hyp.hsv_h, hyp.hsv_s, hyp.hsv_v, generator)
    flips = generator.random() < hyp.fliplr, generator.random() < hyp.flipud
    if not (mosaic and generator.random() < hyp.mosaic):
        image, cls, xyxy = render(images, single_scene(images, index, shape, hyp, generator), jitter)
    elif generator.random() >= hyp.mixup:
        image, cls, xyxy = render(images, mosaic_scene(images, index, shape, hyp, generator), jitter)
    else:
        first, second = [
            render(images, mosaic_scene(images, each, shape, hyp, generator), Jitter())
            for each in (index, int(generator.integers(len(images))))
        ]
        image, cls, xyxy = mixup(first, second, generator.beta(32.0, 32.0))
        jitter.apply(image, image)
    image, xyxy = _flipped(image, xyxy, *flips)
    return image, _normalized(cls, xyxy, shape)


def mosaic_scene(
    images: ImageSource, index: int, shape: tuple[int, int], hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    """Draw a mosaic of an image and three others on a canvas of twice the output's size, and a view of it.

    Args:
        images: The dataset.
        index: One of the four images.
        shape: (height, width) of the output in pixels.
        hyp: Gains of the view, and `copy_paste`.
        generator: Decides center, images, order, view and copies.

    Returns:
        The scene, to be rendered.
    """
    canvas = 2 * shape[0], 2 * shape[1]
    center = (
        int(generator.integers(shape[1] // 2, 3 * shape[1] // 2)),
        int(generator.integers(shape[0] // 2, 3 * shape[0] // 2)),
    )
    indices = [index, *(int(i) for i in generator.integers(len(images), size=3))]
    indices = [indices[place] for place in generator.permutation(4)]
    view = random_view(canvas, shape, hyp, generator)
    view, tiles = snapped(view, mosaic_tiles(indices, [images.fitted(i) for i in indices], center))
    objects = objects_on_canvas(tiles, [images.labels(i) for i in indices], canvas)
    objects, pasted = copy_paste(objects, canvas[1], hyp.copy_paste, generator)
    return Scene(tiles, objects, view, pasted)


def single_scene(
    images: ImageSource, index: int, shape: tuple[int, int], hyp: Hyperparameters, generator: np.random.Generator
) -> Scene:
    """Draw a view of one letterboxed image.

    Args:
        images: The dataset.
        index: Which image.
        shape: (height, width) of the output in pixels.
        hyp: Gains of the view.
        generator: Decides the view.

    Returns:
        The scene, to be rendered.
    """
    height, width = images.fitted(index)
    top, left = pad_before((height, width), shape)
    view, tiles = snapped(
        random_view(shape, shape, hyp, generator), [Tile(index, (left, top), (1, 1), (width, height))]
    )
    return Scene(tiles, objects_on_canvas(tiles, [images.labels(index)], shape), view)


def copy_paste(
    objects: Objects, width: int, probability: float, generator: np.random.Generator
) -> tuple[Objects, tuple[int, ...]]:
    """Add mirrored copies of some objects (Ghiasi et al. 2021, "Simple Copy-Paste").

    A copy, mirrored at the middle of the canvas, is dropped if it would cover 30 % or more of a present object.

    Args:
        objects: Objects on the canvas.
        width: Width of the canvas in pixels.
        probability: Share of the objects with outlines to try.
        generator: Decides which.

    Returns:
        All objects, and the indices of those that were copied.
    """
    candidates = np.flatnonzero(objects.outlined) if probability else np.zeros(0, int)
    if not len(candidates):
        return objects, ()
    boxes: np.ndarray = objects.xyxy
    chosen: list[int] = []
    for index in generator.permutation(candidates)[: round(probability * len(candidates))]:
        x0, y0, x1, y1 = objects.xyxy[index]
        mirrored = np.array([width - x1, y0, width - x0, y1])
        if (_covered(mirrored, boxes) < MAX_COVERED).all():
            boxes = np.concatenate((boxes, mirrored[None]))
            chosen.append(int(index))
    outlines = tuple(_mirrored(_outline(objects, index), width) for index in chosen)
    return Objects(
        np.append(objects.cls, objects.cls[chosen]),
        boxes,
        np.append(objects.owner, objects.owner[chosen]),
        objects.polygons + outlines,
    ), tuple(chosen)


def mixup(one: tuple, other: tuple, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two training images blended, with the objects of both (Zhang et al. 2018, "mixup").

    Args:
        one: (image, cls, xyxy).
        other: The same of another.
        share: Share of the first, 0..1.

    Returns:
        (image, cls, xyxy).
    """
    return (
        cv2.addWeighted(one[0], share, other[0], 1 - share, 0),
        np.concatenate((one[1], other[1])),
        np.concatenate((one[2], other[2])),
    )


def _covered(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) share of each of the others that `box` covers."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return sides.clip(0).prod(1) / ((others[:, 2:] - others[:, :2]).prod(1) + 1e-16)


def _outline(objects: Objects, index: int) -> np.ndarray:
    polygon = objects.polygons[index]
    if polygon is None:
        raise ValueError(f"object {index} has no outline to paste")
    return polygon


def _mirrored(points: np.ndarray, width: float) -> np.ndarray:
    return points * (-1, 1) + (width, 0)


def _flipped(image: np.ndarray, xyxy: np.ndarray, left_right: bool, up_down: bool) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    if left_right:
        xyxy = xyxy[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    if up_down:
        xyxy = xyxy[:, [0, 3, 2, 1]] * np.array([1, -1, 1, -1], np.float32) + np.array(
            [0, height, 0, height], np.float32
        )
    if left_right or up_down:  # in place: a twentieth of a millisecond, cheaper than a mirrored resampling
        cv2.flip(image, -1 if left_right and up_down else int(left_right), dst=image)
    return image, xyxy


def _normalized(cls: np.ndarray, xyxy: np.ndarray, shape: tuple[int, int]) -> Labels:
    size = np.array([shape[1], shape[0]], np.float32)
    return Labels(
        cls, np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) / (2 * size), (xyxy[:, 2:] - xyxy[:, :2]) / size), 1)
    )


def render(images: ImageSource, scene: Scene, jitter: Jitter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the view of a scene shows. Tiles out of view are not read.

    Args:
        images: The dataset that the tiles are of.
        scene: Tiles, objects and view.
        jitter: Change of colors.

    Returns:
        Image (H, W, 3) uint8 RGB, cls (n,), xyxy (n, 4) pixels.
    """
    read: dict[int, np.ndarray] = {}

    def image_of(tile: Tile) -> np.ndarray:
        if tile.index not in read:
            read[tile.index] = images.image(tile.index, scene.view.scale)
        return read[tile.index]

    if scene.view.aligned and not scene.pasted:
        # tiles do not overlap: each is jittered while it is in the cache, the gray between them never is
        output = np.full((*scene.view.shape, 3), jitter.gray(GRAY), np.uint8)
        for tile in scene.tiles:
            _paint_resized(output, tile, scene.view, image_of, jitter)
    else:
        output = np.full((*scene.view.shape, 3), GRAY, np.uint8)
        for tile in scene.tiles:
            _paint_warped(output, tile, scene.view, image_of)
        for index in scene.pasted:
            owner, polygon = scene.tiles[scene.objects.owner[index]], _outline(scene.objects, index)
            _paint_mirrored(output, owner, polygon, scene.view, image_of)
        jitter.apply(output, output)
    return output, *visible_objects(scene.objects, scene.view)


def _paint_resized(
    output: np.ndarray, tile: Tile, view: View, image_of: Callable[[Tile], np.ndarray], jitter: Jitter
) -> None:
    """Draw a tile through a snapped aligned view: its whole rectangle in the output has whole-pixel sides."""
    visible, spans = tile.visible(view.canvas), []
    for axis in (0, 1):
        zoom, shift = view.matrix[axis, axis], view.matrix[axis, 2]
        limit = output.shape[1 - axis]
        first = max(math.ceil(zoom * visible[axis] + shift - 0.5), 0)  # pixels whose center is covered
        last = min(math.ceil(zoom * visible[axis + 2] + shift - 0.5), limit)
        spans.append((first, last, round(zoom * tile.corner[axis] + shift), round(zoom * tile.size[axis])))
    if any(last <= first for first, last, _, _ in spans):
        return
    image = image_of(tile)
    columns, rows = (_source_span(*span, image.shape[1 - axis]) for axis, span in enumerate(spans))
    image = image[rows.source, columns.source]
    image = _shrunk(image, rows.size / image.shape[0], columns.size / image.shape[1])
    if image.shape[0] * image.shape[1] < rows.size * columns.size:  # enlarged: colors first, on fewer pixels
        plain, image = image, np.empty_like(image)
        jitter.apply(plain, image)
        jitter = Jitter()
    target = output[rows.target, columns.target]
    if target.shape[:2] == (rows.size, columns.size):
        cv2.resize(image, (columns.size, rows.size), dst=target, interpolation=cv2.INTER_LINEAR)
        jitter.apply(target, target)
    else:
        resized = cv2.resize(image, (columns.size, rows.size), interpolation=cv2.INTER_LINEAR)
        jitter.apply(resized[rows.crop, columns.crop], target)


@dataclass(frozen=True)
class _Span:
    """Along one axis: the source pixels to resize to `size`, the part of that to keep, and where it goes."""

    source: slice
    size: int
    crop: slice
    target: slice


def _source_span(first: int, last: int, start: int, full: int, source: int) -> _Span:
    """Return which source pixels, resized to how many, give output pixels first..last.

    The image has `source` pixels and covers `full` output pixels from `start`. The span grows by a few pixels to where
    a boundary of output pixels meets one of source pixels, so that a resize of that part is in register with a resize
    of the whole to a few hundredths of a pixel.
    """
    ratio = source / full
    reach = SLACK + math.ceil(1 / ratio)

    def misfit(place: int) -> float:
        return abs(place * ratio - round(place * ratio))

    first, last = first - start, last - start
    low = min(range(first, max(first - reach, -1), -1), key=misfit)
    high = min(range(last, min(last + reach, full) + 1), key=misfit)
    from_, to = round(low * ratio), round(high * ratio)
    if to <= from_:
        from_ = min(from_, source - 1)
        to = from_ + 1
    return _Span(slice(from_, to), high - low, slice(first - low, last - low), slice(first + start, last + start))


def _shrunk(image: np.ndarray, zoom_y: float, zoom_x: float) -> np.ndarray:
    """Return `image` averaged over whole blocks of pixels if it will be shown at half its size or less.

    So the linear resampling that follows skips no pixels. Less than a block is left out, evenly at both ends.
    """
    block_y, block_x = (
        max(min(int(1 / zoom), side), 1) for zoom, side in zip((zoom_y, zoom_x), image.shape, strict=False)
    )
    if block_y == block_x == 1:
        return image
    rows, columns = image.shape[0] // block_y, image.shape[1] // block_x
    top, left = (image.shape[0] - rows * block_y) // 2, (image.shape[1] - columns * block_x) // 2
    image = image[top : top + rows * block_y, left : left + columns * block_x]
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def _paint_warped(output: np.ndarray, tile: Tile, view: View, image_of: Callable[[Tile], np.ndarray]) -> None:
    """Draw a tile through any view, inside the quadrilateral that its visible part becomes."""
    x0, y0, x1, y1 = tile.visible(view.canvas)
    outline = transform(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), view.matrix)
    _warp_inside(output, outline, tile, view, view.matrix, image_of)


def _paint_mirrored(
    output: np.ndarray, tile: Tile, polygon: np.ndarray, view: View, image_of: Callable[[Tile], np.ndarray]
) -> None:
    """Draw the part of a tile inside `polygon` (canvas pixels), mirrored at the middle of the canvas."""
    matrix = view.matrix @ np.array([[-1.0, 0, view.canvas[1]], [0, 1, 0], [0, 0, 1]])
    _warp_inside(output, transform(polygon, matrix), tile, view, matrix, image_of)


def _warp_inside(
    output: np.ndarray,
    outline: np.ndarray,
    tile: Tile,
    view: View,
    matrix: np.ndarray,
    image_of: Callable[[Tile], np.ndarray],
) -> None:
    """Resample a tile through `matrix` (canvas to output) into the pixels of `output` inside `outline` (k, 2)."""
    if np.isnan(outline).any():  # reaches behind the horizon of a strong perspective
        return
    low = np.floor(outline.min(0)).clip(0).astype(int)
    high = np.minimum(np.ceil(outline.max(0)), output.shape[1::-1]).astype(int)
    if (high <= low).any():
        return
    image = image_of(tile)
    image = _shrunk(
        image, *(view.scale * size / side for size, side in zip(tile.size[::-1], image.shape, strict=False))
    )
    target = output[low[1] : high[1], low[0] : high[0]]
    size = target.shape[1::-1]
    # OpenCV counts from the center of the first pixel, we from its corner
    index_from_point, point_from_index = np.eye(3), np.eye(3)
    index_from_point[:2, 2], point_from_index[:2, 2] = -low - 0.5, 0.5
    warp = index_from_point @ matrix @ tile.placing(image.shape[1], image.shape[0]) @ point_from_index
    warped = cv2.warpPerspective(image, warp, size, borderMode=cv2.BORDER_REPLICATE)  # as fast as warpAffine
    mask = np.zeros(target.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((outline - low - 0.5) * 16).astype(np.int32)], 255, shift=4)
    cv2.copyTo(warped, mask, target)


def quadrupled(samples: Sequence[tuple[np.ndarray, Labels]], enlarge: bool) -> tuple[np.ndarray, Labels]:
    """Return one image of twice the size, made of four.

    Args:
        samples: Four (H, W, 3) images with labels.
        enlarge: Double the first instead of joining all four in a 2 x 2 grid.

    Returns:
        (2H, 2W, 3) and its labels.
    """
    if enlarge or len(samples) < 4:
        image, labels = samples[0]
        return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), Labels(labels.cls, labels.xywhn)
    rows = [np.concatenate((samples[left][0], samples[left + 2][0]), 1) for left in (0, 1)]
    corners = np.array([[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]], np.float32)  # down first, then right
    boxes = [
        np.concatenate((labels.xywhn[:, :2] / 2 + corner, labels.xywhn[:, 2:] / 2), 1)
        for (_, labels), corner in zip(samples, corners, strict=False)
    ]
    return np.concatenate(rows, 0), Labels(np.concatenate([labels.cls for _, labels in samples]), np.concatenate(boxes))
