"""Console messages and progress bars. Nothing is configured at import: a script calls
`configure()` in its main, a program that imports us keeps its own logging set-up."""

import logging
import sys
from collections.abc import Iterable

LOGGER = logging.getLogger("yolo")
_said: set[str] = set()


def configure(level: int = logging.INFO) -> None:
    """Send the project's messages to standard output, once, as plain lines."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.propagate = False
    LOGGER.setLevel(level)


def warn_once(message: str) -> None:
    """Log a warning the first time this exact message comes up in the process."""
    if message not in _said:
        _said.add(message)
        LOGGER.warning(f"WARNING: {message}")


def progress(iterable: Iterable, total: int | None = None, description: str = "", disable: bool | None = None):
    """Return `iterable` wrapped in a tqdm bar on standard error.

    The bar is off for other ranks than the first and where LOGGER is above INFO."""
    from tqdm import tqdm

    from utils.dist import is_main

    if disable is None:
        disable = not is_main() or LOGGER.getEffectiveLevel() > logging.INFO
    return tqdm(iterable, total=total, desc=description, disable=disable, mininterval=0.5,
                bar_format="{desc} {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining} {rate_fmt}")
