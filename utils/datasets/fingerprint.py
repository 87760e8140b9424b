"""A fingerprint of a dataset: what a training has to find unchanged to go on as if it had not been stopped."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from utils.datasets.label_store import LabelStore

_DIGITS = 16  # of each hash


def fingerprint_of(store: LabelStore) -> dict[str, object]:
    """Return counts and hashes of a split: of its file names, of the size of each file and image, and of all labels.

    A dataset that was moved as a whole has the same. No pixel is read.
    """
    paths = list(store.paths)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    names = [os.path.relpath(os.path.abspath(path), folder) for path in paths]
    labels = (store.offsets, store.cls, store.xywhn, store.points, store.point_offsets)
    return {
        "images": len(paths),
        "objects": len(store.cls),
        "names": _digest(json.dumps(names).encode()),
        "files": _digest(np.ascontiguousarray(store.sizes), np.array([_bytes_of(path) for path in paths], np.int64)),
        "labels": _digest(*(np.ascontiguousarray(array) for array in labels)),
    }


def changes(before: Mapping, now: Mapping) -> list[str]:
    """Return in words how a split differs from its fingerprint; nothing if it does not.

    Args:
        before: The fingerprint.
        now: That of the split as it is.

    Returns:
        Such as "25 images, were 24".
    """
    counted = [
        f"{now[name]} {name}, were {before.get(name)}"
        for name in ("images", "objects")
        if now[name] != before.get(name)
    ]
    hashed = [
        words
        for name, words in (("names", "other file names"), ("files", "other images"), ("labels", "other labels"))
        if now[name] != before.get(name)
    ]
    return counted + hashed


def class_changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Return in words which class names of a dataset differ from those of a training; "" if none does.

    Args:
        before: Names of the training's classes.
        now: Those of the dataset, as many.

    Returns:
        Such as "the same names in another order: class 0 was 'disc', is 'square' now, and 1 more".
    """
    differing = [index for index, (one, other) in enumerate(zip(before, now, strict=True)) if one != other]
    if not differing:
        return ""
    first, more = differing[0], len(differing) - 1
    kind = "the same names in another order: " if sorted(before) == sorted(now) else ""
    others = f", and {more} more" if more else ""
    return f"{kind}class {first} was {before[first][:20]!r}, is {now[first][:20]!r} now{others}"


def _digest(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()[:_DIGITS]


def _bytes_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
