"""Random operations on colors, after RandAugment (Cubuk et al. 2020, section 3 and table 6), which move no box.

Of its fourteen operations those that leave every pixel in its place are kept, the strong ones milder, and gamma and
blur are added. An operation with a direction goes either way by a fair coin.
"""

from collections.abc import Callable

import cv2
import numpy as np

_LEVELS = np.arange(256, dtype=np.float64)
MAX_BLUR = 1 / 400  # standard deviation of the blur, as a share of the longer side, at the full magnitude
FULL_MAGNITUDE = 10.0


def random_color_ops(image: np.ndarray, number: float, magnitude: float, generator: np.random.Generator) -> None:
    """Change an image by random operations, one after the other. Nothing is drawn if `number` is 0.

    Args:
        image: (H, W, 3) uint8 RGB, changed in place.
        number: How many operations, each drawn from all of them; of 1.5, one or two as likely.
        magnitude: How strong they are, 0..10.
        generator: Decides which, and in which direction.
    """
    if not number:
        return
    whole = int(number)
    count = whole + int(generator.random() < number - whole) if number > whole else whole
    names = list(COLOR_OPS)
    strength = magnitude / FULL_MAGNITUDE
    for index, up in zip(generator.integers(len(names), size=count), generator.integers(2, size=count), strict=True):
        COLOR_OPS[names[index]](image, strength if up else -strength)


def _look_up(image: np.ndarray, table: np.ndarray) -> None:
    """Replace each value by that of a table of 256, rounded."""
    flat = image.reshape(len(image), -1)  # as one channel: far faster than three
    cv2.LUT(flat, np.rint(table.clip(0, 255)).astype(np.uint8), dst=flat)


def _identity(image: np.ndarray, strength: float) -> None:
    """Nothing."""


def _brightness(image: np.ndarray, strength: float) -> None:
    """Times 0.5 to 1.5."""
    _look_up(image, _LEVELS * (1 + 0.5 * strength))


def _contrast(image: np.ndarray, strength: float) -> None:
    """Distance from the mean gray times 0.5 to 1.5."""
    red, green, blue, _ = cv2.mean(image)
    mean = 0.299 * red + 0.587 * green + 0.114 * blue
    _look_up(image, mean + (_LEVELS - mean) * (1 + 0.5 * strength))


def _saturation(image: np.ndarray, strength: float) -> None:
    """Distance from the pixel's gray times 0.1 to 1.9: one matrix."""
    factor = 1 + 0.9 * strength
    gray = np.array([0.299, 0.587, 0.114])
    cv2.transform(image, factor * np.eye(3) + (1 - factor) * gray, dst=image)


def _sharpness(image: np.ndarray, strength: float) -> None:
    """Distance from the smoothed pixel (center 5, neighbors 1, over 13) times 0.1 to 1.9."""
    smoothed = (1 - (1 + 0.9 * strength)) / 13  # the smoothed pixel is 9 / 13 of the mean of nine, 4 / 13 of itself
    mean = cv2.blur(image, (3, 3), borderType=cv2.BORDER_REPLICATE)
    cv2.addWeighted(image, 1 - 9 * smoothed, mean, 9 * smoothed, 0, dst=image)


def _posterize(image: np.ndarray, strength: float) -> None:
    """The upper 8 to 4 bits."""
    dropped = 1 << round(4 * abs(strength))
    _look_up(image, _LEVELS // dropped * dropped)


def _solarize(image: np.ndarray, strength: float) -> None:
    """The brightest up to quarter of the values inverted (RandAugment's: up to all of them)."""
    _look_up(image, np.where(256 - 64 * abs(strength) <= _LEVELS, 255 - _LEVELS, _LEVELS))


def _equalize(image: np.ndarray, strength: float) -> None:
    """Each channel's histogram made flat."""
    planes = cv2.split(image)
    cv2.merge([cv2.equalizeHist(plane, dst=plane) for plane in planes], dst=image)


def _autocontrast(image: np.ndarray, strength: float) -> None:
    """Each channel stretched to 0..255."""
    planes = cv2.split(image)
    for plane in planes:
        low, high, _, _ = cv2.minMaxLoc(plane)
        if high > low:
            _look_up(plane, (_LEVELS - low) * (255 / (high - low)))
    cv2.merge(planes, dst=image)


def _gamma(image: np.ndarray, strength: float) -> None:
    """To the power of 2/3 to 3/2, in 0..1."""
    _look_up(image, 255 * (_LEVELS / 255) ** (1.5**strength))


def _blur(image: np.ndarray, strength: float) -> None:
    """A Gaussian of up to a 400th of the longer side."""
    sigma = abs(strength) * MAX_BLUR * max(image.shape[:2])
    if sigma > 0:
        cv2.GaussianBlur(image, (0, 0), sigma, dst=image, borderType=cv2.BORDER_REPLICATE)


COLOR_OPS: dict[str, Callable[[np.ndarray, float], None]] = {
    "identity": _identity,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "equalize": _equalize,
    "autocontrast": _autocontrast,
    "gamma": _gamma,
    "blur": _blur,
}
