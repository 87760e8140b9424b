"""Lock files, so that two processes never do the same job or write into one run folder at a time.

A lock file names the process, the machine, and when the process began; it is removed with the job. If its process is
gone, the next one takes the lock over. Whether it is gone can be seen only from where its number means something: on
the same host, since the same start of the system, in the same PID namespace. Containers often share a host name, or a
volume, and not these. From anywhere else the heartbeat decides: the holder touches the file at intervals. Its age is
measured by the clock of the file system, which all machines share, whatever their own clocks say.

Of the file system three things are assumed, which NFS, Lustre, GPFS, CephFS and SMB all give: a file is created by one
process only (O_EXCL), a rename replaces a file whole, and a touched file has the server's time. Locks of the system
(flock) are not used: many network file systems have none, or have them per host.
"""

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from utils.files import write_text_atomically

STALE_AFTER = 600.0  # seconds without a touch after which a lock of another machine is taken over
TOUCH_INTERVAL = 30.0  # seconds between touches
_MACHINE = ("host", "boot", "pid_namespace")  # where a process number means the same process


class LockedError(Exception):
    """Another process holds the lock; the text says which."""


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs. Raises LockedError if another living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = _this_process()
    found = _read(path)
    with _turn_to_replace(path, found):
        holder = lock_holder(path)
        if holder or _read(path) != found:
            raise LockedError(holder or "another process, which was faster")
        write_text_atomically(path, json.dumps(own))  # a reader never finds half a lock, which would count as none
    try:
        yield
    finally:
        if _read(path) == own:  # not that of another, which took it over when this one was suspended for long
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_beating_lock(path: Path) -> Iterator[None]:
    """Hold a lock file and touch it at intervals while the block runs. Raises LockedError as `hold_lock` does."""
    with hold_lock(path):
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(TOUCH_INTERVAL):
                touch_lock(path)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def lock_holder(path: Path) -> str:
    """Return who holds the lock file `path`, such as "process 123 on host", or "" if no living process does."""
    content = _read(path)
    try:
        pid, host, start = int(str(content["pid"])), str(content["host"]), content["born"]
    except (ValueError, KeyError):  # none, or one whose writer died while writing
        return ""
    own = _this_process()
    if all(content.get(key) == own[key] for key in _MACHINE):
        now = _start_time(pid)
        is_hidden = start and not now  # of another user, on a system that shows each user only their own
        alive = _is_running(pid) and (_beats(path) if is_hidden else now == start)
    else:
        alive = _beats(path)
    return f"process {pid} on {host}" if alive else ""


def _read(path: Path) -> dict[str, object]:
    """Return the content of a lock file; nothing if there is none, or it is no lock file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _beats(path: Path) -> bool:
    """Return whether the holder of a lock file has touched it lately."""
    try:
        touched = path.stat().st_mtime
    except OSError:  # removed meanwhile
        return False
    return _file_system_time(path.parent) - touched < STALE_AFTER


def _file_system_time(folder: Path) -> float:
    """Return the time that a file touched now in the folder gets: of a network file system, the server's.

    It is this machine's own time if nothing can be written there.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
            os.utime(probe.name)  # without times: the file system sets its own
            return os.stat(probe.name).st_mtime
    except OSError:
        return time.time()


def touch_lock(path: Path) -> None:
    """Show other hosts that the holder of the lock file `path` is still at work."""
    with contextlib.suppress(OSError):
        os.utime(path)


def is_lost(path: Path) -> bool:
    """Return whether the lock file `path`, which this process has taken, is another's by now, or removed.

    It happens to a process that was suspended, or cut off from the file system, for longer than a lock lives.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) != _this_process()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # a file system that does not answer takes nothing away
        return False


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "born": _start_time(os.getpid()),
    }


def _boot_id() -> str:
    """Return what tells one start of a Linux kernel from any other, "" elsewhere: host names repeat."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Return the namespace that process numbers belong to, as Linux names it, "" elsewhere: a container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # gone, or no number that a process can have
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
def _turn_to_replace(path: Path, found: dict[str, object]) -> Iterator[None]:
    """Let one process at a time replace what was found in a lock file; for all others it is locked.

    The turn is a file that only one can create, named after what was found. Who comes later, even when the turn is
    over, has found something that is no longer there.
    """
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    turn = path.with_name(f"{path.name}.{digest}.turn")
    if turn.exists() and _is_abandoned(turn):
        turn.unlink(missing_ok=True)
    try:
        handle = os.open(turn, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        raise LockedError("another process, which takes it over") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(_this_process()))
    try:
        yield
    finally:
        turn.unlink(missing_ok=True)


def _is_abandoned(turn: Path) -> bool:
    """Return whether a turn, which takes milliseconds, is that of a process that was killed within it."""
    return not (lock_holder(turn) if _read(turn) else _beats(turn))
