"""The image that an annotation means, among the files below the folders that the user named, and nowhere else."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from utils.datasets.check.listing import OTHER_FORMATS
from utils.errors import DataError
from utils.images import is_image

# Folders that only say what is in them: they do not help to tell two images of one name apart.
_LAYOUT = {"annotations", "annotation", "images", "image", "img", "jpegimages", "labels", "xml", "xmls", "json", "voc"}


class ImageAmbiguous(DataError):
    """Several images could be meant: `paths`."""

    def __init__(self, paths: Sequence[Path]):
        super().__init__(f"{paths[0]} and {paths[1]} could both be meant")
        self.paths = paths


class ImageFinder:
    """Finds images by the names that annotations give them.

    Those may come from another machine, with drive letters, backslashes, other letter case or another suffix, and from
    folders that do not exist here. Of images with one name the one is taken whose folders agree best with those that
    are written and with those of the annotation file.

    Args:
        roots: Folders that are searched with their subfolders; hidden ones are left out.
    """

    def __init__(self, roots: Sequence[Path]):
        self.by_name: dict[str, list[Path]] = {}
        self.by_stem: dict[str, list[Path]] = {}
        self.unread: dict[str, Path] = {}
        self.ambiguous: set[Path] = set()
        visited: set[str] = set()
        for root in roots:
            self._index(root, visited)

    def _index(self, root: Path, visited: set[str]) -> None:
        for parent, folders, names in os.walk(root, followlinks=True):
            real = os.path.realpath(parent)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                if is_image(name):
                    self.by_name.setdefault(name.casefold(), []).append(path)
                    self.by_stem.setdefault(path.stem.casefold(), []).append(path)
                elif name.lower().endswith(OTHER_FORMATS):
                    self.unread[path.stem.casefold()] = path

    def paths(self) -> list[Path]:
        """Return all images, sorted."""
        return sorted(path for paths in self.by_name.values() for path in paths)

    def find(self, wanted: Sequence[str], annotation: Path) -> Path:
        """Return the image that one of the names means.

        Args:
            wanted: Names as written, the most trusted first; a name without an image's suffix stands for any.
            annotation: The file that they come from.

        Returns:
            The image's path.

        Raises:
            DataError: There is none; ImageAmbiguous, several fit equally well.
        """
        names = [_parts(text) for text in wanted if _parts(text)]
        for parts in names:
            found = self.by_name.get(parts[-1].casefold())
            if not found:
                stem = PurePosixPath(parts[-1]).stem if is_image(parts[-1]) else parts[-1]
                found = self.by_stem.get(stem.casefold())
            if found:
                return _closest(found, parts, names, annotation)
        for parts in names:
            other = self.unread.get(PurePosixPath(parts[-1]).stem.casefold())
            if other is not None:
                raise DataError(f"{other.name} is a {other.suffix[1:].upper()} file, which is not read")
        raise DataError(f"no image {names[0][-1]}" if names else "the file does not say which image it is about")


def _parts(text: str) -> list[str]:
    """The folders and the name in a path of any system, without a drive and without steps upward."""
    return [part for part in re.split(r"[\\/]+", text) if part not in ("", ".", "..") and not part.endswith(":")]


def _closest(found: Sequence[Path], parts: Sequence[str], names: Sequence[Sequence[str]], annotation: Path) -> Path:
    """The image whose folders agree best with those in `parts`, then with the annotation's, then its name with any."""
    if len(found) == 1:
        return found[0]
    whole = {name[-1] for name in names}
    folded = {name.casefold() for name in whole}

    def agreement(path: Path) -> tuple[int, int, bool, bool]:
        folders = path.parts[:-1]
        beside = _common_end(_telling(folders), _telling(annotation.parts[:-1]))
        return _common_end(folders, parts[:-1]), beside, path.name.casefold() in folded, path.name in whole

    best = max(map(agreement, found))
    fitting = sorted(path for path in found if agreement(path) == best)
    if len(fitting) > 1:
        raise ImageAmbiguous(fitting)
    return fitting[0]


def _telling(folders: Sequence[str]) -> list[str]:
    return [name for name in folders if name.casefold() not in _LAYOUT]


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names agree, counted from the last."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first.casefold() != second.casefold():
            break
        count += 1
    return count
