"""Names that YOLOv5's scripts import from utils.downloads; nothing is fetched unless that is asked for."""

from typing import NoReturn

from utils.compat.names import refuse
from utils.compat.published_files import (
    attempt_download,
    is_url,
)

__all__ = [
    "attempt_download",
    "is_url",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
