"""Exporters as this project calls them: without warnings about themselves, and whatever they raise in one line."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from utils.errors import ModelError, UserError, cut

_NOISY_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._export", "onnxslim")
_REASON_LIMIT = 300  # characters of an exporter's own words


@contextlib.contextmanager
def converting(title: str, exporter: str) -> Iterator[None]:
    """Let an exporter convert the network inside; what it says of itself is not shown, since the file is measured.

    Args:
        title: The format.
        exporter: Who converts.

    Yields:
        Nothing.

    Raises:
        ModelError: For whatever it raises but user errors and a lack of memory: its innermost cause, in one line.
    """
    try:
        with quiet_exporters():
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{title}: {exporter} cannot convert this network: {reason_of(error)}") from error


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Let exporters work without their warnings about themselves: what matters is measured on the file."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return cut(lines[0] if lines else type(error).__name__, _REASON_LIMIT)
