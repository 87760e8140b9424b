"""The sample grid of a study, its qualitative results: a few images as labeled and as each model detects them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from utils.boxes import xywhn_to_xyxy
from utils.config import PredictOptions, Slicing
from utils.datasets.dataset import DetectionDataset, collate
from utils.datasets.letterboxing import resize
from utils.device import Timer, network_input
from utils.engine.tiled_inference import TiledInference
from utils.images import read_image, write_image
from utils.nms import non_max_suppression
from utils.plots.annotate import Annotator, DrawingStyle, text_patch
from utils.plots.fonts import class_labels
from utils.plots.palette import class_color
from utils.types import Detections

COLUMNS = 4  # images
SIDE = 320  # of an image in the grid, in pixels
MARGIN = 6
CONFIDENCE, OVERLAP = 0.25, 0.45  # detect.py's thresholds
MAX_DETECTIONS = 300


def sample_indices(dataset: DetectionDataset, count: int = COLUMNS) -> list[int]:
    """Return the indices of images evenly spaced over those with labels, or over all if none has any.

    Args:
        dataset: The dataset.
        count: At most so many images.

    Returns:
        Indices in rising order.
    """
    labeled = np.flatnonzero(np.diff(dataset.store.offsets))
    labeled = labeled if len(labeled) else np.arange(len(dataset))
    spaced = np.linspace(0, len(labeled) - 1, min(count, len(labeled))).round().astype(int)
    return [int(index) for index in labeled[spaced]]


@torch.no_grad()
def draw_sample_grid(
    models: Mapping[str, nn.Module],
    dataset: DetectionDataset,
    names: Sequence[str],
    device: torch.device,
    file: Path,
    slicing: Slicing | None = None,
) -> Path:
    """Write the sample grid: a row "labels", then one row per model; one column per image.

    Args:
        models: Models in evaluation mode by name.
        dataset: The split, without augmentation, each image in its own smallest shape.
        names: Class names.
        device: Where the models are.
        file: The image file to write.
        slicing: Also predict tiles of each image; None does not.

    Returns:
        `file`.
    """
    indices, names = sample_indices(dataset), class_labels(names, file.parent)
    rows = [("labels", [_draw_labels(dataset, index, names) for index in indices])]
    options = PredictOptions(conf_thres=CONFIDENCE, iou_thres=OVERLAP, max_det=MAX_DETECTIONS, slicing=slicing)
    for name, model in models.items():
        tiles = TiledInference.of_frames(model, options)
        found = [_detect(model, dataset, index, device, tiles) for index in indices]
        rows.append((name, [_draw_detections(dataset, *each, names) for each in zip(indices, found, strict=True)]))
    height = max(image.shape[0] for _, images in rows for image in images)
    write_image(file, np.concatenate([_draw_row(title, images, height) for title, images in rows]))
    return file


def _draw_labels(dataset: DetectionDataset, image_index: int, names: Sequence[str]) -> np.ndarray:
    image = _read_sample(dataset, image_index)
    labels = dataset.labels(image_index)
    boxes = xywhn_to_xyxy(labels.xywhn, image.shape[1], image.shape[0])
    return _draw_boxes(image, boxes, labels.cls, [names[class_id] for class_id in labels.cls])


def _detect(
    model: nn.Module,
    dataset: DetectionDataset,
    image_index: int,
    device: torch.device,
    tiles: TiledInference | None,
) -> Detections:
    """The detections of an image in its native pixels, on the CPU."""
    batch = collate([dataset[image_index]])
    placed = batch.letterboxes[0]
    whole = None
    if tiles is None or tiles.needs_whole(placed.native):
        decoded = model(network_input(batch.images, device))[0]
        (found,) = non_max_suppression(decoded, CONFIDENCE, OVERLAP, max_det=MAX_DETECTIONS)
        whole = found.cpu().to_native(placed)
        if tiles is None:
            return whole
    return tiles.merged(read_image(dataset.paths[image_index])[0], whole, [Timer() for _ in range(3)])


def _draw_detections(
    dataset: DetectionDataset, image_index: int, detections: Detections, names: Sequence[str]
) -> np.ndarray:
    image = _read_sample(dataset, image_index)
    height, width = dataset.sizes[image_index]
    boxes = detections.xyxy.numpy() * np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
    texts = [
        f"{names[class_id] if class_id < len(names) else class_id} {conf:.2f}"
        for class_id, conf in zip(detections.cls.tolist(), detections.conf.tolist(), strict=True)
    ]
    return _draw_boxes(image, boxes, detections.cls.numpy(), texts)


def _read_sample(dataset: DetectionDataset, image_index: int) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, its longer side SIDE."""
    image, _ = read_image(dataset.paths[image_index])
    factor = SIDE / max(image.shape[:2])
    return resize(
        image,
        (max(round(image.shape[0] * factor), 1), max(round(image.shape[1] * factor), 1)),
        cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR,
    )


def _draw_boxes(image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the image with boxes in xyxy pixels."""
    canvas = Annotator(image, DrawingStyle.of(image.shape, len(boxes)))
    canvas.boxes(boxes, texts, [class_color(int(class_id)) for class_id in classes])
    return canvas.image


def _draw_row(title: str, images: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Return one row of the grid, its title above it."""
    width = len(images) * (SIDE + MARGIN) + MARGIN
    head = text_patch(title, 18, (20, 20, 20), (255, 255, 255))[:, :width]
    row = np.full((head.shape[0] + height + 2 * MARGIN, width, 3), 255, np.uint8)
    row[MARGIN : MARGIN + head.shape[0], MARGIN : MARGIN + head.shape[1]] = head[:, : width - MARGIN]
    for column, image in enumerate(images):
        left, top = MARGIN + column * (SIDE + MARGIN), head.shape[0] + MARGIN
        row[top : top + image.shape[0], left : left + image.shape[1]] = image
    return row
