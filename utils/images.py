"""Reading and writing image files: an image is RGB uint8 (H, W, 3) from the moment it is read.

Files are read as bytes and decoded from memory, so that every path that Python can open works, whatever its alphabet.
The user's files are never rewritten.
"""

import io
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from utils.errors import DataError
from utils.files import DISK_ERRORS, refuse_special, reject_pointer

IMAGE_SUFFIXES = (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
WRITABLE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # the others are written as .jpg
VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
FORMATS = ("BMP", "DNG", "JPEG", "MPO", "PNG", "TIFF", "WEBP")  # Pillow's names of the formats with those suffixes
MIN_SIDE = 10  # pixels; smaller images are not used, as in v6.1

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
EXIF_ROTATED = range(2, 9)  # EXIF orientations other than upright; some cameras write 0, which means nothing
_TRANSPOSED = (5, 6, 7, 8)  # the orientations that exchange width and height
_OF_SEVERAL = (".dng", ".png", ".tif", ".tiff", ".webp")  # suffixes of animations and of files with pages
_WITHOUT_CHECKSUM = ("BMP", "DNG", "TIFF")  # nor an end marker: only decoding shows damage


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        size: (height, width) in pixels after the EXIF orientation.
        format: Pillow's name of the file format.
        warning: A defect that does not prevent the use of the image, or "".
        orientation: EXIF's, 1 (upright) to 8.
        mode: Pillow's name of the pixel format, such as L for gray, "" if unknown.
    """

    size: tuple[int, int]
    format: str
    warning: str = ""
    orientation: int = 1
    mode: str = ""


def is_image(path: Path | str) -> bool:
    """Return whether the file name has an image's suffix."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_video(path: Path | str) -> bool:
    """Return whether the file name has a video's suffix."""
    return str(path).lower().endswith(VIDEO_SUFFIXES)


def read_image(
    path: Path | str, max_side: int | None = None, native: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image as RGB with its EXIF orientation applied, and its native size.

    Gray, palette, alpha and 16-bit images become 8-bit RGB (alpha is dropped).

    Args:
        path: The image file.
        max_side: Long side in pixels that the caller needs: a JPEG at least twice as large is decoded at 1/2, 1/4 or
            1/8, never below `max_side`. None decodes at full size.
        native: (height, width) if the caller knows it; then the header is not read again.

    Returns:
        RGB uint8 (H, W, 3), and the native (height, width).

    Raises:
        DataError: The file cannot be read or decoded; names the file and the reason.
    """
    raw = _read_bytes(path)
    if max_side is None or not _is_jpeg(raw):
        image = _decode(raw, path)
        height, width = image.shape[:2]
        return image, (height, width)
    height, width = native or _header(raw, path).size
    factor = reduction(max(height, width), max_side)
    return _decode(raw, path, factor), (height, width)


def decode_image(raw: bytes, name: str) -> np.ndarray:
    """Return an image from the bytes of its file, as `read_image` does.

    Args:
        raw: The bytes.
        name: What messages call it.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        DataError: If they cannot be decoded.
    """
    return _decode(np.frombuffer(raw, np.uint8), name)


def image_header(raw: bytes, name: str) -> ImageHeader:
    """Return the header of an image from the bytes of its file; the image is not decoded.

    Args:
        raw: The bytes.
        name: What messages call it.

    Returns:
        The header.

    Raises:
        DataError: If they are not those of an image.
    """
    return _header(np.frombuffer(raw, np.uint8), name)


def writable_name(name: str) -> str:
    """Return the name under which an image can be written: its own, or with .jpg in place of a suffix such as .dng."""
    stem, suffix = os.path.splitext(name)
    return name if suffix.lower() in WRITABLE_SUFFIXES else f"{stem}.jpg"


def write_image(path: Path | str, rgb: np.ndarray) -> None:
    """Write an image in the format of the path's suffix; a file that cannot be written whole is removed.

    Args:
        path: The image file.
        rgb: RGB uint8 (H, W, 3).

    Raises:
        DataError: The suffix is not one of WRITABLE_SUFFIXES, the format cannot hold an image of this size, or the file
            cannot be written.
        OSError: The disk is full or cannot be written to, so that no other file can be written either.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise DataError(f"{path}: cannot write an image as {path.suffix!r}; use one of {', '.join(WRITABLE_SUFFIXES)}")
    try:
        good, encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error:
        good = False
    if not good:
        raise DataError(f"{path}: {rgb.shape[1]} x {rgb.shape[0]} pixels cannot be written as {path.suffix}")
    try:
        refuse_special(path)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        if error.errno in DISK_ERRORS:
            with suppress(OSError):  # a part of an image is none
                path.unlink()
            error.filename = str(path)
            raise
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def count_images(path: Path | str) -> int:
    """Return how many frames or pages an image file holds, of which `read_image` returns the first; 1 if unknown.

    The second view of a stereo .mpo is not counted.
    """
    if not str(path).lower().endswith(_OF_SEVERAL):
        return 1
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return getattr(opened, "n_frames", 1)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return 1


def image_size(path: Path | str) -> tuple[int, int]:
    """Return an image's (height, width) after its EXIF orientation, from the header alone if that is possible."""
    return _header_of_file(path).size


def inspect_image(path: Path | str) -> ImageHeader:
    """Return the header of an image that passes the checks for training.

    Raises DataError if it is unreadable, of a format outside FORMATS, smaller than MIN_SIDE, of floating point samples,
    or damaged. Only formats without checksums are decoded for that.
    """
    header = _header_of_file(path, verify=True)
    if header.format not in FORMATS:
        raise DataError(f"{path}: is a {header.format} file; use one of {', '.join(FORMATS)}")
    if min(header.size) < MIN_SIDE:
        raise DataError(f"{path}: {header.size[1]} x {header.size[0]} pixels, each side must have at least {MIN_SIDE}")
    if header.format in ("JPEG", "MPO"):
        return replace(header, warning=jpeg_damage(path))
    if header.format in _WITHOUT_CHECKSUM:
        read_image(path)
    return header


def _read_bytes(path: Path | str) -> np.ndarray:
    refuse_special(path)
    try:
        raw = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if raw.size == 0:
        raise DataError(f"{path}: is empty")
    reject_pointer(raw[:200].tobytes(), path)
    return raw


def _is_jpeg(raw: np.ndarray) -> bool:
    return raw[:2].tobytes() == _JPEG_START


def reduction(native: int, needed: int) -> int:
    """Return the factor by which a JPEG is decoded smaller.

    Args:
        native: Its long side in pixels.
        needed: Pixels of it that have to be left at least.

    Returns:
        The largest of 8, 4 and 2 that leaves them, or 1.
    """
    return next((factor for factor in (8, 4, 2) if native >= factor * needed), 1)


def _decode(raw: np.ndarray, path: Path | str, factor: int = 1) -> np.ndarray:
    image = _decode_cv2(raw, factor)
    if image is None and _is_jpeg(raw):
        # A file cut short: with an end marker appended, the decoder returns what there is, the rest gray.
        image = _decode_cv2(np.concatenate((raw, np.frombuffer(_JPEG_END, np.uint8))), factor)
    return _decode_pillow(raw, path) if image is None else image


def _decode_cv2(raw: np.ndarray, factor: int) -> np.ndarray | None:
    """RGB uint8, or None if OpenCV cannot read it."""
    direct = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11 on; saves a pass over the image
    flags = cv2.IMREAD_COLOR if factor == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
    if direct is not None:
        flags = (flags & ~cv2.IMREAD_COLOR) | direct
    try:
        image = cv2.imdecode(raw, flags)
    except cv2.error:
        return None
    if image is None or direct is not None:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _decode_pillow(raw: np.ndarray, path: Path | str) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(raw.tobytes())) as opened:
            if opened.mode == "F":
                raise DataError(f"{path}: holds floating point samples; convert it to 8 or 16 bit")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits per sample, which convert() would clip
                gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Pillow's message on one line, without the address of the buffer it read from."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image, or damaged" if text.startswith("cannot identify image file") else text


def _header_of_file(path: Path | str, verify: bool = False) -> ImageHeader:
    refuse_special(path)
    try:
        with open(path, "rb") as stream:
            reject_pointer(stream.read(200), path)
            stream.seek(0)
            return _header(stream, path, verify)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _header(source: np.ndarray | BinaryIO, path: Path | str, verify: bool = False) -> ImageHeader:
    """The header of an open file or of a file's bytes; with `verify`, checksums are checked if the format has them."""
    from PIL import Image

    stream = io.BytesIO(source.tobytes()) if isinstance(source, np.ndarray) else source
    try:
        with Image.open(stream) as opened:
            name = opened.format
            width, height = opened.size
            if name == "TIFF":  # some Pillow versions return its size rotated already
                width, height = opened.tag_v2.get(_TIFF_WIDTH, width), opened.tag_v2.get(_TIFF_HEIGHT, height)
            orientation, mode = _orientation(opened), opened.mode
            if verify:
                opened.verify()
    except Image.DecompressionBombError:  # larger than Pillow allows, such as aerial images; OpenCV allows more
        _, size = read_image(path)
        return ImageHeader(size, "TIFF")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}") from None
    size = (width, height) if orientation in _TRANSPOSED else (height, width)
    return ImageHeader(size, name, orientation=orientation, mode=mode)


def _orientation(opened) -> int:
    """EXIF orientation of an open Pillow image, 1 to 8; 1 if it has none."""
    if opened.format != "PNG":
        return opened.getexif().get(_EXIF_ORIENTATION, 1)
    from PIL import Image

    exif = Image.Exif()  # getexif() would decode the whole PNG to read behind its pixels
    exif.load(opened.info.get("exif"))
    return exif.get(_EXIF_ORIENTATION, 1)


def _ends_like_jpeg(path: Path | str) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-2, io.SEEK_END)
        return stream.read() == _JPEG_END


def jpeg_damage(path: Path | str) -> str:
    """Return what is wrong with a JPEG that does not end like one; "" if only something follows its end.

    Raises DataError if it cannot be decoded.
    """
    if _ends_like_jpeg(path):
        return ""
    raw = _read_bytes(path)
    if _decode_cv2(raw, 8) is not None:
        return ""
    _decode(raw, path, 8)
    return "JPEG is cut short: what is missing is filled with gray"
