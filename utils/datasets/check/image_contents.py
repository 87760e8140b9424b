"""What neither an image's header nor its decoder reports: unused sample ranges, further pages, damaged data."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from utils.datasets.check.findings import Finding
from utils.datasets.check.jpeg_data import jpeg_damage
from utils.datasets.check.tiff_pages import MIN_IS_WHITE, TiffPage, read_pages
from utils.images import ImageHeader

_PNG_START, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # byte of the header that holds the bits per sample
_DAMAGE_FIX = "replace the image; what follows the damage is displaced, miscolored or gray"
_EIGHTH = 8192  # of the range of 16 bits
_TIFF = ("TIFF", "DNG")


def content_findings(path: str, header: ImageHeader, pixels: np.ndarray) -> Iterator[Finding]:
    """Yield what an image's content has against its use.

    Args:
        path: The image file, which can be read.
        header: Its header.
        pixels: RGB uint8 (H, W, 3) as training reads it.

    Yields:
        Findings about the image file.
    """
    pages = read_pages(path) if header.format in _TIFF else []
    if pages:
        yield from _page_findings(path, pages)
    if _bits(path, header, pages) == 16 and pixels.max() <= (_EIGHTH >> 8) + 1:  # decoders round
        largest = _largest_sample(path, pages)
        if 0 < largest < _EIGHTH:
            what = f"its largest 16-bit sample is {largest} of 65535, which is read as {pixels.max()} of 255"
            yield Finding(path, 0, "picture-unused-range", what)
    damage = "" if header.warning else _damage(path, header)
    if damage:
        yield Finding(path, 0, "picture-damaged", damage, fix=_DAMAGE_FIX)


def _page_findings(path: str, pages: list[TiffPage]) -> Iterator[Finding]:
    first = pages[0]
    larger = [page for page in pages[1:] if page.width * page.height > first.width * first.height and not page.is_mask]
    if first.is_preview or any(not page.is_main for page in larger):
        largest = max(larger or [first], key=lambda page: page.width * page.height)
        what = f"its first page is a preview, {first.width} x {first.height}"
        if larger:
            what += f", of {largest.width} x {largest.height}"
        yield Finding(path, 0, "picture-preview", what)
        return
    main = [page for page in pages if page.is_main and not page.is_mask and not page.is_preview]
    if len(main) > 1:
        sizes = ", ".join(dict.fromkeys(f"{page.width} x {page.height}" for page in main[:5]))
        yield Finding(path, 0, "picture-pages", f"has {len(main)} pages ({sizes}), of which the first is read")


def _bits(path: str, header: ImageHeader, pages: list[TiffPage]) -> int:
    """Bits per sample of a PNG or TIFF, else 8."""
    if pages:
        return pages[0].bits
    if header.format != "PNG":
        return 8
    with open(path, "rb") as stream:
        start = stream.read(_PNG_DEPTH + 1)
    return start[_PNG_DEPTH] if start.startswith(_PNG_START) and len(start) > _PNG_DEPTH else 8


def _largest_sample(path: str, pages: list[TiffPage]) -> int:
    """The largest sample of 16 bits, 0 if OpenCV does not read it so.

    10 or 12 bits in a file of 16 are read as nearly black.
    """
    try:
        samples = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error:
        return 0
    if samples is None or samples.dtype != np.uint16:
        return 0
    inverted = bool(pages) and pages[0].photometric == MIN_IS_WHITE
    return 65535 - int(samples.min()) if inverted else int(samples.max())


def _damage(path: str, header: ImageHeader) -> str:
    """What is wrong with the data of an image that decoders read without complaint."""
    if header.format in ("JPEG", "MPO"):
        return jpeg_damage(Path(path).read_bytes())
    return _strict_fault(path) if header.format in _TIFF else ""


def _strict_fault(path: str) -> str:
    """The fault that Pillow meets in compressed TIFF data, where OpenCV goes on."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
    except OSError as error:
        return " ".join(f"the data cannot be unpacked: {error}".split())
    except (ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return ""  # a kind of TIFF that only OpenCV reads
    return ""
