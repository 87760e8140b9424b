"""Mosaics of a batch: what the network was given, and what it answered."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images import write_image
from utils.plots.annotate import Annotator
from utils.plots.colors import color
from utils.types import Detections

_SHOWN_CONFIDENCE = 0.25


def plot_batch(
    images: Tensor,
    targets: Tensor,
    paths: Sequence[str],
    file: Path | str,
    names: Sequence[str] = (),
    max_images: int = 16,
    max_size: int = 1920,
) -> None:
    """Write a grid of the batch's first pictures with their labels.

    images: (B, 3, H, W) uint8 RGB (floats are taken as 0..1); targets: (M, 6) rows of image number, class, xywh
    normalised; the grid's longer side is at most max_size pixels.
    """
    height, width = images.shape[2:]
    rows = targets.detach().cpu().float().numpy()
    centre, half = rows[:, 2:4], rows[:, 4:6] / 2
    xyxy = np.concatenate((centre - half, centre + half), 1) * (width, height, width, height)
    boxes = [(xyxy[rows[:, 0] == index], rows[rows[:, 0] == index, 1], None) for index in range(len(images))]
    write_image(file, _grid(images, boxes, paths, names, max_images, max_size))


def plot_detections(
    images: Tensor,
    detections: Sequence[Detections],
    paths: Sequence[str],
    file: Path | str,
    names: Sequence[str] = (),
    max_images: int = 16,
    max_size: int = 1920,
) -> None:
    """Write the same grid with detections (xyxy in pixels of the network input) of confidence 0.25 and more."""
    boxes = []
    for found in detections[:max_images]:
        found = found.cpu()
        keep = found.conf >= _SHOWN_CONFIDENCE
        boxes.append((found.xyxy[keep].float().numpy(), found.cls[keep].numpy(), found.conf[keep].float().numpy()))
    write_image(file, _grid(images, boxes, paths, names, max_images, max_size))


def _grid(
    images: Tensor, boxes: list, paths: Sequence[str], names: Sequence[str], max_images: int, max_size: int
) -> np.ndarray:
    """Return (H, W, 3) uint8: the pictures, row by row in a square of cells, each with its boxes and file name."""
    count = min(len(images), max_images)
    side = max(int(np.ceil(np.sqrt(count))), 1)
    height, width = images.shape[2:]
    scale = min(1.0, max_size / (side * max(height, width)))
    cell_height, cell_width = max(int(height * scale), 1), max(int(width * scale), 1)
    lines = int(np.ceil(count / side)) if count else 1
    canvas = np.full((lines * cell_height, side * cell_width, 3), 255, np.uint8)
    for index in range(count):
        picture = cv2.resize(_as_picture(images[index]), (cell_width, cell_height), interpolation=cv2.INTER_AREA)
        top, left = index // side * cell_height, index % side * cell_width
        canvas[top : top + cell_height, left : left + cell_width] = _labelled(
            picture, scale, boxes[index], paths[index], names
        )
    return canvas


def _as_picture(image: Tensor) -> np.ndarray:
    """(3, H, W) tensor, uint8 or 0..1 floats, to (H, W, 3) uint8."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _labelled(picture: np.ndarray, scale: float, boxes: tuple, path: str, names: Sequence[str]) -> np.ndarray:
    """Draw one cell; boxes = (xyxy in unscaled pixels, cls, conf or None)."""
    font_size = max(min(picture.shape[:2]) // 26, 10)
    annotator = Annotator(picture, line_width=max(font_size // 8, 1), font_size=font_size)
    xyxy, classes, confidences = boxes
    for index, (box, number) in enumerate(zip(xyxy * scale, classes.astype(int))):
        name = names[number] if number < len(names) else str(number)
        label = name if confidences is None else f"{name} {confidences[index]:.1f}"
        annotator.box(box, label, color(number))
    annotator.text(2, picture.shape[0], Path(path).name[:40])  # moved up to fit: the lower left corner
    cv2.rectangle(annotator.image, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), (255, 255, 255), 1)
    return annotator.image
