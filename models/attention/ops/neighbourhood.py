"""The k x k neighbours of every position, for blocks that weigh them one position at a time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.attention.ops.numerics import softmax, wide


def neighbours(x: Tensor, kernel: int, dilation: int = 1) -> Iterator[Tensor]:
    """Yield kernel * kernel views of (..., H, W), row by row: the map of each position's neighbour at one offset.
    Outside the map there are zeros. The views share one padded map, so no k*k-fold copy is held, as unfold does.
    """
    reach = kernel // 2 * dilation
    H, W = x.shape[-2:]
    padded = pad(x, (reach,) * 4)
    for row in range(kernel):
        for column in range(kernel):
            top, left = row * dilation, column * dilation
            yield padded[..., top : top + H, left : left + W]


def weighed(weights: Iterable[Tensor], near: Iterable[Tensor]) -> Tensor:
    """Return the sum of each view of `near` times its weight, in the views' type."""
    total = None
    for weight, view in zip(weights, near, strict=True):
        weight = weight.to(view.dtype)
        total = weight * view if total is None else torch.addcmul(total, weight, view)
    return total


def attend_near(query: Tensor, keys: Iterable[Tensor], values: Iterable[Tensor]) -> Tensor:
    """Return, for each position of `query` (B, heads, d, H, W), the mean of its neighbours' values weighed by softmax
    over the neighbours of query . key. `keys`, `values`: one view for each neighbour, of the query's shape.

    The products are made in float32 at least: in half precision one of two large features is infinite.
    """
    query = wide(query)
    logits = torch.stack([(query * near).sum(2) for near in keys])
    return weighed(softmax(logits, dim=0).unsqueeze(3), values)
