"""Reader of labelme annotations: one JSON file per image, as labelme and X-AnyLabeling write them."""

import base64
import binascii
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.datasets.convert.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Source,
    class_name,
    numbers,
    read_json,
    whole_size,
)
from utils.datasets.convert.outlines import ellipse, mask_outlines
from utils.errors import DataError

_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")


def read_labelme(source: Source) -> Annotations:
    """Return the images of all labelme files of a source.

    Shapes of one image with one label and one group_id are parts of one object. In a folder, JSON files without shapes
    are passed over with a remark.
    """
    images = []
    for path, content in source.reading(source.files(".json"), read_json):
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            if source.path.is_file():
                raise DataError(f"{path}: is no labelme file: it has no list of shapes")
            source.remarks.add("file-skipped", path, 0, "has no list of shapes")
            continue
        images.append(_image(path, content, source))
    return Annotations(images)


def _image(path: Path, content: dict[str, Any], source: Source) -> AnnotatedImage:
    name, data = content.get("imagePath"), content.get("imageData")
    wanted = (name, path.stem) if isinstance(name, str) else (path.stem,)
    size = whole_size(content.get("imageHeight"), content.get("imageWidth"))
    found = [(shape, _object(path, index, shape, source)) for index, shape in enumerate(content["shapes"], 1)]
    objects = _grouped([(_group(shape), one) for shape, one in found if one is not None])
    return AnnotatedImage(str(path), 0, wanted, size, objects, embedded=data if isinstance(data, str) else "")


def _group(shape: dict[str, Any]) -> object:
    group = shape.get("group_id")
    return group if isinstance(group, (int, str)) else None


def _grouped(found: list[tuple[object, AnnotatedObject]]) -> list[AnnotatedObject]:
    """The objects, with the shapes of one label and one group put together."""
    shared = Counter((group, one.name) for group, one in found if group is not None)
    together: dict[object, AnnotatedObject] = {}
    for index, (group, one) in enumerate(found):
        key: object = (group, one.name)
        if group is None or shared[group, one.name] == 1:
            key = index
        elif key in together:
            before = together[key]
            parts = (*_parts(before), *_parts(one))
            one = AnnotatedObject(one.name, None, parts, before.line, before.difficult or one.difficult)
        together[key] = one
    return list(together.values())


def _parts(one: AnnotatedObject) -> tuple[np.ndarray, ...]:
    """The outlines of an object, a box as its four corners."""
    if one.box is None:
        return one.outlines
    left, top, right, bottom = one.box
    return (np.array([(left, top), (right, top), (right, bottom), (left, bottom)]),)


def _object(path: Path, index: int, shape: Any, source: Source) -> AnnotatedObject | None:
    """The object of one shape, or None and a remark."""
    where = f"shape {index}"
    name = class_name(shape.get("label")) if isinstance(shape, dict) else ""
    if not name:
        source.remarks.add("object-broken", path, 0, f"{where} has no label")
        return None
    kind = shape.get("shape_type") or "polygon"  # the oldest files do not say: all were polygons
    if kind in _WITHOUT_AREA:
        source.remarks.add("no-area", path, 0, f"{where}, {name}: a {kind}")
        return None
    points = _points(shape.get("points"))
    box, outlines = _geometry(kind, points, shape) if points is not None else (None, ())
    if box is None and not outlines:
        source.remarks.add("object-broken", path, 0, f"{where}, {name}: points or mask are not those of a {kind}")
        return None
    flags = shape.get("flags")
    difficult = shape.get("difficult") is True or isinstance(flags, dict) and flags.get("difficult") is True
    return AnnotatedObject(name, box, outlines, index, difficult)


def _points(values: Any) -> np.ndarray | None:
    """(k, 2) float64, or None."""
    if not isinstance(values, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        return None
    flat = numbers([value for pair in values for value in pair])
    return None if flat is None else flat.reshape(-1, 2)


def _geometry(kind: Any, points: np.ndarray, shape: dict[str, Any]) -> tuple[np.ndarray | None, tuple[np.ndarray, ...]]:
    """(box or None, outlines) of a shape; (None, ()) if its points do not make one."""
    if kind == "rectangle" and len(points) in (2, 4):
        return np.concatenate((points.min(0), points.max(0))), ()
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        return None, (ellipse(points[0], (radius, radius)),)
    if kind == "mask" and len(points) == 2:
        return None, _mask(points, shape.get("mask"))
    if kind in _POLYGONS and len(points) >= 3:
        return None, (points,)
    return None, ()


def _mask(corners: np.ndarray, text: Any) -> tuple[np.ndarray, ...]:
    """The outlines of a mask that is embedded as an image file and begins at the first corner."""
    data = decode_base64(text) if isinstance(text, str) else b""
    if not data:
        return ()
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        return ()
    if mask is None:
        return ()
    return tuple(points + corners.min(0).round() for points in mask_outlines(mask > 0))


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text, b"" if it is none; a data URL's head is dropped."""
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=False)
    except (ValueError, binascii.Error):
        return b""
