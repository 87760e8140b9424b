"""Copies among the images of a dataset: the same bytes, or nearly the same image, in a split and across splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.datasets.check import duplicates
from utils.datasets.check.findings import Finding
from utils.datasets.check.inspection import ImageInspection
from utils.types import Labels


@dataclass(frozen=True)
class Copy:
    """An image and the earlier one that it repeats.

    Attributes:
        path: The image.
        split: Its split.
        partner: The earlier image.
        partner_split: Its split.
        kind: A key of findings.KINDS.
        similarity: 1 for the same bytes.
        orientation: What makes the image look like its partner, "" for nothing.
        labels_differ: Whether the same file has other labels there.
    """

    path: str
    split: str
    partner: str
    partner_split: str
    kind: str
    similarity: float = 1.0
    orientation: str = ""
    labels_differ: bool = False

    def findings(self) -> Iterator[Finding]:
        """Yield the copy as a finding and, if the labels of the same file differ, another."""
        other = f"{self.partner} ({self.partner_split})"
        what = f"is the same file as {other}"
        if self.kind.endswith("near"):
            once = f" once {self.orientation}" if self.orientation else ""
            what = f"looks like {other}{once}, similarity {self.similarity:.3f}"
        yield Finding(self.path, 0, self.kind, what, self.split)
        if self.labels_differ:
            yield Finding(
                self.path, 0, "copy-other-labels", f"is the same file as {other}, with other labels", self.split
            )


def find_copies(
    paths: Mapping[str, Sequence[str]],
    inspections: Mapping[str, ImageInspection],
    real: Mapping[str, str],
    *,
    similar: float,
    turned: bool = False,
) -> list[Copy]:
    """Return, for each image that repeats earlier ones, its nearest in its own split and in an earlier split.

    Args:
        paths: split -> images. A file that is listed several times counts once, where it comes first.
        inspections: path -> its inspection; images that cannot be used are left out.
        real: path -> the file behind it.
        similar: Least similarity of near duplicates.
        turned: Also look for mirrored and rotated copies.

    Returns:
        The copies.
    """
    images: list[tuple[str, str]] = []
    taken: set[str] = set()
    for split, listed in paths.items():
        for path in listed:
            if real[path] not in taken and inspections[path].size is not None:
                taken.add(real[path])
                images.append((path, split))
    same, first = _same_files(images, inspections)
    return same + _near_duplicates(images, first, inspections, similar, turned)


def _same_files(
    images: list[tuple[str, str]], inspections: Mapping[str, ImageInspection]
) -> tuple[list[Copy], list[int]]:
    """Copies of the same bytes, and the indices of the images that are none."""
    known: dict[bytes, dict[str, int]] = {}
    copies: list[Copy] = []
    first: list[int] = []
    for index, (path, split) in enumerate(images):
        earlier = known.setdefault(inspections[path].digest, {})
        if not earlier:
            first.append(index)
        for other_split, earlier_index in earlier.items():
            partner = images[earlier_index][0]
            differ = not _same_labels(inspections[path].labels, inspections[partner].labels)
            copies.append(
                Copy(
                    path,
                    split,
                    partner,
                    other_split,
                    "copy-same" if other_split == split else "leak-same",
                    labels_differ=differ,
                )
            )
        earlier.setdefault(split, index)
    return copies, first


def _same_labels(one: Labels, other: Labels) -> bool:
    """Whether two images have the same rows, in any order."""
    if len(one) != len(other):
        return False
    rows = [np.concatenate((labels.cls[:, None], labels.xywhn), 1) for labels in (one, other)]
    ordered = [values[np.lexsort(values.T[::-1])] for values in rows]
    return bool(np.allclose(ordered[0], ordered[1], atol=1e-4))


def _near_duplicates(
    images: list[tuple[str, str]],
    first: list[int],
    inspections: Mapping[str, ImageInspection],
    similar: float,
    turned: bool,
) -> list[Copy]:
    """Near duplicates among the images at the indices `first`."""
    if not first:
        return []
    splits = list(dict.fromkeys(split for _, split in images))
    group = np.array([splits.index(images[index][1]) for index in first])
    coefs = np.stack([inspections[images[index][0]].coefs for index in first])
    own, earlier = duplicates.find_duplicates(coefs, group, similar=similar, turned=turned)
    copies = []
    for matches, kind in ((earlier, "leak-near"), (own, "copy-near")):
        for index in np.flatnonzero(matches.index >= 0):
            path, split = images[first[index]]
            partner, partner_split = images[first[matches.index[index]]]
            orientation = duplicates.ORIENTATIONS[matches.orientation[index]]
            similarity = round(float(matches.similarity[index]), 4)
            copies.append(Copy(path, split, partner, partner_split, kind, similarity, orientation))
    return copies


def count_repeats(repeats: Iterable[tuple[str, str]], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how many images of each split repeat one of each split.

    Args:
        repeats: (split, split of the earlier image) of each.
        splits: All splits in order.

    Returns:
        split -> earlier or same split -> images of the first that repeat one of the second.
    """
    table = {split: {other: 0 for other in splits[: index + 1]} for index, split in enumerate(splits)}
    for split, other in repeats:
        if split in table and other in table[split]:
            table[split][other] += 1
    return table


def most_interesting(copies: Sequence[Copy], most: int = 12) -> list[Copy]:
    """Return the pairs most worth seeing: leaks before copies, and of each the least similar first.

    Args:
        copies: All of them.
        most: How many are returned at most.

    Returns:
        The chosen pairs.
    """
    ranked = ("leak-near", "leak-same", "copy-near", "copy-same")
    return sorted(
        copies, key=lambda copy: (not copy.labels_differ, ranked.index(copy.kind), copy.similarity, copy.path)
    )[:most]


def caption(copy: Copy) -> str:
    """Return one line about a pair, for the sheet."""
    near = f"similarity {copy.similarity:.3f}{', ' + copy.orientation if copy.orientation else ''}"
    what = near if copy.kind.endswith("near") else "same file"
    return f"{copy.split}/{Path(copy.path).name}  ~  {copy.partner_split}/{Path(copy.partner).name}  ({what})"
