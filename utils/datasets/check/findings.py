"""What a check of a data set can find: the kinds with their levels and remedies, and how findings are written.

fault: training or its figures suffer, or it does not start; warning: someone should look; note: good to know, no flaw.
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
DATA, PICTURES, LABELS, CLASSES, BOXES, COPIES = "data set", "pictures", "labels", "classes", "boxes", "copies"


@dataclass(frozen=True)
class Kind:
    """One kind of finding: its level, the part of the data set it is about, and what to do about it."""

    level: str
    about: str
    fix: str


KINDS: dict[str, Kind] = {
    "split-missing": Kind("fault", DATA, "put the folder or list there, or correct it in the data yaml"),
    "split-empty": Kind("fault", DATA, "put pictures there, or correct the path in the data yaml"),
    "split-unlabelled": Kind("fault", DATA, "put the labels where the message says, one .txt a picture"),
    "in-two-splits": Kind("fault", DATA, "keep it in one split: what is trained on cannot measure"),
    "listed-twice": Kind("warning", DATA, "name it once: it counts twice in training and in the metrics"),
    "listed-missing": Kind("fault", DATA, "put the picture there, or take the line out of the list"),
    "picture-unreadable": Kind("fault", PICTURES, "replace or remove the picture; it is left out"),
    "picture-too-small": Kind("fault", PICTURES, "replace or remove the picture; it is left out"),
    "picture-damaged": Kind("warning", PICTURES, "replace the picture; the missing part is trained on as grey"),
    "picture-huge": Kind("warning", PICTURES, "cut it into tiles or reduce it: reading it costs time in every epoch"),
    "picture-thin": Kind("warning", PICTURES, "cut it into tiles: at the training size its short side is a few pixels"),
    "picture-blank": Kind("warning", PICTURES, "look at it; a picture of one colour teaches nothing"),
    "picture-turned": Kind(
        "warning", PICTURES, "see in the sheet whether its boxes sit right; best write it upright, no tag"
    ),
    "picture-grey": Kind("note", PICTURES, "nothing, if the camera is grey; it becomes three equal channels"),
    "picture-other-format": Kind(
        "warning", PICTURES, "convert it to JPEG or PNG; files of this format are passed over"
    ),
    "row-format": Kind("fault", LABELS, "write class x_centre y_centre width height, or a polygon; the row is dropped"),
    "row-outside": Kind("fault", LABELS, "divide by the picture's width and height, and clip; the row is dropped"),
    "row-no-size": Kind("fault", LABELS, "draw the box again or delete the row; it is dropped"),
    "row-repeated": Kind("warning", LABELS, "delete one of the rows; it is dropped"),
    "class-unknown": Kind("fault", LABELS, "correct the class, or nc and names in the data yaml; training stops here"),
    "label-unreadable": Kind("fault", LABELS, "make it a readable text file"),
    "label-shared": Kind("warning", LABELS, "rename one of the pictures: both take their labels from this file"),
    "label-orphan": Kind("warning", LABELS, "put its picture there, or remove the file"),
    "label-missing": Kind("note", LABELS, "nothing, if there is no object; an empty label file says so for good"),
    "label-empty": Kind("note", LABELS, "nothing, if there is no object"),
    "many-without-label": Kind("warning", LABELS, "label them, or give those without objects empty label files"),
    "box-leaves-picture": Kind(
        "warning", LABELS, "clip it to the picture; half of it is background that the loss asks for"
    ),
    "box-twice": Kind("warning", LABELS, "delete one of the two rows: one object was drawn twice"),
    "box-two-classes": Kind("warning", LABELS, "decide for one class"),
    "class-unused": Kind("warning", CLASSES, "label objects of it, or take its name out of the data yaml"),
    "class-not-trained": Kind(
        "fault", CLASSES, "move some of its pictures to train: what is never shown cannot be learnt"
    ),
    "class-not-measured": Kind("warning", CLASSES, "move some of its pictures here: this split says nothing about it"),
    "class-rare": Kind("warning", CLASSES, "collect more, merge it with another class, or see --image-weights"),
    "class-imbalance": Kind("note", CLASSES, "read the AP of each class, not only the mean; see --image-weights"),
    "boxes-tiny": Kind(
        "warning", BOXES, "train at a larger --imgsz, cut pictures into tiles, or leave such objects out"
    ),
    "boxes-below-stride": Kind("note", BOXES, "train at a larger --imgsz, or take a model with a P2 head"),
    "anchors-misfit": Kind("warning", BOXES, "leave AutoAnchor on (no --noautoanchor), or choose another --imgsz"),
    "box-tiny": Kind("note", BOXES, "see boxes-tiny"),
    "box-no-anchor": Kind("note", BOXES, "see anchors-misfit"),
    "leak-same": Kind("fault", COPIES, "remove one of the two: what is trained on cannot measure"),
    "leak-near": Kind("warning", COPIES, "look at duplicates.jpg; keep all pictures of one scene in one split"),
    "copy-same": Kind("warning", COPIES, "remove one of the two"),
    "copy-near": Kind("warning", COPIES, "look at duplicates.jpg; remove one, unless it is meant as augmentation"),
    "copy-other-labels": Kind("fault", COPIES, "decide which labels are right: one picture is taught in two ways"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found. file: the file to look at; line: from 1, 0 for the whole file; kind: a key of KINDS;
    what: one line; split: train, val, test or "" for the whole data set; fix: what to do, the kind's by default.
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
        """The values of COLUMNS."""
        place = str(self.line) if self.line else ""
        return self.file, place, self.kind, self.what, self.fix or KINDS[self.kind].fix, self.level, self.split


def in_order(findings: Iterable[Finding], ignored: Sequence[str] = ()) -> list[Finding]:
    """Return the findings without those of ignored kinds: by kind as KINDS has them, each kind by split, file and line."""
    kinds = {kind: number for number, kind in enumerate(KINDS)}
    splits = {split: number for number, split in enumerate(("", *SPLITS))}
    kept = [finding for finding in findings if finding.kind not in ignored]
    return sorted(
        kept,
        key=lambda one: (kinds[one.kind], splits.get(one.split, len(splits)), one.split, one.file, one.line, one.what),
    )


def write_csv(findings: Sequence[Finding], path: Path) -> Path:
    """Write one row a finding under a row of COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(finding.row() for finding in findings)
    return write_text_atomically(path, text.getvalue())


def summary(findings: Sequence[Finding], examples: int = 5) -> dict[str, dict]:
    """Return kind -> level, about, fix, count, count by split, and the first examples; fit for json."""
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
    """Return the number of findings of each level."""
    counted = Counter(finding.level for finding in findings)
    return {level: counted[level] for level in LEVELS}


def table(findings: Sequence[Finding], root: Path, width: int = 150) -> list[str]:
    """Return the console's lines: a kind each, worst first, with its count a split and its first place below `root`."""
    found = summary(findings, 1)
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
