"""YOLOv5's utils.autoanchor by our AutoAnchor."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import anchors
from utils.compat.everyday import colorstr
from utils.compat.torch_functions import de_parallel
from utils.config import DatasetSpec, SplitOptions
from utils.datasets.splits import open_split
from utils.log import LOGGER


def check_anchor_order(m: Any) -> None:
    """Reverse a head's anchors in place if their order does not follow the strides.

    Args:
        m: The last layer of a network.
    """
    areas = (m.anchors * m.stride.to(m.anchors).view(-1, 1, 1)).prod(-1).mean(-1)
    if len(areas) > 1 and (areas[-1] - areas[0]) * (m.stride[-1] - m.stride[0]) < 0:
        LOGGER.info(f"{colorstr('AutoAnchor: ')}Reversing anchor order")
        m.anchors[:] = m.anchors.flip(0)


def box_sizes(dataset: Any, imgsz: int) -> np.ndarray:
    """Return the widths and heights (n, 2) of all objects in pixels, with the long sides of images at `imgsz`.

    Args:
        dataset: One of ours, or one with v6.1's `shapes` (width, height) and `labels` (n, 5) per image.
        imgsz: In pixels.

    Returns:
        float32.
    """
    own = getattr(dataset, "store", None)
    if own is not None:
        return own.boxes_px(imgsz).astype(np.float32)
    shapes = imgsz * np.asarray(dataset.shapes) / np.asarray(dataset.shapes).max(1, keepdims=True)
    sides = [rows[:, 3:5] * shape for shape, rows in zip(shapes, dataset.labels, strict=True)]
    return np.concatenate(sides).astype(np.float32).reshape(-1, 2)


def check_anchors(dataset: Any, model: Any, thr: float = 4.0, imgsz: int = 640) -> None:
    """Measure how a network's anchors fit a dataset; if the recall is 0.98 or less, give the network better ones.

    Args:
        dataset: As `box_sizes` takes it.
        model: A network of this project; its head's anchors are replaced.
        thr: An anchor fits a box if no side differs by this factor or more.
        imgsz: The training size in pixels.
    """
    network: Any = de_parallel(model)
    head = network.model[-1]
    report = anchors.check_anchors(box_sizes(dataset, imgsz), head.geometry, thr, imgsz)
    if report.new_anchors_px is not None:
        head.set_anchors(torch.as_tensor(report.new_anchors_px))


def kmean_anchors(
    dataset: Any = "./data/coco128.yaml",
    n: int = 9,
    img_size: int = 640,
    thr: float = 4.0,
    gen: int = 1000,
    verbose: bool = True,
) -> np.ndarray:
    """Return anchors fitted to a dataset's boxes, by rising area.

    Args:
        dataset: A data yaml, whose training split is read, or a dataset as `box_sizes` takes it.
        n: Number of anchors.
        img_size: The training size in pixels.
        thr: An anchor fits a box if no side differs by this factor or more.
        gen: Number of random changes that are tried.
        verbose: Whether the anchors are logged.

    Returns:
        (n, 2) float32 pixels.
    """
    if isinstance(dataset, (str, Path)):
        dataset = open_split(DatasetSpec.load(dataset), "train", SplitOptions(imgsz=img_size))
    found = anchors.kmeans_anchors(box_sizes(dataset, img_size), n, img_size, thr, gen)
    if verbose:
        LOGGER.info(colorstr("AutoAnchor: ") + ", ".join(f"{width:.0f},{height:.0f}" for width, height in found))
    return found
