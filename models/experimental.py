"""Names that YOLOv5's scripts import from models.experimental: `attempt_load`, above all."""

from typing import NoReturn

from models.layers import (
    CrossConv,
    GhostBottleneck,
    GhostConv,
    MixConv2d,
    Sum,
)
from utils.compat.loading import (
    LoadedEnsemble as Ensemble,
)
from utils.compat.loading import (
    attempt_load,
)
from utils.compat.names import refuse

__all__ = [
    "CrossConv",
    "Ensemble",
    "GhostBottleneck",
    "GhostConv",
    "MixConv2d",
    "Sum",
    "attempt_load",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
