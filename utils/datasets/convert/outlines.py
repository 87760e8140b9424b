"""Outlines of objects: from shapes and masks, joined from parts, and cut at the edges of the image."""

from collections.abc import Sequence

import cv2
import numpy as np

Values = Sequence[float] | np.ndarray
_ROUND = 32  # points of a circle; a multiple of 4, so that the bounds are exact
_FINE = 0.75  # pixels that a mask's outline may be simplified by: a staircase along a slope leaves it by 0.71
_LARGEST_MASK = 1 << 28


def rotated_box(center: Values, size: Values, angle: float) -> np.ndarray:
    """Return the corners of a rotated box.

    Args:
        center: (x, y) in pixels.
        size: (width, height) in pixels before the rotation.
        angle: Radians, clockwise as seen in the image.

    Returns:
        (4, 2) pixels.
    """
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64) * np.asarray(size, np.float64) / 2
    return _rotated(corners, angle) + np.asarray(center, np.float64)


def ellipse(center: Values, radii: Values, angle: float = 0.0) -> np.ndarray:
    """Return an ellipse as an outline.

    Args:
        center: (x, y) in pixels.
        radii: Along x and along y in pixels before the rotation.
        angle: Radians, clockwise as seen in the image.

    Returns:
        (32, 2) pixels.
    """
    steps = np.arange(_ROUND) * (2 * np.pi / _ROUND)
    points = np.stack((np.cos(steps), np.sin(steps)), 1) * np.asarray(radii, np.float64)
    return _rotated(points, angle) + np.asarray(center, np.float64)


def _rotated(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([(cos, sin), (-sin, cos)])


def join_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return one outline around all parts of an object: each is reached over the shortest bridge of no width.

    Args:
        parts: (k, 2) points each; not empty.

    Returns:
        (m, 2) points, whose enclosed area is that of the parts.
    """
    joined, rest = parts[0], list(parts[1:])
    while rest:
        distances = [((joined[:, None] - part[None]) ** 2).sum(-1) for part in rest]
        nearest = int(np.argmin([distance.min() for distance in distances]))
        part = rest.pop(nearest)
        leave, enter = np.unravel_index(distances[nearest].argmin(), distances[nearest].shape)
        tour = np.roll(part, -enter, axis=0)
        joined = np.concatenate((joined[: leave + 1], tour, tour[:1], joined[leave:]))
    return joined


def clip_outline(points: np.ndarray) -> np.ndarray:
    """Return the part of an outline in the unit square (Sutherland and Hodgman 1974).

    Args:
        points: (k, 2).

    Returns:
        (m, 2) in 0..1; (0, 2) if nothing is inside.
    """
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -1.0), (1, 1, 0.0), (1, -1, -1.0)):
        kept: list[np.ndarray] = []
        for start, end in zip(np.roll(points, 1, axis=0), points, strict=True):
            before, after = sign * start[axis] - limit, sign * end[axis] - limit
            if (before < 0) != (after < 0):
                crossing = start + (end - start) * (before / (before - after))
                crossing[axis] = abs(limit)
                kept.append(crossing)
            if after >= 0:
                kept.append(end)
        points = np.array(kept).reshape(-1, 2)
    return points


def mask_from_counts(counts: Sequence[int], size: tuple[int, int], by_column: bool) -> np.ndarray | None:
    """Return the mask of a run-length code, whose first run is outside the object.

    Args:
        counts: Lengths of the runs in pixels.
        size: (height, width) in pixels.
        by_column: Runs go down the columns, as COCO's; otherwise along the rows, as CVAT's.

    Returns:
        bool (height, width), or None if the runs do not fill it.
    """
    height, width = size
    area = height * width
    if area > _LARGEST_MASK or any(not 0 <= count <= area for count in counts) or sum(counts) != area:
        return None
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T if by_column else flat.reshape(height, width)


def coco_counts(text: str) -> list[int]:
    """Return the run lengths of a compressed COCO mask; [] if the text is no such code.

    Six bits per character, the character 48 is zero: five bits of the number, the lowest first, and one that says that
    more follow. A number is signed and, from the fourth on, the difference to the one two places before.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return []
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return counts if not shift else []


def mask_outlines(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the outlines of a mask's parts along the edges of its pixels, without holes.

    Each reaches exactly as far as its pixels, and is simplified by up to 0.75 pixels elsewhere.

    Args:
        mask: bool (H, W).

    Returns:
        (k, 2) pixels each, the largest part first; none if the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return ()
    top, left = rows[0], columns[0]
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # Each pixel becomes 2 x 2, so that the first of the two stands for its near edge and the second for its far one.
    doubled = crop.repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    edges = [_simplified((contour[:, 0].astype(np.int64) + 1) // 2) for contour in found]
    edges.sort(key=lambda points: -abs(_area(points)))
    return tuple(points + np.array([left, top], np.float64) for points in edges)


def _simplified(points: np.ndarray) -> np.ndarray:
    """An outline with fewer points; the extreme ones, which make the box, are kept."""
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    ends = np.unique([*points.argmin(0), *points.argmax(0)])
    closed = np.concatenate((points[ends[0] :], points[: ends[0] + 1]))
    stops = [*(ends - ends[0]), len(points)]
    pieces = [
        cv2.approxPolyDP(closed[start : stop + 1].astype(np.int32)[:, None], _FINE, False)[:-1, 0]
        for start, stop in zip(stops, stops[1:], strict=False)
    ]
    return np.concatenate(pieces).astype(np.float64)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
