"""Console messages and progress bars.

Nothing is configured at import: a script calls `configure()` in its main, a program that imports us keeps its own
logging configuration.
"""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from utils.errors import Interruption
from utils.language import translated

LOGGER = logging.getLogger("yolo")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # a surrogate: a byte of a name, not UTF-8
_SIGPIPE = 13  # ends other programs whose output is closed; Python ignores it and raises BrokenPipeError
_warned: set[str] = set()


class _OutputHandler(logging.StreamHandler):
    """Writes messages to standard output; when its reader is gone, such as `| head`, the program is interrupted."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise closed_output() from None
        super().handleError(record)


def closed_output() -> Interruption:
    """Return the interruption of a program whose output nobody reads; from here on standard output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter complains when it flushes what is left
    os.close(nowhere)
    return Interruption("the reader of the output has closed it", _SIGPIPE)


class _PlainFormatter(logging.Formatter):
    """Formats a message in the current language, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(translated(super().format(record)))


def without_controls(text: str) -> str:
    """Return a text with an escape, as repr writes it, in place of each control character but tabs and line ends."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def configure(level: int = logging.INFO) -> None:
    """Send the project's messages to standard output, once, as plain lines.

    Characters that the terminal's encoding lacks, or that would control it, are escaped: names of files hold any.
    """
    if not LOGGER.handlers:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        handler = _OutputHandler(sys.stdout)
        handler.setFormatter(_PlainFormatter("%(message)s"))
        LOGGER.addHandler(handler)
        for category in (UserWarning, RuntimeWarning):  # of damaged images: ours name the file; and of large ones
            warnings.filterwarnings("ignore", category=category, module=r"PIL\.")
        LOGGER.propagate = False
    # of several processes one speaks for all; errors that end them are printed where they happen
    LOGGER.setLevel(level if is_main_process() else max(level, logging.ERROR))


@contextmanager
def messages_shown() -> Iterator[None]:
    """Show the project's messages, while the block runs, as its commands do; afterwards logging is as it was.

    A program that has logging handlers of its own gets the messages there, and a level that it set for the logger
    "yolo" stays.
    """
    handlers, level, propagate = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    if not LOGGER.hasHandlers():
        configure(level or logging.INFO)
    elif level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    try:
        yield
    finally:
        LOGGER.handlers, LOGGER.propagate = handlers, propagate
        LOGGER.setLevel(level)


def warn_once(message: str) -> None:
    """Log a warning the first time that this exact message occurs in the process."""
    if message not in _warned:
        _warned.add(message)
        LOGGER.warning(f"WARNING: {message}")


def is_main_process() -> bool:
    """Return whether this process logs and writes for the job; a launcher such as torchrun sets RANK."""
    return int(os.environ.get("RANK", 0)) == 0


def shares_terminal() -> bool:
    """Return whether standard output and standard error, messages and progress bars, both are terminals."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def progress(iterable: Iterable | None, total: int | None = None, description: str = "", disable: bool | None = None):
    """Return `iterable` wrapped in a tqdm bar on standard error.

    If standard error is no terminal, the bar is one line per minute and one at the end.

    Args:
        iterable: What to iterate over; None for a bar that the caller updates.
        total: Number of steps, if `iterable` does not know it.
        description: Shown before the bar.
        disable: Whether to show nothing; by default in all ranks but the first and if LOGGER's level is above INFO.

    Returns:
        The bar, which yields the items of `iterable`.
    """
    from tqdm import tqdm

    if disable is None:
        disable = not is_main_process() or LOGGER.getEffectiveLevel() > logging.INFO

    class Lines(tqdm):
        """A bar for files: each state on a line of its own, none before the first step."""

        written = False

        def display(self, msg=None, pos=None):
            if self.n:
                self.fp.write(("\n" if self.written else "") + str(self))
                self.fp.flush()
                self.written = True

    kind, interval = (tqdm, 0.5) if sys.stderr.isatty() else (Lines, 60.0)
    return kind(
        iterable,
        total=total,
        desc=description,
        disable=disable,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        bar_format="{desc} {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining} {rate_fmt}",
    )
