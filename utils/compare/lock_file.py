"""Claims on a piece of a study, so that two processes never do the same one.

A claim is a file with the process, its host and when the process began. It goes with the work; where its process is
gone (or, on another host, has not touched the file for a while) the next one takes it over.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

SILENT = 600.0  # seconds without a touch after which a claim of another host is given up
TOUCHED = 30.0  # seconds between touches


class HeldError(Exception):
    """Another process does this piece; the text says which."""


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the claim `path` while the block runs. Raises HeldError where another living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(f"{path.name}.guard")):
        holder = holder_of(path)
        if holder:
            raise HeldError(holder)
        path.write_text(json.dumps(_self()), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def holder_of(path: Path) -> str:
    """Return who holds the claim `path`, such as "process 123 on host", or "" where nobody living does."""
    try:
        claim = json.loads(path.read_text(encoding="utf-8"))
        touched = path.stat().st_mtime
        pid, host, born = int(claim["pid"]), str(claim["host"]), claim["born"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or one whose writer died while writing
        return ""
    if host != socket.gethostname():
        alive = time.time() - touched < SILENT
    else:
        alive = _is_running(pid) and _born(pid) == born
    return f"process {pid} on {host}" if alive else ""


def touch(path: Path) -> None:
    """Show other hosts that the claim `path` is still worked on."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _self() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid())}


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _born(pid: int) -> str:
    """Return when a process began, as Linux counts it, so that a number used again is not taken for the same; "" elsewhere.

    A process that has ended and waits to be collected counts as gone.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if words[0] in "ZX" else words[19]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time look at a claim and take it; the system frees the guard of a process that dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two that come in the same millisecond may both get it
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
