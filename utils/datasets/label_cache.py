"""A cache of checked labels: a plain .npz (no pickle) beside the labels.

A cache is used only if its key fits. The key covers the format's version, the classes, the
way of reading, and path, size and modification time of every image and label file, so that any
change of files, labels, classes or format is noticed.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.datasets.label_files import label_path
from utils.datasets.label_problems import Problem
from utils.datasets.label_store import LabelStore, Texts
from utils.datasets.row_reader import RowRules
from utils.files import STALE_AFTER, sweep_temporaries, write_atomically
from utils.log import LOGGER

VERSION = 3
_ARRAYS = ("sizes", "offsets", "cls", "xywhn", "points", "point_offsets")


def cache_file(sources: Path | str | Sequence[Path | str]) -> Path:
    """Return where the cache of a split is.

    For a folder images/train it is labels/train.cache.npz, for a list train.txt train.txt.cache.npz, and for several it
    is beside the first with a digest of the others.
    """
    given, *others = [sources] if isinstance(sources, (str, Path)) else list(sources)
    first = Path(os.path.abspath(given))
    if first.is_dir():
        folder = Path(label_path(first / "x.jpg")).parent
        place = folder.with_name(f"{folder.name}.cache.npz")
    else:
        place = first.with_name(f"{first.name}.cache.npz")
    if others:
        digest = hashlib.sha256("\n".join(map(str, others)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        place = place.with_name(place.name.replace(".cache.npz", f".{digest}.cache.npz"))
    return place


def cache_key(images: Iterable[str], labels: Iterable[str], nc: int, rules: RowRules) -> str:
    """Return a digest of all that the checked labels depend on.

    Args:
        images: The image files.
        labels: Their label files.
        nc: Number of classes.
        rules: How rows are read; its `nc` is None if all objects are class 0.

    Returns:
        Hexadecimal SHA-256.
    """
    settings = [VERSION, nc, rules.nc, list(rules.names), vars(rules.reading), rules.keypoints]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for image, label in zip(images, labels, strict=True):
        digest.update(f"{image}\0{_stamp(image)}\0{_stamp(label)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_size},{status.st_mtime_ns}"


def load(file: Path, key: str, paths: Sequence[str]) -> LabelStore | None:
    """Return the labels in a cache, or None if there is none, it is damaged, or its key differs.

    Args:
        file: The cache.
        key: What `cache_key` gives now.
        paths: The image files.

    Returns:
        The store, or None.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            notes = json.loads(arrays["notes"].tobytes())
            kept = Texts(paths[index] for index in arrays["kept"])
            columns = {name: arrays[name] for name in _ARRAYS}
            problems = tuple(Problem(*problem) for problem in notes["problems"])
            return LabelStore(paths=kept, summary=notes["summary"], problems=problems, **columns)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile):
        LOGGER.info(f"{file}: the label cache is damaged or of another format; scanning the labels again")
        return None


def save(file: Path, key: str, paths: Sequence[str], store: LabelStore) -> bool:
    """Write a cache; if the folder cannot be written to, this is logged and there is none.

    Args:
        file: The cache.
        key: What `cache_key` gives.
        paths: The image files, of which the store may have left some out.
        store: The checked labels.

    Returns:
        Whether it was written.
    """
    indices = {path: index for index, path in enumerate(paths)}
    kept = np.array([indices[path] for path in store.paths], np.int64)
    notes = {
        "summary": store.summary,
        "problems": [dataclasses.astuple(problem) for problem in store.problems],
    }
    arrays = {name: getattr(store, name) for name in _ARRAYS}
    arrays.update(key=np.array(key), kept=kept, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8))
    try:
        sweep_temporaries(file.parent, older_than=STALE_AFTER)
        write_atomically(file, lambda stream: np.savez(stream, **arrays))
    except OSError as error:
        LOGGER.info(f"{file}: labels are not cached: {error.strerror}")
        return False
    return True
