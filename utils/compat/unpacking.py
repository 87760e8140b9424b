"""How many values the loop that asks for an item takes: until v6.0 `LoadImages` gave four, since then five.

A loop `for path, img, im0s, vid_cap in dataset` of an older script would end with "too many values to unpack". So the
loaders look which of both stands there, and leave the fifth value out where it cannot be taken.
"""

import dis
from functools import lru_cache
from types import CodeType, FrameType

OLDER = 4  # values of an item until v6.0
_PAIR = 2  # of `enumerate`


def takes_four(frame: FrameType) -> bool:
    """Return whether a `for` statement takes items apart into exactly four values, perhaps behind `enumerate`."""
    return _takes_four(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=64)
def _takes_four(code: CodeType, offset: int) -> bool:
    following = [each for each in dis.get_instructions(code) if each.offset >= offset][:4]
    if not following or following[0].opname != "FOR_ITER":
        return False
    counts = [(each.opname, each.argval) for each in following[1:]]
    if counts[:1] == [("UNPACK_SEQUENCE", _PAIR)] and counts[1][0].startswith("STORE_"):
        counts = counts[2:]  # for index, (path, img, im0s, vid_cap) in enumerate(dataset)
    return counts[:1] == [("UNPACK_SEQUENCE", OLDER)]
