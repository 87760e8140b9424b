"""Threads beside other processes: as many as there are cores, with waiting that yields when cores are scarce.

Between two parallel parts of a computation the threads of libgomp, with which torch computes on Linux, wait actively
for some milliseconds. On an idle machine that is the fastest; beside others each such wait takes the core from a thread
that has work. libgomp itself waits 3,000 times shorter while it keeps more threads than there are cores.
`yielding_threads` brings that about while other processes use the cores: a further thread, asleep, keeps threads of its
own. Neither the number of threads that compute nor any result changes.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path

from utils.free_memory import control_groups

WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # set by users who want one way of waiting throughout
SAMPLE_SECONDS = 0.25
BUSY_CORES = 0.25  # cores that others use, from which threads yield
QUIET_CORES = 0.1  # cores below which, for QUIET_SAMPLES in a row, they wait actively again
QUIET_SAMPLES = 8


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: its affinity, and what the quotas of its control groups allow.

    Args:
        root: Where the system's files are.

    Returns:
        At least 1; a quota of 1.5 cores counts as 1.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (_quota(*group) for group in control_groups("cpu", root)) if quota is not None]
    return max(int(min([allowed, *quotas])), 1)


def _quota(folder: Path, version: int) -> float | None:
    """The cores that a control group may use; None without a limit."""
    try:
        if version == 2:
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such folder, no such controller, or the limit is "max"
        return None


def limit_threads(environment: MutableMapping[str, str], cores: int | None = None) -> None:
    """Have torch and others compute in no more threads than a quota allows; call it before torch is imported.

    torch heeds the affinity but no quota: on a host of 64 cores a container that may use 2 would start 64 threads.

    Args:
        environment: Where OMP_NUM_THREADS is set, unless it is already.
        cores: How many there are; what `usable_cores` says if None.
    """
    cores = usable_cores() if cores is None else cores
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < allowed:
        environment.setdefault("OMP_NUM_THREADS", str(cores))


@contextlib.contextmanager
def yielding_threads(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Have torch's threads yield, inside, whenever other processes use the cores.

    Does nothing on other systems than Linux, or if the user chose a way of waiting (`WAIT_VARIABLES`).

    Args:
        environment: The process's.
    """
    if sys.platform != "linux" or any(name in environment for name in WAIT_VARIABLES):
        yield
        return
    watcher = CoreWatcher(CoreUse())
    watcher.start()
    try:
        yield
    finally:
        watcher.stop()


class CoreUse:
    """How many cores other processes use, of those that this one may use."""

    def __init__(self, stat: Path = Path("/proc/stat")):
        self.stat = stat
        self.before = self._read()

    def sample(self) -> float:
        """Return the cores that others used on average since the last call."""
        now = self._read()
        busy, own, elapsed = (new - old for new, old in zip(now, self.before, strict=True))
        self.before = now
        return max(busy - own, 0.0) / elapsed if elapsed > 0 else 0.0

    def _read(self) -> tuple[float, float, float]:
        """Seconds that the cores were busy, that this process computed, and on the clock."""
        cores, ticks = os.sched_getaffinity(0), 0
        with contextlib.suppress(OSError, ValueError):
            for line in self.stat.read_text().splitlines():
                name, *fields = line.split()
                if name[3:].isdigit() and name.startswith("cpu") and int(name[3:]) in cores:
                    user, nice, system, _, _, interrupts, soft, *_ = map(int, fields)
                    ticks += user + nice + system + interrupts + soft
        return ticks / os.sysconf("SC_CLK_TCK"), time.process_time() + _seconds_of_children(), time.perf_counter()


def _seconds_of_children(process: Path = Path("/proc/self")) -> float:
    """Seconds that the running children computed: workers of a loader, with which a training shares the cores anyway.

    Yielding to them costs more than it brings.
    """
    ticks = 0
    for listed in process.glob("task/*/children"):
        with contextlib.suppress(OSError, ValueError):
            for child in listed.read_text().split():
                with contextlib.suppress(OSError, ValueError):
                    # behind the name, which may hold anything, in parentheses: fields 12 and 13 of the rest
                    fields = (process.parent / child / "stat").read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class CoreWatcher(threading.Thread):
    """Samples the use of the cores and has torch's threads yield or wait actively.

    Args:
        use: Says how many cores others use.
        crowd: Makes the further thread that keeps threads of its own.
    """

    def __init__(self, use: CoreUse, crowd: "Callable[[], Crowd] | None" = None):
        super().__init__(name="core-watcher", daemon=True)
        self.use, self.crowd = use, crowd or Crowd
        self.current: Crowd | None = None
        self.quiet = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while not self.ended.wait(SAMPLE_SECONDS):
            self.decide(self.use.sample())
        self._yield_no_more()

    def decide(self, others: float) -> None:
        """Take in a sample: yield at once if others are busy, wait actively again once they were quiet for long.

        Args:
            others: Cores that other processes use.
        """
        self.quiet = self.quiet + 1 if others < QUIET_CORES else 0
        if others >= BUSY_CORES and self.current is None and "torch" in sys.modules:
            self.current = self.crowd()
        elif self.quiet >= QUIET_SAMPLES:
            self._yield_no_more()

    def stop(self) -> None:
        """End the thread, and whatever it keeps."""
        self.ended.set()
        if self.is_alive():
            self.join()

    def _yield_no_more(self) -> None:
        if self.current is not None:
            self.current.disperse()
            self.current = None


class Crowd:
    """A thread that computed once in torch's threads, so that libgomp keeps a set of them for it, and sleeps."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._keep_threads, name="crowd", daemon=True)
        self.thread.start()
        self.ready.wait()

    def disperse(self) -> None:
        """End the thread, and with it its set of threads."""
        self.ended.set()
        self.thread.join()

    def _keep_threads(self) -> None:
        try:
            import torch

            torch.zeros(1 << 20).add_(1)  # long enough to be shared among threads
        finally:
            self.ready.set()
        self.ended.wait()
