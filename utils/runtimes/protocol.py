"""What a runtime is: a file opened by a program that runs it, and what such programs share."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.errors import VALUE_LIMIT, CheckpointError, UserError, cut
from utils.runtimes.metadata import ExportMetadata


@dataclass(frozen=True)
class InputShape:
    """The images that a file takes: (batch, 3, height, width), None where any number will do.

    Attributes:
        batch: Images per call.
        height: In pixels.
        width: In pixels.
    """

    batch: int | None
    height: int | None
    width: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """The one (height, width) that the file takes, None if it takes several."""
        return (self.height, self.width) if self.height and self.width else None

    def __str__(self) -> str:
        batch, height, width = ("any" if side is None else str(side) for side in (self.batch, self.height, self.width))
        return f"({batch}, 3, {height}, {width})"


@dataclass(frozen=True)
class Thresholds:
    """What a file that suppresses boxes itself is given beside the images: least confidence, largest IoU; both 0..1."""

    conf: float = 0.25
    iou: float = 0.45


DEFAULT_THRESHOLDS = Thresholds()


class Runtime(Protocol):
    """A file opened by the program that runs it.

    Attributes:
        path: The file or folder.
        title: Name and version of the program, such as "ONNX Runtime 1.32.0".
        place: Where it computes: "CPU" or a GPU's name.
        metadata: What the file says of itself.
        shape: The images that it takes.
    """

    path: Path
    title: str
    place: str
    metadata: ExportMetadata
    shape: InputShape

    def run(self, images: np.ndarray, thresholds: Thresholds = ...) -> Any:
        """Return a file's output.

        Args:
            images: (B, 3, H, W) float32 in 0..1, contiguous, of a shape that the file takes.
            thresholds: Of files that suppress boxes; others do not read them.

        Returns:
            (B, N, 5+nc) decoded predictions; or of a file that suppresses boxes four arrays: boxes (B, K, 4) xyxy
            pixels, scores (B, K), classes (B, K), counts (B,).
        """
        ...


@contextlib.contextmanager
def in_one_line(path: Path, title: str, what: str = "cannot open it") -> Iterator[None]:
    """Turn whatever a runtime raises inside into one line that names the file and the program.

    Args:
        path: The file.
        title: Name and version of the program.
        what: What it failed to do.

    Yields:
        Nothing.

    Raises:
        CheckpointError: For every error but our own and a lack of memory.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{cut(path)}: {title} {what}: {cut(reason, 2 * VALUE_LIMIT)}") from None
