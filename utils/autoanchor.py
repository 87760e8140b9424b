"""Names that YOLOv5's scripts import from utils.autoanchor, with v6.1's signatures."""

from typing import NoReturn

from utils.compat.anchor_functions import (
    check_anchor_order,
    check_anchors,
    kmean_anchors,
)
from utils.compat.names import refuse

__all__ = [
    "check_anchor_order",
    "check_anchors",
    "kmean_anchors",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
