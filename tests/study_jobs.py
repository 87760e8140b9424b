"""Jobs of the processes in test_study_processes.py: each gets a file, seconds and a device.

The imports are light, since every process imports the module anew.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from utils.errors import DataError


def write(file: Path, seconds: float, device: str) -> None:
    time.sleep(seconds)
    file.write_text(f"{device} {os.getpid()}")


def append(file: Path, seconds: float, device: str) -> None:
    """Write a line when the job begins and one when it has ended."""
    with file.open("a") as stream:
        stream.write(f"begun by {device}\n")
    time.sleep(seconds)
    with file.open("a") as stream:
        stream.write(f"done by {device}\n")


def free_lock_when_stopped(file: Path, seconds: float, device: str) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(seconds)


def raise_user_error(file: Path, seconds: float, device: str) -> None:
    raise DataError("labels/7.txt: no such class")


def crash(file: Path, seconds: float, device: str) -> None:
    raise RuntimeError("it is broken\nin two lines")


def be_killed(file: Path, seconds: float, device: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def have_a_worker(file: Path, seconds: float, device: str) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(seconds,), daemon=True)
    worker.start()
    file.with_suffix(".new").write_text(str(worker.pid))
    file.with_suffix(".new").rename(file)
    worker.join()


def do_nothing(file: Path, seconds: float, device: str) -> None:
    pass
