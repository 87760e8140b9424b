"""Names of a run's results: each input has its own, whatever files it writes."""

import re
from collections import Counter
from collections.abc import Sequence

from utils.datasets.streams import public_address
from utils.images import VIDEO_SUFFIXES

_RESERVED_FOLDERS = (
    "crops",
    "frames",
    "labels",
)  # of a run folder: what lies in such a folder of a source goes beside them


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with _2, _3, ... before the suffix if two would write the same output.

    Outputs share a stem (labels of a.jpg and a.png are both a.txt), and labels of a video's frames are
    stem_<number>.txt. Names that differ only in letter case are equal here, as they are in some file systems.
    """
    names = [_beside_reserved(name) for name in names]
    result = [""] * len(names)
    taken: set[str] = set()
    frames_of: set[str] = set()  # stems that a video must not have, since a frame of it would be named like an image
    copies: Counter[str] = Counter()
    is_video = [_split(name)[1].lower() in VIDEO_SUFFIXES for name in names]
    has_videos = any(is_video)
    # Images first: a video then avoids every image that is named like one of its frames.
    for index in sorted(range(len(names)), key=is_video.__getitem__):
        candidate, (own_stem, suffix) = names[index], _split(names[index])
        first = stem = own_stem.lower()
        while stem in taken or (is_video[index] and stem in frames_of):
            copies[first] += 1
            stem = f"{own_stem}_{copies[first] + 1}".lower()
            candidate = f"{own_stem}_{copies[first] + 1}{suffix}"
        taken.add(stem)
        if has_videos:
            frames_of.update(re.findall(r"(?s)\A(.*)_\d+\Z", stem))
        result[index] = candidate
    return result


def _split(name: str) -> tuple[str, str]:
    """The name without suffix, and the suffix with its dot: a hundred thousand names are too many for path objects."""
    dot = name.rfind(".")
    begin = name.rfind("/") + 1
    return (name[:dot], name[dot:]) if begin < dot < len(name) - 1 else (name, "")


def _beside_reserved(name: str) -> str:
    """The name, its first folder followed by _2 if the run folder has one of that name for other files."""
    first, separator, rest = name.partition("/")
    return f"{first}_2/{rest}" if separator and first.lower() in _RESERVED_FOLDERS else name


def stream_stem(address: str) -> str:
    """Return a file name for a stream: its address without user name and password, other characters as underscores."""
    return re.sub(r"[^\w.-]+", "_", public_address(address)).strip("_")[:100] or "stream"
