"""Augmented training pictures: mosaic, copy-paste, mixup, random views, flips and colour jitter.

Pure functions of pictures, labels, gains and a generator. A picture is never drawn on the large mosaic canvas:
each tile's placement and the random view are composed and the tile is resampled once, into the output.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from utils.datasets.color_jitter import Jitter, random_jitter
from utils.datasets.geometry import (
    Objects,
    Tile,
    View,
    mosaic_tiles,
    objects_on_canvas,
    random_view,
    seen,
    snapped,
    transform,
)
from utils.datasets.letterbox import GREY, pad_before
from utils.types import Labels

SLACK = 8  # pixels a resized rectangle may reach out of view to meet whole source pixels
MAX_COVERED = 0.30  # copy-paste: share of a present object that a pasted one may cover


class Pictures(Protocol):
    """What augmentation needs of a data set of `len()` pictures."""

    def __len__(self) -> int: ...

    def fitted(self, index: int) -> tuple[int, int]:
        """(height, width) with the long side brought to the training size."""

    def labels(self, index: int) -> Labels: ...

    def image(self, index: int, zoom: float) -> np.ndarray:
        """The picture, RGB, for use at `zoom` times its fitted size: at least that large, where the file is."""


@dataclass(frozen=True)
class Scene:
    """Tiles on a canvas, the objects on them, the view, and the numbers of the objects to paste mirrored."""

    tiles: list[Tile]
    objects: Objects
    view: View
    pasted: tuple[int, ...] = ()


def augmented(
    pictures: Pictures, index: int, shape: tuple[int, int], hyp, generator: np.random.Generator, mosaic: bool = True
) -> tuple[np.ndarray, Labels]:
    """Return one training picture (H, W, 3) uint8 RGB of `shape` and its labels.

    With `mosaic`, hyp.mosaic is the chance of four pictures in one and hyp.mixup the chance that two such are blended;
    otherwise picture `index` is letterboxed into `shape`. hyp gives the gains of views, flips and colours.
    """
    jitter = random_jitter(hyp.hsv_h, hyp.hsv_s, hyp.hsv_v, generator)
    flips = generator.random() < hyp.fliplr, generator.random() < hyp.flipud
    if not (mosaic and generator.random() < hyp.mosaic):
        image, cls, xyxy = render(pictures, single_scene(pictures, index, shape, hyp, generator), jitter)
    elif generator.random() >= hyp.mixup:
        image, cls, xyxy = render(pictures, mosaic_scene(pictures, index, shape, hyp, generator), jitter)
    else:
        pair = [
            render(pictures, mosaic_scene(pictures, each, shape, hyp, generator), Jitter())
            for each in (index, int(generator.integers(len(pictures))))
        ]
        image, cls, xyxy = mixup(*pair, generator.beta(32.0, 32.0))
        jitter.apply(image, image)
    image, xyxy = _flipped(image, xyxy, *flips)
    return image, _normalised(cls, xyxy, shape)


def mosaic_scene(pictures: Pictures, index: int, shape: tuple[int, int], hyp, generator: np.random.Generator) -> Scene:
    """Draw a mosaic of picture `index` and three others on a canvas of twice `shape`, and a view of it."""
    canvas = 2 * shape[0], 2 * shape[1]
    centre = (
        int(generator.integers(shape[1] // 2, 3 * shape[1] // 2)),
        int(generator.integers(shape[0] // 2, 3 * shape[0] // 2)),
    )
    indices = [index, *(int(i) for i in generator.integers(len(pictures), size=3))]
    indices = [indices[place] for place in generator.permutation(4)]
    view = random_view(canvas, shape, hyp, generator)
    view, tiles = snapped(view, mosaic_tiles(indices, [pictures.fitted(i) for i in indices], centre))
    objects = objects_on_canvas(tiles, [pictures.labels(i) for i in indices], canvas)
    objects, pasted = copy_paste(objects, canvas[1], hyp.copy_paste, generator)
    return Scene(tiles, objects, view, pasted)


def single_scene(pictures: Pictures, index: int, shape: tuple[int, int], hyp, generator: np.random.Generator) -> Scene:
    """Draw a view of one picture letterboxed into `shape`."""
    height, width = pictures.fitted(index)
    top, left = pad_before((height, width), shape)
    view, tiles = snapped(
        random_view(shape, shape, hyp, generator), [Tile(index, (left, top), (1, 1), (width, height))]
    )
    return Scene(tiles, objects_on_canvas(tiles, [pictures.labels(index)], shape), view)


def copy_paste(
    objects: Objects, width: int, probability: float, generator: np.random.Generator
) -> tuple[Objects, tuple[int, ...]]:
    """Return the objects with mirrored copies of some added, and which were copied.

    `probability` is the share of outlined objects to try; a copy, mirrored at the middle of the canvas of `width`,
    is dropped where it would cover 30 % or more of a present object.
    """
    candidates = np.flatnonzero(objects.outlined) if probability else ()
    if not len(candidates):
        return objects, ()
    boxes, chosen = objects.xyxy, []
    for number in generator.permutation(candidates)[: round(probability * len(candidates))]:
        x0, y0, x1, y1 = objects.xyxy[number]
        mirrored = np.array([width - x1, y0, width - x0, y1])
        if (_covered(mirrored, boxes) < MAX_COVERED).all():
            boxes = np.concatenate((boxes, mirrored[None]))
            chosen.append(int(number))
    outlines = tuple(_mirrored(objects.polygons[number], width) for number in chosen)
    return Objects(
        np.append(objects.cls, objects.cls[chosen]),
        boxes,
        np.append(objects.owner, objects.owner[chosen]),
        objects.polygons + outlines,
    ), tuple(chosen)


def mixup(one: tuple, other: tuple, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two (image, cls, xyxy) blended, `share` (0..1) of the first, with the objects of both."""
    return (
        cv2.addWeighted(one[0], share, other[0], 1 - share, 0),
        np.concatenate((one[1], other[1])),
        np.concatenate((one[2], other[2])),
    )


def _covered(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) share of each of the others that `box` covers."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return sides.clip(0).prod(1) / ((others[:, 2:] - others[:, :2]).prod(1) + 1e-16)


def _mirrored(points: np.ndarray, width: float) -> np.ndarray:
    return points * (-1, 1) + (width, 0)


def _flipped(image: np.ndarray, xyxy: np.ndarray, left_right: bool, up_down: bool) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    if left_right:
        xyxy = xyxy[:, [2, 1, 0, 3]] * np.float32([-1, 1, -1, 1]) + np.float32([width, 0, width, 0])
    if up_down:
        xyxy = xyxy[:, [0, 3, 2, 1]] * np.float32([1, -1, 1, -1]) + np.float32([0, height, 0, height])
    if left_right or up_down:  # in place: a twentieth of a millisecond, cheaper than a mirrored resampling
        cv2.flip(image, -1 if left_right and up_down else int(left_right), dst=image)
    return image, xyxy


def _normalised(cls: np.ndarray, xyxy: np.ndarray, shape: tuple[int, int]) -> Labels:
    size = np.float32([shape[1], shape[0]])
    return Labels(
        cls, np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) / (2 * size), (xyxy[:, 2:] - xyxy[:, :2]) / size), 1)
    )


def render(pictures: Pictures, scene: Scene, jitter: Jitter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (image, cls, xyxy) of what the scene's view shows, in jittered colours. Tiles out of view are not read."""
    read: dict[int, np.ndarray] = {}

    def image_of(tile: Tile) -> np.ndarray:
        if tile.index not in read:
            read[tile.index] = pictures.image(tile.index, scene.view.scale)
        return read[tile.index]

    if scene.view.aligned and not scene.pasted:
        # tiles do not overlap: each is jittered while it is at hand, the grey between them never is
        output = np.full((*scene.view.shape, 3), jitter.grey(GREY), np.uint8)
        for tile in scene.tiles:
            _paint_resized(output, tile, scene.view, image_of, jitter)
    else:
        output = np.full((*scene.view.shape, 3), GREY, np.uint8)
        for tile in scene.tiles:
            _paint_warped(output, tile, scene.view, image_of)
        for number in scene.pasted:
            owner, polygon = scene.tiles[scene.objects.owner[number]], scene.objects.polygons[number]
            _paint_mirrored(output, owner, polygon, scene.view, image_of)
        jitter.apply(output, output)
    return output, *seen(scene.objects, scene.view)


def _paint_resized(
    output: np.ndarray, tile: Tile, view: View, image_of: Callable[[Tile], np.ndarray], jitter: Jitter
) -> None:
    """Draw a tile through a snapped aligned view: its whole rectangle in the output has whole-pixel sides."""
    visible, spans = tile.visible(view.canvas), []
    for axis in (0, 1):
        zoom, shift = view.matrix[axis, axis], view.matrix[axis, 2]
        limit = output.shape[1 - axis]
        first = max(math.ceil(zoom * visible[axis] + shift - 0.5), 0)  # pixels whose centre is covered
        last = min(math.ceil(zoom * visible[axis + 2] + shift - 0.5), limit)
        spans.append((first, last, round(zoom * tile.corner[axis] + shift), round(zoom * tile.size[axis])))
    if any(last <= first for first, last, _, _ in spans):
        return
    image = image_of(tile)
    columns, rows = (_source_span(*span, image.shape[1 - axis]) for axis, span in enumerate(spans))
    image = image[rows.source, columns.source]
    image = _shrunk(image, rows.size / image.shape[0], columns.size / image.shape[1])
    if image.shape[0] * image.shape[1] < rows.size * columns.size:  # enlarged: colours first, on fewer pixels
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
    """Along one axis: the pixels of the source to resize to `size`, the part of that to keep, and where it goes."""

    source: slice
    size: int
    crop: slice
    target: slice


def _source_span(first: int, last: int, start: int, full: int, source: int) -> _Span:
    """Return which source pixels, resized to how many, give output pixels first..last of a picture of `source`
    pixels that spreads over `full` output pixels from `start`.

    The span grows by a few pixels to where a boundary of output pixels meets one of source pixels, so that a
    resize of that part is in register with a resize of the whole to a few hundredths of a pixel.
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
    """Return `image` averaged over whole blocks of pixels where it will be shown at half its size or less, so that
    the linear resampling that follows does not skip pixels. Up to a block's rest is left out, evenly at both ends.
    """
    block_y, block_x = (max(min(int(1 / zoom), side), 1) for zoom, side in zip((zoom_y, zoom_x), image.shape))
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
    image = _shrunk(image, *(view.scale * size / side for size, side in zip(tile.size[::-1], image.shape)))
    target = output[low[1] : high[1], low[0] : high[0]]
    size = target.shape[1::-1]
    # OpenCV counts from the centre of the first pixel, we from its corner
    index_from_point, point_from_index = np.eye(3), np.eye(3)
    index_from_point[:2, 2], point_from_index[:2, 2] = -low - 0.5, 0.5
    warp = index_from_point @ matrix @ tile.placing(image.shape[1], image.shape[0]) @ point_from_index
    warped = cv2.warpPerspective(image, warp, size, borderMode=cv2.BORDER_REPLICATE)  # as fast as warpAffine
    mask = np.zeros(target.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((outline - low - 0.5) * 16).astype(np.int32)], 255, shift=4)
    cv2.copyTo(warped, mask, target)


def quadrupled(samples: Sequence[tuple[np.ndarray, Labels]], enlarge: bool) -> tuple[np.ndarray, Labels]:
    """Return one (2H, 2W, 3) picture of four (H, W, 3): a 2 x 2 sheet of them or, with `enlarge`, the first doubled."""
    if enlarge or len(samples) < 4:
        image, labels = samples[0]
        return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), Labels(labels.cls, labels.xywhn)
    rows = [np.concatenate((samples[left][0], samples[left + 2][0]), 1) for left in (0, 1)]
    corners = np.float32([[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]])  # down first, then right
    boxes = [
        np.concatenate((labels.xywhn[:, :2] / 2 + corner, labels.xywhn[:, 2:] / 2), 1)
        for (_, labels), corner in zip(samples, corners)
    ]
    return np.concatenate(rows, 0), Labels(np.concatenate([labels.cls for _, labels in samples]), np.concatenate(boxes))
