"""A stand-in for a network whose detections can be worked out by eye, and images for it."""

import numpy as np
import torch
from torch import nn


class RedFinder(nn.Module):
    """Reports the bounding box of red pixels as class 1, objectness 1, score 0.9; and notes what it was given."""

    names = ["cat", "red thing"]
    stride = torch.tensor([8.0, 16.0, 32.0])

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 40, 3, 2), nn.Conv2d(40, 4, 1), nn.Identity())
        self.inputs: list[torch.Tensor] = []

    def forward(self, image, augment=False):
        self.inputs.append(image)
        self.model(image)
        red = (image[0, 0] > 0.6) & (image[0, 1] < 0.3)
        rows, columns = red.nonzero(as_tuple=True)
        if not len(rows):
            return torch.zeros(1, 0, 7), None
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 1.0, 0.02, 0.9]
        return torch.tensor(box)[None, None], None


def scene(box=(200, 40, 500, 160), size=(300, 1000)) -> np.ndarray:
    """A gray image with a red box (xyxy)."""
    image = np.full((*size, 3), 90, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = (255, 0, 0)
    return image
