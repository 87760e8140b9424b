"""Names that YOLOv5's scripts import from utils.general, with v6.1's signatures; utils.compat has what they do."""

from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import torch

from utils.compat.box_functions import (
    clip_coords,
    clip_segments,
    non_max_suppression,
    resample_segments,
    scale_coords,
    segment2box,
    segments2boxes,
    xyn2xy,
    xywh2xyxy,
    xywhn2xyxy,
    xyxy2xywh,
    xyxy2xywhn,
)
from utils.compat.box_functions import (
    clip_coords as clip_boxes,
)
from utils.compat.box_functions import (
    scale_coords as scale_boxes,
)
from utils.compat.checks import (
    check_dataset,
    check_file,
    check_font,
    check_git_status,
    check_img_size,
    check_imshow,
    check_python,
    check_requirements,
    check_suffix,
    check_version,
    check_yaml,
    make_divisible,
)
from utils.compat.everyday import (
    DATASETS_DIR,
    LOGGER,
    NUM_THREADS,
    VERBOSE,
    Profile,
    apply_classifier,
    clean_str,
    coco80_to_coco91_class,
    colorstr,
    file_size,
    get_latest_run,
    imread,
    imwrite,
    increment_path,
    init_seeds,
    intersect_dicts,
    is_ascii,
    is_chinese,
    labels_to_class_weights,
    labels_to_image_weights,
    methods,
    one_cycle,
    print_args,
    set_logging,
    strip_optimizer,
    url2file,
    yaml_load,
    yaml_save,
)
from utils.compat.measures import (
    fitness,
)
from utils.compat.names import refuse
from utils.compat.published_files import (
    attempt_download,
    is_url,
)
from utils.files import (
    ROOT,
)

FILE = Path(__file__).resolve()
__all__ = [
    "DATASETS_DIR",
    "FILE",
    "LOGGER",
    "NUM_THREADS",
    "Profile",
    "ROOT",
    "VERBOSE",
    "apply_classifier",
    "attempt_download",
    "check_dataset",
    "check_file",
    "check_font",
    "check_git_status",
    "check_img_size",
    "check_imshow",
    "check_python",
    "check_requirements",
    "check_suffix",
    "check_version",
    "check_yaml",
    "clean_str",
    "clip_boxes",
    "clip_coords",
    "clip_segments",
    "coco80_to_coco91_class",
    "colorstr",
    "cv2",
    "file_size",
    "fitness",
    "get_latest_run",
    "imread",
    "imwrite",
    "increment_path",
    "init_seeds",
    "intersect_dicts",
    "is_ascii",
    "is_chinese",
    "is_url",
    "labels_to_class_weights",
    "labels_to_image_weights",
    "make_divisible",
    "methods",
    "non_max_suppression",
    "np",
    "one_cycle",
    "print_args",
    "resample_segments",
    "scale_boxes",
    "scale_coords",
    "segment2box",
    "segments2boxes",
    "set_logging",
    "strip_optimizer",
    "torch",
    "url2file",
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
    "yaml_load",
    "yaml_save",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
