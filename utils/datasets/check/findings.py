"""Findings of the dataset checker: their kinds with levels and remedies, and how they are written.

fault: training or its figures suffer, or it does not start; warning: have a look; note: good to know, no flaw.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config.dataset_spec import SPLITS
from utils.files import write_text_atomically

LEVELS = ("fault", "warning", "note")
COLUMNS = ("file", "line", "kind", "what", "fix", "level", "split")
DATA, IMAGES, LABELS, CLASSES, BOXES, COPIES = "data set", "pictures", "labels", "classes", "boxes", "copies"


@dataclass(frozen=True)
class Kind:
    """One kind of finding: its level, the part of the dataset it is about, and what to do about it."""

    level: str
    about: str
    fix: str


KINDS: dict[str, Kind] = {
    "split-missing": Kind("fault", DATA, "put the folder or list there, or correct it in the data yaml"),
    "split-empty": Kind("fault", DATA, "put images there, or correct the path in the data yaml"),
    "split-unlabelled": Kind("fault", DATA, "put the labels where the message says, one .txt per image"),
    "in-two-splits": Kind("fault", DATA, "keep it in one split: an image that is trained on cannot measure"),
    "listed-twice": Kind("warning", DATA, "name it once: it counts twice in training and in the metrics"),
    "paths-moved": Kind(
        "warning", DATA, "write in the data yaml or list where the images are, so that others find them"
    ),
    "listed-missing": Kind("fault", DATA, "put the image there, or take the line out of the list"),
    "picture-unreadable": Kind("fault", IMAGES, "replace or remove the image; it is left out"),
    "picture-too-small": Kind("fault", IMAGES, "replace or remove the image; it is left out"),
    "picture-damaged": Kind("warning", IMAGES, "replace the image; the missing part is trained on as gray"),
    "picture-preview": Kind(
        "fault", IMAGES, "save the full image as a file of its own: the preview would be trained on"
    ),
    "picture-pages": Kind("warning", IMAGES, "save the labeled page as a file of its own; only the first is read"),
    "picture-unused-range": Kind(
        "warning", IMAGES, "scale the samples to the full range or save 8 bits: only the high byte is read"
    ),
    "picture-huge": Kind("warning", IMAGES, "cut it into tiles or reduce it: reading it costs time in every epoch"),
    "picture-thin": Kind("warning", IMAGES, "cut it into tiles: at the training size its short side is a few pixels"),
    "picture-blank": Kind("warning", IMAGES, "look at it; an image of one color teaches nothing"),
    "picture-turned": Kind(
        "warning", IMAGES, "see in the sheet whether its boxes are right; best save it upright, without the EXIF tag"
    ),
    "picture-grey": Kind("note", IMAGES, "nothing, if the camera is gray; it becomes three equal channels"),
    "picture-other-format": Kind("warning", IMAGES, "convert it to JPEG or PNG; files of this format are not read"),
    "row-format": Kind("fault", LABELS, "write class x_center y_center width height, or a polygon; the row is dropped"),
    "row-class-name": Kind("fault", LABELS, "give --labels names, or write class numbers; the row is dropped"),
    "rows-ambiguous": Kind("fault", LABELS, "give --labels boxes or --labels polygons; training stops here without it"),
    "rows-keypoints": Kind("warning", LABELS, "nothing, if boxes are meant; what stands behind them is not read"),
    "rows-oriented": Kind("note", LABELS, "nothing, if upright boxes are meant; the outer box of each is read"),
    "row-outside": Kind("fault", LABELS, "divide by the image's width and height, and clip; the row is dropped"),
    "row-no-size": Kind("fault", LABELS, "draw the box again or delete the row; it is dropped"),
    "row-repeated": Kind("warning", LABELS, "delete one of the rows; it is dropped"),
    "class-unknown": Kind("fault", LABELS, "correct the class, or nc and names in the data yaml; training stops here"),
    "label-unreadable": Kind("fault", LABELS, "make it a readable text file"),
    "label-shared": Kind("warning", LABELS, "rename one of the images: both take their labels from this file"),
    "label-orphan": Kind("warning", LABELS, "put its image there, or remove the file"),
    "label-missing": Kind("note", LABELS, "nothing, if there is no object; an empty label file makes that explicit"),
    "label-empty": Kind("note", LABELS, "nothing, if there is no object"),
    "many-without-label": Kind("warning", LABELS, "label them, or give those without objects empty label files"),
    "box-leaves-picture": Kind(
        "warning", LABELS, "clip it to the image; the part outside is background that the loss asks for"
    ),
    "box-twice": Kind("warning", LABELS, "delete one of the two rows: one object was drawn twice"),
    "box-two-classes": Kind("warning", LABELS, "decide for one class"),
    "class-unused": Kind("warning", CLASSES, "label objects of it, or take its name out of the data yaml"),
    "class-not-trained": Kind(
        "fault", CLASSES, "move some of its images to train: a class without training objects cannot be learned"
    ),
    "class-not-measured": Kind("warning", CLASSES, "move some of its images here: this split says nothing about it"),
    "class-rare": Kind("warning", CLASSES, "collect more, merge it with another class, or see --image-weights"),
    "class-imbalance": Kind("note", CLASSES, "read the AP of each class, not only the mean; see --image-weights"),
    "boxes-tiny": Kind("warning", BOXES, "train at a larger --imgsz, cut images into tiles, or leave such objects out"),
    "boxes-below-stride": Kind("note", BOXES, "train at a larger --imgsz, or take a model with a P2 head"),
    "anchors-misfit": Kind("warning", BOXES, "leave AutoAnchor on (no --noautoanchor), or choose another --imgsz"),
    "box-tiny": Kind("note", BOXES, "see boxes-tiny"),
    "box-no-anchor": Kind("note", BOXES, "see anchors-misfit"),
    "leak-same": Kind("fault", COPIES, "remove one of the two: an image that is trained on cannot measure"),
    "leak-near": Kind("warning", COPIES, "look at duplicates.jpg; keep all images of one scene in one split"),
    "copy-same": Kind("warning", COPIES, "remove one of the two"),
    "copy-near": Kind("warning", COPIES, "look at duplicates.jpg; remove one, unless it is meant as augmentation"),
    "copy-other-labels": Kind("fault", COPIES, "decide which labels are right: one image has two sets of labels"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        file: The file to look at.
        line: From 1; 0 is the whole file.
        kind: A key of KINDS.
        what: One line.
        split: "train", "val", another split, or "" for the whole dataset.
        fix: What to do; the kind's own if empty.
    """

    file: str
    line: int
    kind: str
    what: str
    split: str = ""
    fix: str = ""

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    def row(self) -> tuple[str, ...]:
        """Return the values of COLUMNS."""
        place = str(self.line) if self.line else ""
        return self.file, place, self.kind, self.what, self.fix or KINDS[self.kind].fix, self.level, self.split


def sort_findings(findings: Iterable[Finding], ignored: Sequence[str] = ()) -> list[Finding]:
    """Return findings by kind in the order of KINDS, each kind by split, file and line.

    Args:
        findings: All of them.
        ignored: Kinds to leave out.

    Returns:
        The sorted findings.
    """
    kinds = {kind: rank for rank, kind in enumerate(KINDS)}
    splits = {split: rank for rank, split in enumerate(("", *SPLITS))}
    kept = [finding for finding in findings if finding.kind not in ignored]
    return sorted(
        kept,
        key=lambda one: (kinds[one.kind], splits.get(one.split, len(splits)), one.split, one.file, one.line, one.what),
    )


def write_csv(findings: Sequence[Finding], path: Path) -> Path:
    """Write one row per finding under a header of COLUMNS.

    Args:
        findings: The rows.
        path: The csv.

    Returns:
        Its path.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(finding.row() for finding in findings)
    return write_text_atomically(path, text.getvalue())


def summarize_findings(findings: Sequence[Finding], examples: int = 5) -> dict[str, dict]:
    """Return the findings by kind, fit for JSON.

    Args:
        findings: All of them.
        examples: Examples per kind.

    Returns:
        kind -> level, about, fix, count, count by split, and the first examples.
    """
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    return {
        kind: {
            "level": KINDS[kind].level,
            "about": KINDS[kind].about,
            "fix": KINDS[kind].fix,
            "count": len(found),
            "by_split": dict(Counter(finding.split or "all" for finding in found)),
            "examples": [{"file": one.file, "line": one.line or None, "what": one.what} for one in found[:examples]],
        }
        for kind, found in by_kind.items()
    }


def count_levels(findings: Iterable[Finding]) -> dict[str, int]:
    """Return the number of findings per level."""
    counted = Counter(finding.level for finding in findings)
    return {level: counted[level] for level in LEVELS}


def format_table(findings: Sequence[Finding], root: Path, width: int = 150) -> list[str]:
    """Return a table for the console: one line per kind, worst first, with counts per split and the first example.

    Args:
        findings: All of them.
        root: Folder of the dataset, left out of paths.
        width: Columns after which a line is cut.

    Returns:
        Lines; none without findings.
    """
    found = summarize_findings(findings, 1)
    columns = dict.fromkeys(
        (*SPLITS, *(split for entry in found.values() for split in entry["by_split"] if split != "all"), "all")
    )
    wide = {column: max(7, len(column) + 2) for column in columns}
    titles = "".join(f"{column:>{wide[column]}}" for column in columns)
    lines = [f"{'level':8}{'kind':22}{titles}  first"] if found else []
    for kind in sorted(found, key=lambda kind: LEVELS.index(found[kind]["level"])):
        entry, first = found[kind], found[kind]["examples"][0]
        counts = "".join(f"{entry['by_split'].get(column, ''):>{wide[column]}}" for column in columns)
        place = (
            f"{Path(first['file']).name}{':' + str(first['line']) if first['line'] else ''}: " if first["file"] else ""
        )
        what = first["what"].replace(f"{root}{os.sep}", "")
        lines.append(_cut(f"{entry['level']:8}{kind:22}{counts}  {place}{what}", width))
    return lines


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."
