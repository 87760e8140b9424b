"""Class balance: how the objects of a dataset are distributed over classes and splits."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.datasets import class_numbers
from utils.datasets.check.findings import Finding
from utils.datasets.check.inspection import ImageInspection
from utils.datasets.label_store import LabelStore

RARE_OBJECTS, RARE_IMAGES = 20, 10  # of the train split: a class with fewer is rare
IMBALANCE = 50  # ratio of the largest class to the smallest from which it is reported
MANY = 0.1  # share of images without a label file from which it is reported


@dataclass(frozen=True)
class SplitCount:
    """The counts of a split.

    Attributes:
        images: Usable images.
        unusable: Images that are left out.
        missing: Images without a label file.
        empty: Images with an empty label file.
        objects: (nc,) objects per class.
        holders: (nc,) images per class that hold an object of it.
    """

    images: int
    unusable: int
    missing: int
    empty: int
    objects: np.ndarray
    holders: np.ndarray


def count_split(store: LabelStore, inspections: Sequence[ImageInspection], nc: int) -> SplitCount:
    """Return the counts of one split.

    Args:
        store: Its usable images.
        inspections: All its images.
        nc: Number of classes.

    Returns:
        The counts.
    """
    pairs = np.unique(np.stack((store.image_of, store.cls), 1), axis=0)[:, 1]
    states = Counter(one.state for one in inspections)
    return SplitCount(
        len(store),
        len(inspections) - len(store),
        states["missing"],
        states["empty"],
        store.class_counts(nc),
        np.bincount(pairs, minlength=nc),
    )


def class_findings(counts: Mapping[str, SplitCount], names: Sequence[str], yaml: str) -> Iterator[Finding]:
    """Yield classes without labels, missing in train or another split, or rare, and the imbalance of train.

    Args:
        counts: split -> its counts.
        names: Class names.
        yaml: The data yaml.

    Yields:
        Findings about the data yaml.
    """
    total = np.sum([split.objects for split in counts.values()], axis=0)
    used = [class_id for class_id, objects in enumerate(total) if objects]
    for class_id, name in enumerate(names):
        if not total[class_id]:
            yield Finding(yaml, 0, "class-unused", f"class {class_id} ({name}) has no object in any split")
    for split, figures in counts.items():
        for class_id in used if figures.objects.any() else ():
            if figures.objects[class_id]:
                continue
            others = {other: counts[other].objects[class_id] for other in counts}
            elsewhere = ", ".join(f"{objects} in {other}" for other, objects in others.items() if objects)
            kind = "class-not-trained" if split == "train" else "class-not-measured"
            yield Finding(
                yaml, 0, kind, f"class {class_id} ({names[class_id]}) has no object in {split}, {elsewhere}", split
            )
    if "train" in counts:
        yield from _train_findings(counts["train"], names, yaml)


def _train_findings(train: SplitCount, names: Sequence[str], yaml: str) -> Iterator[Finding]:
    present = np.flatnonzero(train.objects)
    for class_id in present.tolist():
        if train.objects[class_id] < RARE_OBJECTS or train.holders[class_id] < RARE_IMAGES:
            what = (
                f"class {class_id} ({names[class_id]}) has {_plural(train.objects[class_id], 'object')} "
                f"in {_plural(train.holders[class_id], 'image')}"
            )
            yield Finding(yaml, 0, "class-rare", what, "train")
    if len(present) > 1:
        most = int(present[train.objects[present].argmax()])
        least = int(present[train.objects[present].argmin()])
        ratio = train.objects[most] / train.objects[least]
        if ratio >= IMBALANCE:
            what = (
                f"{names[most]} has {train.objects[most]} objects, {names[least]} {train.objects[least]}: "
                f"{ratio:.0f} to 1"
            )
            yield Finding(yaml, 0, "class-imbalance", what, "train")


def label_findings(
    split: str, figures: SplitCount, inspections: Sequence[ImageInspection], yaml: str, example: str
) -> Iterator[Finding]:
    """Yield what is wrong with the label files of a split as a whole.

    Args:
        split: Its name.
        figures: Its counts.
        inspections: Its images.
        yaml: The data yaml.
        example: Where the labels of the first image are expected.

    Yields:
        Findings about the data yaml.
    """
    if not figures.objects.any():
        what = f"{split}: none of {_plural(len(inspections), 'image')} has a usable label; looked for {example}"
        yield Finding(yaml, 0, "split-unlabelled", what, split)
    elif figures.missing > MANY * len(inspections):
        share = figures.missing / len(inspections)
        what = f"{split}: {figures.missing} of {len(inspections)} images have no label file ({share:.0%})"
        yield Finding(yaml, 0, "many-without-label", what, split)


def explain_unknown(inspections: Sequence[ImageInspection], nc: int) -> str:
    """Return what the class numbers that the data yaml does not have seem to be, "" if nothing is known that fits.

    Args:
        inspections: All images.
        nc: Number of classes.

    Returns:
        One clause for the user.
    """
    unknown = {value for one in inspections for value in one.unknown}
    return (
        class_numbers.explain(unknown.union(*(one.labels.cls.tolist() for one in inspections)), nc) if unknown else ""
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
