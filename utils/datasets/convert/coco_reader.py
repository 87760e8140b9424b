"""Reader of COCO annotations: one JSON file with images, annotations and categories."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from utils.datasets.convert.outlines import coco_counts, mask_from_counts, mask_outlines
from utils.datasets.convert.split_assignment import split_in_name
from utils.errors import DataError

_KEYS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class _File:
    """One file: its path, its categories by id, its images by id, and where remarks go."""

    path: Path
    names: Mapping[Any, str]
    images: Mapping[Any, AnnotatedImage]
    source: Source


def read_coco(source: Source) -> Annotations:
    """Return the images of all COCO files of a source, classes in the order of their ids.

    In a folder, JSON files that are no COCO file are passed over with a remark. Classes of one name in several files
    are one class, whatever their ids.
    """
    images: list[AnnotatedImage] = []
    classes: dict[str, None] = {}
    categories: list[tuple[str, str, str]] = []
    for path, content in source.reading(source.files(".json"), read_json):
        if not _is_coco(content):
            if source.path.is_file():
                raise DataError(
                    f"{path}: is no COCO file of objects: it needs lists of {', '.join(_KEYS)}{_hint(content)}"
                )
            source.remarks.add("file-skipped", path, 0, "is no COCO file of objects")
            continue
        file = _open(path, content, source)
        for index, entry in enumerate(content["annotations"], 1):
            _add(file, index, entry)
        images += file.images.values()
        names = dict(sorted(file.names.items(), key=lambda item: _in_order(item[0])))
        for name in _without_groups(file, names, content["categories"]):
            classes.setdefault(name)
        categories += ((str(path), str(number), name) for number, name in names.items())
    return Annotations(images, tuple(classes), tuple(categories))


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _KEYS)


def _hint(content: Any) -> str:
    return "; it is a labelme file" if isinstance(content, dict) and "shapes" in content else ""


def _open(path: Path, content: Mapping[str, Any], source: Source) -> _File:
    """The images and categories of a file; entries without an id or a name become remarks."""
    names: dict[Any, str] = {}
    for entry in content["categories"]:
        number, name = _id(entry, "id"), class_name(entry.get("name")) if isinstance(entry, dict) else ""
        if number is None or not name:
            source.remarks.add("object-broken", path, 0, f"a category without id or name: {entry!r}")
        else:
            names[number] = name
    split = split_in_name(path.stem)
    images: dict[Any, AnnotatedImage] = {}
    for index, entry in enumerate(content["images"], 1):
        number, file_name = _id(entry, "id"), entry.get("file_name") if isinstance(entry, dict) else None
        if number is None or not isinstance(file_name, str):
            source.remarks.add("annotation-unreadable", path, 0, f"image {index} of the list has no id or file_name")
            continue
        size = whole_size(entry.get("height"), entry.get("width"))
        images[number] = AnnotatedImage(str(path), 0, (file_name,), size, split=split)
    return _File(path, names, images, source)


def _id(entry: Any, key: str) -> int | str | None:
    """An id; 3, 3.0 and "3" are one."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return str(value)


def _in_order(number: int | str) -> tuple[bool, int, str]:
    return isinstance(number, str), number if isinstance(number, int) else 0, str(number)


def _add(file: _File, index: int, entry: Any) -> None:
    """Add one annotation to its image, or a remark."""
    remarks, where = file.source.remarks, f"annotation {index} of the list"
    image = file.images.get(_id(entry, "image_id"))
    name = file.names.get(_id(entry, "category_id"))
    if image is None or name is None:
        missing = "category" if image is not None else "image"
        remarks.add("object-broken", file.path, 0, f"{where}: its {missing} is not in the file")
        return
    where = f"{where}, {name} in {image.wanted[0]}"
    if entry.get("iscrowd") in (1, True):
        remarks.add("crowd", file.path, 0, where)
        return
    values = numbers(entry["bbox"], 4) if isinstance(entry.get("bbox"), list) else None
    box = None if values is None else np.concatenate((values[:2], values[:2] + values[2:]))
    outlines = _outlines(entry.get("segmentation"), image.size)
    if outlines is None:
        remarks.add("outline-broken", file.path, 0, f"{where}: the segmentation is neither polygons nor a sound mask")
    if box is None and not outlines:
        remarks.add("object-broken", file.path, 0, f"{where}: neither a box of four numbers nor an outline")
        return
    if values is not None and (values[2:] <= 0).any():
        remarks.add("object-no-size", file.path, 0, f"{where}: {values[2]:g} x {values[3]:g} pixels")
        return
    difficult = entry.get("ignore") in (1, True) or entry.get("difficult") in (1, True)
    image.objects.append(AnnotatedObject(name, box, outlines or (), index, difficult))


def _outlines(segmentation: Any, size: tuple[int, int] | None) -> tuple[np.ndarray, ...] | None:
    """The outlines of a segmentation, () if there is none, None if it is broken."""
    if segmentation in (None, [], {}, [[]]):
        return ()
    if isinstance(segmentation, dict):
        return _mask(segmentation, size)
    if not isinstance(segmentation, list):
        return None
    parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
    outlines = []
    for part in parts:
        points = numbers(part) if isinstance(part, list) else None
        if points is None or len(points) < 6 or len(points) % 2:
            return None
        outlines.append(points.reshape(-1, 2))
    return tuple(outlines)


def _mask(code: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[np.ndarray, ...] | None:
    """The outlines of a run-length code, compressed or not; its size must be the image's."""
    sides, counts = code.get("size"), code.get("counts")
    of_mask = whole_size(*sides) if isinstance(sides, list) and len(sides) == 2 else None
    if of_mask is None or size not in (None, of_mask):
        return None
    if isinstance(counts, str):
        counts = coco_counts(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        return None
    mask = mask_from_counts(counts, of_mask, by_column=True)
    return None if mask is None else mask_outlines(mask) or None


def _without_groups(file: _File, names: Mapping[Any, str], entries: list) -> list[str]:
    """The class names without those that only group others, as Roboflow writes one with the id 0."""
    used = {one.name for image in file.images.values() for one in image.objects}
    groups = {class_name(entry.get("supercategory")) for entry in entries if isinstance(entry, dict)}
    kept = []
    for name in names.values():
        if name in groups and name not in used and len(names) > 1:
            file.source.remarks.add("category-unused", file.path, 0, f"{name} groups other categories")
        else:
            kept.append(name)
    return kept
