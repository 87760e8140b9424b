"""What a browser sends: images decoded from memory, clips in a temporary file of a name of ours."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.datasets.video import VideoReader
from utils.errors import DataError, UserError
from utils.images import decode_image, image_header

_NO_IMAGE = "the upload is not an image that can be read: send JPEG, PNG, WebP, BMP or TIFF"
_NO_CLIP = "the upload is not a video that can be decoded: send MP4, MOV, WebM, MKV or AVI"
_A_FORM = "the upload is a form: send the bytes of the file themselves as the body (curl --data-binary @FILE)"


class UploadError(UserError):
    """A request that cannot be answered as it stands.

    Args:
        message: One line for whoever sent it.
        status: The HTTP status, 4xx or 503.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def decode_upload(raw: bytes, max_pixels: float) -> np.ndarray:
    """Return an uploaded image; its header is read before it is decoded.

    Args:
        raw: The file's bytes.
        max_pixels: Largest image in megapixels.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        UploadError: If nothing was sent, it is no image (415), damaged (422) or too large (413).
    """
    if not raw:
        raise UploadError("the upload is empty: send the bytes of an image file")
    try:
        height, width = image_header(raw, "the upload").size
    except DataError:
        raise UploadError(_A_FORM if _is_form(raw) else _NO_IMAGE, 415) from None
    if height * width > max_pixels * 1e6:
        raise UploadError(
            f"the image has {height * width / 1e6:.3g} megapixels, the server takes {max_pixels:g}: send a smaller one",
            413,
        )
    try:
        return decode_image(raw, "the upload")
    except DataError as error:
        raise UploadError(str(error), 422) from None


@contextmanager
def clip_file(raw: bytes) -> Iterator[Path]:
    """Yield a temporary file that holds an uploaded clip; it is gone afterwards.

    Its name is ours: what the sender calls it decides nothing.

    Args:
        raw: The file's bytes.

    Yields:
        The file.

    Raises:
        UploadError: If it is no container of video (415), or no frame of it can be decoded (422).
    """
    suffix = _suffix_of_clip(raw[:12])
    with tempfile.TemporaryDirectory(prefix="clip-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"clip{suffix}"
        path.write_bytes(raw)
        try:
            yield path
        except DataError as error:  # the sender knows the clip, and our path is none of its business
            raise UploadError(str(error).replace(str(path), "the upload"), 422) from None


def open_clip(path: Path) -> VideoReader:
    """Return the reader of an uploaded clip. Raises UploadError (415) if it cannot be decoded."""
    try:
        return VideoReader(str(path))
    except DataError:
        raise UploadError(_NO_CLIP, 415) from None


def _suffix_of_clip(start: bytes) -> str:
    """Return the suffix of a container that holds its video itself, by the first bytes.

    Playlists and other texts, which a decoder would follow to further files, are none.

    Raises:
        UploadError: If it is another file.
    """
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return ".mp4"
    if start[:4] == b"\x1aE\xdf\xa3":
        return ".webm"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return ".avi"
    raise UploadError(_A_FORM if _is_form(start) else _NO_CLIP, 415)


def _is_form(start: bytes) -> bool:
    """Whether a body is what `curl -F` and HTML forms send: parts, each behind a line of dashes."""
    return start.startswith(b"--")
