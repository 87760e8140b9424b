"""Sheets of a data set's pictures with the boxes of their labels: samples of a split, and pairs that look alike."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from utils.boxes import xywhn_to_xyxy
from utils.datasets.label_store import LabelStore
from utils.errors import DataError
from utils.images import read_image, write_image
from utils.plots.annotate import Annotator, text_patch
from utils.plots.colors import class_color
from utils.types import Labels

_WIDTH, _HEIGHT, _CAPTION = 480, 380, 26  # pixels of a cell's picture and of the line above it
_GAP = 6
_PAPER, _INK, _MAT = (255, 255, 255), (30, 30, 30), (236, 238, 240)
_MOST_LABELLED = 40  # boxes of a picture above which names would hide the objects


def sample_sheet(
    store: LabelStore,
    names: Sequence[str],
    file: Path | str,
    remarks: Mapping[str, str] = MappingProxyType({}),
    count: int = 16,
) -> None:
    """Write a sheet of up to `count` pictures with their boxes: those that have a remark (path -> text), then some
    for each class, rare classes first. Nothing is written for a store without pictures.
    """
    chosen = choose(store, len(names), set(remarks), count)
    if not chosen:
        return
    cells, total = [], store.class_counts(len(names))
    for index in chosen:
        labels, path = store.labels(index), store.paths[index]
        remark = f"{remarks[path]}, " if path in remarks else ""
        cells.append(_cell(path, labels, names, f"{Path(path).name}: {remark}{_told(labels, names, total)}"))
    write_image(file, _grid(cells, min(4, int(np.ceil(np.sqrt(len(cells)))))))


def pair_sheet(
    pairs: Sequence[tuple[str, tuple[str, str]]], labels: Mapping[str, Labels], names: Sequence[str], file: Path | str
) -> None:
    """Write a sheet with a row for each pair (caption, (path, path)): both pictures side by side with their boxes."""
    rows = []
    for caption, paths in pairs:
        pictures = [_cell(path, labels[path], names, "")[_CAPTION:] for path in paths]
        both = np.concatenate((pictures[0], np.full((_HEIGHT, _GAP, 3), 255, np.uint8), pictures[1]), 1)
        rows.append(np.concatenate((_line(caption, both.shape[1]), both)))
    write_image(file, _grid(rows, 1 if len(rows) < 3 else 2))


def choose(store: LabelStore, nc: int, first: Set[str] = frozenset(), count: int = 16) -> list[int]:
    """Return up to `count` places of pictures: at most half of them from `first`, then one after another for each class,
    the rarest first, until all are taken; of a class's pictures those come first that lie evenly over the split.
    """
    chosen = [index for index in range(len(store)) if store.paths[index] in first][: count // 2] if first else []
    counts, image_of = store.class_counts(nc), store.image_of
    classes = [number for number in np.argsort(counts, kind="stable") if counts[number]]
    holders = {number: _spread(np.unique(image_of[store.cls == number])) for number in classes}
    taken = set(chosen)
    while len(chosen) < count and any(holders.values()):
        for number in classes:
            while holders[number] and holders[number][0] in taken:
                holders[number].pop(0)
            if holders[number] and len(chosen) < count:
                chosen.append(holders[number].pop(0))
                taken.add(chosen[-1])
    for index in _spread(np.arange(len(store))):  # a split with few labels: pictures without
        if len(chosen) < count and index not in taken:
            chosen.append(index)
    return [int(index) for index in chosen]


def _spread(values: np.ndarray, most: int = 64) -> list[int]:
    """Up to `most` values, evenly taken: the middle, the quarters, the eighths and so on come first."""
    if not len(values):
        return []
    values = values[np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))]
    bits = max(int(len(values) - 1).bit_length(), 1)
    mirrored = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits)]
    return [int(values[place]) for place in mirrored if place < len(values)]


def _told(labels: Labels, names: Sequence[str], total: np.ndarray) -> str:
    """ "1 WBC, 12 RBC", the split's rarest class first."""
    numbers, counts = np.unique(labels.cls, return_counts=True)
    order = np.argsort(total[numbers], kind="stable")
    return ", ".join(f"{counts[place]} {names[numbers[place]]}" for place in order) or "no objects"


def _cell(path: str, labels: Labels, names: Sequence[str], caption: str) -> np.ndarray:
    """(_CAPTION + _HEIGHT, _WIDTH, 3) uint8: the picture fitted into the cell with its boxes, under a line of text."""
    canvas = np.full((_HEIGHT, _WIDTH, 3), _MAT, np.uint8)
    try:
        picture, _ = read_image(path, max(_WIDTH, _HEIGHT))
    except DataError:
        return np.concatenate((_line(f"{caption} (cannot be read)", _WIDTH), canvas))
    scale = min(_HEIGHT / picture.shape[0], _WIDTH / picture.shape[1])
    height, width = (max(int(round(side * scale)), 1) for side in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    annotator = Annotator(small, line_width=2, font_size=11)
    named = len(labels) <= _MOST_LABELLED
    boxes = xywhn_to_xyxy(labels.xywhn, width, height)
    for place in np.argsort(-labels.xywhn[:, 2:].prod(1), kind="stable"):  # small boxes on top
        number = int(labels.cls[place])
        annotator.box(boxes[place], names[number] if named else "", class_color(number))
    top, left = (_HEIGHT - height) // 2, (_WIDTH - width) // 2
    canvas[top : top + height, left : left + width] = annotator.image
    return np.concatenate((_line(caption, _WIDTH), canvas))


def _line(text: str, width: int) -> np.ndarray:
    """(_CAPTION, width, 3) uint8 with one line of text, shortened where it is too long."""
    line = np.full((_CAPTION, width, 3), _PAPER, np.uint8)
    patch = text_patch(text, 14, _INK, _PAPER) if text else line
    while patch.shape[1] > width and len(text) > 8:
        text = f"{text[:-5]}..."
        patch = text_patch(text, 14, _INK, _PAPER)
    height, across = min(patch.shape[0], _CAPTION), min(patch.shape[1], width)
    top = (_CAPTION - height) // 2
    line[top : top + height, :across] = patch[:height, :across]
    return line


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """All cells, row by row, on white with a gap between them."""
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), _PAPER, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * (height + _GAP) + _GAP, number % columns * (width + _GAP) + _GAP
        sheet[top : top + height, left : left + width] = cell
    return sheet
