"""Image files in and out: every picture is RGB uint8 (H, W, 3) from the moment it is read.

Files are read as bytes and decoded from memory, so that any path Python can open works,
whatever its alphabet. The user's files are never rewritten.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from utils.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".wmv")
FORMATS = ("BMP", "DNG", "JPEG", "MPO", "PNG", "TIFF", "WEBP")  # as Pillow names what those suffixes hold
MIN_SIDE = 10  # pixels; smaller pictures are not used, as in v6.1

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
TURNED = range(2, 9)  # EXIF orientations other than upright; cameras write 0 as well, which says nothing
_TRANSPOSED = (5, 6, 7, 8)  # the orientations that exchange width and height
_UNGUARDED = ("BMP", "DNG", "TIFF")  # formats with neither checksums nor an end: damage shows in decoding alone


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about its picture. size: (height, width) after its EXIF orientation;
    format: Pillow's name of it; warning: a defect that does not keep it from being used, or "";
    orientation: EXIF's, 1 (upright) to 8; mode: Pillow's name of the samples, such as L for grey, "" where unknown.
    """

    size: tuple[int, int]
    format: str
    warning: str = ""
    orientation: int = 1
    mode: str = ""


def is_image(path: Path | str) -> bool:
    """Whether the name ends like a picture's."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_video(path: Path | str) -> bool:
    """Whether the name ends like a video's."""
    return str(path).lower().endswith(VIDEO_SUFFIXES)


def read_image(
    path: Path | str, max_side: int | None = None, native: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (picture RGB uint8 (H, W, 3), its native (height, width)), EXIF orientation applied.

    Grey, palette, alpha and 16-bit pictures become 8-bit RGB (alpha is dropped). Where the long
    side is needed at `max_side` pixels only, a JPEG at least twice as large is decoded at 1/2, 1/4
    or 1/8, never below `max_side`. A caller that knows the native size saves the look at the header.
    Raises DataError with the file and the reason.
    """
    raw = _read_bytes(path)
    if max_side is None or not _is_jpeg(raw):
        image = _decode(raw, path)
        return image, image.shape[:2]
    native = native or _header(raw, path).size
    factor = _reduction(max(native), max_side)
    return _decode(raw, path, factor), tuple(native)


def write_image(path: Path | str, rgb: np.ndarray) -> None:
    """Write an RGB uint8 (H, W, 3) picture in the format of the path's suffix. Raises DataError."""
    path = Path(path)
    try:
        good, encoded = cv2.imencode(path.suffix or ".", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error:
        good = False
    if not good:
        raise DataError(f"{path}: cannot write a picture as {path.suffix!r}; use one of {', '.join(IMAGE_SUFFIXES)}")
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def image_size(path: Path | str) -> tuple[int, int]:
    """Return a picture's (height, width) after its EXIF orientation, from the header alone where it can."""
    return _header_of_file(path).size


def inspect_image(path: Path | str) -> ImageHeader:
    """Return what the header says after the checks a picture must pass to be trained on.

    Raises DataError where it is unreadable, of a format outside FORMATS, smaller than MIN_SIDE,
    of floating point samples, or damaged; only formats that do not guard their content are decoded for that.
    """
    header = _header_of_file(path, verify=True)
    if header.format not in FORMATS:
        raise DataError(f"{path}: is a {header.format} file; use one of {', '.join(FORMATS)}")
    if min(header.size) < MIN_SIDE:
        raise DataError(f"{path}: {header.size[1]} x {header.size[0]} pixels, each side must have at least {MIN_SIDE}")
    if header.format in ("JPEG", "MPO") and not _ends_like_jpeg(path):
        return replace(header, warning=_damage_of_jpeg(path))
    if header.format in _UNGUARDED:
        read_image(path)
    return header


def _read_bytes(path: Path | str) -> np.ndarray:
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if raw.size == 0:
        raise DataError(f"{path}: is empty")
    return raw


def _is_jpeg(raw: np.ndarray) -> bool:
    return raw[:2].tobytes() == _JPEG_START


def _reduction(native: int, wanted: int) -> int:
    """The largest factor a JPEG may be reduced by (8, 4, 2) that leaves at least `wanted` pixels, or 1."""
    return next((factor for factor in (8, 4, 2) if native >= factor * wanted), 1)


def _decode(raw: np.ndarray, path: Path | str, factor: int = 1) -> np.ndarray:
    image = _decode_cv2(raw, factor)
    if image is None and _is_jpeg(raw):
        # A file cut short: with an end marker behind it the decoder gives what there is, the rest grey.
        image = _decode_cv2(np.concatenate((raw, np.frombuffer(_JPEG_END, np.uint8))), factor)
    return _decode_pillow(raw, path) if image is None else image


def _decode_cv2(raw: np.ndarray, factor: int) -> np.ndarray | None:
    """RGB uint8, or None where OpenCV cannot read it."""
    direct = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11 on; saves a pass over the picture
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
            if image.mode.startswith("I"):  # 16 bits a sample, which convert() would clip
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Pillow's words on one line, without the address of the buffer it read from."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "not a picture, or damaged" if text.startswith("cannot identify image file") else text


def _header_of_file(path: Path | str, verify: bool = False) -> ImageHeader:
    try:
        with open(path, "rb") as stream:
            return _header(stream, path, verify)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _header(source, path: Path | str, verify: bool = False) -> ImageHeader:
    """The header of an open file or of a file's bytes; with `verify`, checksums too where the format has them."""
    from PIL import Image

    stream = io.BytesIO(source.tobytes()) if isinstance(source, np.ndarray) else source
    try:
        with Image.open(stream) as opened:
            name = opened.format
            width, height = opened.size
            if name == "TIFF":  # whose size some Pillow versions turn already
                width, height = opened.tag_v2.get(_TIFF_WIDTH, width), opened.tag_v2.get(_TIFF_HEIGHT, height)
            orientation, mode = _orientation(opened), opened.mode
            if verify:
                opened.verify()
    except Image.DecompressionBombError:  # larger than Pillow likes, as aerial pictures are; OpenCV allows more
        _, size = read_image(path)
        return ImageHeader(size, "TIFF")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}") from None
    size = (width, height) if orientation in _TRANSPOSED else (height, width)
    return ImageHeader(size, name, orientation=orientation, mode=mode)


def _orientation(opened) -> int:
    """EXIF orientation of an open Pillow image, 1 to 8; 1 where it says none."""
    if opened.format != "PNG":
        return opened.getexif().get(_EXIF_ORIENTATION, 1)
    from PIL import Image

    exif = Image.Exif()  # getexif() would decode the whole PNG to look behind its pixels
    exif.load(opened.info.get("exif"))
    return exif.get(_EXIF_ORIENTATION, 1)


def _ends_like_jpeg(path: Path | str) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-2, io.SEEK_END)
        return stream.read() == _JPEG_END


def _damage_of_jpeg(path: Path | str) -> str:
    """What is wrong with a JPEG that does not end like one: "" where only something follows its end."""
    raw = _read_bytes(path)
    if _decode_cv2(raw, 8) is not None:
        return ""
    _decode(raw, path, 8)
    return "JPEG is cut short: what is missing is filled with grey"
