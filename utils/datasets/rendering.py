"""Rendering of augmentation: what the view of a scene shows.

An image is never drawn on the large canvas: each tile's placement and the view are composed and the tile is resampled
once, into the output. So is a pasted box.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from utils.datasets.color_jitter import Jitter
from utils.datasets.geometry import Tile, View, transform
from utils.datasets.image_source import ImageSource
from utils.datasets.letterboxing import GRAY
from utils.datasets.pasting import Patch, outline, soft_weights
from utils.datasets.scenes import Scene

SLACK = 8  # pixels a resized rectangle may reach out of view to meet whole source pixels


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
        for patch in scene.patches:
            _paint_patch(output, patch, images.image(patch.index, patch.zoom), jitter)
    else:
        output = np.full((*scene.view.shape, 3), GRAY, np.uint8)
        for tile in scene.tiles:
            _paint_warped(output, tile, scene.view, image_of)
        for index in scene.pasted:
            owner, polygon = scene.tiles[scene.objects.owner[index]], outline(scene.objects, index)
            _paint_mirrored(output, owner, polygon, scene.view, image_of)
        for patch in scene.patches:
            _paint_patch(output, patch, images.image(patch.index, patch.zoom), Jitter())
        jitter.apply(output, output)
    return output, *scene.visible()


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


def _paint_patch(output: np.ndarray, patch: Patch, image: np.ndarray, jitter: Jitter) -> None:
    """Blend a box of an image, and its soft border, into the output."""
    spans, missing, weights = [], [], []
    for axis in (0, 1):
        start, end = patch.corner[axis], patch.corner[axis] + patch.size[axis]
        first, last = patch.rectangle[axis] - patch.border, patch.rectangle[axis + 2] + patch.border
        shown = max(first, 0), min(last, output.shape[1 - axis])
        known = max(shown[0], start), min(shown[1], end)  # the image may end before the border does
        spans.append(_source_span(*known, start, patch.size[axis], image.shape[1 - axis]))
        missing.append((known[0] - shown[0], shown[1] - known[1]))
        weights.append(soft_weights(last - first - 2 * patch.border, patch.border)[shown[0] - first : shown[1] - first])
    columns, rows = spans
    image = image[rows.source, columns.source]
    image = _shrunk(image, rows.size / image.shape[0], columns.size / image.shape[1])
    image = cv2.resize(image, (columns.size, rows.size), interpolation=cv2.INTER_LINEAR)[rows.crop, columns.crop]
    if any(map(any, missing)):
        image = cv2.copyMakeBorder(image, *missing[1], *missing[0], cv2.BORDER_REPLICATE)
    colored = np.empty_like(image)
    jitter.apply(image, colored)
    (left, _), (top, _) = missing
    top, left = rows.target.start - top, columns.target.start - left
    target = output[top : top + len(colored), left : left + colored.shape[1]]
    _blend_borders(target, colored, weights[1][:, None] * weights[0], patch.border)
    target[:] = colored


def _blend_borders(below: np.ndarray, image: np.ndarray, weight: np.ndarray, border: int) -> None:
    """Mix what lies below into the outermost pixels of an image, where its weight may be under 1."""
    lower, right = max(len(image) - border, border), max(image.shape[1] - border, border)
    middle = slice(border, lower)
    for rows, columns in (
        (slice(0, border), slice(None)),
        (slice(lower, None), slice(None)),
        (middle, slice(0, border)),
        (middle, slice(right, None)),
    ):
        share = weight[rows, columns]
        if share.size:
            image[rows, columns] = cv2.blendLinear(image[rows, columns], below[rows, columns], share, 1 - share)
