"""How far the resident memory of this process rises, such as by opening a file and running it."""

import gc
from pathlib import Path
from types import TracebackType

PROCESS = Path("/proc/self")  # which only Linux has


class ResidentPeak:
    """Measures by how much resident memory rises at most while a block runs.

    Pages of files count too, such as those of a library that is used for the first time. Memory that was freed before
    and is used again does not: measure in a fresh process.

    Attributes:
        mib: The rise, None if the system does not tell it.
    """

    def __init__(self) -> None:
        self.mib: float | None = None
        self._before: float | None = None

    def __enter__(self) -> "ResidentPeak":
        gc.collect()
        try:
            (PROCESS / "clear_refs").write_text("5")  # the peak begins anew at what is resident now
            self._before = _status("VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        peak = _status("VmHWM") if self._before is not None else None
        self.mib = max(peak - self._before, 0.0) if peak is not None and self._before is not None else None


def _status(key: str) -> float | None:
    """Return a line of the process's status in MiB."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return None
