"""The k x k neighbors of every position, for blocks that weight them one offset at a time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.attention.ops.numerics import softmax, upcast


def neighbors(x: Tensor, kernel: int, dilation: int = 1) -> Iterator[Tensor]:
    """Yield, offset by offset and row by row, the map of every position's neighbor at that offset.

    Outside the map there are zeros. The views share one padded map, so the kernel^2 copies of an unfold are not held.

    Args:
        x: (..., H, W).
        kernel: Side of the neighborhood, odd.
        dilation: Distance of two neighbors in positions.

    Yields:
        kernel^2 views, each (..., H, W).
    """
    reach = kernel // 2 * dilation
    H, W = x.shape[-2:]
    padded = pad(x, (reach,) * 4)
    for row in range(kernel):
        for column in range(kernel):
            top, left = row * dilation, column * dilation
            yield padded[..., top : top + H, left : left + W]


def weighted_sum(weights: Iterable[Tensor], views: Iterable[Tensor]) -> Tensor:
    """Return the sum of all views, each times its weight, in the views' type.

    Args:
        weights: One tensor per view, which broadcasts to it.
        views: At least one, all of one shape.

    Returns:
        The sum, in the shape and type of a view.
    """
    pairs = zip(weights, views, strict=True)
    weight, view = next(pairs)
    total = weight.to(view.dtype) * view
    for weight, view in pairs:
        total = torch.addcmul(total, weight.to(view.dtype), view)
    return total


def neighborhood_attention(query: Tensor, keys: Iterable[Tensor], values: Iterable[Tensor]) -> Tensor:
    """Return, for each position, the mean of its neighbors' values weighted by softmax of query . key over them.

    The products are made in float32 at least: in half precision the product of two large features is infinite.

    Args:
        query: (B, heads, d, H, W), already scaled.
        keys: One view per neighbor, of the query's shape.
        values: One view per neighbor, in the same order.

    Returns:
        The attended map, (B, heads, d, H, W).
    """
    query = upcast(query)
    logits = torch.stack([(query * key).sum(2) for key in keys])
    return weighted_sum(softmax(logits, dim=0).unsqueeze(3), values)
