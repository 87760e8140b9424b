"""Label rows: objects in pixels as rows of a YOLO label file, boxes and outlines cut at the image's edges."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from utils.datasets.convert.annotations import AnnotatedObject
from utils.datasets.convert.outlines import clip_outline, join_parts
from utils.datasets.convert.placed_images import AnnotatedFrame, PlacedImage
from utils.datasets.convert.remarks import RemarkLog

_DIGITS = 6
_LEAST_CLIPPED = 0.01  # pixels beyond the edge: less comes from rounding, and is cut without being counted


@dataclass(frozen=True)
class RowOptions:
    """How objects become rows: class numbers by name, whether outlines become boxes, whether difficult ones stay."""

    class_ids: Mapping[str, int]
    boxes: bool = False
    difficult: bool = False


@dataclass
class ImageRows:
    """The rows of one image.

    Attributes:
        texts: One per object.
        class_ids: Their classes.
        outlines: How many are outlines.
    """

    texts: list[str] = field(default_factory=list)
    class_ids: list[int] = field(default_factory=list)
    outlines: int = 0


class ObjectUnusable(ValueError):
    """An object without a row: the kind of remark, and what is wrong."""

    def __init__(self, kind: str, what: str):
        super().__init__(what)
        self.kind = kind


def rows_of(image: PlacedImage, options: RowOptions, remarks: RemarkLog) -> ImageRows:
    """Return the rows of an image's objects in their order.

    Args:
        image: The image with all its descriptions.
        options: How objects become rows.
        remarks: Takes what is left out or changed, with the annotation's line if it has lines.

    Returns:
        The rows; none is an image without objects.
    """
    rows = ImageRows()
    seen: set[str] = set()
    for frame, objects in image.described:
        for one in objects:
            what = f"{one.name} in {image.path.name}"
            try:
                row, is_outline = _row(one, frame, image, options, remarks)
                if row in seen:
                    raise ObjectUnusable("repeated", "the same object again")
            except ObjectUnusable as reason:
                remarks.add(reason.kind, image.annotation, one.line, f"{what}: {reason}")
                continue
            seen.add(row)
            rows.texts.append(row)
            rows.class_ids.append(options.class_ids[one.name])
            rows.outlines += is_outline
    return rows


def _row(
    one: AnnotatedObject, frame: AnnotatedFrame, image: PlacedImage, options: RowOptions, remarks: RemarkLog
) -> tuple[str, bool]:
    """(the row of an object, whether it is an outline)."""
    if one.name not in options.class_ids:
        raise ObjectUnusable("class-left-out", "not in --names")
    if one.difficult and not options.difficult:
        raise ObjectUnusable("difficult", "marked as difficult")
    as_outline = bool(one.outlines) and not options.boxes
    if one.outlines and (as_outline or one.box is None):
        if len(one.outlines) > 1:
            remarks.add("parts-joined", image.annotation, one.line, f"{one.name}: {len(one.outlines)} parts")
        points = frame.normalized(join_parts(one.outlines))
    else:
        points = _corners(one, frame, image, remarks)
    points = _inside(points, one, image, remarks)
    low, high = points.min(0).round(_DIGITS), points.max(0).round(_DIGITS)
    if not (high > low).all():
        raise ObjectUnusable("object-no-size", "width or height is zero")
    values = points.round(_DIGITS) if as_outline else np.concatenate(((low + high) / 2, high - low))
    if as_outline:
        values = values[(values != np.roll(values, 1, axis=0)).any(1)]
    numbers = " ".join(f"{value:.{_DIGITS}f}" for value in values.ravel())
    return f"{options.class_ids[one.name]} {numbers}", as_outline


def _corners(one: AnnotatedObject, frame: AnnotatedFrame, image: PlacedImage, remarks: RemarkLog) -> np.ndarray:
    """(2, 2) low and high corner of a box in shares of the image."""
    assert one.box is not None
    corners = one.box.reshape(2, 2)
    if (corners[0] > corners[1]).any():
        remarks.add("corners-exchanged", image.annotation, one.line, f"{one.name} in {image.path.name}")
    ends = frame.normalized(corners)
    return np.stack((ends.min(0), ends.max(0)))


def _inside(points: np.ndarray, one: AnnotatedObject, image: PlacedImage, remarks: RemarkLog) -> np.ndarray:
    """The part of an outline, or of a box given by two corners, that is inside the image."""
    height, width = image.header.size
    beyond = float((np.maximum(-points, points - 1) * (width, height)).max())
    if beyond <= _LEAST_CLIPPED:
        return points.clip(0, 1)
    if (points.max(0) <= 0).any() or (points.min(0) >= 1).any():
        raise ObjectUnusable("object-outside", f"lies outside the image of {width} x {height}")
    inside = clip_outline(points) if len(points) > 2 else points.clip(0, 1)
    if len(inside) == 0:
        raise ObjectUnusable("object-outside", f"lies outside the image of {width} x {height}")
    what = f"{one.name} in {image.path.name}: {beyond:.1f} pixels beyond the edge"
    remarks.add("clipped", image.annotation, one.line, what)
    return inside
