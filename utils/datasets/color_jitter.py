"""Color jitter in hue, saturation and value."""

from dataclasses import dataclass

import cv2
import numpy as np

STRIP = 64_000  # pixels at a time, so that the intermediate planes stay in the processor's cache


@dataclass(frozen=True)
class Jitter:
    """Factors of hue, saturation and value. Hue wraps around, saturation and value stop at 255."""

    hue: float = 1.0
    saturation: float = 1.0
    value: float = 1.0

    def apply(self, image: np.ndarray, target: np.ndarray) -> None:
        """Write an image with its colors changed.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: Where the result goes; it may be `image` itself.
        """
        if self.hue == self.saturation == self.value == 1:
            if target is not image:
                target[:] = image
            return
        hues = (np.arange(256) * self.hue % 180).astype(np.uint8)  # OpenCV keeps hue as 0..179
        rows = max(min(STRIP // max(image.shape[1], 1), len(image)), 1)
        hsv = np.empty((rows, *image.shape[1:]), np.uint8)  # one strip and its planes, used for all
        planes = [np.empty(hsv.shape[:2], np.uint8) for _ in range(3)]
        for top in range(0, len(image), rows):
            part = image[top : top + rows]
            if len(part) < rows:  # the last one may be lower
                hsv, planes = hsv[: len(part)], [plane[: len(part)] for plane in planes]
            cv2.cvtColor(part, cv2.COLOR_RGB2HSV, dst=hsv)
            h, s, v = cv2.split(hsv, planes)
            # plane by plane: OpenCV's one-channel table look-up is far faster than its three-channel one
            cv2.LUT(h, hues, dst=h)
            cv2.convertScaleAbs(s, dst=s, alpha=self.saturation)
            cv2.convertScaleAbs(v, dst=v, alpha=self.value)
            cv2.merge((h, s, v), dst=hsv)
            cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=target[top : top + rows])

    def gray(self, level: int) -> int:
        """Return what `apply` makes of a pixel of three equal values."""
        return min(round(level * self.value), 255)


def random_jitter(hue: float, saturation: float, value: float, generator: np.random.Generator) -> Jitter:
    """Return factors 1 + U(-1, 1) * gain.

    Args:
        hue: Gain of hue, 0..1.
        saturation: Gain of saturation, 0..1.
        value: Gain of value, 0..1.
        generator: Draws the three factors.

    Returns:
        The jitter of one image.
    """
    return Jitter(*(1 + generator.uniform(-1, 1, 3) * (hue, saturation, value)).tolist())
