"""How a data set's objects spread over classes and splits."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.datasets.check.findings import Finding
from utils.datasets.check.inspection import ImageInspection
from utils.datasets.label_store import LabelStore

RARE_OBJECTS, RARE_PICTURES = 20, 10  # of the train split: a class with fewer is rare
IMBALANCE = 50  # ratio of the largest class to the smallest from which it is told
MANY = 0.1  # share of pictures without a label file from which it is told


@dataclass(frozen=True)
class SplitCount:
    """What a split holds. pictures: usable ones; unusable: left out; missing, empty: pictures without a label file and
    with an empty one; objects and holders: (nc,) objects of each class and pictures that hold one.
    """

    pictures: int
    unusable: int
    missing: int
    empty: int
    objects: np.ndarray
    holders: np.ndarray


def count(store: LabelStore, seen: Sequence[ImageInspection], nc: int) -> SplitCount:
    """Return the figures of one split: its usable pictures as a store, and all that was looked at."""
    pairs = np.unique(np.stack((store.image_of, store.cls), 1), axis=0)[:, 1]
    states = Counter(one.state for one in seen)
    return SplitCount(
        len(store),
        len(seen) - len(store),
        states["missing"],
        states["empty"],
        store.class_counts(nc),
        np.bincount(pairs, minlength=nc),
    )


def class_findings(counts: Mapping[str, SplitCount], names: Sequence[str], yaml: str) -> Iterator[Finding]:
    """Classes that no one labelled, that train or another split lacks, that are rare, and the imbalance of train."""
    total = sum(split.objects for split in counts.values())
    used = [number for number, objects in enumerate(total) if objects]
    for number, name in enumerate(names):
        if not total[number]:
            yield Finding(yaml, 0, "class-unused", f"class {number} ({name}) has no object in any split")
    for split, figures in counts.items():
        for number in used if figures.objects.any() else ():
            if figures.objects[number]:
                continue
            others = {other: counts[other].objects[number] for other in counts}
            elsewhere = ", ".join(f"{objects} in {other}" for other, objects in others.items() if objects)
            kind = "class-not-trained" if split == "train" else "class-not-measured"
            yield Finding(
                yaml, 0, kind, f"class {number} ({names[number]}) has no object in {split}, {elsewhere}", split
            )
    if "train" in counts:
        yield from _train_findings(counts["train"], names, yaml)


def _train_findings(train: SplitCount, names: Sequence[str], yaml: str) -> Iterator[Finding]:
    present = np.flatnonzero(train.objects)
    for number in present:
        if train.objects[number] < RARE_OBJECTS or train.holders[number] < RARE_PICTURES:
            what = (
                f"class {number} ({names[number]}) has {_several(train.objects[number], 'object')} "
                f"in {_several(train.holders[number], 'picture')}"
            )
            yield Finding(yaml, 0, "class-rare", what, "train")
    if len(present) > 1:
        most, least = present[train.objects[present].argmax()], present[train.objects[present].argmin()]
        ratio = train.objects[most] / train.objects[least]
        if ratio >= IMBALANCE:
            what = (
                f"{names[most]} has {train.objects[most]} objects, {names[least]} {train.objects[least]}: "
                f"{ratio:.0f} to 1"
            )
            yield Finding(yaml, 0, "class-imbalance", what, "train")


def label_findings(
    split: str, figures: SplitCount, seen: Sequence[ImageInspection], yaml: str, example: str
) -> Iterator[Finding]:
    """What the label files of a split come to as a whole. example: where the first picture's labels are looked for."""
    if not figures.objects.any():
        what = f"{split}: none of {_several(len(seen), 'picture')} has a usable label; looked for {example}"
        yield Finding(yaml, 0, "split-unlabelled", what, split)
    elif figures.missing > MANY * len(seen):
        what = (
            f"{split}: {figures.missing} of {len(seen)} pictures have no label file ({figures.missing / len(seen):.0%})"
        )
        yield Finding(yaml, 0, "many-without-label", what, split)


def one_based(seen: Sequence[ImageInspection], nc: int) -> bool:
    """Whether the labels seem to count classes from 1: the class nc comes up, no other unknown one, and never class 0."""
    unknown = {value for one in seen for value in one.unknown if math.isfinite(value)}
    return unknown == {float(nc)} and not any((one.labels.cls == 0).any() for one in seen)


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
