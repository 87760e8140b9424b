"""Paths, text and atomic writes. Standard library only: every floor may import it."""

import locale
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # the project's folder: default paths hang from it


def read_text(path: Path | str) -> str:
    """Return a text file's content, read as UTF-8 (a byte order mark is dropped) and,
    where that fails, in the machine's own encoding.
    """
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode(locale.getpreferredencoding(False), errors="replace")


def write_atomically(path: Path | str, write: Callable[[BinaryIO], object]) -> Path:
    """Call `write(stream)` on a temporary file beside `path`, sync it, and rename it
    into place, so that a reader sees the old file or the new one, never a part.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def new_run_dir(project: Path | str, name: str, exist_ok: bool = False) -> Path:
    """Create and return project/name, or name2, name3, ... where it exists already
    (unless `exist_ok`). Two processes that ask at once get different folders.
    """
    base = Path(project)
    try:
        base.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            candidate = base / (name if number == 1 else f"{name}{number}")
            try:
                candidate.mkdir(parents=True)
                return candidate
            except FileExistsError:
                if exist_ok and candidate.is_dir():
                    return candidate
                number += 1
    except OSError as error:
        raise UserError(f"cannot create a run folder in {base}: {error.strerror}") from None


@contextmanager
def run_folder(project: Path | str, name: str, exist_ok: bool = False) -> Iterator[Path]:
    """`new_run_dir` for the length of a run: where the run fails before it wrote a file, its folder goes again."""
    was_there = exist_ok and (Path(project) / name).is_dir()
    folder = new_run_dir(project, name, exist_ok)
    try:
        yield folder
    except BaseException:
        if not was_there and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
