"""Which pictures of a data set are copies of others: the same bytes, or nearly the same picture; in a split and across."""

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
    """A picture and the earlier one that it repeats. kind: a key of findings.KINDS; similarity: 1 for the same bytes;
    orientation: what turns the picture into its partner, "" for nothing.
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
        """The copy as a finding and, where the labels of the same file differ, another."""
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
    seen: Mapping[str, ImageInspection],
    real: Mapping[str, str],
    *,
    similar: float,
    turned: bool = False,
) -> list[Copy]:
    """Return, for each picture that repeats earlier ones, its nearest in its own split and its nearest in an earlier split.

    paths: split -> pictures; seen: path -> what was seen; real: path -> the file behind it. A file that is listed several
    times is looked at once, where it comes first; pictures that cannot be used are passed over.
    """
    pictures: list[tuple[str, str]] = []
    taken: set[str] = set()
    for split, listed in paths.items():
        for path in listed:
            if real[path] not in taken and seen[path].size is not None:
                taken.add(real[path])
                pictures.append((path, split))
    same, first = _same_files(pictures, seen)
    return same + _near(pictures, first, seen, similar, turned)


def _same_files(pictures: list[tuple[str, str]], seen: Mapping[str, ImageInspection]) -> tuple[list[Copy], list[int]]:
    """Copies of the same bytes, and the places of the pictures that are none."""
    known: dict[bytes, dict[str, int]] = {}
    copies, first = [], []
    for index, (path, split) in enumerate(pictures):
        earlier = known.setdefault(seen[path].digest, {})
        if not earlier:
            first.append(index)
        for other_split, place in earlier.items():
            partner = pictures[place][0]
            differ = not _same_labels(seen[path].labels, seen[partner].labels)
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
    """Whether two pictures have the same rows, in any order."""
    if len(one) != len(other):
        return False
    rows = [np.concatenate((labels.cls[:, None], labels.xywhn), 1) for labels in (one, other)]
    ordered = [values[np.lexsort(values.T[::-1])] for values in rows]
    return bool(np.allclose(ordered[0], ordered[1], atol=1e-4))


def _near(
    pictures: list[tuple[str, str]], first: list[int], seen: Mapping[str, ImageInspection], similar: float, turned: bool
) -> list[Copy]:
    """Near duplicates among the pictures at the places `first`."""
    if not first:
        return []
    splits = list(dict.fromkeys(split for _, split in pictures))
    group = np.array([splits.index(pictures[place][1]) for place in first])
    coefs = np.stack([seen[pictures[place][0]].coefs for place in first])
    own, earlier = duplicates.find(coefs, group, similar=similar, turned=turned)
    copies = []
    for matches, kind in ((earlier, "leak-near"), (own, "copy-near")):
        for index in np.flatnonzero(matches.index >= 0):
            path, split = pictures[first[index]]
            partner, partner_split = pictures[first[matches.index[index]]]
            orientation = duplicates.ORIENTATIONS[matches.orientation[index]]
            similarity = round(float(matches.similarity[index]), 4)
            copies.append(Copy(path, split, partner, partner_split, kind, similarity, orientation))
    return copies


def matrix(repeats: Iterable[tuple[str, str]], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return split -> earlier or same split -> pictures of the first that repeat one of the second, of such pairs."""
    table = {split: {other: 0 for other in splits[: number + 1]} for number, split in enumerate(splits)}
    for split, other in repeats:
        if split in table and other in table[split]:
            table[split][other] += 1
    return table


def for_the_sheet(copies: Sequence[Copy], most: int = 12) -> list[Copy]:
    """Return the pairs most worth a look: leaks before copies, and of each the least alike first."""
    ranked = ("leak-near", "leak-same", "copy-near", "copy-same")
    return sorted(
        copies, key=lambda copy: (not copy.labels_differ, ranked.index(copy.kind), copy.similarity, copy.path)
    )[:most]


def caption(copy: Copy) -> str:
    """Return one line about a pair, for a picture."""
    near = f"similarity {copy.similarity:.3f}{', ' + copy.orientation if copy.orientation else ''}"
    what = near if copy.kind.endswith("near") else "same file"
    return f"{copy.split}/{Path(copy.path).name}  ~  {copy.partner_split}/{Path(copy.partner).name}  ({what})"
