"""Inspection of each image of a dataset and of its label file: what is wrong, and what the later checks need.

Every image is opened and decoded, small (a JPEG at 1/8 to 1/1, long side at least 128 pixels), so that damaged data are
found that the scan before a training, which reads headers, does not see. Threads share the work, as most of it is
waiting for files and decoding, which let others run; results come in the order of the paths.
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
from utils.datasets.check.image_contents import content_findings
from utils.datasets.label_files import label_path
from utils.datasets.row_reader import RowRules, Rows, read_rows
from utils.errors import DataError
from utils.images import EXIF_ROTATED, MIN_SIDE, ImageHeader, inspect_image, read_image
from utils.log import progress
from utils.types import Labels

DECODED_SIDE = 128  # pixels of the long side that are enough for an inspection
HUGE = 50_000_000  # pixels from which an image is huge
THIN = 10  # ratio of the sides from which an image is thin
SAME_BOX = 0.9  # overlap (IoU) from which two boxes are one object
_CHUNK = 32
_ROWS = 256  # boxes of an image that are compared with the others at once
_LEAST_EDGE = 1e-3  # of the image: boxes may leave it by so much, or by a pixel
_REASONS = (  # words in the reader's reasons, and the kind that each means
    ("class", "must be", "class-unknown"),
    ("begins with the class name", "", "row-class-name"),
    ("leaves the image", "", "box-leaves-picture"),
    ("is outside 0..1", "", "row-outside"),
    ("is zero", "", "row-no-size"),
    ("is negative", "", "row-no-size"),
    ("repeats an earlier row", "", "row-repeated"),
)


@dataclass(frozen=True)
class ImageInspection:
    """The result of inspecting an image and its label file.

    Attributes:
        size: Native (height, width); None if the image cannot be used.
        labels: The usable rows.
        lines: Line of each.
        state: Of the label file: "found", "missing", "empty" or "unreadable".
        coefs: (16, 16) float16 for near duplicates.
        digest: Of the file's bytes.
        unknown: Class numbers that the data yaml does not have, one per row.
        findings: What is wrong, without a split.
    """

    size: tuple[int, int] | None
    labels: Labels
    lines: np.ndarray
    state: str
    coefs: np.ndarray
    digest: bytes
    unknown: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = field(default=())


def inspect_images(
    paths: Sequence[str], names: Sequence[str], workers: int = 8, rules: RowRules | None = None
) -> list[ImageInspection]:
    """Return the inspection of every image.

    Args:
        paths: The images.
        names: Class names.
        workers: Threads; 0 uses none.
        rules: How rows are read; by default as the rows themselves say.

    Returns:
        One inspection per path, in their order.
    """

    def inspect_chunk(chunk: Sequence[str]) -> list[ImageInspection]:
        return [inspect_image_and_labels(path, names, rules) for path in chunk]

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    if not workers:
        return list(progress(chain.from_iterable(map(inspect_chunk, chunks)), len(paths), "Inspecting images"))
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(inspect_chunk, chunks)
        try:
            return list(progress(chain.from_iterable(results), len(paths), "Inspecting images"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def inspect_image_and_labels(path: str, names: Sequence[str], rules: RowRules | None = None) -> ImageInspection:
    """Return the inspection of one image and its label file.

    Args:
        path: The image.
        names: Class names.
        rules: How rows are read; by default as the rows themselves say.

    Returns:
        What is wrong, and what the later checks need.
    """
    size, coefs, findings = _inspect_pixels(path)
    rows, state, unknown, faults = _rows(path, rules or RowRules(len(names), tuple(names)))
    labels = Labels(rows.cls, rows.xywhn, tuple(rows.segments)) if rows else Labels.none()
    lines = rows.lines if rows else np.zeros(0, np.int64)
    if size is not None:
        faults += list(_box_faults(label_path(path), labels, lines, size, names))
    return ImageInspection(size, labels, lines, state, coefs, _digest(path), unknown, (*findings, *faults))


def _inspect_pixels(path: str) -> tuple[tuple[int, int] | None, np.ndarray, list[Finding]]:
    """(native size or None, coefficients, findings) of an image."""
    nothing = np.zeros((duplicates.KEPT, duplicates.KEPT), np.float16)
    try:
        header = inspect_image(path)
        pixels, size = read_image(path, DECODED_SIDE, header.size)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        kind = "picture-too-small" if f"at least {MIN_SIDE}" in reason else "picture-unreadable"
        return None, nothing, [Finding(path, 0, kind, reason)]
    return size, duplicates.coefficients(pixels), list(_oddities(path, header, pixels))


def _oddities(path: str, header: ImageHeader, pixels: np.ndarray) -> Iterator[Finding]:
    height, width = header.size
    if header.warning:
        yield Finding(path, 0, "picture-damaged", header.warning)
    yield from content_findings(path, header, pixels)
    if header.orientation in EXIF_ROTATED:
        what = f"is EXIF-rotated (orientation {header.orientation}); it is read upright, {width} x {height}"
        yield Finding(path, 0, "picture-turned", what)
    if height * width >= HUGE:
        yield Finding(path, 0, "picture-huge", f"{width} x {height} pixels, {height * width / 1e6:.0f} million")
    if max(header.size) >= THIN * min(header.size):
        yield Finding(path, 0, "picture-thin", f"{width} x {height} pixels")
    mean, deviation = cv2.meanStdDev(pixels)
    if deviation.max() < 1:
        yield Finding(path, 0, "picture-blank", f"is of one color, {tuple(int(value) for value in mean.ravel())}")
    elif _is_gray(pixels):
        yield Finding(
            path, 0, "picture-grey", f"has no color{f' (stored as {header.mode})' if header.mode != 'RGB' else ''}"
        )


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether all channels are equal, but for what compression does to them."""
    red, green, blue = cv2.split(pixels)
    apart = [cv2.absdiff(green, other) for other in (red, blue)]
    return all(spread.max() <= 8 and cv2.mean(spread)[0] < 1 for spread in apart)


def _digest(path: str) -> bytes:
    """16 bytes that identify the file's content; b"" if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return b""


def _rows(path: str, rules: RowRules) -> tuple[Rows | None, str, tuple[int, ...], list[Finding]]:
    """(rows or None, state, unknown classes, findings) of an image's label file."""
    file = label_path(path)
    if not os.path.lexists(file):
        return None, "missing", (), [Finding(path, 0, "label-missing", f"has no label file {file}")]
    try:
        rows = read_rows(file, rules)
    except DataError as error:
        return None, "unreadable", (), [Finding(file, 0, "label-unreadable", str(error).removeprefix(f"{file}: "))]
    if not len(rows.cls) and not rows.problems:
        return rows, "empty", (), [Finding(file, 0, "label-empty", "has no row")]
    findings = [Finding(file, problem.line, _kind_of(problem.reason), problem.reason) for problem in rows.problems]
    return rows, "found", tuple(one.value for one in rows.unknown), findings


def _kind_of(reason: str) -> str:
    """The kind of finding that a reason of the label reader stands for."""
    return next((kind for first, second, kind in _REASONS if first in reason and second in reason), "row-format")


def _box_faults(
    file: str, labels: Labels, lines: np.ndarray, size: tuple[int, int], names: Sequence[str]
) -> Iterator[Finding]:
    """Usable boxes that leave the image, and pairs of boxes on one object."""
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
    for later, earlier, overlap in _overlapping_pairs(boxes * scale):
        one, other = names[labels.cls[later]], names[labels.cls[earlier]]
        kind, both = (
            ("box-twice", f"{one} is drawn") if one == other else ("box-two-classes", f"{one} and {other} are drawn")
        )
        what = f"{both} at the same place as in line {lines[earlier]} (overlap {overlap:.2f})"
        yield Finding(file, int(lines[later]), kind, what)


def _overlapping_pairs(boxes: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """(later, earlier, IoU) of the pairs of (m, 4) boxes on one object; in blocks, as a crowd's matrix is huge."""
    for start in range(0, len(boxes), _ROWS):
        rows = boxes[start : start + _ROWS]
        overlap = np.tril(iou_matrix(rows, boxes[: start + len(rows)]), start - 1)
        for row, earlier in np.argwhere(overlap >= SAME_BOX):
            yield start + int(row), int(earlier), float(overlap[row, earlier])
