"""Grids of a batch: its images with their labels, or with the detections."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images import write_image
from utils.plots.annotate import Annotator, DrawingStyle
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color
from utils.types import Detections

_SHOWN_CONFIDENCE = 0.25
_MOST_BOXES = 100  # per image: more hide it
# xyxy in pixels (n, 4), cls (n,), conf (n,) or None; the best box first
_Boxes = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def plot_batch(
    images: Tensor,
    targets: Tensor,
    paths: Sequence[str],
    file: Path | str,
    names: Sequence[str] = (),
    max_images: int = 16,
    max_size: int = 1920,
) -> None:
    """Write a grid of the batch's first images with their labels.

    Args:
        images: (B, 3, H, W) RGB, uint8 or floating point 0..1.
        targets: (M, 6) rows: index of the image in the batch, class id, xywh normalized.
        paths: The image files, whose names are written below the images.
        file: The image to write.
        names: Of the classes; a class whose name is missing or cannot be written is written as its id.
        max_images: Number of images in the grid, at most.
        max_size: Longer side of the grid in pixels, at most.
    """
    height, width = images.shape[2:]
    rows = targets.detach().cpu().float().numpy()
    center, half = rows[:, 2:4], rows[:, 4:6] / 2
    xyxy = np.concatenate((center - half, center + half), 1) * (width, height, width, height)
    order = np.argsort(-rows[:, 4] * rows[:, 5], kind="stable")  # large objects first: of a crowd they are drawn
    rows, xyxy = rows[order], xyxy[order]
    boxes: list[_Boxes] = [
        (xyxy[rows[:, 0] == index], rows[rows[:, 0] == index, 1], None) for index in range(len(images))
    ]
    labels = class_labels(names, Path(file).parent)
    write_image(file, _grid(images, boxes, paths, labels, max_images, max_size))


def plot_detections(
    images: Tensor,
    detections: Sequence[Detections],
    paths: Sequence[str],
    file: Path | str,
    names: Sequence[str] = (),
    max_images: int = 16,
    max_size: int = 1920,
) -> None:
    """Write a grid of the batch's first images with their detections of confidence 0.25 and more.

    Args:
        images: (B, 3, H, W) RGB, uint8 or floating point 0..1.
        detections: One per image, in pixels of `images`.
        paths: The image files, whose names are written below the images.
        file: The image to write.
        names: Of the classes; a class whose name is missing or cannot be written is written as its id.
        max_images: Number of images in the grid, at most.
        max_size: Longer side of the grid in pixels, at most.
    """
    boxes: list[_Boxes] = []
    for found in detections[:max_images]:
        found = found.cpu()
        keep = torch.argsort(found.conf, descending=True, stable=True)
        keep = keep[found.conf[keep] >= _SHOWN_CONFIDENCE]
        boxes.append((found.xyxy[keep].float().numpy(), found.cls[keep].numpy(), found.conf[keep].float().numpy()))
    labels = class_labels(names, Path(file).parent)
    write_image(file, _grid(images, boxes, paths, labels, max_images, max_size))


def _grid(
    images: Tensor, boxes: list[_Boxes], paths: Sequence[str], names: Sequence[str], max_images: int, max_size: int
) -> np.ndarray:
    """The images (H, W, 3) uint8, row by row in a square of cells, each with its boxes and file name."""
    count = min(len(images), max_images)
    side = max(int(np.ceil(np.sqrt(count))), 1)
    height, width = images.shape[2:]
    scale = min(1.0, max_size / (side * max(height, width)))
    cell_height, cell_width = max(int(height * scale), 1), max(int(width * scale), 1)
    lines = int(np.ceil(count / side)) if count else 1
    canvas = np.full((lines * cell_height, side * cell_width, 3), 255, np.uint8)
    for index in range(count):
        image = cv2.resize(_as_uint8(images[index]), (cell_width, cell_height), interpolation=cv2.INTER_AREA)
        top, left = index // side * cell_height, index % side * cell_width
        canvas[top : top + cell_height, left : left + cell_width] = _draw_cell(
            image, scale, boxes[index], paths[index], names
        )
    return canvas


def _as_uint8(image: Tensor) -> np.ndarray:
    """The image (H, W, 3) uint8 of a tensor (3, H, W), uint8 or floating point 0..1."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _draw_cell(image: np.ndarray, scale: float, boxes: _Boxes, path: str, names: Sequence[str]) -> np.ndarray:
    """Draw one cell; the boxes are in unscaled pixels, the best first."""
    xyxy, classes, confidences = boxes
    count, ids = len(xyxy), classes[:_MOST_BOXES].astype(int).tolist()
    annotator = Annotator(image, DrawingStyle.of(image.shape, len(ids)))
    labels = [names[class_id] if class_id < len(names) else str(class_id) for class_id in ids]
    if confidences is not None:
        labels = [f"{label} {confidence:.1f}" for label, confidence in zip(labels, confidences, strict=False)]
    annotator.boxes(xyxy[:_MOST_BOXES] * scale, labels, [class_color(class_id) for class_id in ids])
    which = "best" if confidences is not None else "largest"
    note = f", {which} {_MOST_BOXES} of {count}" if count > _MOST_BOXES else ""
    caption = f"{Path(path).name[:40]}{note}"
    annotator.text(2, image.shape[0], caption)  # moved up to fit: the lower left corner
    cv2.rectangle(annotator.image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), (255, 255, 255), 1)
    return annotator.image
