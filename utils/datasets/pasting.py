"""Pasting of objects into a scene: mirrored copies of outlined ones, and boxes of other images with soft borders."""

import math
from dataclasses import dataclass

import numpy as np

from utils.datasets.geometry import MIN_SIDE, Objects, worth_keeping
from utils.datasets.image_source import ImageSource

MAX_COVERED = 0.30  # share of a present object that pasted ones may cover
MOST_PATCHES = 3  # of one image
PATCH_ZOOM = 0.5, 1.5  # of its fitted size, at which a box is pasted
PLACES_TRIED = 20
SOFT_SHARE, SOFT_PIXELS = 0.1, 2  # width of the soft border: a share of the shorter side, and at least that


@dataclass(frozen=True)
class Patch:
    """A box of an image that is pasted into the output, and its soft border around it.

    Attributes:
        index: Which image of the dataset.
        source: xyxy of the box in 0..1 of the image.
        place: xyxy of the box in the output, whole pixels.
        zoom: Multiple of its fitted size that the image is shown at.
        cls: (k,) class ids of the objects that it shows: its own and those that lie in it.
        xyxy: (k, 4) their boxes in pixels of the output.
    """

    index: int
    source: tuple[float, float, float, float]
    place: tuple[int, int, int, int]
    zoom: float
    cls: np.ndarray
    xyxy: np.ndarray

    @property
    def border(self) -> int:
        """Width of the soft border in pixels."""
        x0, y0, x1, y1 = self.place
        return soft_border(x1 - x0, y1 - y0)


def soft_border(width: int, height: int) -> int:
    """Return the width of the soft border around a box, in pixels.

    Args:
        width: Of the box in pixels.
        height: See `width`.

    Returns:
        A tenth of the shorter side, at least two.
    """
    return max(round(SOFT_SHARE * min(width, height)), SOFT_PIXELS)


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
        if (covered(mirrored, boxes) < MAX_COVERED).all():
            boxes = np.concatenate((boxes, mirrored[None]))
            chosen.append(int(index))
    outlines = tuple(outline(objects, index) * (-1, 1) + (width, 0) for index in chosen)
    return Objects(
        np.append(objects.cls, objects.cls[chosen]),
        boxes,
        np.append(objects.owner, objects.owner[chosen]),
        objects.polygons + outlines,
    ), tuple(chosen)


def outline(objects: Objects, index: int) -> np.ndarray:
    """Return the (k, 2) outline of an object that has one.

    Args:
        objects: Objects on the canvas.
        index: Which of them.

    Returns:
        Its points in pixels of the canvas.
    """
    polygon = objects.polygons[index]
    if polygon is None:
        raise ValueError(f"object {index} has no outline to paste")
    return polygon


def box_patches(
    images: ImageSource, present: np.ndarray, shape: tuple[int, int], generator: np.random.Generator
) -> tuple[Patch, ...]:
    """Draw boxes of another image to be pasted where they cover no present object by more than 30 %.

    Copy-paste (Ghiasi et al. 2021) for objects without outlines; the border is blended as Dwibedi et al. 2017 ("Cut,
    Paste and Learn", section 4.2) do, so that the network does not learn the seam. Each class is as likely, then each
    of its objects; with the one drawn come others of its class and image, three at most. Each is shown at 0.5 to 1.5
    times its fitted size, at the first of 20 random places where it fits; all that these cover of an object, soft
    borders included, is summed up.

    Args:
        images: The dataset.
        present: (n, 4) xyxy pixels of the objects in the output.
        shape: (height, width) of the output in pixels.
        generator: Decides image, objects, sizes and places.

    Returns:
        The patches, in the order in which they are pasted.
    """
    if not len(images.census):
        return ()
    index, first = images.census.draw_object(generator)
    labels, size = images.labels(index), np.array(images.fitted(index)[::-1], np.float64)
    if first >= len(labels):  # another image stands in for one that cannot be read
        return ()
    same = np.flatnonzero(labels.cls == labels.cls[first])
    chosen = [first, *generator.permutation(same[same != first])[: MOST_PATCHES - 1].tolist()]
    center, half = labels.xywhn[:, :2].astype(np.float64), labels.xywhn[:, 2:].astype(np.float64) / 2
    boxes = np.concatenate((center - half, center + half), 1)
    patches: list[Patch] = []
    hidden = np.zeros(len(present))
    for each in chosen:
        zoom = generator.uniform(*PATCH_ZOOM)
        width, height = (max(round(side), 1) for side in 2 * half[each] * size * zoom)
        if min(width, height) <= MIN_SIDE or width > shape[1] or height > shape[0]:
            continue
        corners = generator.integers(0, (shape[1] - width + 1, shape[0] - height + 1), (PLACES_TRIED, 2))
        place = _free_place(np.concatenate((corners, corners + (width, height)), 1), present, hidden)
        if place is None:
            continue
        inside = _objects_inside(boxes, each, place)
        patches.append(Patch(index, tuple(boxes[each]), tuple(place.tolist()), zoom, labels.cls[inside[0]], inside[1]))
        hidden = np.append(hidden + covered(_with_border(place), present), np.zeros(len(inside[1])))
        present = np.concatenate((present, inside[1]))
    return tuple(patches)


def soft_weights(place: tuple[int, int], low: int, high: int, border: int) -> np.ndarray:
    """Return the weight of a patch along one axis: 1 over its box, a cosine to 0 across the soft border.

    Args:
        place: First pixel of the box, and the one past its last.
        low: First pixel that is asked for.
        high: The one past the last.
        border: Width of the border in pixels.

    Returns:
        (high - low,) float32 at the middles of the pixels, 0..1.
    """
    middles = np.arange(low, high) + 0.5
    outside = np.maximum(place[0] - middles, middles - place[1]).clip(0, border)
    return (0.5 + 0.5 * np.cos(math.pi * outside / border)).astype(np.float32)


def covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of each of the others that a box covers.

    Args:
        boxes: (..., 4) xyxy.
        others: (n, 4) xyxy.

    Returns:
        (..., n), 0..1.
    """
    boxes = boxes[..., None, :]
    sides = np.minimum(boxes[..., 2:], others[:, 2:]) - np.maximum(boxes[..., :2], others[:, :2])
    return sides.clip(0).prod(-1) / ((others[:, 2:] - others[:, :2]).prod(1) + 1e-16)


def _free_place(places: np.ndarray, present: np.ndarray, hidden: np.ndarray) -> np.ndarray | None:
    """Return the first of (t, 4) places that leaves every present object 70 % of itself, or None."""
    free = np.flatnonzero((hidden + covered(_with_border(places), present) <= MAX_COVERED).all(-1))
    return places[free[0]] if len(free) else None


def _with_border(places: np.ndarray) -> np.ndarray:
    width, height = np.atleast_2d(places)[0, 2:] - np.atleast_2d(places)[0, :2]
    border = soft_border(int(width), int(height))
    return places + np.array([-border, -border, border, border])


def _objects_inside(boxes: np.ndarray, which: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which boxes (n, 4) lie in one of them by 70 % or more, and what of them it shows if it is pasted."""
    corner, side = boxes[which, :2], boxes[which, 2:] - boxes[which, :2]
    scale = (place[2:] - place[:2]) / side
    moved = (boxes - np.tile(corner, 2)) * np.tile(scale, 2) + np.tile(place[:2], 2)
    moved[which] = place
    cut = np.concatenate((np.maximum(moved[:, :2], place[:2]), np.minimum(moved[:, 2:], place[2:])), 1)
    inside = np.flatnonzero(
        (covered(place.astype(np.float64), moved) >= 1 - MAX_COVERED) & worth_keeping(moved, cut, 1 - MAX_COVERED)
    )
    return inside, cut[inside].astype(np.float32)
