"""One look at each picture of a data set and at its label file: what is wrong with them, and what the later checks need.

Every picture is opened once and decoded small (a JPEG at 1/8 to 1/1, long side at least 128 pixels). Threads share the
work, as most of it is waiting for files and decoding, which let others run; results come in the order of the paths.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from utils.boxes import iou_matrix, xywh_to_xyxy
from utils.datasets.check import duplicates
from utils.datasets.check.findings import Finding
from utils.datasets.label_files import Rows, label_path, read_rows
from utils.errors import DataError
from utils.images import EXIF_ROTATED, MIN_SIDE, ImageHeader, inspect_image, read_image
from utils.log import progress
from utils.types import Labels

LOOK = 128  # pixels of the long side that are enough for a look
HUGE = 50_000_000  # pixels from which a picture is huge
THIN = 10  # ratio of the sides from which a picture is thin
SAME_BOX = 0.9  # overlap (IoU) from which two boxes are one object
_CHUNK = 32
_ROWS = 256  # boxes of a picture that are held against the others at once
_LEAST_EDGE = 1e-3  # of the picture: boxes may leave it by so much, or by a pixel
_REASONS = (  # words in the reader's reasons, and the kind that each means
    ("class", "must be", "class-unknown"),
    ("is outside 0..1", "", "row-outside"),
    ("is zero", "", "row-no-size"),
    ("is negative", "", "row-no-size"),
    ("repeats an earlier row", "", "row-repeated"),
)


@dataclass(frozen=True)
class ImageInspection:
    """What a picture and its labels came to.

    size: native (height, width), None where the picture cannot be used; labels: the usable rows, lines: where each
    stands; state of the label file: found, missing, empty or unreadable; coefs: (16, 16) float16 for near duplicates;
    digest: of the file's bytes; unknown: class numbers outside the data yaml's, one a row; findings: without a split.
    """

    size: tuple[int, int] | None
    labels: Labels
    lines: np.ndarray
    state: str
    coefs: np.ndarray
    digest: bytes
    unknown: tuple[float, ...] = ()
    findings: tuple[Finding, ...] = field(default=())


def examine_all(paths: Sequence[str], names: Sequence[str], workers: int = 8) -> list[ImageInspection]:
    """Return what `examine` says of each path, in their order. workers: threads, 0 for none."""

    def look(chunk: Sequence[str]) -> list[ImageInspection]:
        return [examine(path, names) for path in chunk]

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    if not workers:
        return list(progress(chain.from_iterable(map(look, chunks)), len(paths), "Looking at pictures"))
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(look, chunks)
        try:
            return list(progress(chain.from_iterable(results), len(paths), "Looking at pictures"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def examine(path: str, names: Sequence[str]) -> ImageInspection:
    """Look at one picture and at its label file."""
    size, coefs, findings = _picture(path)
    rows, state, unknown, faults = _rows(path, names)
    labels = Labels(rows.cls, rows.xywhn, tuple(rows.segments)) if rows else Labels.none()
    lines = rows.lines if rows else np.zeros(0, np.int64)
    if size is not None:
        faults += list(_box_faults(label_path(path), labels, lines, size, names))
    return ImageInspection(size, labels, lines, state, coefs, _digest(path), unknown, (*findings, *faults))


def _picture(path: str) -> tuple[tuple[int, int] | None, np.ndarray, list[Finding]]:
    """(native size or None, coefficients, findings) of a picture."""
    nothing = np.zeros((duplicates.KEPT, duplicates.KEPT), np.float16)
    try:
        header = inspect_image(path)
        pixels, size = read_image(path, LOOK, header.size)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        kind = "picture-too-small" if f"at least {MIN_SIDE}" in reason else "picture-unreadable"
        return None, nothing, [Finding(path, 0, kind, reason)]
    return size, duplicates.coefficients(pixels), list(_oddities(path, header, pixels))


def _oddities(path: str, header: ImageHeader, pixels: np.ndarray) -> Iterator[Finding]:
    height, width = header.size
    if header.warning:
        yield Finding(path, 0, "picture-damaged", header.warning)
    if header.orientation in EXIF_ROTATED:
        what = f"is stored turned (EXIF orientation {header.orientation}); it is read upright, {width} x {height}"
        yield Finding(path, 0, "picture-turned", what)
    if height * width >= HUGE:
        yield Finding(path, 0, "picture-huge", f"{width} x {height} pixels, {height * width / 1e6:.0f} million")
    if max(header.size) >= THIN * min(header.size):
        yield Finding(path, 0, "picture-thin", f"{width} x {height} pixels")
    mean, deviation = cv2.meanStdDev(pixels)
    if deviation.max() < 1:
        yield Finding(path, 0, "picture-blank", f"is of one colour, {tuple(int(value) for value in mean.ravel())}")
    elif _is_grey(pixels):
        yield Finding(
            path, 0, "picture-grey", f"holds no colour{f' (stored as {header.mode})' if header.mode != 'RGB' else ''}"
        )


def _is_grey(pixels: np.ndarray) -> bool:
    """Whether all channels are one, but for what compression does to them."""
    red, green, blue = cv2.split(pixels)
    apart = [cv2.absdiff(green, other) for other in (red, blue)]
    return all(spread.max() <= 8 and cv2.mean(spread)[0] < 1 for spread in apart)


def _digest(path: str) -> bytes:
    """16 bytes that stand for the file's content; b"" where it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return b""


def _rows(path: str, names: Sequence[str]) -> tuple[Rows | None, str, tuple[float, ...], list[Finding]]:
    """(rows or None, state, unknown classes, findings) of a picture's label file."""
    file = label_path(path)
    if not os.path.lexists(file):
        return None, "missing", (), [Finding(path, 0, "label-missing", f"has no label file {file}")]
    try:
        rows = read_rows(file, len(names), stop=False)
    except DataError as error:
        return None, "unreadable", (), [Finding(file, 0, "label-unreadable", str(error).removeprefix(f"{file}: "))]
    if not len(rows.cls) and not rows.problems:
        return rows, "empty", (), [Finding(file, 0, "label-empty", "has no row")]
    findings = [Finding(file, problem.line, _kind_of(problem.reason), problem.reason) for problem in rows.problems]
    unknown = [one.what.split()[1] for one in findings if one.kind == "class-unknown"]
    return rows, "found", tuple(map(float, unknown)), findings


def _kind_of(reason: str) -> str:
    """The kind of finding that a reason of the label reader stands for."""
    return next((kind for first, second, kind in _REASONS if first in reason and second in reason), "row-format")


def _box_faults(
    file: str, labels: Labels, lines: np.ndarray, size: tuple[int, int], names: Sequence[str]
) -> Iterator[Finding]:
    """Usable boxes that leave the picture, and pairs of boxes on one object."""
    if not len(labels):
        return
    height, width = size
    scale = np.array([width, height, width, height], np.float64)
    boxes = xywh_to_xyxy(labels.xywhn.astype(np.float64))
    beyond = np.maximum(-boxes, boxes - 1).max(1) if not labels.segments else np.zeros(len(boxes))
    pixels = np.maximum(-boxes, boxes - 1) * scale
    for index in np.flatnonzero((beyond > _LEAST_EDGE) & (pixels.max(1) > 1)):
        side = ("left", "top", "right", "bottom")[int(pixels[index].argmax())]
        what = f"{names[labels.cls[index]]} reaches {pixels[index].max():.0f} pixels beyond the {side} edge"
        yield Finding(file, int(lines[index]), "box-leaves-picture", what)
    for later, earlier, overlap in _on_one_place(boxes * scale):
        one, other = names[labels.cls[later]], names[labels.cls[earlier]]
        kind, both = (
            ("box-twice", f"{one} is drawn") if one == other else ("box-two-classes", f"{one} and {other} are drawn")
        )
        what = f"{both} on one place as in line {lines[earlier]} (overlap {overlap:.2f})"
        yield Finding(file, int(lines[later]), kind, what)


def _on_one_place(boxes: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """(later, earlier, overlap) of the pairs of (m, 4) boxes on one object; in blocks, as a crowd's matrix fills gigabytes."""
    for start in range(0, len(boxes), _ROWS):
        rows = boxes[start : start + _ROWS]
        overlap = np.tril(iou_matrix(rows, boxes[: start + len(rows)]), start - 1)
        for row, earlier in zip(*np.nonzero(overlap >= SAME_BOX)):
            yield start + int(row), int(earlier), float(overlap[row, earlier])
