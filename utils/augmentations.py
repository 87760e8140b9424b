"""Names that YOLOv5's scripts import from utils.augmentations, with v6.1's signatures."""

from typing import NoReturn

from utils.compat.augmenting import (
    augment_hsv,
    box_candidates,
    cutout,
    hist_equalize,
    letterbox,
    mixup,
    random_perspective,
)
from utils.compat.box_functions import (
    bbox_ioa,
    resample_segments,
    segment2box,
)
from utils.compat.names import refuse

__all__ = [
    "augment_hsv",
    "bbox_ioa",
    "box_candidates",
    "cutout",
    "hist_equalize",
    "letterbox",
    "mixup",
    "random_perspective",
    "resample_segments",
    "segment2box",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
