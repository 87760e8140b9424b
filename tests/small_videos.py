"""Short videos written by OpenCV, and MP4 headers changed as cameras and editing programs write them."""

import struct
from pathlib import Path

import cv2
import numpy as np

_CONTAINERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl")


_BITS = 6


def numbered_frame(number: int, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a red corner at the upper left, a blue one below it, the number as bars in the middle."""
    height, width = size
    image = np.full((*size, 3), 90, np.uint8)
    image[: height // 4, : width // 4] = (255, 0, 0)
    image[-height // 4 :, : width // 4] = (0, 0, 255)
    for bit in range(_BITS):
        left, right = (width * side // _BITS for side in (bit, bit + 1))
        image[height * 3 // 8 : height * 5 // 8, left:right] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """The number in a frame that is neither rotated nor mirrored."""
    height, width = image.shape[:2]
    middle = image[height // 2 - 2 : height // 2 + 2]
    bars = [middle[:, width * (2 * bit + 1) // (2 * _BITS)].mean() > 127 for bit in range(_BITS)]
    return sum(1 << bit for bit, white in enumerate(bars) if white)


def write_video(
    file: Path, frames: int = 60, fps: float = 30.0, size: tuple[int, int] = (96, 160), codec: str = "mp4v"
) -> Path:
    """Write frames 1, 2, ... in the container that the suffix names, and return the file."""
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    assert writer.isOpened(), f"this OpenCV writes no {codec} in {file.suffix}"
    for number in range(1, frames + 1):
        writer.write(numbered_frame(number, size)[..., ::-1])
    writer.release()
    return file


def box_at(content: bytes, kind: bytes, begin: int = 0, end: int | None = None) -> int:
    """The offset of the first box of a kind, at any depth; -1 if there is none."""
    at, end = begin, len(content) if end is None else end
    while at + 8 <= end:
        size, found = struct.unpack_from(">I4s", content, at)
        if found == kind:
            return at
        inside = box_at(content, kind, at + 8, at + size) if found in _CONTAINERS else -1
        if inside >= 0:
            return inside
        at += size
    return -1


def trim(file: Path, hidden_s: float, shown_s: float) -> Path:
    """Let the edit list hide the beginning and show `shown_s` seconds after it, as ffmpeg -ss with -c copy does."""
    content = bytearray(file.read_bytes())
    (movie_scale,) = struct.unpack_from(">I", content, box_at(content, b"mvhd") + 20)
    (media_scale,) = struct.unpack_from(">I", content, box_at(content, b"mdhd") + 20)
    edit = struct.pack(">Ii", round(shown_s * movie_scale), round(hidden_s * media_scale))
    at = box_at(content, b"elst") + 16
    content[at : at + 8] = edit
    file.write_bytes(content)
    return file


def set_matrix(file: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the display matrix of the video track."""
    content = bytearray(file.read_bytes())
    values = (value << 16 for value in (a, b, 0, c, d))
    struct.pack_into(">5i", content, box_at(content, b"tkhd") + 48, *values)
    file.write_bytes(content)
    return file


def set_pixel_aspect(file: Path, width: int, height: int) -> Path:
    """Give the video track pixels of another shape by a `pasp` box; the headers stand behind the frames."""
    content = bytearray(file.read_bytes())
    assert box_at(content, b"moov") > box_at(content, b"mdat") > 0
    description = box_at(content, b"stsd")
    entry = description + 16
    (size,) = struct.unpack_from(">I", content, entry)
    inserted = struct.pack(">I4sII", 16, b"pasp", width, height)
    content[entry + size : entry + size] = inserted
    parents = [box_at(content, kind) for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    for at in (*parents, entry):
        struct.pack_into(">I", content, at, struct.unpack_from(">I", content, at)[0] + len(inserted))
    file.write_bytes(content)
    return file


def set_codec(file: Path, code: bytes) -> Path:
    """Name another codec in the track's sample description."""
    content = bytearray(file.read_bytes())
    at = box_at(content, b"stsd") + 20
    content[at : at + 4] = code
    at = content.index(b"esds", at)  # names the codec once more
    content[at : at + 4] = b"free"
    file.write_bytes(content)
    return file
