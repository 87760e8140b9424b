"""Annotated images found, inspected, and related to the pixels that their annotations count in."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

import numpy as np

from utils.datasets.convert.annotations import AnnotatedImage, AnnotatedObject
from utils.datasets.convert.image_finder import ImageAmbiguous, ImageFinder
from utils.datasets.convert.labelme_reader import decode_base64
from utils.datasets.convert.remarks import RemarkLog
from utils.errors import DataError
from utils.images import EXIF_ROTATED, ImageHeader, inspect_image
from utils.log import progress

_TRANSPOSED = (5, 6, 7, 8)  # the orientations that exchange width and height
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"RI": ".webp", b"II": ".tif", b"MM": ".tif"}


@dataclass(frozen=True)
class AnnotatedFrame:
    """What the coordinates of an image's annotations refer to.

    Attributes:
        size: (height, width) in pixels.
        orientation: EXIF orientation that the annotations do not know of; 1 if they are about the upright image.
    """

    size: tuple[int, int]
    orientation: int = 1

    def normalized(self, points: np.ndarray) -> np.ndarray:
        """Return (k, 2) pixels as (k, 2) in shares of the upright image's width and height."""
        x, y = (points / np.array(self.size[::-1], np.float64)).T
        upright = {5: (y, x), 6: (1 - y, x), 7: (1 - y, 1 - x), 8: (y, 1 - x)}.get(self.orientation, (x, y))
        return np.stack(upright, 1)


@dataclass
class PlacedImage:
    """An image of the converted dataset.

    Attributes:
        path: Its file.
        annotation: The first annotation file that describes it, or "".
        header: Its header.
        digest: Of its bytes.
        split: The split that the source puts it in, or "".
        described: (frame, objects) of each description.
    """

    path: Path
    annotation: str
    header: ImageHeader
    digest: bytes
    split: str
    described: list[tuple[AnnotatedFrame, Sequence[AnnotatedObject]]] = field(default_factory=list)


def place_images(
    images: Sequence[AnnotatedImage], finder: ImageFinder, remarks: RemarkLog, embedded: Path
) -> list[PlacedImage]:
    """Return the images that can be used, sorted by path, each once.

    Args:
        images: As the readers found them.
        finder: Finds their files.
        remarks: Takes what is left out.
        embedded: Folder for images that annotation files hold in themselves.

    Returns:
        The images with frames and objects.
    """
    by_path: dict[Path, list[AnnotatedImage]] = {}
    for index, image in enumerate(images):
        path = _find(image, finder, remarks, embedded / str(index))
        if path is not None:
            by_path.setdefault(path, []).append(image)
    paths = sorted(by_path)
    placed = []
    for path, inspected in zip(paths, _inspect(paths), strict=True):
        if isinstance(inspected, DataError):
            remarks.add("image-unreadable", path, 0, str(inspected).removeprefix(f"{path}: "))
            continue
        one = _placed(path, inspected, by_path[path], remarks)
        if one.described:
            placed.append(one)
    return placed


def background_images(
    placed: Sequence[PlacedImage], finder: ImageFinder, remarks: RemarkLog, keep: bool
) -> list[PlacedImage]:
    """Return images that nothing describes, as images without objects; none, but a remark each, unless `keep`.

    An image whose annotation could not be used may show objects: it is no background.

    Args:
        placed: The described images.
        finder: Knows all images.
        remarks: Takes what is left out.
        keep: Whether they are taken.

    Returns:
        The images.
    """
    known = {one.path for one in placed} | _doubtful(finder, remarks)
    rest = [path for path in finder.paths() if path not in known]
    if not keep:
        for path in rest:
            remarks.add("not-annotated", path, 0, "no annotation is about it")
        return []
    found = []
    for path, inspected in zip(rest, _inspect(rest), strict=True):
        if isinstance(inspected, DataError):
            remarks.add("image-unreadable", path, 0, str(inspected).removeprefix(f"{path}: "))
        else:
            found.append(PlacedImage(path, "", *inspected, ""))
    return found


def _doubtful(finder: ImageFinder, remarks: RemarkLog) -> set[Path]:
    """Images that an annotation which was left out is about, or could be."""
    found = {Path(one.file) for one in remarks.remarks if one.kind in ("image-unreadable", "size-differs")}
    for one in remarks.remarks:
        if one.kind in ("annotation-unreadable", "image-ambiguous"):
            try:
                found.add(finder.find([Path(one.file).stem], Path(one.file)))
            except ImageAmbiguous as error:
                found.update(error.paths)
            except DataError:
                continue
    return found | finder.ambiguous


def _find(image: AnnotatedImage, finder: ImageFinder, remarks: RemarkLog, embedded: Path) -> Path | None:
    """The file of an image; if there is none, the one in its annotation is written out."""
    try:
        path = finder.find(image.wanted, Path(image.file))
    except ImageAmbiguous as error:
        finder.ambiguous.update(error.paths)
        remarks.add("image-ambiguous", image.file, image.line, str(error))
        return None
    except DataError as error:
        taken_out = _write_embedded(image, embedded)
        if taken_out is None:
            remarks.add("image-missing", image.file, image.line, str(error))
            return None
        path = taken_out
        remarks.add("image-embedded", image.file, image.line, f"{path.name} was taken out of it")
    written = [text.replace("\\", "/").rpartition("/")[2] for text in image.wanted if text]
    other = next((name for name in written if Path(name).stem.casefold() != path.stem.casefold()), "")
    if other:
        remarks.add("named-otherwise", image.file, image.line, f"names {other}; {path.name} was taken")
    return path


def _write_embedded(image: AnnotatedImage, folder: Path) -> Path | None:
    data = decode_base64(image.embedded) if image.embedded else b""
    suffix = _SUFFIXES.get(data[:2])
    if suffix is None:
        return None
    folder.mkdir(parents=True)
    path = folder / f"{Path(image.file).stem}{suffix}"
    path.write_bytes(data)
    return path


def _inspect(paths: Sequence[Path]) -> Iterator[tuple[ImageHeader, bytes] | DataError]:
    """(header, digest of the bytes) of each image, or what is wrong with it."""

    def inspect(path: Path) -> tuple[ImageHeader, bytes] | DataError:
        try:
            header = inspect_image(path)
            return header, hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from progress(pool.map(inspect, paths), len(paths), "Inspecting images")


def _placed(
    path: Path, inspected: tuple[ImageHeader, bytes], images: Sequence[AnnotatedImage], remarks: RemarkLog
) -> PlacedImage:
    """An image with all its descriptions; none of them if the sizes that they state are not the image's."""
    first, header = images[0], inspected[0]
    split = next((image.split for image in images if image.split), "")
    one = PlacedImage(path, first.file, *inspected, split)
    for image in images:
        frame = choose_frame(image, header, remarks, path)
        if frame is not None:
            one.described.append((frame, image.objects))
    if len(images) > 1:
        remarks.add("described-twice", path, 0, f"{len(images)} times, in {_names(images)}")
    return one


def _names(images: Sequence[AnnotatedImage]) -> str:
    return ", ".join(dict.fromkeys(Path(image.file).name for image in images))


def choose_frame(image: AnnotatedImage, header: ImageHeader, remarks: RemarkLog, path: Path) -> AnnotatedFrame | None:
    """Return what the coordinates of an image refer to, or None and a remark if that cannot be known.

    Args:
        image: Its annotation with the stated size.
        header: The image file's header.
        remarks: Takes what is noticed.
        path: The image file.

    Returns:
        The frame.
    """
    upright, stated = header.size, image.size
    rotated = header.orientation in EXIF_ROTATED
    stored = upright[::-1] if header.orientation in _TRANSPOSED else upright
    if stated is not None and _resized(stated, upright) and not (rotated and stored == upright):
        if stated != upright:
            remarks.add("size-scaled", path, 0, f"annotated at {_text(stated)}, is {_text(upright)}")
        return AnnotatedFrame(stated)
    if rotated and stated is not None and stored != upright and _resized(stated, stored):
        remarks.add("exif-undone", path, 0, f"annotated as stored, {_text(stored)} (orientation {header.orientation})")
        return AnnotatedFrame(stated, header.orientation)
    if rotated and (stated is None or _resized(stated, upright)):
        remarks.add("exif-rotated", path, 0, f"orientation {header.orientation}, read upright as {_text(upright)}")
        return AnnotatedFrame(stated or upright)
    if stated is None:
        return AnnotatedFrame(upright)
    extent = _extent(image.objects)
    if not _fits(extent, stated) and _fits(extent, upright):
        remarks.add("size-wrong", path, 0, f"{Path(image.file).name} says {_text(stated)}, it is {_text(upright)}")
        return AnnotatedFrame(upright)
    what = f"{Path(image.file).name} says {_text(stated)}, the image is {_text(upright)}"
    remarks.add("size-differs", path, 0, what)
    return None


def _resized(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have one shape, but for the rounding of a side to a pixel."""
    wide, high = other[1] / one[1], other[0] / one[0]
    by_width = abs(one[0] * wide - other[0]) <= 1 or abs(one[0] - other[0] / wide) <= 1
    return by_width or abs(one[1] * high - other[1]) <= 1 or abs(one[1] - other[1] / high) <= 1


def _extent(objects: Sequence[AnnotatedObject]) -> np.ndarray:
    """(2,) largest x and y of all objects; 0 without objects."""
    corners = [one.box.reshape(2, 2) for one in objects if one.box is not None]
    points = [*corners, *(outline for one in objects for outline in one.outlines), np.zeros((1, 2))]
    return np.concatenate(points).max(0)


def _fits(extent: np.ndarray, size: tuple[int, int]) -> bool:
    return bool((extent <= np.array(size[::-1]) + 1).all())


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def usable_names(placed: Sequence[PlacedImage], names: Mapping[Path, str]) -> list[str]:
    """Return names of the converted images without suffix, of which no two differ in letter case only.

    A stem that several images have is preceded by folders, then followed by the suffix or a count.

    Args:
        placed: The images, in a fixed order.
        names: path -> its path relative to the folder of the images.

    Returns:
        One name per image.
    """
    taken: set[str] = set()
    chosen = []
    for one in placed:
        relative = Path(names[one.path])
        stem = one.path.stem.lstrip(".") or "image"
        nested = "-".join((*relative.parent.parts, stem))
        candidates = chain(
            (stem, nested, f"{nested}-{one.path.suffix[1:]}"), (f"{stem[:50]}-{index}" for index in count(2))
        )
        name = next(each for each in candidates if each.casefold() not in taken and len(os.fsencode(each)) < 250)
        taken.add(name.casefold())
        chosen.append(name)
    return chosen
