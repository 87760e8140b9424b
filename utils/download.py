"""Fetching a published file over the network: done only where the user asked for it with --download."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError
from utils.files import write_atomically
from utils.log import LOGGER, progress

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without an answer


def fetch(address: str, path: Path | str, kind: str = "a file", minimum: int = 100_000) -> Path:
    """Download `address` to `path`, with a progress bar, and return the path.

    The file appears whole or not at all. Raises UserError, in one line, where the network or the server
    fails, or where fewer bytes arrive than the server announced or `minimum` (an error page, say).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"Downloading {address} to {path}")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            announced = int(answer.headers.get("Content-Length") or 0)
            return write_atomically(
                path, lambda stream: _copy(answer, stream, announced, minimum, f"{address}: not {kind}")
            )
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"{address}: cannot be fetched: {reason}; fetch it elsewhere and put it at {path}") from None


def _copy(answer: BinaryIO, stream: BinaryIO, announced: int, minimum: int, complaint: str) -> None:
    """Copy an answer into a stream and check that it is complete."""
    received = 0
    for block in progress(_blocks(answer), total=-(-announced // CHUNK) or None, description="MB"):
        stream.write(block)
        received += len(block)
    if received < max(minimum, announced):
        raise UserError(f"{complaint}: {received} bytes came, expected {max(minimum, announced)}")


def _blocks(answer: BinaryIO) -> Iterator[bytes]:
    while block := answer.read(CHUNK):
        yield block
