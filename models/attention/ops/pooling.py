"""Adaptive average pooling as a product with small matrices, whose gradient is reproducible on every device."""

import torch
from torch import Tensor

from models.attention.ops.numerics import upcast


def cell_mean_matrix(cells: int, length: int, like: Tensor) -> Tensor:
    """Return the (cells, length) matrix that averages `length` values in `cells` cells.

    Cell i reaches from floor(i length / cells) to ceil((i + 1) length / cells), as in adaptive average pooling.

    Args:
        cells: Number of cells.
        length: Number of values; with fewer values than cells, cells share values.
        like: The tensor whose type and device the matrix takes.

    Returns:
        (cells, length), rows sum to one.
    """
    cell = torch.arange(cells, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    inside = (position >= cell * length // cells) & (position < ((cell + 1) * length + cells - 1) // cells)
    share = upcast(inside.to(like.dtype))
    return (share / share.sum(1, keepdim=True)).to(like.dtype)
