"""Where augmentation puts pictures and boxes: random views, tiles on a canvas, and objects seen through a view.

All coordinates are continuous pixels: the centre of the first pixel lies at (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils.types import Labels

MIN_SIDE = 2  # pixels: an object that is left with less is not shown to the network
MAX_ASPECT = 100
MIN_AREA = 0.1  # share of an object's area that has to remain in view,
MIN_AREA_POLYGON = 0.01  # and of one whose outline is known


@dataclass(frozen=True)
class View:
    """A window on a canvas: matrix (3, 3) takes canvas points to output points, `scale` is its zoom,
    `canvas` and `shape` are (height, width) of the two.
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


def random_view(canvas: tuple[int, int], shape: tuple[int, int], hyp, generator: np.random.Generator) -> View:
    """Draw YOLOv5's random affine or perspective view of the middle of `canvas`.

    Reads hyp.degrees, translate (share of the output), scale (zoom 1 - scale to 1 + scale), shear (degrees) and
    perspective (per pixel). All are drawn even where their gain is 0, so that one gain does not move the others.
    """
    perspective = generator.uniform(-hyp.perspective, hyp.perspective, 2)
    angle = math.radians(generator.uniform(-hyp.degrees, hyp.degrees))
    scale = generator.uniform(1 - hyp.scale, 1 + hyp.scale)
    shear = np.tan(np.radians(generator.uniform(-hyp.shear, hyp.shear, 2)))
    shift = generator.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * (shape[1], shape[0])

    centring = np.array([[1, 0, -canvas[1] / 2], [0, 1, -canvas[0] / 2], [0, 0, 1]])
    leaning = np.array([[1, 0, 0], [0, 1, 0], [perspective[0], perspective[1], 1]])
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turning = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    shearing = np.array([[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]])
    shifting = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    return View(shifting @ shearing @ turning @ leaning @ centring, scale, canvas, shape)


@dataclass(frozen=True)
class Tile:
    """One picture on the canvas: `anchor` (x, y) is where one of its corners lies, `side` says on which side of
    that point the picture spreads (-1 left or up, +1 right or down), `size` is its (width, height) there.
    """

    index: int
    anchor: tuple[float, float]
    side: tuple[int, int]
    size: tuple[float, float]

    @cached_property
    def corner(self) -> tuple[float, float]:
        """Top left (x, y) on the canvas."""
        (x, y), (width, height) = self.anchor, self.size
        return x if self.side[0] > 0 else x - width, y if self.side[1] > 0 else y - height

    def visible(self, canvas: tuple[int, int]) -> tuple[float, float, float, float]:
        """The xyxy part of the canvas that the picture covers."""
        x, y = self.corner
        return max(x, 0), max(y, 0), min(x + self.size[0], canvas[1]), min(y + self.size[1], canvas[0])

    def placing(self, width: int, height: int) -> np.ndarray:
        """(3, 3) from points of the picture, read as (height, width), to the canvas."""
        x, y = self.corner
        return np.array([[self.size[0] / width, 0, x], [0, self.size[1] / height, y], [0, 0, 1]])


def mosaic_tiles(indices: Sequence[int], sizes: Sequence[tuple[int, int]], centre: tuple[int, int]) -> list[Tile]:
    """Return four tiles (top left, top right, bottom left, bottom right) that meet in `centre`; sizes are (height, width)."""
    sides = (-1, -1), (1, -1), (-1, 1), (1, 1)
    return [Tile(index, centre, side, (width, height)) for index, (height, width), side in zip(indices, sizes, sides)]


def snapped(view: View, tiles: list[Tile]) -> tuple[View, list[Tile]]:
    """Return an aligned view moved, and tiles resized, by less than a pixel so that in the output the tiles' shared
    anchor and their sizes are whole pixels. Then each tile is a plain resize into a rectangle, four times cheaper than
    a warp, and the labels, which go through the same numbers, stay exact. Other views are returned as they are.
    """
    if not view.aligned:
        return view, tiles
    anchor = np.array([*tiles[0].anchor, 1.0])
    matrix = view.matrix.copy()
    target = matrix @ anchor
    matrix[:2, 2] += np.round(target[:2]) - target[:2]
    sized = [
        replace(tile, size=tuple(max(round(side * view.scale), 1) / view.scale for side in tile.size)) for tile in tiles
    ]
    return replace(view, matrix=matrix), sized


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return (n, 2) points through a (3, 3) matrix; points behind the horizon of a perspective become nan."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return moved
    depth = points @ matrix[2, :2] + matrix[2, 2]
    return moved / np.where(depth > 1e-6, depth, np.nan)[:, None]


@dataclass(frozen=True)
class Objects:
    """Objects on a canvas: cls (n,), xyxy (n, 4) pixels clipped to the canvas, owner (n,) number of their tile, and
    one (k, 2) outline an object or None where only its box is known.
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
    """Return the objects of all tiles, boxes and outlines clipped to the canvas. labels: one record a tile."""
    counts = [len(own) for own in labels]
    owner = np.repeat(np.arange(len(tiles)), counts)
    sizes, corners = np.array([tile.size for tile in tiles]), np.array([tile.corner for tile in tiles])
    limit = np.array([canvas[1], canvas[0]], dtype=np.float64)
    size, corner, xywhn = sizes[owner], corners[owner], np.concatenate([own.xywhn for own in labels])
    centre, half = xywhn[:, :2] * size + corner, xywhn[:, 2:] * (size / 2)
    boxes = np.concatenate(
        (np.minimum(np.maximum(centre - half, 0), limit), np.minimum(np.maximum(centre + half, 0), limit)), 1
    )
    polygons = []
    for own, tile_size, tile_corner in zip(labels, sizes, corners):
        known = [np.clip(s * tile_size + tile_corner, 0, limit) if len(s) > 2 else None for s in own.segments]
        polygons += known or [None] * len(own)
    return Objects(np.concatenate([own.cls for own in labels]), boxes, owner, tuple(polygons))


def seen(objects: Objects, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return (cls (n,), xyxy (n, 4) pixels of the output) of the objects that remain visible through `view`.

    A box is the upright hull of its four moved corners, an outline gives the hull of what of it is in view.
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
    """Return (n,) whether enough of each xyxy box is left: sides over 2 px, area share, aspect ratio under 100."""
    width, height = (after[:, 2:] - after[:, :2]).T
    full = (before[:, 2:] - before[:, :2]).prod(1)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    # a box behind the horizon is nan and fails every comparison
    return (shorter > MIN_SIDE) & (longer < MAX_ASPECT * shorter) & (width * height > min_area * full)


def polygon_boxes(polygons: Sequence[np.ndarray], limit: np.ndarray) -> np.ndarray:
    """Return (n, 4) xyxy hulls of the parts of closed polygons that lie in [0, limit]; zeros for those outside.

    Exact: every edge, the closing one included, is cut at the frame (Liang and Barsky), and corners of the frame
    that lie inside a polygon (even-odd rule) belong to it. One pass over the edges of all polygons together.
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
        inside = _holds(first, second, corner, starts)[:, None]
        low, high = np.where(inside, np.minimum(low, corner), low), np.where(inside, np.maximum(high, corner), high)
    known = np.add.reduceat(np.isnan(first[:, 0]).astype(int), starts) == 0
    return np.where((known & (low <= high).all(1))[:, None], np.concatenate((low, high), 1), 0.0)


def _cut_edges(start: np.ndarray, step: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (entry, leave) in 0..1 along each edge of its part in the frame; entry > leave where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = -start / step, (limit - start) / step
    flat = step == 0
    within = (start >= 0) & (start <= limit)
    entry = np.where(flat, np.where(within, -np.inf, np.inf), np.minimum(to_low, to_high))
    leave = np.where(flat, np.where(within, np.inf, -np.inf), np.maximum(to_low, to_high))
    entry, leave = np.maximum(entry.max(1), 0.0), np.minimum(leave.min(1), 1.0)
    missed = ~(entry <= leave)
    return np.where(missed, 1.0, entry), np.where(missed, 0.0, leave)


def _holds(first: np.ndarray, second: np.ndarray, point: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return (n,) whether each polygon contains `point`: an odd number of edges to the right of it."""
    straddles = (first[:, 1] > point[1]) != (second[:, 1] > point[1])
    rise = np.where(straddles, second[:, 1] - first[:, 1], 1.0)
    crossing = first[:, 0] + (second[:, 0] - first[:, 0]) * (point[1] - first[:, 1]) / rise
    return np.add.reduceat((straddles & (point[0] < crossing)).astype(int), starts) % 2 == 1
