"""Damage in the data of a JPEG whose header and end are sound: decoders go on after it and report nothing.

The entropy-coded data of a sound scan are used up exactly when its last block is decoded. After damage a decoder reads
other codes than were written, so it usually runs out of data early, and fills the rest with gray, or has some left.
Three decodings at 1/8 of the size tell: of the file as it is, with bytes added behind each scan (they are read only if
data are missing), and without the scan's last bytes (no difference only if those are not read).
"""

import io
import re
from dataclasses import dataclass

import numpy as np

_END, _SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_BETWEEN_SCANS = (0xC4, 0xCC, _SCAN, 0xDB, 0xDC, _RESTART_INTERVAL, _END, *range(0xE0, 0xF0), 0xFE)
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # not a stuffed zero, a restart or a fill byte
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_ADDED = bytes((index * 73 + 41) % 251 for index in range(256))
_SURPLUS = 64  # bytes; some cameras leave a few behind a sound scan
_GRAY = 128  # what is shown where data are missing


@dataclass
class _Structure:
    """Where the scans of a JPEG begin and end, its frame's marker, its restart interval, its end, or what is wrong.

    `units` is the number of minimum coded units in a scan of all components.
    """

    scans: list[tuple[int, int]]
    frame: int = 0
    units: int = 0
    interval: int = 0
    end: int = 0
    fault: str = ""


def jpeg_damage(raw: bytes) -> str:
    """Return what is wrong with the data of a JPEG file, "" if nothing is found or its header or end is not sound."""
    from PIL import Image

    found = _structure(raw)
    if found.fault or not found.end or not found.scans:
        return found.fault
    try:
        return _restart_fault(raw, found) or _surplus_or_missing(raw, found)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no header, or larger than Pillow allows
        return ""


def _structure(raw: bytes) -> _Structure:
    """Follow the segments of the first image in a file to its end marker; without one `end` is 0."""
    found, place = _Structure([]), 2
    while place + 4 <= len(raw) or raw[place : place + 2] == b"\xff\xd9":
        match = _MARKER.match(raw, place)
        if match is None:
            found.fault = f"data where a segment should begin, at byte {place}" if found.scans else ""
            return found
        marker, place = match.group(1)[0], match.end()
        if marker == _END:
            found.end = match.start()
            return found
        if found.scans and marker not in _BETWEEN_SCANS:
            found.fault = f"an unknown marker, FF {marker:02X}, at byte {match.start()}"
            return found
        body = place + 2
        place += int.from_bytes(raw[place : place + 2], "big")
        if marker in _FRAMES:
            found.frame, found.units = marker, _units(raw[body:place])
        elif marker == _RESTART_INTERVAL:
            found.interval = int.from_bytes(raw[body : body + 2], "big")
        elif marker == _SCAN:
            after = _MARKER.search(raw, place)
            if after is None:
                return found
            found.scans.append((place, after.start()))
            place = after.start()
    return found


def _units(frame: bytes) -> int:
    """Units of 8 x 8 pixels times the largest sampling factors that cover the image; 0 if the segment is too short."""
    factors = frame[7::3]
    if len(frame) < 9 or not factors or not all(factor >> 4 and factor & 15 for factor in factors):
        return 0
    high, wide = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    down, across = 8 * max(factor & 15 for factor in factors), 8 * max(factor >> 4 for factor in factors)
    return -(-high // down) * -(-wide // across) if len(factors) > 1 else -(-high // 8) * -(-wide // 8)


def _restart_fault(raw: bytes, found: _Structure) -> str:
    """Restart markers count from 0 to 7 and begin again, one behind each interval but the last."""
    for start, end in found.scans:
        index = -1
        for index, match in enumerate(_RESTART.finditer(raw, start, end)):
            if not found.interval or match.group(1)[0] - 0xD0 != index % 8:
                return f"a restart marker out of order, at byte {match.start()}"
        if found.interval and found.units and found.frame in _SEQUENTIAL and len(found.scans) == 1:
            missing = (found.units - 1) // found.interval - (index + 1)
            if missing > 0:
                return f"{missing} of {index + 1 + missing} restart markers are missing"
    return ""


def _surplus_or_missing(raw: bytes, found: _Structure) -> str:
    """What the three decodings show."""
    added, place = b"", 0
    for _, end in found.scans:
        added += raw[place:end] + _ADDED
        place = end
    shown = _decoded(raw[: found.end])
    if shown is None:
        return "the data hold codes that no encoder writes"
    longer = _decoded(added + raw[place : found.end])
    if longer is None or not np.array_equal(shown, longer):
        return "the data end before the image is complete; the rest is filled with gray"
    start, end = found.scans[-1]
    if found.frame not in _SEQUENTIAL or len(found.scans) > 1 or end - start <= 4 * _SURPLUS or _ends_gray(shown):
        return ""
    tail = raw[end - _SURPLUS : end]
    shorter = _decoded(raw[: end - _SURPLUS]) if len(set(tail)) > 2 else None
    return "data are left when the image is complete" if shorter is not None and np.array_equal(shown, shorter) else ""


def _ends_gray(image: np.ndarray) -> bool:
    """Whether the last block looks like one whose data are missing, so that removing data shows nothing."""
    return bool((np.abs(image[-1, -2:].astype(np.int64) - _GRAY) <= 1).all())


def _decoded(raw: bytes) -> np.ndarray | None:
    """The image at 1/8, None if its data are refused. Pillow reads as OpenCV does, and prints nothing."""
    from PIL import Image

    with Image.open(io.BytesIO(raw + b"\xff\xd9")) as opened:
        opened.draft(None, (1, 1))
        try:
            return np.asarray(opened)
        except OSError:
            return None
