"""Reader of PASCAL VOC annotations: one XML file per image, as labelImg, Roboflow, CVAT and others write them."""

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
from utils.datasets.convert.outlines import rotated_box
from utils.datasets.convert.safe_xml import XmlElement, iter_elements
from utils.errors import DataError
from utils.files import read_text

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROTATED = ("cx", "cy", "w", "h", "angle")


def read_voc(source: Source) -> Annotations:
    """Return the images of all VOC files of a source.

    The corners of a box are taken as its edges, as the tools of today mean them; with `one_based` they are pixels
    counted from 1 that both belong to the box, as in the original VOC sets.
    """
    files = source.files(".xml")
    lists = _split_lists(source.path)
    images = []
    for file, (root, fields) in source.reading(files, _read_file):
        image = _image(file, root, fields, source)
        image.split = _listed_split(file, lists)
        images.append(image)
    return Annotations(images, listed=bool(lists))


def _read_file(file: Path) -> tuple[XmlElement, XmlElement]:
    """(the root as it begins, the root with its children)."""
    elements = list(iter_elements(file))
    root = elements[0]
    if root.tag == "annotations":
        raise DataError(f"{file}: is a CVAT file, not VOC; convert it with the format cvat")
    if root.tag != "annotation":
        raise DataError(f"{file}: is no VOC file: its root element is {root.tag}, expected annotation")
    return root, XmlElement(root.tag, root.attributes, root.line, "", elements[1:])


def _image(file: Path, root: XmlElement, fields: XmlElement, source: Source) -> AnnotatedImage:
    size = fields.child("size")
    stated = whole_size(size.value("height"), size.value("width")) if size else None
    image = AnnotatedImage(str(file), 0, (file.stem, fields.value("filename"), fields.value("path")), stated)
    for entry in fields.all("object"):
        found = _object(entry, source, file)
        if found is not None:
            image.objects.append(found)
    return image


def _object(entry: XmlElement, source: Source, file: Path) -> AnnotatedObject | None:
    name = class_name(entry.value("name"))
    if not name:
        source.remarks.add("object-broken", file, entry.line, "the object has no name")
        return None
    difficult = entry.value("difficult").casefold() in ("1", "true")
    outline, box = _outline(entry), entry.child("bndbox")
    corners = None if box is None else numbers([box.value(corner) for corner in _CORNERS], 4)
    if corners is not None and source.one_based:
        corners = corners - (1, 1, 0, 0)
    if corners is None and outline is None:
        source.remarks.add("object-broken", file, entry.line, f"{name}: no box, or one that is not of four numbers")
        return None
    return AnnotatedObject(name, corners, () if outline is None else (outline,), entry.line, difficult)


def _outline(entry: XmlElement) -> np.ndarray | None:
    """The polygon or rotated box of an object: <x1><y1><x2>..., <pt><x><y>..., or <robndbox>."""
    rotated = entry.child("robndbox")
    if rotated is not None:
        values = numbers([rotated.value(key) for key in _ROTATED], 5)
        return None if values is None else rotated_box(values[:2], values[2:4], values[4])
    polygon = entry.child("polygon")
    if polygon is None:
        return None
    texts = [point.value(axis) for point in polygon.all("pt") for axis in "xy"]
    if not texts:
        texts = _numbered({child.tag: child.text.strip() for child in polygon.children})
    points = numbers(texts)
    return None if points is None or len(points) < 6 or len(points) % 2 else points.reshape(-1, 2)


def _numbered(values: Mapping[str, str]) -> list[str]:
    """The texts of x1, y1, x2, y2, ... as long as there are pairs."""
    texts: list[str] = []
    index = 1
    while f"x{index}" in values and f"y{index}" in values:
        texts += (values[f"x{index}"], values[f"y{index}"])
        index += 1
    return texts


def _split_lists(source: Path) -> dict[Path, dict[str, str]]:
    """Folder of a VOC set -> stem -> split, of sets whose ImageSets/Main has lists of train and of val."""
    found: dict[Path, dict[str, str]] = {}
    if source.is_dir():
        for main in sorted(source.rglob("ImageSets/Main")):
            lists = {split: main / f"{split}.txt" for split in ("train", "val", "test")}
            if lists["train"].is_file() and lists["val"].is_file():
                found[main.parent.parent] = {
                    line.split()[0]: split
                    for split, path in reversed(lists.items())
                    if path.is_file()
                    for line in read_text(path).splitlines()
                    if line.strip()
                }
    return found


def _listed_split(file: Path, lists: Mapping[Path, Mapping[str, str]]) -> str:
    return next((lists[folder].get(file.stem, "") for folder in file.parents if folder in lists), "")
