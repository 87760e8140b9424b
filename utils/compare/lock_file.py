"""Lock files, so that two processes never do the same job of a study.

A lock file names the process, its host and when the process began, and is removed with the job. If its process is gone
(or, on another host, has not touched the file for a while), the next process takes the lock over.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

STALE_AFTER = 600.0  # seconds without a touch after which a lock of another host is taken over
TOUCH_INTERVAL = 30.0  # seconds between touches


class LockedError(Exception):
    """Another process holds the lock; the text says which."""


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs. Raises LockedError if another living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(path.with_name(f"{path.name}.guard")):
        holder = lock_holder(path)
        if holder:
            raise LockedError(holder)
        path.write_text(json.dumps(_this_process()), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def lock_holder(path: Path) -> str:
    """Return who holds the lock file `path`, such as "process 123 on host", or "" if no living process does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        touched = path.stat().st_mtime
        pid, host, start = int(content["pid"]), str(content["host"]), content["born"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or one whose writer died while writing
        return ""
    is_local = host == socket.gethostname()
    alive = _is_running(pid) and _start_time(pid) == start if is_local else time.time() - touched < STALE_AFTER
    return f"process {pid} on {host}" if alive else ""


def touch_lock(path: Path) -> None:
    """Show other hosts that the holder of the lock file `path` is still at work."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "born": _start_time(os.getpid())}


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str:
    """Return when a process began, as Linux counts it, "gone" if it has ended and is not collected yet, "" elsewhere.

    With it, a process id that is used again is not taken for the same process.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if words[0] in "ZX" else words[19]


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time read a lock file and take it; the system frees the guard of a process that dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two that come in the same millisecond may both get it
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
