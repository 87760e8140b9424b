"""Means of a map over the cells of a coarse grid, as adaptive pooling takes them, as products with two small matrices."""

import torch
from torch import Tensor

from models.attention.ops.numerics import wide


def cell_means(cells: int, length: int, like: Tensor) -> Tensor:
    """Return the (cells, length) matrix that averages `length` values in `cells` cells: cell i from
    floor(i length / cells) to ceil((i + 1) length / cells), as adaptive pooling has them. In the type and on the device
    of `like`; its gradient is reproducible on every device.
    """
    index = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    inside = (place >= index * length // cells) & (place < -(-(index + 1) * length // cells))
    share = wide(inside.to(like.dtype))
    return (share / share.sum(1, keepdim=True)).to(like.dtype)
