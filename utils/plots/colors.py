"""One colour a class, the same in every picture and plot."""

import colorsys

_GOLDEN_ANGLE = 0.61803398875  # of a turn: neighbours in class number end far apart in hue
_SHADES = ((0.85, 0.90), (0.95, 0.70), (0.60, 0.95))  # (saturation, value), one turn each of eight classes
_PALETTE_SIZE = 24


def _shade(index: int) -> tuple[int, int, int]:
    saturation, value = _SHADES[index // 8 % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_ANGLE) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


PALETTE = tuple(_shade(index) for index in range(_PALETTE_SIZE))


def color(index: int) -> tuple[int, int, int]:
    """Return the (red, green, blue) 0..255 of class `index`; the palette repeats after 24."""
    return PALETTE[int(index) % _PALETTE_SIZE]


def contrast(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever reads better on `rgb` (by its luma)."""
    red, green, blue = rgb
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else (255, 255, 255)
