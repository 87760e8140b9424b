"""How much memory a program can still take: what the system has, and what the limits of its control groups leave.

A container or a job of a scheduler is ended when it passes its own limit, however much memory the machine has.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# by version of control groups: the files with limit and use, and the line of memory.stat with what can be reclaimed
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this program can still take, or None if the system does not say.

    Linux's control groups count: those of this process and all above them, of either version.
    """
    amounts = [_system_memory(root), *(_left_in_group(*group) for group in control_groups("memory", root))]
    return min((amount for amount in amounts if amount is not None), default=None)


def _system_memory(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """Yield each control group of Linux that limits this process, the innermost first.

    Args:
        controller: What they limit: "memory" or "cpu".
        root: Where the system's files are.

    Yields:
        Its folder, and the version of control groups, 1 or 2.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        elif number == "0" and not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))  # in a container it may name a folder that is not mounted there
        for place in (inner, *inner.parents):
            yield mount / place, version


def _left_in_group(folder: Path, version: int) -> int | None:
    """Bytes below the limit of a control group; files that are only cached there do not count. None without a limit."""
    limit_file, used_file, reclaimable = _FILES[version]
    try:
        limit, used = (folder / limit_file).read_text().strip(), int((folder / used_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(int(limit) - used + int(stat.get(reclaimable, 0)), 0)
    except (OSError, ValueError):  # no such folder, no memory controller in it, or the limit is "max"
        return None
