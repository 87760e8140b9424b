"""The images of a dataset, and where their label files are."""

import os
from collections.abc import Sequence
from pathlib import Path

from utils.datasets.image_lists import read_image_list
from utils.errors import DataError
from utils.files import walk_files
from utils.images import IMAGE_SUFFIXES, is_image
from utils.log import warn_once


def list_images(sources: Path | str | Sequence[Path | str]) -> list[str]:
    """Return the paths of all images of a folder (with its subfolders), of a .txt list, or of several of those, sorted.

    Raises DataError if a source is missing or holds no image, and if none of the images that a list names exists.
    """
    several = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found = []
    for source in map(Path, several):
        if source.is_dir():
            paths = [path for path in walk_files(source) if is_image(path)]
        elif is_image(source) and source.is_file():
            raise DataError(f"{source}: is an image; give its folder, or a .txt list that names it")
        elif source.is_file():
            paths = _listed(source)
        else:
            raise DataError(f"{source}: no such folder or list of images")
        if not paths:
            raise DataError(f"{source}: holds no image; looked for names that end in {' '.join(IMAGE_SUFFIXES)}")
        found += paths
    return sorted(found)


def has_images(folder: Path) -> bool:
    """Return whether a folder holds an image; no more of it is read than until one is found."""
    return folder.is_dir() and any(map(is_image, walk_files(folder)))


def _listed(file: Path) -> list[str]:
    """The images named in a text file; what was done to find them, or that some do not exist, is logged."""
    images = read_image_list(file)
    if images.note or images.missing:
        warn_once(f"{file}: {images.note or images.state()}")
    return list(images.paths)


def label_path(image: Path | str) -> str:
    """Return the label file of an image.

    The last folder named images in the path becomes labels and the suffix .txt; without such a folder it is the text
    file beside the image.
    """
    stem = os.path.splitext(str(image))[0]
    head, separator, tail = stem.replace("/", os.sep).rpartition(f"{os.sep}images{os.sep}")
    if separator:
        return f"{head}{os.sep}labels{os.sep}{tail}.txt"
    if stem.startswith(f"images{os.sep}"):  # a relative path
        return f"labels{stem[len('images') :]}.txt"
    return f"{stem}.txt"
