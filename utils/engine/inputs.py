"""From a batch of bytes to what a network takes, on the network's device."""

import torch
from torch import Tensor
from torch.nn import functional


def network_input(images: Tensor, device: torch.device, half: bool = False) -> Tensor:
    """Return (B, 3, H, W) uint8 0..255 as floating point 0..1 on `device`.

    The bytes travel, not the floats; memory order (channels last) is kept.
    """
    images = images.to(device, non_blocking=True)
    return (images.half() if half else images.float()).div_(255)


def resized(images: Tensor, side: int | None, stride: int) -> Tensor:
    """Return the batch scaled so that its long side measures `side` pixels, both sides rounded to
    multiples of `stride` (None: as it is).
    """
    if side is None or side == max(images.shape[2:]):
        return images
    height, width = images.shape[2:]
    scale = side / max(height, width)
    shape = [max(stride, round(length * scale / stride) * stride) for length in (height, width)]
    return functional.interpolate(images, size=shape, mode="bilinear", align_corners=False)
