"""Lists of images: text files that name one image per line, also as another tool, system or machine wrote them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config.moved_paths import Folders, Repair, parts_of, repaired, repairs
from utils.errors import DataError, cut
from utils.files import read_text
from utils.images import is_image


@dataclass(frozen=True)
class ImageList:
    """The images that a list names.

    Attributes:
        file: The list.
        lines: (line from 1, name as written) of each.
        paths: Where each is; where it was looked for if it does not exist.
        missing: Indices of those that do not exist.
        note: What was done to find them, "" if they are where the list says.
    """

    file: Path
    lines: tuple[tuple[int, str], ...]
    paths: tuple[str, ...]
    missing: tuple[int, ...] = ()
    note: str = ""

    def state(self) -> str:
        """Return how many of the images exist and the first that does not, for a message."""
        line, name = self.lines[self.missing[0]]
        there = len(self.lines) - len(self.missing)
        return (
            f"{there} of {len(self.lines)} images named in {self.file.name} exist, "
            f"{'first' if not there else 'first missing'}: line {line} {cut(name)}"
        )


def read_image_list(file: Path) -> ImageList:
    """Return the images of a list.

    "./" is relative to the list's folder; any other relative path to the working folder or, if it is not there, to the
    list's folder. If images are missing, and all exist when every line's slashes are turned, its leading folders are
    left out or upper and lower case ignored, the lines are read so and `note` says it.

    Raises:
        DataError: None of the images exists, however the lines are read.
    """
    names = [(line, text.strip().strip("\"'")) for line, text in enumerate(read_text(file).splitlines(), 1)]
    lines = tuple((line, name) for line, name in names if is_image(name))
    paths = tuple(_as_written(file, name) for _, name in lines)
    missing = tuple(index for index, path in enumerate(paths) if not os.path.exists(path))
    as_written = ImageList(file, lines, paths, missing)
    if not missing:
        return as_written
    texts = [name for _, name in lines]
    for repair in repairs(texts):
        for base in (file.absolute().parent, file.absolute().parent.parent):
            found = _all_repaired(repair, base, texts)
            if found:
                what = f"{as_written.state()}; they are read {repair.words(texts[0]) or f'below {base}'}, as {found[0]}"
                return ImageList(file, lines, tuple(found), (), what)
    if len(missing) == len(lines):
        raise DataError(f"{file}: {as_written.state()}; {_remedy(file, texts)}")
    return as_written


def _as_written(file: Path, name: str) -> str:
    beside = os.path.join(file.parent, name[2:] if name.startswith("./") else name)
    return beside if name.startswith("./") or not os.path.exists(name) else name


def _all_repaired(repair: Repair, base: Path, texts: Sequence[str]) -> list[str]:
    """The existing paths that a repair makes of all lines; none unless each line has one of its own."""
    folders = Folders()
    found: list[str] = []
    for text in texts:
        path = repaired(repair, base, text, folders)
        if path is None:
            return []
        found.append(path)
    return found if len(set(found)) == len(set(texts)) else []


def _remedy(file: Path, texts: Sequence[str]) -> str:
    """What to do, with the way of reading under which most of the images exist."""
    base, most, best = file.absolute().parent, 0, Repair()
    folders = Folders()
    for repair in repairs(texts):
        count = sum(repaired(repair, base, text, folders) is not None for text in texts)
        if count > most:
            most, best = count, repair
    if not most:
        return f"looked below {base}; put the images there, or correct the lines"
    example = next(text for text in texts if repaired(best, base, text, folders))
    leading = f" ({cut('/'.join(parts_of(example)[best.dropped :]))})"
    return f"{best.words(example)}{leading} {most} of {len(texts)} exist; add the others, or take out their lines"
