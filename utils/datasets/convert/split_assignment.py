"""Which image goes to which split: as the source itself says, or decided by a seed and the image's bytes."""

import hashlib
import re
from collections.abc import Sequence

from utils.errors import DataError

SPLIT_NAMES = ("train", "val", "test")
DEFAULT_SHARES = (0.8, 0.1, 0.1)
_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_in_name(name: str) -> str:
    """Return the split that a file's or folder's name says, such as instances_train2017; "" if none or several."""
    found = {_WORDS[word] for word in re.split(r"[^a-z]+", name.casefold()) if word in _WORDS}
    return found.pop() if len(found) == 1 else ""


def split_in_folders(folders: Sequence[str]) -> str:
    """Return the split that the innermost telling folder names, "" if none does."""
    return next((split for split in map(split_in_name, reversed(folders)) if split), "")


def assign_splits(digests: Sequence[bytes], shares: Sequence[float], seed: int) -> list[str]:
    """Return the split of each image.

    Neither names nor the order of files decide, only the bytes and the seed. Equal images go to one split, so that no
    copy of a training image is measured. Each split with a share gets one image at least.

    Args:
        digests: One per image, equal for equal images.
        shares: Of train, val and test; missing ones are 0.
        seed: Another seed divides the images otherwise.

    Returns:
        "train", "val" or "test" per image.

    Raises:
        DataError: There are fewer different images than splits.
    """
    different = sorted(set(digests), key=lambda digest: hashlib.blake2b(b"%d " % seed + digest).digest())
    names = [name for name, share in zip(SPLIT_NAMES, shares, strict=False) if share > 0]
    if len(different) < len(names):
        raise DataError(
            f"{len(different)} different images cannot be divided into {', '.join(names)}; give fewer shares, such as "
            "--split 1"
        )
    counts = _counts(len(different), [share for share in shares if share > 0])
    split_of: dict[bytes, str] = {}
    for name, count in zip(names, counts, strict=True):
        for digest in different[len(split_of) : len(split_of) + count]:
            split_of[digest] = name
    return [split_of[digest] for digest in digests]


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of at least 1 in proportion to the shares, with the given sum: the largest remainders get more."""
    exact = [share * total for share in shares]
    counts = [max(int(value + 1e-9), 1) for value in exact]
    order = sorted(range(len(shares)), key=lambda index: counts[index] - exact[index])
    while sum(counts) < total:
        for index in order[: total - sum(counts)]:
            counts[index] += 1
    while sum(counts) > total:
        counts[counts.index(max(counts))] -= 1
    return counts
