"""Paths, text and atomic writes. Standard library only, so that every package may import it."""

import codecs
import errno
import hashlib
import json
import locale
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import DataError, UserError, cut

# What stops every file of a run from being written, not one: a full disk or quota, or a disk that is read-only.
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
_POINTER_START = b"version https://git-lfs.github.com/spec/"
STALE_AFTER = 3600.0  # seconds after which a temporary file was left by a write that was killed
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # what `write_atomically` calls them
ROOT = Path(__file__).resolve().parents[1]  # the project's folder: default paths are relative to it


def read_text(path: Path | str) -> str:
    """Return a text file's content, read as UTF-8 without its byte order mark.

    A file whose mark is that of UTF-16, as PowerShell writes lists, is read so; any other that is not UTF-8 is read in
    the machine's own encoding. Raises DataError for a git-lfs pointer.
    """
    with open(path, "rb") as stream:
        raw = stream.read()
    reject_pointer(raw, path)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode(locale.getpreferredencoding(False), errors="replace")


def refuse_special(path: Path | str) -> None:
    """Raise DataError if a path is a pipe, a socket, a device or a folder: reading one may never end.

    A path that does not exist passes: opening it gives the reason.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    raise DataError(f"{path}: is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")


def walk_files(folder: Path | str, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Yield the paths of the files below a folder; links are followed once, hidden files and folders are left out.

    Args:
        folder: Where to begin.
        on_error: Called with the error of each folder that cannot be read; by default it is passed over.

    Yields:
        Paths that begin with `folder`, pipes and broken links included.
    """
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def pointer_problem(start: bytes) -> str:
    """Return what is wrong with a file that git-lfs has not fetched, from its first bytes; "" for any other file."""
    if not start.startswith(_POINTER_START):
        return ""
    size = next((line[5:].decode("ascii", "replace") for line in start.splitlines() if line.startswith(b"size ")), "")
    return (
        f"a git-lfs pointer, which stands for a file{f' of {cut(size, 20)} bytes' if size else ''} that is not here; "
        "fetch it with `git lfs pull` in its repository"
    )


def reject_pointer(start: bytes, path: Path | str) -> None:
    """Raise DataError that names the file if its first bytes are those of a git-lfs pointer.

    Args:
        start: The first bytes, at least 200 if the file has them.
        path: The file, for the message.
    """
    problem = pointer_problem(start)
    if problem:
        raise DataError(f"{cut(path)}: {problem}")


def is_file(path: Path | str) -> bool:
    """Return whether a path is a file; one that the system refuses, such as one too long, is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: Path | str) -> bool:
    """Return whether a path is a folder; one that the system refuses is none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def exists(path: Path | str) -> bool:
    """Return whether there is something at a path; at one that the system refuses there is nothing."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def file_digest(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expand_home(path: Path | str) -> Path:
    """Return a path with ~ replaced by the home folder, or as it is if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomically(path: Path | str, write: Callable[[BinaryIO], object]) -> Path:
    r"""Write a file whole or not at all, and return its path: a reader sees the old file or the new one, never a part.

    The content goes to a temporary file in the same folder, is synced to the disk, and is renamed into place.

    Args:
        path: The file; its folder exists.
        write: Called with the open temporary file. If it raises, the old file stays and the temporary one is deleted.

    Returns:
        `path` as a Path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_atomically(Path(folder) / "numbers.bin", lambda stream: stream.write(bytes(range(4))))
        ...     path.name, path.read_bytes()
        ('numbers.bin', b'\x00\x01\x02\x03')
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    return Path(path)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of `path`, which takes its place if the block ends without an error.

    For what can only write to a path; `write_atomically` also sees to it that the content is on the disk first.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep_temporaries(folder: Path | str, older_than: float = 0.0) -> list[Path]:
    """Remove and return the temporary files that killed writes of `write_atomically` left in a folder.

    Args:
        folder: The folder; those below it are not searched.
        older_than: Least age in seconds by the folder's own clock, where other processes may be writing.

    Returns:
        The files that were removed.
    """
    found = [path for path in Path(folder).glob(".*") if _TEMPORARY.fullmatch(path.name) and path.is_file()]
    if found and older_than:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".") as clock:
            newest = os.stat(clock.name).st_mtime - older_than
        found = [path for path in found if _modified(path) <= newest]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def _modified(path: Path) -> float:
    """Time of the last change; infinite for a file that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf


def write_text_atomically(path: Path | str, text: str) -> Path:
    r"""Write a text file as UTF-8 by `write_atomically`, and return its path.

    Args:
        path: The file; its folder exists.
        text: Its content. Line ends are written as they are; surrogates, which stand for the bytes of file names that
            are not UTF-8, become those bytes again.

    Returns:
        `path` as a Path.
    """
    return write_atomically(path, lambda stream: stream.write(text.encode("utf-8", "surrogateescape")))


def write_json_atomically(
    path: Path | str,
    content: object,
    indent: int | None = 1,
    ensure_ascii: bool = False,
    default: Callable[[Any], object] | None = None,
) -> Path:
    """Write a JSON file by `write_atomically`, and return its path; numbers that are not finite become null.

    Args:
        path: The file; its folder exists.
        content: Dicts, lists, tuples, strings, numbers, booleans and None.
        indent: Spaces per level; None writes one line.
        ensure_ascii: Whether to escape all characters outside ASCII.
        default: Converts values that JSON does not know; without it they raise TypeError.

    Returns:
        `path` as a Path.
    """

    def encoded(value: object) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False)

    try:
        text = encoded(content)
    except ValueError:  # a number that is not finite: rare, so only then is the content copied
        text = encoded(finite_or_none(content))
    return write_text_atomically(path, text)


def finite_or_none(value: Any) -> Any:
    """Return a value with None for each float in it that is not finite, which JSON has no number for.

    Dicts, lists and tuples are searched at any depth; a tuple comes back as a list.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def new_run_dir(project: Path | str, name: str, exist_ok: bool = False) -> Path:
    """Create and return project/name, or name2, name3, ... if it exists already.

    Two processes that ask at the same time get different folders.

    Args:
        project: The folder of all runs; it is created if it does not exist.
        name: The run's name.
        exist_ok: Whether an existing folder of this name is returned as it is.

    Returns:
        The run's folder.

    Raises:
        UserError: The folder cannot be created.
    """
    base = Path(project)
    try:
        base.mkdir(parents=True, exist_ok=True)
        count = 1
        while True:
            candidate = base / (name if count == 1 else f"{name}{count}")
            try:
                candidate.mkdir(parents=True)
                return candidate
            except FileExistsError:
                if exist_ok and candidate.is_dir():
                    return candidate
                count += 1
    except OSError as error:
        raise UserError(f"cannot create a run folder in {base}: {error.strerror}") from None


@contextmanager
def run_folder(project: Path | str, name: str, exist_ok: bool = False) -> Iterator[Path]:
    """Yield `new_run_dir` for the length of a run; if the run fails before it wrote a file, its folder is removed.

    Args:
        project: The folder of all runs.
        name: The run's name.
        exist_ok: Whether an existing folder of this name is used as it is; it is never removed.

    Yields:
        The run's folder.
    """
    was_there = exist_ok and (Path(project) / name).is_dir()
    folder = new_run_dir(project, name, exist_ok)
    try:
        yield folder
    except BaseException:
        if not was_there and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
