"""Jobs in processes of their own: several at a time, each with its device, log and lock file; a crash ends one only.

A process that loses its parent ends itself, so that a study that is killed leaves no process behind. So does one whose
lock was taken over while it was suspended. A pool that is asked to end asks its processes, and gives them time to save.
"""

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from utils import log
from utils.errors import Interruption, UserError
from utils.lock_file import TOUCH_INTERVAL, LockedError, hold_lock, is_lost, lock_holder, touch_lock
from utils.stop_signals import ENDING_SIGNALS, StopRequest, interrupting, interruption_by
from utils.threads import yielding_threads

EXIT_USER_ERROR, EXIT_LOCKED = 2, 75  # exit codes; 75 is sysexits' "try again later"
RETRY_AFTER = 5.0  # seconds before a job that another process has locked is retried
POLL_INTERVAL = 1.0  # seconds between updates of the progress
SAVE_TIME = 25.0  # seconds that processes have to save their state; Slurm kills a job 30 s after it asked it to end


@dataclass(frozen=True)
class Job:
    """A job: `work(*arguments, device)` in a process of its own.

    Attributes:
        name: Its name for people.
        work: The function; it is pickled, so it stands at module level.
        arguments: Its arguments without the device.
        lock: Lock file of the job.
        log: File to which everything it prints is appended.
        is_done: Returns whether its files are there.
        on_failure: Called with the reason if it fails.
        has_failed: Returns whether it failed, here or in another process; it is not started again then.
    """

    name: str
    work: Callable[..., object]
    arguments: tuple[Any, ...]
    lock: Path
    log: Path
    is_done: Callable[[], bool]
    on_failure: Callable[[str], object]
    has_failed: Callable[[], object] = lambda: False


@dataclass
class _Slot:
    """A device that does one job at a time."""

    device: str
    running: "tuple[Job, BaseProcess] | None" = None


@dataclass
class ProcessPool:
    """Runs jobs, as many at a time as there are devices named.

    Attributes:
        devices: One entry per process.
        threads: Threads of each process; 0 leaves the choice to torch.
        on_tick: Called about once a second.
        on_end: Called with each job that has ended.
        on_wait: Called with each job that another process has locked; it is retried.
    """

    devices: Sequence[str]
    threads: int
    on_tick: Callable[[], object] = lambda: None
    on_end: Callable[[Job], object] = lambda job: None
    on_wait: Callable[[Job], object] = lambda job: None
    _waiting: deque[tuple[float, Job]] = field(default_factory=deque)

    def run(self, jobs: Sequence[Job]) -> None:
        """Return when every job is done or has failed; when interrupted, end the processes first."""
        self._waiting = deque((0.0, job) for job in jobs)
        slots = [_Slot(device) for device in self.devices]
        try:
            while self._waiting or any(slot.running for slot in slots):
                self._start_jobs(slots)
                sentinels = [slot.running[1].sentinel for slot in slots if slot.running]
                connection.wait(sentinels, POLL_INTERVAL) if sentinels else time.sleep(POLL_INTERVAL)
                for slot in slots:
                    running = slot.running
                    if running and not running[1].is_alive():
                        slot.running = None
                        self._collect(*running)
                self.on_tick()
        finally:
            _end([slot.running[1] for slot in slots if slot.running])

    def _start_jobs(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            while not slot.running and (job := self._next_job()):
                if job.is_done() or job.has_failed():  # in another process meanwhile
                    self.on_end(job)
                elif lock_holder(job.lock):
                    self._retry_later(job)
                else:
                    self._start(slot, job)

    def _next_job(self) -> Job | None:
        """Return the first job whose time has come, out of the queue."""
        ready = next((entry for entry in self._waiting if entry[0] <= time.monotonic()), None)
        if ready is None:
            return None
        self._waiting.remove(ready)
        return ready[1]

    def _retry_later(self, job: Job) -> None:
        self.on_wait(job)
        self._waiting.append((time.monotonic() + RETRY_AFTER, job))

    def _start(self, slot: _Slot, job: Job) -> None:
        process = multiprocessing.get_context("spawn").Process(
            target=_run_job,
            name=job.name,
            args=(job.work, (*job.arguments, slot.device), job.lock, job.log, self.threads),
        )
        process.start()
        slot.running = job, process  # only now is there a process to end

    def _collect(self, job: Job, process: BaseProcess) -> None:
        """Report how a process that has ended did its job, or have the job retried."""
        process.join()
        code = process.exitcode or 0
        if code == EXIT_LOCKED:
            self._retry_later(job)
            return
        if _was_stopped(code):
            time.sleep(POLL_INTERVAL)  # a scheduler signals all processes of a job: if it did, ours is interrupted here
        if code or not job.is_done():
            job.on_failure(_failure_reason(code, job.log))
        self.on_end(job)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, wait for them, and kill those that take too long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + SAVE_TIME
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.0))
        if process.is_alive():
            process.kill()
        process.join()


def _was_stopped(code: int) -> bool:
    """Return whether the exit code is that of a process that a signal asked to end."""
    return any(code in (-number, interruption_by(number).exit_code) for number in ENDING_SIGNALS)


def _failure_reason(code: int, file: Path) -> str:
    """Return in one line why a process ended with the exit code `code`."""
    code = {interruption_by(number).exit_code: -number for number in ENDING_SIGNALS}.get(code, code)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = "; was there memory enough?" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint} (log: {file})"
    if not code:
        return f"the process ended without a result (log: {file})"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return last.removeprefix("error: ") if code == EXIT_USER_ERROR else f"{last} (log: {file})"


def _run_job(work: Callable[..., object], arguments: tuple[Any, ...], lock: Path, file: Path, threads: int) -> None:
    """Do a job in its process: take the lock, print to its log, work; the exit code says how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends this one
    StopRequest.repeats_end = False
    threading.Thread(target=_watch_parent, args=(lock,), daemon=True).start()
    try:
        with interrupting(), hold_lock(lock), yielding_threads():
            _redirect_output(file)
            log.configure()
            if threads:
                import torch

                torch.set_num_threads(threads)
            work(*arguments)
    except LockedError:
        sys.exit(EXIT_LOCKED)
    except Interruption as request:  # the lock is free already: another host need not wait for it to grow old
        sys.exit(request.exit_code)
    except UserError as error:
        print(f"error: {error}", flush=True)
        sys.exit(EXIT_USER_ERROR)


def _watch_parent(lock: Path) -> None:
    """Touch the lock file at intervals, and end this process when its parent is gone or its lock is another's."""
    parent = multiprocessing.parent_process()
    while parent and not connection.wait([parent.sentinel], TOUCH_INTERVAL):
        if is_lost(lock):
            _end_at_once(EXIT_LOCKED)
        touch_lock(lock)
    if parent:
        _end_at_once(1)


def _end_at_once(code: int) -> None:
    """End this process and its workers without anything more written."""
    for child in multiprocessing.active_children():  # workers that are only starting would not notice
        child.kill()
    os._exit(code)


def _redirect_output(file: Path) -> None:
    """Append all that this process and its workers print to `file`."""
    sys.stdout.flush()
    sys.stderr.flush()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
