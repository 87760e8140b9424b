"""YOLOv5 v5's name of utils.downloads, for scripts that import from it."""

from typing import NoReturn

from utils.compat.names import refuse
from utils.compat.published_files import (
    attempt_download,
)

__all__ = [
    "attempt_download",
]


def __getattr__(name: str) -> NoReturn:
    refuse(__name__, name)
