"""Windows of a map: padding to whole windows, partition into them, and back to a map."""

from torch import Tensor
from torch.nn.functional import pad

from models.attention.ops.sizes import ceil_divide, is_known


def pad_to_multiple(x: Tensor, height: int, width: int) -> Tensor:
    """Return the map with zeros added below and to the right, so that windows divide it.

    Args:
        x: (B, C, H, W).
        height: What must divide H.
        width: What must divide W.

    Returns:
        The padded map; `x` itself if nothing is missing and the size is known.
    """
    H, W = x.shape[2:]
    below, right = ceil_divide(H, height) * height - H, ceil_divide(W, width) * width - W
    return pad(x, (0, right, 0, below)) if not is_known(below, right) or below or right else x


def to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Return the windows of a map as tokens, row by row.

    Args:
        x: (B, C, H, W), H and W multiples of the window's sides.
        height: Rows of a window.
        width: Columns of a window.

    Returns:
        (B, windows, height * width, C).
    """
    batch, channels, H, W = x.shape
    cut = x.reshape(batch, channels, H // height, height, W // width, width)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, height * width, channels)


def from_windows(windows: Tensor, height: int, width: int, H: int, W: int) -> Tensor:
    """Return the map that windows were cut from; the inverse of `to_windows`.

    Args:
        windows: (B, windows, height * width, C).
        height: Rows of a window.
        width: Columns of a window.
        H: Rows of the map.
        W: Columns of the map.

    Returns:
        (B, C, H, W).
    """
    batch, _, _, channels = windows.shape
    cut = windows.reshape(batch, H // height, W // width, height, width, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, H, W)
