"""Download of a published file: done only if the user asked for it with --download."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError
from utils.files import write_atomically
from utils.log import LOGGER, progress

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a response


def fetch(address: str, path: Path | str, kind: str = "a file", minimum: int = 100_000) -> Path:
    """Download a file with a progress bar, and return its path; it appears whole or not at all.

    Args:
        address: The URL.
        path: Where to write it; missing folders are created.
        kind: What the file should be, for the error.
        minimum: Fewest bytes of such a file; less is taken for an error page.

    Returns:
        `path` as a Path.

    Raises:
        UserError: The network or the server failed, or fewer bytes arrived than announced or than `minimum`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"Downloading {address} to {path}")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            announced = int(response.headers.get("Content-Length") or 0)
            return write_atomically(
                path, lambda stream: _copy(response, stream, announced, minimum, f"{address}: not {kind}")
            )
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"{address}: cannot be fetched: {reason}; fetch it elsewhere and put it at {path}") from None


def _copy(response: BinaryIO, stream: BinaryIO, announced: int, minimum: int, complaint: str) -> None:
    """Copy a response into a stream and check that it is complete."""
    received = 0
    for block in progress(_blocks(response), total=-(-announced // CHUNK) or None, description="MB"):
        stream.write(block)
        received += len(block)
    if received < max(minimum, announced):
        raise UserError(f"{complaint}: {received} bytes came, expected {max(minimum, announced)}")


def _blocks(response: BinaryIO) -> Iterator[bytes]:
    while block := response.read(CHUNK):
        yield block
