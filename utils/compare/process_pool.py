"""Work in processes of their own: so many at a time, each with its device, its log and its claim, and a crash ends one only.

A process that loses the one that started it ends itself, so that a study that is killed leaves nobody behind.
"""

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
from pathlib import Path
from typing import Any

from utils import log
from utils.compare.lock_file import TOUCHED, HeldError, claimed, touch
from utils.errors import UserError

FAILED, HELD = 2, 75  # exit codes: the user's to mend; another process has it (sysexits' "try again later")
PATIENCE = 5.0  # seconds before a piece that another process has is asked for again
TICK = 1.0  # seconds between looks at how far everybody is


@dataclass(frozen=True)
class Job:
    """A piece of work: work(*arguments, device) in a process of its own. claim: its claim; log: where it prints;
    is_done(): whether its files are there; fail(reason): leaves word of a failure.
    """

    name: str
    work: Callable[..., object]
    arguments: tuple[Any, ...]
    claim: Path
    log: Path
    is_done: Callable[[], bool]
    fail: Callable[[str], object]


@dataclass
class _Slot:
    """One place for a process, on one device."""

    device: str
    process: Any = None
    job: Job | None = None


@dataclass
class Pool:
    """Does jobs, as many at a time as there are devices named. on_tick() is called about once a second, on_end(job) when
    one has ended.
    """

    devices: Sequence[str]
    threads: int
    on_tick: Callable[[], object] = lambda: None
    on_end: Callable[[Job], object] = lambda job: None
    on_wait: Callable[[Job], object] = lambda job: None
    _waiting: deque = field(default_factory=deque)

    def run(self, jobs: Sequence[Job]) -> None:
        """Return when every job is done or has failed; when interrupted, end the processes first."""
        self._waiting = deque((0.0, job) for job in jobs)
        slots = [_Slot(device) for device in self.devices]
        try:
            while self._waiting or any(slot.job for slot in slots):
                self._fill(slots)
                running = [slot.process.sentinel for slot in slots if slot.job]
                connection.wait(running, TICK) if running else time.sleep(TICK)
                for slot in slots:
                    if slot.job and not slot.process.is_alive():
                        self._collect(slot)
                self.on_tick()
        finally:
            for slot in slots:
                if slot.job:
                    slot.process.terminate()
                    slot.process.join()

    def _fill(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            ready = next((entry for entry in self._waiting if entry[0] <= time.monotonic()), None)
            if slot.job or not ready:
                continue
            self._waiting.remove(ready)
            if ready[1].is_done():  # another process has done it meanwhile
                self.on_end(ready[1])
                continue
            job = ready[1]
            slot.process = multiprocessing.get_context("spawn").Process(
                target=_work,
                name=job.name,
                args=(job.work, (*job.arguments, slot.device), job.claim, job.log, self.threads),
            )
            slot.process.start()
            slot.job = job  # only now is there a process to end

    def _collect(self, slot: _Slot) -> None:
        slot.process.join()
        job, code = slot.job, slot.process.exitcode
        slot.process = slot.job = None
        if code == HELD:
            self.on_wait(job)
            self._waiting.append((time.monotonic() + PATIENCE, job))
            return
        if code or not job.is_done():
            job.fail(_reason(code, job.log))
        self.on_end(job)


def _reason(code: int, file: Path) -> str:
    """Say in one line why a process ended with `code`."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = "; was there memory enough?" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{why} (log: {file})"
    if not code:
        return f"the process ended without a result (log: {file})"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return last.removeprefix("error: ") if code == FAILED else f"{last} (log: {file})"


def _work(work: Callable[..., object], arguments: tuple, claim: Path, file: Path, threads: int) -> None:
    """What a process does: claim, print into its log, work; end with a code that tells how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody; the one who started us ends us
    threading.Thread(target=_watch, args=(claim,), daemon=True).start()
    try:
        with claimed(claim):
            _print_into(file)
            log.configure()
            if threads:
                import torch

                torch.set_num_threads(threads)
            work(*arguments)
    except HeldError:
        sys.exit(HELD)
    except UserError as error:
        print(f"error: {error}", flush=True)
        sys.exit(FAILED)


def _watch(claim: Path) -> None:
    """Show that the claim is worked on; end this process when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    while parent and not connection.wait([parent.sentinel], TOUCHED):
        touch(claim)
    if parent:
        for child in multiprocessing.active_children():  # workers that are only starting would not notice
            child.kill()
        os._exit(1)


def _print_into(file: Path) -> None:
    """Send all that this process and its workers print to the end of `file`."""
    sys.stdout.flush()
    sys.stderr.flush()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
