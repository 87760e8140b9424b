"""Boxes and labels on an image."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.errors import cut
from utils.plots.fonts import current_fonts, images_shape
from utils.plots.palette import text_color

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]  # red, green, blue, 0..255
_LINE_SHARE = 0.003  # of the mean side of the image
_LEAST_TEXT = 10  # pixels
_FEW_BOXES = 20  # up to so many have lines of full width
_LABEL_SHARE = 0.15  # of the image: labels that would cover more are left out
_HIDDEN_SHARE = 0.1  # of a label: in a crowd, one that others would cover more is left out
_FAR = 1 << 20  # pixels: corners beyond are drawn there; OpenCV takes 32 bits


@functools.lru_cache(maxsize=32)
def _font(file: Path | None, size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.truetype(str(file), size) if file else ImageFont.load_default(size)


def text_patch(text: str, size: int, color: Color, background: Color) -> np.ndarray:
    """Return an image of one line of text, each part in a font that has its letters.

    Args:
        text: The line; a letter that cannot be drawn becomes a question mark.
        size: Height of the font in pixels.
        color: Of the text, RGB 0..255.
        background: RGB 0..255.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    fonts = current_fonts()
    return _runs_patch(fonts.runs(fonts.legible(cut(text), images_shape())), size, color, background)


@functools.lru_cache(maxsize=1024)
def _runs_patch(runs: tuple[tuple[str, Path | None], ...], size: int, color: Color, background: Color) -> np.ndarray:
    """The image of (part, font file) pairs, one after the other on one baseline."""
    from PIL import Image, ImageDraw

    fonts = [_font(file, size) for _, file in runs]
    metrics = [font.getmetrics() if hasattr(font, "getmetrics") else (size, size // 4) for font in fonts]
    lengths = [font.getlength(part) for font, (part, _) in zip(fonts, runs, strict=True)]
    ascent, descent = (max((metric[side] for metric in metrics), default=0) for side in (0, 1))
    margin = max(size // 6, 1)
    patch = Image.new("RGB", (int(np.ceil(sum(lengths))) + 2 * margin, max(ascent + descent + margin, 1)), background)
    left, draw = float(margin), ImageDraw.Draw(patch)
    for font, (part, _), metric, length in zip(fonts, runs, metrics, lengths, strict=True):
        draw.text((left, margin // 2 + ascent - metric[0]), part, fill=color, font=font)
        left += length
    return np.asarray(patch)


@dataclass(frozen=True)
class DrawingStyle:
    """How boxes and their labels are drawn.

    Attributes:
        line_width: Pixels.
        font_size: Pixels.
    """

    line_width: int
    font_size: int

    @classmethod
    def of(cls, shape: tuple[int, ...], boxes: int = 0, line_width: int | None = None) -> "DrawingStyle":
        """Return the style that fits an image: it grows with the image, and boxes in a crowd have finer lines.

        Args:
            shape: (height, width, ...) of the image in pixels.
            boxes: How many are drawn.
            line_width: Pixels, if the user wants them; the text follows.

        Returns:
            The style.
        """
        side = sum(shape[:2]) / 2
        crowd = min(1.0, (_FEW_BOXES / max(boxes, 1)) ** 0.5)
        if line_width is None:
            line, text = side * _LINE_SHARE, side * _LINE_SHARE * 4 + 2
        else:
            line, text, crowd = float(line_width), line_width * 4 + 2.0, 1.0
        return cls(max(round(line * max(crowd, 1 / 3)), 1), max(round(text * max(crowd, 1 / 2)), _LEAST_TEXT))


class Annotator:
    """Draws on a copy of an image; the result is `.image`.

    Args:
        image: (H, W, 3) uint8 RGB.
        style: Width of lines and size of text; by default they follow from the image's size.
    """

    def __init__(self, image: np.ndarray, style: DrawingStyle | None = None):
        self.image = np.ascontiguousarray(image).copy()
        self.style = style or DrawingStyle.of(image.shape)

    def boxes(self, xyxy: np.ndarray, labels: Sequence[str], colors: Sequence[Color]) -> None:
        """Draw boxes, the first on top, and their labels, which evade one another.

        Labels that together would cover more than 15 % of the image are drawn as far as they fit into that, the first
        ones first and none over another; the other boxes have their color only.

        Args:
            xyxy: (n, 4) xyxy pixels, the most important box first.
            labels: One line of text per box, "" for none.
            colors: RGB 0..255 per box.
        """
        corners = np.round(np.nan_to_num(np.asarray(xyxy, np.float64).reshape(-1, 4))).clip(-_FAR, _FAR).astype(int)
        for (left, top, right, bottom), color in reversed(list(zip(corners.tolist(), colors, strict=True))):
            cv2.rectangle(self.image, (left, top), (right, bottom), color, self.style.line_width)
        patches = [
            text_patch(label, self.style.font_size, text_color(color), color) if label else None
            for label, color in zip(labels, colors, strict=True)
        ]
        for patch, place in reversed(self._place_labels(corners, patches)):
            self._paste(patch, *place)

    def _place_labels(
        self, corners: np.ndarray, patches: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, tuple[int, int]]]:
        """(patch, (left, top)) of the labels that are drawn: above their box, else at another edge of it."""
        budget = _LABEL_SHARE * self.image.shape[0] * self.image.shape[1]
        area = [0 if patch is None else patch.shape[0] * patch.shape[1] for patch in patches]
        crowded, placed = sum(area) > budget, []
        taken = np.zeros((0, 4), int)
        for box, patch, size in zip(corners.tolist(), patches, area, strict=True):
            if patch is None or crowded and size > budget:
                continue
            places = [self._inside(place, patch) for place in self._places(box, patch)]
            hidden = [_hidden_share(place, patch, taken) for place in places]
            best = int(np.argmin(hidden))
            if crowded and hidden[best] > _HIDDEN_SHARE:
                continue
            left, top = places[best]
            taken = np.vstack((taken, (left, top, left + patch.shape[1], top + patch.shape[0])))
            placed.append((patch, places[best]))
            budget -= size if crowded else 0
        return placed

    def _places(self, box: Sequence[int], patch: np.ndarray) -> list[tuple[int, int]]:
        """Where a box's label may be, best first: above it, inside its upper edge, below it, inside its lower edge."""
        left, top, _, bottom = box
        height, start = patch.shape[0], left - self.style.line_width // 2
        tops = (top - height, top, bottom, bottom - height)
        return [(start, tops[0])] * (tops[0] >= 0) + [(start, each) for each in tops[1:]]

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
            self._paste(text_patch(text, self.style.font_size, color, background), left, top)

    def _inside(self, place: tuple[int, int], patch: np.ndarray) -> tuple[int, int]:
        """(left, top) of a patch, moved inside the image as far as it fits."""
        height, width = self.image.shape[:2]
        return max(min(place[0], width - patch.shape[1]), 0), max(min(place[1], height - patch.shape[0]), 0)

    def _paste(self, patch: np.ndarray, left: int, top: int) -> None:
        """Draw `patch` on the image, moved inside it as far as it fits."""
        height, width = self.image.shape[:2]
        left, top = self._inside((left, top), patch)
        patch = patch[: height - top, : width - left]
        self.image[top : top + patch.shape[0], left : left + patch.shape[1]] = patch


def _hidden_share(place: tuple[int, int], patch: np.ndarray, taken: np.ndarray) -> float:
    """The share of a patch at (left, top) that the most intrusive of the (n, 4) xyxy rectangles covers."""
    if not len(taken):
        return 0.0
    left, top = place
    height, width = patch.shape[:2]
    across = np.minimum(taken[:, 2], left + width) - np.maximum(taken[:, 0], left)
    down = np.minimum(taken[:, 3], top + height) - np.maximum(taken[:, 1], top)
    return float((across.clip(0) * down.clip(0)).max() / (height * width))
