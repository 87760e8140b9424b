"""One color per class, the same in every image and plot."""

import colorsys

_GOLDEN_ANGLE = 0.61803398875  # of a turn: classes with neighboring ids are far apart in hue
_SATURATION_AND_VALUE = ((0.85, 0.90), (0.95, 0.70), (0.60, 0.95))  # one pair for each eight classes
_PALETTE_SIZE = 24


def _palette_color(index: int) -> tuple[int, int, int]:
    saturation, value = _SATURATION_AND_VALUE[index // 8 % len(_SATURATION_AND_VALUE)]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_ANGLE) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


PALETTE = tuple(_palette_color(index) for index in range(_PALETTE_SIZE))


def class_color(class_id: int) -> tuple[int, int, int]:
    """Return the RGB color 0..255 of a class id; the palette repeats after 24."""
    return PALETTE[int(class_id) % _PALETTE_SIZE]


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has more contrast to the background color (by its luma)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else (255, 255, 255)
