"""Windows of a map: padding it to whole windows, cutting it into them, putting them together again."""

from torch import Tensor
from torch.nn.functional import pad


def pad_to_multiple(x: Tensor, height: int, width: int) -> Tensor:
    """Return (B, C, H, W) with zeros below and to the right, so that `height` divides H and `width` divides W."""
    below, right = -x.shape[2] % height, -x.shape[3] % width
    return pad(x, (0, right, 0, below)) if below or right else x


def to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Cut (B, C, H, W), whose sides are multiples, into windows: (B, windows, height * width, C), row by row."""
    batch, channels, H, W = x.shape
    cut = x.reshape(batch, channels, H // height, height, W // width, width)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, height * width, channels)


def from_windows(windows: Tensor, height: int, width: int, H: int, W: int) -> Tensor:
    """Put (B, windows, height * width, C) together again: (B, C, H, W); the inverse of `to_windows`."""
    batch, _, _, channels = windows.shape
    cut = windows.reshape(batch, H // height, W // width, height, width, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, H, W)
