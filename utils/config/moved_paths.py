"""Paths that were written elsewhere: on Windows, below another folder, or where upper and lower case are one.

A `Repair` is one way to read such paths. It is meant for all paths of a list together: that every one of them then
exists is what shows that the repair is right.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from utils.errors import cut

LEAST_DEPTH = 2  # folders of a data yaml's path that are kept: a single "images" may be any split's
DEEPEST = 64  # leading folders that are left out at most: no path that someone uses has more


@dataclass(frozen=True)
class Repair:
    """One way to read a path that was written elsewhere.

    Attributes:
        dropped: Leading folders that are left out; a drive letter is one.
        any_case: Whether upper and lower case, and the ways to encode an accent, are one.
    """

    dropped: int = 0
    any_case: bool = False

    def words(self, text: str) -> str:
        """Return what was done to a path, such as "without the leading 'data/'"."""
        left_out = "".join(f"{part}/" for part in parts_of(text)[: self.dropped])
        done = [f"without the leading '{cut(left_out, 80)}'"] if left_out else []
        done += ["with backslashes as slashes"] if "\\" in text else []
        done += ["with upper and lower case as on this disk"] if self.any_case else []
        return " and ".join(done)


@dataclass
class Folders:
    """What folders hold, each listed once, to find names whose case differs."""

    _listed: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, base: str, parts: Sequence[str]) -> str | None:
        """Return the one path below a folder whose names are given, whatever their case.

        Args:
            base: The folder.
            parts: The names of folders and, last, of what is looked for.

        Returns:
            The path as it is on the disk; None if there is none, or several.
        """
        path = base
        for part in parts:
            exact = os.path.join(path, part)
            if part != ".." and not os.path.exists(exact):
                names = self._names(path).get(_folded(part), [])
                if len(names) != 1:
                    return None
                exact = os.path.join(path, names[0])
            path = exact
        return path if os.path.exists(path) else None

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder or "."):
                    names.setdefault(_folded(name), []).append(name)
            except (OSError, ValueError):
                pass
            self._listed[folder] = names
        return self._listed[folder]


def parts_of(text: str) -> list[str]:
    r"""Return the folders and the name of a path, slashes either way; a drive letter counts as a folder.

    Example:
        >>> parts_of(r"C:\data\.\a.jpg"), parts_of("/home/data/a.jpg"), parts_of("../a.jpg")
        (['C:', 'data', 'a.jpg'], ['home', 'data', 'a.jpg'], ['..', 'a.jpg'])
    """
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]


def repairs(texts: Sequence[str], least: int = 1) -> Iterator[Repair]:
    """Yield the ways to read paths that do not exist as they are written, the least change first.

    Args:
        texts: The paths.
        least: Folders and name that are kept at least.

    Yields:
        Repairs that leave something of every path.
    """
    depth = min(len(parts_of(text)) for text in texts)
    most = max(depth - least, 0)
    for any_case, dropped in product((False, True), range(most + 1 if most <= DEEPEST else 1)):
        yield Repair(dropped, any_case)


def repaired(repair: Repair, base: Path, text: str, folders: Folders) -> str | None:
    """Return the existing path that a repair makes of one below a folder, or None.

    Args:
        repair: The way to read it.
        base: The folder.
        text: The path as it was written.
        folders: What folders hold.

    Returns:
        A path that exists, or None.
    """
    parts = parts_of(text)[repair.dropped :]
    if repair.any_case:
        return folders.find(str(base), parts)
    path = os.path.join(base, *parts)
    return path if os.path.exists(path) else None


def find_moved(base: Path, text: str) -> tuple[Path, str] | None:
    """Return where a folder or list of a data yaml is if it is not where it is written, and what was done to find it.

    Args:
        base: The folder that the yaml's paths are relative to.
        text: The path as it was written.

    Returns:
        The path and words for the user; None if it is nowhere.
    """
    parts = parts_of(text)
    leading = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    least = min(LEAST_DEPTH, len(parts) - leading)
    folders = Folders()
    for repair in repairs([text], max(least, 1)):
        found = repaired(repair, base, text, folders) if repair.dropped >= leading else None
        if found is not None:
            return Path(found), repair.words(text)
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
