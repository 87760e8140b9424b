"""Colour jitter in hue, saturation and value."""

import cv2
import numpy as np

STRIP = 64  # rows at a time: the intermediate planes stay in the processor's cache and cost no fresh memory


def jitter_hsv(image: np.ndarray, hue: float, saturation: float, value: float, generator: np.random.Generator) -> np.ndarray:
    """Return `image` (H, W, 3) uint8 RGB with each HSV channel multiplied by 1 + U(-1, 1) * its gain (0..1).

    The array is changed in place. Hue wraps round, saturation and value stop at 255."""
    factors = 1 + generator.uniform(-1, 1, 3) * (hue, saturation, value)
    if not (hue or saturation or value):
        return image
    hues = (np.arange(256) * factors[0] % 180).astype(np.uint8)  # OpenCV keeps hue as 0..179
    for top in range(0, len(image), STRIP):
        strip = image[top:top + STRIP]
        h, s, v = cv2.split(cv2.cvtColor(strip, cv2.COLOR_RGB2HSV))
        # plane by plane: OpenCV's one-channel table look-up is far faster than its three-channel one
        cv2.LUT(h, hues, dst=h)
        cv2.convertScaleAbs(s, dst=s, alpha=factors[1])
        cv2.convertScaleAbs(v, dst=v, alpha=factors[2])
        cv2.cvtColor(cv2.merge((h, s, v)), cv2.COLOR_HSV2RGB, dst=strip)
    return image
