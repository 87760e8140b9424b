"""Contact sheets of images with the boxes of their labels: samples of a split, and pairs that look alike."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from utils.boxes import xywhn_to_xyxy
from utils.datasets.label_store import LabelStore
from utils.errors import DataError
from utils.images import read_image, write_image
from utils.plots.annotate import Annotator, DrawingStyle, text_patch
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color
from utils.types import Labels

_WIDTH, _HEIGHT, _CAPTION = 480, 380, 26  # pixels of the image in a cell and of the line above it
_GAP = 6
_PAPER, _INK, _MAT = (255, 255, 255), (30, 30, 30), (236, 238, 240)


def sample_sheet(
    store: LabelStore,
    names: Sequence[str],
    file: Path | str,
    remarks: Mapping[str, str] = MappingProxyType({}),
    count: int = 16,
) -> None:
    """Write a sheet of sample images with their boxes; nothing for a store without images.

    Args:
        store: Images and labels.
        names: Class names.
        file: The sheet.
        remarks: path -> text; these images come first, then some for each class, rare classes first.
        count: Images at most.
    """
    chosen = choose_samples(store, len(names), set(remarks), count)
    if not chosen:
        return
    labeled = class_labels(names, Path(file).parent)
    counted = [label if label == name else f"class {label}" for label, name in zip(labeled, names, strict=True)]
    cells, total = [], store.class_counts(len(names))
    for index in chosen:
        labels, path = store.labels(index), store.paths[index]
        remark = f"{remarks[path]}, " if path in remarks else ""
        caption = f"{Path(path).name}: {remark}{_count_text(labels, counted, total)}"
        cells.append(_cell(path, labels, labeled, caption))
    write_image(file, _grid(cells, min(4, int(np.ceil(np.sqrt(len(cells)))))))


def pair_sheet(
    pairs: Sequence[tuple[str, tuple[str, str]]], labels: Mapping[str, Labels], names: Sequence[str], file: Path | str
) -> None:
    """Write a sheet with one row per pair: both images side by side with their boxes.

    Args:
        pairs: (caption, (path, path)).
        labels: path -> its labels.
        names: Class names.
        file: The sheet.
    """
    rows, names = [], class_labels(names, Path(file).parent)
    for caption, paths in pairs:
        images = [_cell(path, labels[path], names, "")[_CAPTION:] for path in paths]
        both = np.concatenate((images[0], np.full((_HEIGHT, _GAP, 3), 255, np.uint8), images[1]), 1)
        rows.append(np.concatenate((_line(caption, both.shape[1]), both)))
    write_image(file, _grid(rows, 1 if len(rows) < 3 else 2))


def choose_samples(store: LabelStore, nc: int, first: Set[str] = frozenset(), count: int = 16) -> list[int]:
    """Return which images of a split to show.

    At most half of them are from `first`, the others one after another for each class, the rarest first; of the images
    of a class those come first that lie evenly over the split.

    Args:
        store: Images and labels.
        nc: Number of classes.
        first: Paths that are preferred.
        count: Images at most.

    Returns:
        Their indices.
    """
    chosen = [index for index in range(len(store)) if store.paths[index] in first][: count // 2] if first else []
    counts, image_of = store.class_counts(nc), store.image_of
    classes = [class_id for class_id in np.argsort(counts, kind="stable") if counts[class_id]]
    holders = {class_id: _spread(np.unique(image_of[store.cls == class_id])) for class_id in classes}
    taken = set(chosen)
    while len(chosen) < count and any(holders.values()):
        for class_id in classes:
            while holders[class_id] and holders[class_id][0] in taken:
                holders[class_id].pop(0)
            if holders[class_id] and len(chosen) < count:
                chosen.append(holders[class_id].pop(0))
                taken.add(chosen[-1])
    for index in _spread(np.arange(len(store))):  # a split with few labels: images without
        if len(chosen) < count and index not in taken:
            chosen.append(index)
    return [int(index) for index in chosen]


def _spread(values: np.ndarray, most: int = 64) -> list[int]:
    """Up to `most` values, evenly taken: the middle, the quarters, the eighths and so on come first."""
    if not len(values):
        return []
    values = values[np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))]
    bits = max(int(len(values) - 1).bit_length(), 1)
    bit_reversed = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(2**bits)]
    return [int(values[index]) for index in bit_reversed if index < len(values)]


def _count_text(labels: Labels, names: Sequence[str], total: np.ndarray) -> str:
    """Text such as "1 WBC, 12 RBC", the split's rarest class first."""
    class_ids, counts = np.unique(labels.cls, return_counts=True)
    order = np.argsort(total[class_ids], kind="stable")
    return ", ".join(f"{counts[index]} {names[class_ids[index]]}" for index in order) or "no objects"


def _cell(path: str, labels: Labels, names: Sequence[str], caption: str) -> np.ndarray:
    """(_CAPTION + _HEIGHT, _WIDTH, 3) uint8: the image fitted into the cell with its boxes, under a line of text."""
    canvas = np.full((_HEIGHT, _WIDTH, 3), _MAT, np.uint8)
    try:
        image, _ = read_image(path, max(_WIDTH, _HEIGHT))
    except DataError:
        return np.concatenate((_line(f"{caption} (cannot be read)", _WIDTH), canvas))
    scale = min(_HEIGHT / image.shape[0], _WIDTH / image.shape[1])
    height, width = (max(int(round(side * scale)), 1) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    annotator = Annotator(small, DrawingStyle.of(small.shape, len(labels)))
    order = np.argsort(labels.xywhn[:, 2:].prod(1), kind="stable")  # small boxes on top
    boxes, ids = xywhn_to_xyxy(labels.xywhn[order], width, height), labels.cls[order].astype(int).tolist()
    annotator.boxes(boxes, [names[class_id] for class_id in ids], [class_color(class_id) for class_id in ids])
    top, left = (_HEIGHT - height) // 2, (_WIDTH - width) // 2
    canvas[top : top + height, left : left + width] = annotator.image
    return np.concatenate((_line(caption, _WIDTH), canvas))


def _line(text: str, width: int) -> np.ndarray:
    """(_CAPTION, width, 3) uint8 with one line of text, shortened if it is too long."""
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
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + _GAP) + _GAP, index % columns * (width + _GAP) + _GAP
        sheet[top : top + height, left : left + width] = cell
    return sheet
