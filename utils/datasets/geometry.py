"""Geometry of augmentation: random views, tiles on a canvas, and the objects that a view shows.

All coordinates are continuous pixels: the center of the first pixel is at (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils.config import Hyperparameters
from utils.types import Labels

MIN_SIDE = 2  # pixels: an object that is left with less is not shown to the network
MAX_ASPECT = 100
MIN_AREA = 0.1  # share of an object's area that has to remain in view,
MIN_AREA_POLYGON = 0.01  # and of one whose outline is known


@dataclass(frozen=True)
class View:
    """A window on a canvas.

    Attributes:
        matrix: (3, 3), takes canvas points to output points.
        scale: Its zoom.
        canvas: (height, width) of the canvas in pixels.
        shape: (height, width) of the output in pixels.
    """

    matrix: np.ndarray
    scale: float
    canvas: tuple[int, int]
    shape: tuple[int, int]

    @property
    def aligned(self) -> bool:
        """Whether the view only zooms and shifts, so that upright rectangles stay upright."""
        m = self.matrix
        return m[0, 1] == m[1, 0] == m[2, 0] == m[2, 1] == 0


def random_view(
    canvas: tuple[int, int],
    shape: tuple[int, int],
    hyp: Hyperparameters,
    generator: np.random.Generator,
    zoom: float | None = None,
) -> View:
    """Draw YOLOv5's random affine or perspective view of the middle of a canvas.

    All numbers are drawn even if their gain is 0, so that one gain does not move the others.

    Args:
        canvas: (height, width) of the canvas in pixels.
        shape: (height, width) of the output in pixels.
        hyp: `degrees`, `translate` (share of the output), `scale` (zoom 1 - scale to 1 + scale), `shear` (degrees) and
            `perspective` (per pixel).
        generator: Decides the view.
        zoom: In the place of the one that is drawn.

    Returns:
        The view.
    """
    perspective = generator.uniform(-hyp.perspective, hyp.perspective, 2)
    angle = math.radians(generator.uniform(-hyp.degrees, hyp.degrees))
    scale = generator.uniform(1 - hyp.scale, 1 + hyp.scale)
    scale = scale if zoom is None else zoom
    shear = np.tan(np.radians(generator.uniform(-hyp.shear, hyp.shear, 2)))
    shift = generator.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * (shape[1], shape[0])

    centering = np.array([[1, 0, -canvas[1] / 2], [0, 1, -canvas[0] / 2], [0, 0, 1]])
    leaning = np.array([[1, 0, 0], [0, 1, 0], [perspective[0], perspective[1], 1]])
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turning = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    shearing = np.array([[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]])
    shifting = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    return View(shifting @ shearing @ turning @ leaning @ centering, scale, canvas, shape)


def shown(view: View, box: np.ndarray) -> View:
    """Return a view that shows a box, moved as little as that takes; one that is larger than the output is centered.

    Args:
        view: A view.
        box: (4,) xyxy pixels of the canvas; what lies outside the canvas is not asked for.

    Returns:
        The view itself if it shows the box, or if none of the box lies on the canvas.
    """
    box = np.minimum(np.maximum(box, 0), np.array([view.canvas[1], view.canvas[0]] * 2))
    corners = transform(box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2), view.matrix)
    if (box[2:] <= box[:2]).any() or np.isnan(corners).any():
        return view
    low, high, limit = corners.min(0), corners.max(0), np.array([view.shape[1], view.shape[0]])
    least, most = np.minimum(-low, limit - high), np.maximum(-low, limit - high)  # shifts that show it whole
    shift = np.where(high - low > limit, (least + most) / 2, np.minimum(np.maximum(0, least), most))
    moving = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    return replace(view, matrix=moving @ view.matrix) if shift.any() else view


@dataclass(frozen=True)
class Tile:
    """An image on the canvas.

    Attributes:
        index: Which image of the dataset.
        anchor: (x, y) of one of its corners in pixels.
        side: On which side of that point the image lies (-1 left or up, +1 right or down), along x and y.
        size: (width, height) on the canvas in pixels.
    """

    index: int
    anchor: tuple[float, float]
    side: tuple[int, int]
    size: tuple[float, float]

    @cached_property
    def corner(self) -> tuple[float, float]:
        """(x, y) of its top left on the canvas."""
        (x, y), (width, height) = self.anchor, self.size
        return x if self.side[0] > 0 else x - width, y if self.side[1] > 0 else y - height

    def visible(self, canvas: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of the canvas that the image covers, xyxy pixels."""
        x, y = self.corner
        return max(x, 0), max(y, 0), min(x + self.size[0], canvas[1]), min(y + self.size[1], canvas[0])

    def placing(self, width: int, height: int) -> np.ndarray:
        """Return the (3, 3) matrix from points of the image to the canvas.

        Args:
            width: Of the image as it was read, in pixels.
            height: See `width`.

        Returns:
            The matrix.
        """
        x, y = self.corner
        return np.array([[self.size[0] / width, 0, x], [0, self.size[1] / height, y], [0, 0, 1]])


def mosaic_tiles(indices: Sequence[int], sizes: Sequence[tuple[int, int]], center: tuple[int, int]) -> list[Tile]:
    """Return four tiles that meet in a point: top left, top right, bottom left, bottom right.

    Args:
        indices: Four images.
        sizes: (height, width) of each on the canvas in pixels.
        center: (x, y) of the point.

    Returns:
        The tiles.
    """
    sides = (-1, -1), (1, -1), (-1, 1), (1, 1)
    places = zip(indices, sizes, sides, strict=True)
    return [Tile(index, center, side, (width, height)) for index, (height, width), side in places]


def snapped(view: View, tiles: list[Tile]) -> tuple[View, list[Tile]]:
    """Move an aligned view and resize its tiles by less than a pixel, to whole pixels of the output.

    Then each tile is a plain resize into a rectangle, four times cheaper than a warp, and the labels, which go through
    the same numbers, stay exact.

    Args:
        view: A view; one that is not aligned is returned as it is, with its tiles.
        tiles: Tiles with a shared anchor.

    Returns:
        A view and tiles whose anchor and sizes are whole pixels in the output.
    """
    if not view.aligned:
        return view, tiles
    anchor = np.array([*tiles[0].anchor, 1.0])
    matrix = view.matrix.copy()
    target = matrix @ anchor
    matrix[:2, 2] += np.round(target[:2]) - target[:2]

    def whole(side: float) -> float:
        return max(round(side * view.scale), 1) / view.scale

    sized = [replace(tile, size=(whole(tile.size[0]), whole(tile.size[1]))) for tile in tiles]
    return replace(view, matrix=matrix), sized


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return points moved by a projective matrix.

    Args:
        points: (n, 2).
        matrix: (3, 3).

    Returns:
        (n, 2); points behind the horizon of a perspective are nan.
    """
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return moved
    depth = points @ matrix[2, :2] + matrix[2, 2]
    return moved / np.where(depth > 1e-6, depth, np.nan)[:, None]


@dataclass(frozen=True)
class Objects:
    """Objects on a canvas.

    Attributes:
        cls: (n,) class ids.
        xyxy: (n, 4) pixels, clipped to the canvas.
        owner: (n,) index of the tile of each.
        polygons: Per object its (k, 2) outline in pixels, or None if only its box is known.
    """

    cls: np.ndarray
    xyxy: np.ndarray
    owner: np.ndarray
    polygons: tuple[np.ndarray | None, ...]

    def __len__(self) -> int:
        return len(self.cls)

    @property
    def outlined(self) -> np.ndarray:
        """(n,) whether the object's outline is known."""
        return np.array([polygon is not None for polygon in self.polygons], dtype=bool)


def objects_on_canvas(tiles: Sequence[Tile], labels: Sequence[Labels], canvas: tuple[int, int]) -> Objects:
    """Return the objects of all tiles, boxes and outlines clipped to the canvas.

    Args:
        tiles: Images on the canvas.
        labels: One record per tile.
        canvas: (height, width) in pixels.

    Returns:
        The objects, in the order of the tiles.
    """
    counts = [len(own) for own in labels]
    owner = np.repeat(np.arange(len(tiles)), counts)
    sizes, corners = np.array([tile.size for tile in tiles]), np.array([tile.corner for tile in tiles])
    limit = np.array([canvas[1], canvas[0]], dtype=np.float64)
    size, corner, xywhn = sizes[owner], corners[owner], np.concatenate([own.xywhn for own in labels])
    center, half = xywhn[:, :2] * size + corner, xywhn[:, 2:] * (size / 2)
    boxes = np.concatenate(
        (np.minimum(np.maximum(center - half, 0), limit), np.minimum(np.maximum(center + half, 0), limit)), 1
    )
    polygons: list[np.ndarray | None] = []
    for own, tile_size, tile_corner in zip(labels, sizes, corners, strict=True):
        known = [np.clip(s * tile_size + tile_corner, 0, limit) if len(s) > 2 else None for s in own.segments]
        polygons += known or [None] * len(own)
    return Objects(np.concatenate([own.cls for own in labels]), boxes, owner, tuple(polygons))


def visible_objects(objects: Objects, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the objects that a view shows.

    A box is the upright hull of its four moved corners, an outline gives the hull of its part in view.

    Args:
        objects: Objects on the canvas.
        view: The view.

    Returns:
        cls (n,) and xyxy (n, 4) float32 pixels of the output.
    """
    if not len(objects):
        return objects.cls, objects.xyxy.astype(np.float32)
    corners = transform(objects.xyxy[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2), view.matrix).reshape(-1, 4, 2)
    limit = np.array([view.shape[1], view.shape[0]], dtype=np.float64)
    corners = np.minimum(np.maximum(corners, 0), limit)
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1)
    outlined = objects.outlined
    if outlined.any():
        boxes[outlined] = polygon_boxes([transform(p, view.matrix) for p in objects.polygons if p is not None], limit)
    keep = worth_keeping(objects.xyxy * view.scale, boxes, np.where(outlined, MIN_AREA_POLYGON, MIN_AREA))
    return objects.cls[keep], boxes[keep].astype(np.float32)


def worth_keeping(before: np.ndarray, after: np.ndarray, min_area: np.ndarray | float) -> np.ndarray:
    """Return whether enough of each box is left: sides over 2 pixels, share of the area, aspect ratio under 100.

    Args:
        before: (n, 4) xyxy pixels at the output's zoom.
        after: (n, 4) xyxy pixels in view.
        min_area: Least share of the area, one for all or (n,).

    Returns:
        (n,) bool.
    """
    width, height = (after[:, 2:] - after[:, :2]).T
    full = (before[:, 2:] - before[:, :2]).prod(1)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    # a box behind the horizon is nan and fails every comparison
    return (shorter > MIN_SIDE) & (longer < MAX_ASPECT * shorter) & (width * height > min_area * full)


def polygon_boxes(polygons: Sequence[np.ndarray], limit: np.ndarray) -> np.ndarray:
    """Return the hulls of the parts of closed polygons that lie in a frame.

    Exact: every edge, the closing one included, is cut at the frame (Liang and Barsky), and corners of the frame
    that lie inside a polygon (even-odd rule) belong to it. One pass over the edges of all polygons together.

    Args:
        polygons: (k, 2) points each.
        limit: (width, height) of the frame, which starts at 0.

    Returns:
        (n, 4) xyxy; zeros for polygons outside.
    """
    starts = np.cumsum([0] + [len(polygon) for polygon in polygons[:-1]])
    first = np.concatenate(polygons).astype(np.float64)
    following = np.arange(1, len(first) + 1)
    following[np.append(starts[1:], len(first)) - 1] = starts
    second = first[following]

    entry, leave = _cut_edges(first, second - first, limit)
    crosses = (entry <= leave)[:, None]
    ends = first + (second - first) * entry[:, None], first + (second - first) * leave[:, None]
    low = np.minimum.reduceat(np.where(crosses, np.minimum(*ends), np.inf), starts)
    high = np.maximum.reduceat(np.where(crosses, np.maximum(*ends), -np.inf), starts)
    for corner in limit * [[0, 0], [1, 0], [0, 1], [1, 1]]:
        inside = _contains(first, second, corner, starts)[:, None]
        low, high = np.where(inside, np.minimum(low, corner), low), np.where(inside, np.maximum(high, corner), high)
    known = np.add.reduceat(np.isnan(first[:, 0]).astype(int), starts) == 0
    return np.where((known & (low <= high).all(1))[:, None], np.concatenate((low, high), 1), 0.0)


def _cut_edges(start: np.ndarray, step: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (entry, leave) in 0..1 along each edge of its part in the frame; entry > leave if there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = -start / step, (limit - start) / step
    flat = step == 0
    within = (start >= 0) & (start <= limit)
    entry = np.where(flat, np.where(within, -np.inf, np.inf), np.minimum(to_low, to_high))
    leave = np.where(flat, np.where(within, np.inf, -np.inf), np.maximum(to_low, to_high))
    entry, leave = np.maximum(entry.max(1), 0.0), np.minimum(leave.min(1), 1.0)
    missed = ~(entry <= leave)
    return np.where(missed, 1.0, entry), np.where(missed, 0.0, leave)


def _contains(first: np.ndarray, second: np.ndarray, point: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return (n,) whether each polygon contains `point`: an odd number of edges to the right of it."""
    straddles = (first[:, 1] > point[1]) != (second[:, 1] > point[1])
    rise = np.where(straddles, second[:, 1] - first[:, 1], 1.0)
    crossing = first[:, 0] + (second[:, 0] - first[:, 0]) * (point[1] - first[:, 1]) / rise
    return np.add.reduceat((straddles & (point[0] < crossing)).astype(int), starts) % 2 == 1
