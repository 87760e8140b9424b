"""YOLOv5 v6.2's name of utils.datasets, for scripts that import from it."""

from typing import NoReturn

from utils.compat.augmenting import (
    augment_hsv,
    cutout,
    letterbox,
    mixup,
    random_perspective,
)
from utils.compat.image_loaders import (
    HELP_URL,
    IMG_FORMATS,
    VID_FORMATS,
    LoadImages,
    LoadStreams,
    LoadWebcam,
    exif_size,
    exif_transpose,
    img2label_paths,
)
from utils.compat.names import refuse
from utils.compat.training_data import (
    LoadImagesAndLabels,
    create_dataloader,
)

__all__ = [
    "HELP_URL",
    "IMG_FORMATS",
    "LoadImages",
    "LoadImagesAndLabels",
    "LoadStreams",
    "LoadWebcam",
    "VID_FORMATS",
    "augment_hsv",
    "create_dataloader",
    "cutout",
    "exif_size",
    "exif_transpose",
    "img2label_paths",
    "letterbox",
    "mixup",
    "random_perspective",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
