"""The k x k neighbours of every position, for blocks that weigh them one position at a time."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import pad


def neighbours(x: Tensor, kernel: int, dilation: int = 1) -> Iterator[Tensor]:
    """Yield kernel * kernel views of (B, C, H, W), row by row: the map of each position's neighbour at one offset.
    Outside the map there are zeros. The views share one padded map, so no k*k-fold copy is held, as unfold does."""
    reach = kernel // 2 * dilation
    H, W = x.shape[-2:]
    padded = pad(x, (reach,) * 4)
    for row in range(kernel):
        for column in range(kernel):
            top, left = row * dilation, column * dilation
            yield padded[..., top : top + H, left : left + W]
