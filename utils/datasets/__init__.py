"""Datasets: labels and their cache, augmentation, batches, and the sources of detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.compat.augmenting import augment_hsv, cutout, letterbox, mixup, random_perspective  # noqa: F401
    from utils.compat.box_functions import xywhn2xyxy, xyxy2xywh, xyxy2xywhn  # noqa: F401
    from utils.compat.image_loaders import (  # noqa: F401
        IMG_FORMATS,
        VID_FORMATS,
        LoadImages,
        LoadStreams,
        LoadWebcam,
        exif_size,
        img2label_paths,
    )
    from utils.compat.training_data import LoadImagesAndLabels, create_dataloader  # noqa: F401


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)
