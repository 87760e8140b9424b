"""A strip of pictures: the same few of the compared split as labelled and as each model detects them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from utils.boxes import xywhn_to_xyxy
from utils.datasets.dataset import DetectionDataset, collate
from utils.datasets.letterbox import resize
from utils.device import network_input
from utils.images import read_image, write_image
from utils.nms import non_max_suppression
from utils.plots.annotate import Annotator, text_patch
from utils.plots.colors import color

SHOWN = 4  # pictures
SIDE = 320  # of a picture on the strip, in pixels
MARGIN = 6
CONFIDENCE, OVERLAP = 0.25, 0.45  # detect.py's thresholds


def chosen(dataset: DetectionDataset, count: int = SHOWN) -> list[int]:
    """Return the places of `count` pictures, evenly spaced over those with labels; over all where none has any."""
    labelled = np.flatnonzero(np.diff(dataset.store.offsets))
    labelled = labelled if len(labelled) else np.arange(len(dataset))
    return [
        int(place)
        for place in labelled[np.linspace(0, len(labelled) - 1, min(count, len(labelled))).round().astype(int)]
    ]


@torch.no_grad()
def draw_strip(
    models: Mapping[str, nn.Module], dataset: DetectionDataset, names: Sequence[str], device: torch.device, file: Path
) -> Path:
    """Write the strip: a row "labels", then one a model by its name, a column a picture. The data set gives
    plain inputs, each in its own smallest shape.
    """
    places = chosen(dataset)
    rows = [("labels", [_labelled(dataset, place, names) for place in places])]
    for name, model in models.items():
        rows.append((name, [_detected(model, dataset, place, names, device) for place in places]))
    height = max(picture.shape[0] for _, pictures in rows for picture in pictures)
    write_image(file, np.concatenate([_row(title, pictures, height) for title, pictures in rows]))
    return file


def _labelled(dataset: DetectionDataset, place: int, names: Sequence[str]) -> np.ndarray:
    picture = _picture(dataset, place)
    labels = dataset.labels(place)
    boxes = xywhn_to_xyxy(labels.xywhn, picture.shape[1], picture.shape[0])
    return _drawn(picture, boxes, labels.cls, [names[number] for number in labels.cls])


def _detected(
    model: nn.Module, dataset: DetectionDataset, place: int, names: Sequence[str], device: torch.device
) -> np.ndarray:
    picture, batch = _picture(dataset, place), collate([dataset[place]])
    decoded = model(network_input(batch.images, device))[0]
    found = non_max_suppression(decoded, CONFIDENCE, OVERLAP)[0].cpu().to_native(batch.letterboxes[0])
    height, width = batch.letterboxes[0].native
    boxes = found.xyxy.numpy() * np.float32([picture.shape[1] / width, picture.shape[0] / height] * 2)
    texts = [
        f"{names[number] if number < len(names) else number} {conf:.2f}"
        for number, conf in zip(found.cls.tolist(), found.conf.tolist())
    ]
    return _drawn(picture, boxes, found.cls.numpy(), texts)


def _picture(dataset: DetectionDataset, place: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, its longer side SIDE."""
    image, _ = read_image(dataset.paths[place])
    factor = SIDE / max(image.shape[:2])
    return resize(
        image,
        (max(round(image.shape[0] * factor), 1), max(round(image.shape[1] * factor), 1)),
        cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR,
    )


def _drawn(picture: np.ndarray, boxes: np.ndarray, classes: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    canvas = Annotator(picture, line_width=2, font_size=11)
    for box, number, text in zip(boxes, classes, texts):
        canvas.box(box, text, color(int(number)))
    return canvas.image


def _row(title: str, pictures: Sequence[np.ndarray], height: int) -> np.ndarray:
    """One row of the strip, its title above it."""
    width = len(pictures) * (SIDE + MARGIN) + MARGIN
    head = text_patch(title, 18, (20, 20, 20), (255, 255, 255))[:, :width]
    row = np.full((head.shape[0] + height + 2 * MARGIN, width, 3), 255, np.uint8)
    row[MARGIN : MARGIN + head.shape[0], MARGIN : MARGIN + head.shape[1]] = head[:, : width - MARGIN]
    for number, picture in enumerate(pictures):
        left, top = MARGIN + number * (SIDE + MARGIN), head.shape[0] + MARGIN
        row[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return row
