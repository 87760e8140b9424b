"""What a conversion left out, changed or could not read: kinds with level and remedy, and how they are counted.

fault: something is missing in the result that should not be; note: done on purpose, and counted.
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils.files import write_text_atomically

COLUMNS = ("file", "line", "kind", "what", "fix", "level")
_LONGEST = 200
KINDS: dict[str, tuple[str, str]] = {
    "annotation-unreadable": ("fault", "correct or export the file again; nothing of it was converted"),
    "image-missing": ("fault", "put the image there, or name its folder with --images"),
    "image-ambiguous": ("fault", "write its folder into the annotation, or remove the copies"),
    "image-unreadable": ("fault", "replace the image, or save it as JPEG or PNG; it was left out"),
    "size-differs": ("fault", "annotate this image file, or correct the size in the annotation; it was left out"),
    "object-broken": ("fault", "correct the object; it was left out"),
    "object-outside": ("fault", "correct the object: it lies outside the image, and was left out"),
    "object-no-size": ("fault", "draw the object again; its width or height is zero, and it was left out"),
    "outline-broken": ("fault", "correct the outline; the object's box was taken instead"),
    "names-alike": ("fault", "give them one spelling if they are one class"),
    "file-skipped": ("note", "nothing, if it holds no objects to detect"),
    "clipped": ("note", "nothing: it was cut at the image's edge"),
    "corners-exchanged": ("note", "nothing: the corners were put in order"),
    "crowd": ("note", "nothing: a region of many objects is no object"),
    "difficult": ("note", "nothing, or keep such objects with --difficult"),
    "no-area": ("note", "nothing: a point or line has no box"),
    "repeated": ("note", "nothing: the same object was there twice"),
    "parts-joined": ("note", "nothing: the object's parts became one outline"),
    "class-left-out": ("note", "nothing, or add the class to --names"),
    "category-unused": ("note", "nothing: it only groups other categories"),
    "named-otherwise": ("note", "nothing, if the image found is the one that was annotated"),
    "described-twice": ("note", "nothing: the objects of all descriptions were put together"),
    "size-scaled": ("note", "nothing: the image was resized after it was annotated, and the objects with it"),
    "size-wrong": ("note", "nothing: the objects fit the image, and not the size in the annotation"),
    "exif-rotated": ("note", "look at its boxes: it is read upright, and its annotation does not say how it was seen"),
    "exif-undone": ("note", "nothing: it was annotated without its EXIF rotation, and is read with it"),
    "image-embedded": ("note", "nothing: the image was taken out of the annotation file"),
    "not-annotated": ("note", "nothing, or take images without annotations as background with --background"),
    "not-listed": ("note", "nothing, or divide all images anew with --split"),
}


@dataclass(frozen=True)
class Remark:
    """One thing that was left out or changed.

    Attributes:
        file: The file to look at.
        line: From 1; 0 is the whole file.
        kind: A key of KINDS.
        what: One line.
    """

    file: str
    line: int
    kind: str
    what: str

    def row(self) -> tuple[str, ...]:
        """Return the values of COLUMNS."""
        level, fix = KINDS[self.kind]
        return self.file, str(self.line or ""), self.kind, self.what, fix, level


class RemarkLog:
    """The remarks of a conversion, in the order in which they came."""

    def __init__(self):
        self.remarks: list[Remark] = []

    def add(self, kind: str, file: Path | str, line: int, what: str) -> None:
        """Add a remark.

        Args:
            kind: A key of KINDS.
            file: The file to look at.
            line: From 1; 0 is the whole file.
            what: What was found; made one printable line of at most 200 characters.
        """
        self.remarks.append(Remark(str(file), line, kind, one_line(what)))

    def count(self, level: str) -> int:
        """Return the number of remarks of a level."""
        return sum(KINDS[one.kind][0] == level for one in self.remarks)

    def first(self, *kinds: str) -> Remark | None:
        """Return the first remark of some kinds, or None."""
        return next((one for one in self.remarks if one.kind in kinds), None)

    def summary(self) -> dict[str, dict]:
        """Return kind -> level, fix, count and the first five places, in the order of KINDS."""
        counted = Counter(one.kind for one in self.remarks)
        return {
            kind: {
                "level": level,
                "fix": fix,
                "count": counted[kind],
                "examples": [
                    {"file": one.file, "line": one.line or None, "what": one.what}
                    for one in self.remarks
                    if one.kind == kind
                ][:5],
            }
            for kind, (level, fix) in KINDS.items()
            if counted[kind]
        }

    def table(self) -> list[str]:
        """Return one line per kind for the console: level, kind, count and the first place."""
        lines = []
        for kind, entry in self.summary().items():
            first = entry["examples"][0]
            place = f"{Path(first['file']).name}{':' + str(first['line']) if first['line'] else ''}"
            lines.append(f"{entry['level']:7}{kind:22}{entry['count']:8}  {one_line(place)}: {first['what']}"[:150])
        return lines

    def write_csv(self, path: Path) -> None:
        """Write one row per remark under a header of COLUMNS."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(one.row() for one in self.remarks)
        write_text_atomically(path, text.getvalue())


def one_line(text: object) -> str:
    """Return a text from outside as one line of at most 200 characters that a console can print."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
