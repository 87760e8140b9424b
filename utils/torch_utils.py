"""Names that YOLOv5's scripts import from utils.torch_utils, with v6.1's signatures."""

from typing import NoReturn

from utils.compat.everyday import (
    LOGGER,
    intersect_dicts,
)
from utils.compat.names import refuse
from utils.compat.torch_functions import (
    EpochStopper as EarlyStopping,
)
from utils.compat.torch_functions import (
    FollowedModel as ModelEMA,
)
from utils.compat.torch_functions import (
    copy_attr,
    de_parallel,
    find_modules,
    fuse_conv_and_bn,
    init_torch_seeds,
    initialize_weights,
    is_parallel,
    load_classifier,
    model_info,
    scale_img,
    select_device,
    smart_inference_mode,
    sparsity,
    time_sync,
    torch_distributed_zero_first,
)
from utils.compat.torch_functions import (
    time_sync as time_synchronized,
)

__all__ = [
    "EarlyStopping",
    "LOGGER",
    "ModelEMA",
    "copy_attr",
    "de_parallel",
    "find_modules",
    "fuse_conv_and_bn",
    "init_torch_seeds",
    "initialize_weights",
    "intersect_dicts",
    "is_parallel",
    "load_classifier",
    "model_info",
    "scale_img",
    "select_device",
    "smart_inference_mode",
    "sparsity",
    "time_sync",
    "time_synchronized",
    "torch_distributed_zero_first",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
