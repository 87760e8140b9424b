"""Boxes and labels on a picture."""

import functools

import cv2
import numpy as np

from utils.plots.colors import contrast
from utils.plots.fonts import font_file


@functools.lru_cache(maxsize=32)
def _font(file, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(str(file), size) if file else ImageFont.load_default(size)


@functools.lru_cache(maxsize=1024)
def text_patch(text: str, size: int, color: tuple[int, int, int], background: tuple[int, int, int]) -> np.ndarray:
    """Return (h, w, 3) uint8 RGB: one line of text, `size` pixels high, on a background of its own."""
    from PIL import Image, ImageDraw

    font = _font(font_file(text), size)
    ascent, descent = font.getmetrics() if hasattr(font, "getmetrics") else (size, size // 4)
    margin = max(size // 6, 1)
    width = int(np.ceil(font.getlength(text))) + 2 * margin
    patch = Image.new("RGB", (max(width, 1), ascent + descent + margin), background)
    ImageDraw.Draw(patch).text((margin, margin // 2), text, fill=color, font=font)
    return np.asarray(patch)


class Annotator:
    """Draws on a copy of a (H, W, 3) uint8 RGB picture; the result is `.image`.

    line_width and font_size are pixels; without them they follow from the picture's size.
    """

    def __init__(self, image: np.ndarray, line_width: int | None = None, font_size: int | None = None):
        self.image = np.ascontiguousarray(image).copy()
        self.line_width = line_width or max(round(sum(image.shape[:2]) / 2 * 0.003), 2)
        self.font_size = font_size or max(self.line_width * 4 + 2, 10)

    def box(self, xyxy, label: str = "", color: tuple[int, int, int] = (128, 128, 128)) -> None:
        """Draw the box xyxy (pixels) and, where `label` is not empty, its label at the upper left corner."""
        left, top, right, bottom = (int(round(float(value))) for value in xyxy)
        cv2.rectangle(self.image, (left, top), (right, bottom), color, self.line_width)
        if label:
            patch = text_patch(label, self.font_size, contrast(color), color)
            start = left - self.line_width // 2
            above = top - patch.shape[0]
            self._paste(patch, start, above if above >= 0 else top)

    def text(self, left: int, top: int, text: str, color=(255, 255, 255), background=(40, 40, 40)) -> None:
        """Write one line of text with its upper left corner at (left, top)."""
        if text:
            self._paste(text_patch(text, self.font_size, color, background), left, top)

    def _paste(self, patch: np.ndarray, left: int, top: int) -> None:
        """Lay `patch` onto the picture, moved inside it as far as it fits."""
        height, width = self.image.shape[:2]
        left = max(min(left, width - patch.shape[1]), 0)
        top = max(min(top, height - patch.shape[0]), 0)
        patch = patch[: height - top, : width - left]
        self.image[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
