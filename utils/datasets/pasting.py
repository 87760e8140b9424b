"""Pasting of objects into a scene: mirrored copies of outlined ones, and boxes of other images with soft borders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.datasets.geometry import MIN_SIDE, Objects, worth_keeping
from utils.datasets.image_source import ImageSource
from utils.types import Labels

MAX_COVERED = 0.30  # share of a present object that pasted ones may cover
MOST_PATCHES = 3  # of one image
PATCH_ZOOM = 0.5, 1.5  # of its fitted size, at which a box is pasted
PLACES_TRIED = 20
ROUNDING = 1e-6  # of a pixel
SOFT_SHARE, SOFT_PIXELS = 0.1, 2  # width of the soft border: a share of the shorter side, and at least that


@dataclass(frozen=True)
class Patch:
    """A box of an image that is pasted into the output, and its soft border around it.

    Attributes:
        index: Which image of the dataset.
        zoom: Multiple of its fitted size that the image is shown at.
        corner: (x, y) of the image in the output, in pixels, if all of it were shown.
        size: (width, height) of the image in the output.
        rectangle: xyxy of what is pasted without the border, in pixels of the output: its box, rounded outwards.
        border: Width of the soft border in pixels.
        cls: (k,) class ids of the objects that it shows: its own and those that lie in it.
        xyxy: (k, 4) float32 their boxes in pixels of the output.
    """

    index: int
    zoom: float
    corner: tuple[int, int]
    size: tuple[int, int]
    rectangle: tuple[int, int, int, int]
    border: int
    cls: np.ndarray
    xyxy: np.ndarray


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
    times its fitted size, at the first of 20 random places where it fits. All that they cover of an object, soft
    borders included, is summed up, and they do not overlap. Objects that lie in a box by 70 % or more come with it.

    Args:
        images: The dataset.
        present: (n, 4) xyxy pixels of the objects in the output.
        shape: (height, width) of the output in pixels.
        generator: Decides image, objects, sizes and places.

    Returns:
        The patches, in the order in which they are pasted.
    """
    candidates = _random_candidates(images, shape, generator) if len(images.census) else None
    if candidates is None:
        return ()
    return tuple(_patch(candidates, k, place) for k, place in _free_places(candidates, present))


@dataclass(frozen=True)
class _Candidates:
    """k boxes of an image, each at a size of its own, and t places for each in the output, in pixels.

    Attributes:
        index: Which image of the dataset.
        labels: Its objects.
        boxes: (n, 4) xyxy of all of them in 0..1.
        chosen: (k,) which of them.
        zooms: (k,) multiples of the image's fitted size.
        sizes: (k, 2) width and height of the image.
        rectangles: (k, 4) xyxy in the image at that size, the box rounded outwards.
        borders: (k,) widths of the soft borders.
        places: (k, t, 4) xyxy in the output, borders included.
        usable: (k,) whether it is large enough to be an object and small enough for the output.
    """

    index: int
    labels: Labels
    boxes: np.ndarray
    chosen: np.ndarray
    zooms: np.ndarray
    sizes: np.ndarray
    rectangles: np.ndarray
    borders: np.ndarray
    places: np.ndarray
    usable: np.ndarray


def _random_candidates(
    images: ImageSource, shape: tuple[int, int], generator: np.random.Generator
) -> _Candidates | None:
    """Draw image, objects, sizes and places; None if another image stands in for one that cannot be read."""
    index, first = images.census.draw_object(generator)
    labels, fitted = images.labels(index), np.array(images.fitted(index)[::-1])
    if first >= len(labels):
        return None
    same = np.flatnonzero(labels.cls == labels.cls[first])
    chosen = np.array([first, *generator.permutation(same[same != first])[: MOST_PATCHES - 1]])
    zooms = generator.uniform(*PATCH_ZOOM, len(chosen))
    shares = generator.random((len(chosen), PLACES_TRIED, 2))

    center, half = labels.xywhn[:, :2].astype(np.float64), labels.xywhn[:, 2:].astype(np.float64) / 2
    boxes = np.concatenate((center - half, center + half), 1)
    sizes = np.maximum(np.rint(fitted * zooms[:, None]), 1)
    enlarged = boxes[chosen] * sizes[:, [0, 1, 0, 1]]
    rectangles = np.concatenate((np.floor(enlarged[:, :2] + ROUNDING), np.ceil(enlarged[:, 2:] - ROUNDING)), 1)
    sides = rectangles[:, 2:] - rectangles[:, :2]
    room = np.array(shape[::-1]) - sides
    borders = np.maximum(np.rint(SOFT_SHARE * sides.min(1)), SOFT_PIXELS)
    corners, reach = np.floor(shares * (room[:, None] + 1)), borders[:, None, None]
    places = np.concatenate((corners - reach, corners + sides[:, None] + reach), 2)
    usable = ((enlarged[:, 2:] - enlarged[:, :2]).min(1) > MIN_SIDE) & (room.min(1) >= 0)
    return _Candidates(index, labels, boxes, chosen, zooms, sizes, rectangles, borders, places, usable)


def _free_places(candidates: _Candidates, present: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield which candidates are pasted, and at which of their places: the first that is free."""
    covers = covered(candidates.places, present)
    taken: list[np.ndarray] = []
    hidden = np.zeros(len(present))
    for k in np.flatnonzero(candidates.usable).tolist():
        places = candidates.places[k]
        free = (hidden + covers[k] <= MAX_COVERED).all(1)
        for other in taken:
            free &= (places[:, :2] >= other[2:]).any(1) | (places[:, 2:] <= other[:2]).any(1)
        if free.any():
            first = int(free.argmax())
            taken.append(places[first])
            hidden += covers[k, first]
            yield k, first


def _patch(candidates: _Candidates, k: int, place: int) -> Patch:
    """The patch of a candidate at one of its places, with the objects of its image that lie in it by 70 % or more."""
    border, size, rectangle = candidates.borders[k], candidates.sizes[k][[0, 1, 0, 1]], candidates.rectangles[k]
    corner = candidates.places[k, place, :2] + border - rectangle[:2]
    box, boxes, cls = candidates.boxes[candidates.chosen[k]], candidates.boxes, candidates.labels.cls
    inside = covered(box, boxes) >= 1 - MAX_COVERED
    cls, full = cls[inside], boxes[inside] * size
    shown = np.minimum(np.maximum(full, (box * size)[[0, 1, 0, 1]]), (box * size)[[2, 3, 2, 3]])
    if len(cls) > 1:
        keep = worth_keeping(full, shown, 0.0)
        cls, shown = cls[keep], shown[keep]
    moved = corner[[0, 1, 0, 1]]
    return Patch(
        candidates.index,
        float(candidates.zooms[k]),
        _whole(corner),
        _whole(candidates.sizes[k]),
        _whole(rectangle + moved),
        int(border),
        cls,
        (shown + moved).astype(np.float32),
    )


def soft_weights(side: int, border: int) -> np.ndarray:
    """Return the weights of a patch along one axis: a cosine from 0 across the soft border, 1, and back.

    Args:
        side: Pixels without the border.
        border: Width of the border in pixels.

    Returns:
        (border + side + border,) float32 at the middles of the pixels, 0..1.
    """
    ramp = 0.5 - 0.5 * np.cos(np.pi / border * (np.arange(border) + 0.5))
    return np.concatenate((ramp, np.ones(side), ramp[::-1])).astype(np.float32)


def covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of each of the others that a box covers.

    Args:
        boxes: (..., 4) xyxy.
        others: (n, 4) xyxy.

    Returns:
        (..., n), 0..1.
    """
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)[..., None]
    width = np.minimum(x1, others[:, 2]) - np.maximum(x0, others[:, 0])
    height = np.minimum(y1, others[:, 3]) - np.maximum(y0, others[:, 1])
    return width.clip(0) * height.clip(0) / ((others[:, 2:] - others[:, :2]).prod(1) + 1e-16)


def _whole(numbers: np.ndarray) -> tuple:
    return tuple(numbers.astype(int).tolist())
