"""Boxes and labels on an image."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.plots.colors import text_color
from utils.plots.fonts import font_file

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]  # red, green, blue, 0..255


@functools.lru_cache(maxsize=32)
def _font(file: Path | None, size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.truetype(str(file), size) if file else ImageFont.load_default(size)


@functools.lru_cache(maxsize=1024)
def text_patch(text: str, size: int, color: Color, background: Color) -> np.ndarray:
    """Return an image of one line of text.

    Args:
        text: The line.
        size: Height of the font in pixels.
        color: Of the text, RGB 0..255.
        background: RGB 0..255.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    from PIL import Image, ImageDraw

    font = _font(font_file(text), size)
    ascent, descent = font.getmetrics() if hasattr(font, "getmetrics") else (size, size // 4)
    margin = max(size // 6, 1)
    width = int(np.ceil(font.getlength(text))) + 2 * margin
    patch = Image.new("RGB", (max(width, 1), ascent + descent + margin), background)
    ImageDraw.Draw(patch).text((margin, margin // 2), text, fill=color, font=font)
    return np.asarray(patch)


class Annotator:
    """Draws on a copy of an image; the result is `.image`.

    Args:
        image: (H, W, 3) uint8 RGB.
        line_width: Pixels; by default it follows from the image's size.
        font_size: Pixels; by default it follows from the line width.
    """

    def __init__(self, image: np.ndarray, line_width: int | None = None, font_size: int | None = None):
        self.image = np.ascontiguousarray(image).copy()
        self.line_width = line_width or max(round(sum(image.shape[:2]) / 2 * 0.003), 2)
        self.font_size = font_size or max(self.line_width * 4 + 2, 10)

    def box(self, xyxy: np.ndarray | Sequence[float], label: str = "", color: Color = (128, 128, 128)) -> None:
        """Draw a box with its label at the upper left corner.

        Args:
            xyxy: (4,) xyxy pixels.
            label: One line of text, or "" for none.
            color: Of the box, RGB 0..255.
        """
        left, top, right, bottom = (int(round(float(value))) for value in xyxy)
        cv2.rectangle(self.image, (left, top), (right, bottom), color, self.line_width)
        if label:
            patch = text_patch(label, self.font_size, text_color(color), color)
            start = left - self.line_width // 2
            above = top - patch.shape[0]
            self._paste(patch, start, above if above >= 0 else top)

    def text(
        self, left: int, top: int, text: str, color: Color = (255, 255, 255), background: Color = (40, 40, 40)
    ) -> None:
        """Write one line of text, moved inside the image as far as it fits.

        Args:
            left: Of the text's upper left corner, in pixels.
            top: Of the text's upper left corner, in pixels.
            text: The line; "" writes nothing.
            color: Of the text, RGB 0..255.
            background: RGB 0..255.
        """
        if text:
            self._paste(text_patch(text, self.font_size, color, background), left, top)

    def _paste(self, patch: np.ndarray, left: int, top: int) -> None:
        """Draw `patch` on the image, moved inside it as far as it fits."""
        height, width = self.image.shape[:2]
        left = max(min(left, width - patch.shape[1]), 0)
        top = max(min(top, height - patch.shape[0]), 0)
        patch = patch[: height - top, : width - left]
        self.image[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
