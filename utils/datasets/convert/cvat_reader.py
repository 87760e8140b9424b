"""Reader of "CVAT for images 1.1": one XML file with all images of a task or project."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utils.datasets.convert.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Source,
    class_name,
    numbers,
    whole_size,
)
from utils.datasets.convert.outlines import ellipse, mask_from_counts, mask_outlines, rotated_box
from utils.datasets.convert.safe_xml import XmlElement, iter_elements
from utils.datasets.convert.split_assignment import split_in_name
from utils.errors import DataError

_WITHOUT_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
_SHAPES = ("box", "polygon", "ellipse", "mask")
_Geometry = tuple[np.ndarray | None, tuple[np.ndarray, ...]]


def read_cvat(source: Source) -> Annotations:
    """Return the images of all CVAT files of a source, classes in the order of the task's labels."""
    images: list[AnnotatedImage] = []
    classes: dict[str, None] = {}
    for _, elements in source.reading(source.files(".xml"), lambda path: _read_file(path, source)):
        names, found = elements
        classes.update(dict.fromkeys(names))
        images += found
    return Annotations(images, tuple(classes))


def _read_file(file: Path, source: Source) -> tuple[list[str], list[AnnotatedImage]]:
    """(labels, images); images are read one after another, as such files can be large."""
    elements = iter_elements(file)
    root = next(elements)
    if root.tag == "annotation":
        raise DataError(f"{file}: is a VOC file, not CVAT; convert it with the format voc")
    if root.tag != "annotations":
        raise DataError(f"{file}: is no CVAT file: its root element is {root.tag}, expected annotations")
    names: list[str] = []
    images: list[AnnotatedImage] = []
    for element in elements:
        if element.tag == "track":
            raise DataError(f'{file}: is "CVAT for video"; export it as "CVAT for images 1.1"')
        if element.tag == "meta":
            names += _labels(element)
        elif element.tag == "image":
            images.append(_image(file, element, source))
    return names, images


def _labels(meta: XmlElement) -> list[str]:
    """The labels of the task, project or job; those of a skeleton's parts have a parent."""
    for owner in ("task", "project", "job"):
        part = meta.child(owner)
        labels = part.child("labels") if part else None
        if labels is not None:
            names = [class_name(label.value("name")) for label in labels.all("label") if not label.value("parent")]
            return [name for name in names if name]
    return []


def _image(file: Path, element: XmlElement, source: Source) -> AnnotatedImage:
    given = element.attributes
    size = whole_size(given.get("height"), given.get("width"))
    split = split_in_name(given.get("subset", ""))
    image = AnnotatedImage(str(file), element.line, (given.get("name", ""),), size, split=split)
    for shape in element.children:
        name = class_name(shape.attributes.get("label", ""))
        if shape.tag in _WITHOUT_AREA:
            source.remarks.add("no-area", file, shape.line, f"{name}: a {shape.tag}")
        elif shape.tag in _SHAPES:
            box, outlines = _geometry(shape.tag, shape.attributes)
            if not name or box is None and not outlines:
                source.remarks.add(
                    "object-broken", file, shape.line, f"a {shape.tag} without label or sound coordinates"
                )
            else:
                image.objects.append(AnnotatedObject(name, box, outlines, shape.line, _difficult(shape)))
    return image


def _difficult(shape: XmlElement) -> bool:
    """Whether a label's own attribute says so, as for sets that came from VOC."""
    return any(
        one.attributes.get("name") == "difficult" and one.text.strip().casefold() in ("1", "true")
        for one in shape.all("attribute")
    )


def _geometry(kind: str, given: Mapping[str, str]) -> _Geometry:
    """(box or None, outlines) of a shape; (None, ()) if its attributes do not make one."""
    return {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}[kind](given)


def _attributes(given: Mapping[str, str], *names: str) -> np.ndarray | None:
    return numbers([given.get(name, "") for name in names])


def _angle(given: Mapping[str, str]) -> float:
    """Radians, clockwise."""
    angle = numbers([given.get("rotation", "0")])
    return 0.0 if angle is None else math.radians(angle[0])


def _box(given: Mapping[str, str]) -> _Geometry:
    corners = _attributes(given, "xtl", "ytl", "xbr", "ybr")
    angle = _angle(given)
    if corners is None or not angle:
        return corners, ()
    return None, (rotated_box((corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2], angle),)


def _polygon(given: Mapping[str, str]) -> _Geometry:
    pairs = [pair.split(",") for pair in given.get("points", "").split(";")]
    flat = numbers([value for pair in pairs for value in pair]) if all(len(pair) == 2 for pair in pairs) else None
    return (None, (flat.reshape(-1, 2),)) if flat is not None and len(flat) >= 6 else (None, ())


def _ellipse(given: Mapping[str, str]) -> _Geometry:
    values = _attributes(given, "cx", "cy", "rx", "ry")
    return (None, ()) if values is None else (None, (ellipse(values[:2], values[2:], _angle(given)),))


def _mask(given: Mapping[str, str]) -> _Geometry:
    """A mask in a frame of its own: runs along the rows, the first outside the object."""
    frame, counts = _attributes(given, "left", "top", "width", "height"), numbers(given.get("rle", "").split(","))
    if frame is None or counts is None or (frame[2:] < 1).any():
        return None, ()
    mask = mask_from_counts([int(count) for count in counts], (int(frame[3]), int(frame[2])), by_column=False)
    return None, () if mask is None else tuple(points + frame[:2] for points in mask_outlines(mask))
