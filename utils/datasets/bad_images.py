"""Images that cannot be read in the midst of a run: retried, replaced or left out, counted and listed.

A sample in which a bad image is used is drawn anew with a neighbor in its place. Which one depends on (seed, index) and
on which files can be read, on nothing else: so not on the process that found it, nor on their number.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.config import parse_image_limit
from utils.errors import DataError
from utils.files import read_text, write_text_atomically
from utils.log import LOGGER
from utils.processes import Processes

RETRY_AFTER = (0.05, 0.2, 0.75)  # seconds before each further try: a network drive may lose a file for a moment
COLUMNS = ("split", "epoch", "file", "reason", "action")
LEFT_OUT_OF_FIGURES = "left out of the figures"
_NEIGHBORS = 3  # which stream of random numbers of a (seed, index)
Result = TypeVar("Result")


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and what was done.

    Attributes:
        path: Its file.
        reason: Why, in words.
        action: LEFT_OUT_OF_FIGURES, or "replaced by" the file that was taken in its place.
    """

    path: str
    reason: str
    action: str


class UnreadableImageError(DataError):
    """An image of a dataset cannot be read, also not when tried again.

    Args:
        message: Names the file and the reason.
        index: Of the image in its dataset.
    """

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index

    def __reduce__(self):
        return type(self), (str(self), self.index)


class Retries:
    """Tries again to read images that cannot be read, with pauses only the first time that one fails."""

    def __init__(self):
        self.failed: set[int] = set()

    def read(self, index: int, read: Callable[[], Result]) -> Result:
        """Return what `read` returns.

        Args:
            index: The image that it reads.
            read: Raises DataError if it cannot.

        Returns:
            Its result.

        Raises:
            UnreadableImageError: If it fails at every try.
        """
        pauses = [] if index in self.failed else list(RETRY_AFTER)
        while True:
            try:
                result = read()
            except DataError as error:
                if not pauses:
                    self.failed.add(index)
                    raise UnreadableImageError(str(error), index) from None
                time.sleep(pauses.pop(0))
            else:
                self.failed.discard(index)
                return result


def neighbors(index: int, groups: np.ndarray, seed: int) -> Iterator[int]:
    """Yield the images that may stand in for another: those of its group, in an order that (seed, index) decides.

    Args:
        index: The image.
        groups: (n, ...) what has to be equal, per image.
        seed: Of the dataset.

    Yields:
        Every other index of its group, once.
    """
    same = np.flatnonzero((groups.reshape(len(groups), -1) == groups[index].reshape(-1)).all(1))
    generator = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(_NEIGHBORS,)))
    yield from (int(other) for other in generator.permutation(same[same != index]))


@dataclass
class BadImages:
    """The bad images of a split, counted, logged and listed, with a limit.

    Attributes:
        split: Name of the split.
        limit: Largest number of different images; None for no limit.
        file: A csv that lists them; None for none.
        paths: Those found so far.
        untold: Those that the other processes do not know, each with its epoch.
    """

    split: str = "data"
    limit: int | None = None
    file: Path | None = None
    paths: set[str] = field(default_factory=set)
    untold: list[tuple[BadImage, int]] = field(default_factory=list)

    @classmethod
    def limited(cls, text: str, images: int, split: str, folder: Path | None) -> "BadImages":
        """Return a record with the limit of `--max-bad-images`.

        Args:
            text: A share of the images such as 1%, of which at least one image is allowed, or a number of them.
            images: Images of the split.
            split: Its name.
            folder: Folder that gets bad_images.csv; None for no list.

        Returns:
            The record.
        """
        value, is_share = parse_image_limit(text)
        limit = max(int(value * images), 1) if is_share and value else int(value)
        return cls(split, limit, folder / "bad_images.csv" if folder else None)

    def add(self, bad: BadImage, epoch: int) -> None:
        """Count an image the first time that it is found, and list it.

        Args:
            bad: The image.
            epoch: Index of the epoch.

        Raises:
            DataError: If they are more than the limit.
        """
        if bad.path in self.paths:
            return
        self.paths.add(bad.path)
        self.untold.append((bad, epoch))
        reason = bad.reason.removeprefix(f"{bad.path}: ")
        LOGGER.warning(f"WARNING: {bad.path}: {reason}; {bad.action} (bad images in {self.split}: {len(self.paths)})")
        self._list(bad, reason, epoch)
        if self.limit is not None and len(self.paths) > self.limit:
            where = f", all listed in {self.file}" if self.file else ""
            raise DataError(
                f"{self.split}: {len(self.paths)} images cannot be read, the last {bad.path} ({reason}){where}; "
                f"repair or remove them, or raise --max-bad-images (allows {self.limit} here)"
            )

    def exchange(self, processes: Processes) -> None:
        """Count those of all processes, so that the limit is of all together and ends all; the first lists them.

        Raises DataError if they are more than the limit.
        """
        every = processes.gather(self.untold)
        for bad, epoch in (found for of_one in every for found in of_one):
            self.add(bad, epoch)
        self.untold.clear()

    def _list(self, bad: BadImage, reason: str, epoch: int) -> None:
        if self.file is None:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.file.is_file():
            writer.writerow(COLUMNS)
        writer.writerow((self.split, epoch, bad.path, reason, bad.action))
        before = read_text(self.file) if self.file.is_file() else ""
        write_text_atomically(self.file, before + text.getvalue())
