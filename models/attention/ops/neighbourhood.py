"""The k x k neighbors of every position, for blocks that weight them one offset at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from models.attention.ops.numerics import records_gradients, softmax, upcast

Window = tuple[Any, slice, slice]


class Neighborhood:
    """The neighbors of every position as views of one padded map, so that no copies of an unfold are held.

    Args:
        padded: (..., H + border, W + border).
        kernel: Side of the neighborhood.
        dilation: Distance of two neighbors in positions.
        size: (h, w) of the positions whose neighbors are meant.
        stride: Distance of two of those positions.
    """

    def __init__(self, padded: Tensor, kernel: int, dilation: int, size: Sequence[int], stride: int = 1) -> None:
        self.kernel, self.dilation, self.size, self.stride = kernel, dilation, size, stride
        height, width = ((side - 1) * stride + 1 for side in size)
        starts = range(0, kernel * dilation, dilation)
        self.padded = padded
        self.windows: list[Window] = [
            (..., slice(row, row + height, stride), slice(column, column + width, stride))
            for row in starts
            for column in starts
        ]  # offset by offset in reading order

    @property
    def is_exported(self) -> bool:
        """Whether an exporter or compiler holds the size as a symbol: views then cost minutes and a thousand nodes."""
        return any(isinstance(side, torch.SymInt) for side in self.size)

    def gather(self) -> Tensor:
        """Return a copy of all neighbors, (..., kernel^2, h, w), by two operators."""
        maps, axis = self.padded, self.padded.ndim - 2
        starts = torch.arange(self.kernel, device=maps.device)[:, None] * self.dilation
        for side in self.size:
            places = (starts + torch.arange(side, device=maps.device) * self.stride).flatten()
            maps = maps.index_select(axis, places).unflatten(axis, (self.kernel, side))
            axis += 2
        # (..., kernel, h, kernel, w)
        return maps.transpose(axis - 3, axis - 2).flatten(axis - 4, axis - 3)


def neighbors(x: Tensor, kernel: int, dilation: int = 1) -> Neighborhood:
    """Return every position's neighbors; outside the map there are zeros.

    Args:
        x: (..., H, W).
        kernel: Side of the neighborhood, odd.
        dilation: Distance of two neighbors in positions.

    Returns:
        kernel^2 views, each (..., H, W).
    """
    return Neighborhood(pad(x, (kernel // 2 * dilation,) * 4), kernel, dilation, x.shape[-2:])


def neighbor_positions(x: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """Return which positions of a map `neighbors` are, for records of the weights given to them.

    Args:
        x: (..., H, W).
        kernel: Side of the neighborhood, odd.
        dilation: Distance of two neighbors in positions.

    Returns:
        (H * W, kernel^2) positions, counted row by row; -1 outside the map.
    """
    height, width = x.shape[-2:]
    positions = torch.arange(height * width, device=x.device).view(height, width)
    padded = pad(positions, (kernel // 2 * dilation,) * 4, value=-1)
    return Neighborhood(padded, kernel, dilation, (height, width)).gather().flatten(1).t()


def weighted_sum(weights: Tensor, values: Neighborhood) -> Tensor:
    """Return the sum of all neighbors, each times its weight, in the values' type.

    Args:
        weights: (B, groups, taps, H, W), one weight per position for all channels of a group.
        values: Of (B, groups, d, H, W).

    Returns:
        (B, groups, d, H, W).
    """
    weights = weights.to(values.padded.dtype)
    if values.is_exported:
        return (weights.unsqueeze(2) * values.gather()).sum(3)
    if records_gradients(weights, values.padded):
        return _WeightedSum.apply(weights, values.padded, values.windows)
    return _sum_views(weights, values.padded, values.windows)


def neighborhood_attention(query: Tensor, keys: Neighborhood, values: Neighborhood) -> Tensor:
    """Return, for each position, the mean of its neighbors' values weighted by softmax of query . key over them.

    Args:
        query: (B, heads, d, H, W), already scaled.
        keys: Of the query's shape.
        values: Of the query's shape, in the same order.

    Returns:
        The attended map, (B, heads, d, H, W).
    """
    return weighted_sum(neighborhood_weights(query, keys), values)


def neighborhood_weights(query: Tensor, keys: Neighborhood) -> Tensor:
    """Return softmax of query . key over the neighbors of each position: what `neighborhood_attention` applies.

    The products are made in float32 at least: in half precision the product of two large features is infinite.

    Args:
        query: (B, heads, d, H, W), already scaled.
        keys: Of the query's shape.

    Returns:
        (B, heads, kernel^2, H, W).
    """
    query = upcast(query)
    if keys.is_exported:
        logits = (query.unsqueeze(3) * keys.gather()).sum(2)
    elif records_gradients(query, keys.padded):
        logits = _Products.apply(query, keys.padded, keys.windows)
    else:
        logits = _multiply_views(query, keys.padded, keys.windows)
    return softmax(logits, dim=2)


def _sum_views(weights: Tensor, padded: Tensor, windows: list[Window]) -> Tensor:
    total = weights[:, :, 0:1] * padded[windows[0]]
    for tap, window in enumerate(windows[1:], 1):
        total = torch.addcmul(total, weights[:, :, tap : tap + 1], padded[window])
    return total


def _multiply_views(query: Tensor, padded: Tensor, windows: list[Window]) -> Tensor:
    return torch.stack([(query * padded[window]).sum(2) for window in windows], 2)  # (B, heads, taps, H, W)


class _WeightedSum(torch.autograd.Function):
    """`_sum_views`, whose backward adds to one padded gradient in place: autograd would make one per neighbor."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, padded: Tensor, windows: list[Window]) -> Tensor:
        ctx.save_for_backward(weights, padded)
        ctx.windows = windows
        return _sum_views(weights, padded, windows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, padded = ctx.saved_tensors
        of_padded = torch.zeros_like(padded, dtype=upcast(padded).dtype)
        for tap, window in enumerate(ctx.windows):
            of_padded[window].addcmul_(gradient, weights[:, :, tap : tap + 1])
        return _multiply_views(gradient, padded, ctx.windows), of_padded.to(padded.dtype), None


class _Products(torch.autograd.Function):
    """`_multiply_views`, with the backward of `_WeightedSum`'s kind."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, padded: Tensor, windows: list[Window]) -> Tensor:
        ctx.save_for_backward(query, padded)
        ctx.windows = windows
        return _multiply_views(query, padded, windows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, padded = ctx.saved_tensors
        of_query, of_padded = torch.zeros_like(query), torch.zeros_like(padded, dtype=query.dtype)
        for tap, window in enumerate(ctx.windows):
            share = gradient[:, :, tap : tap + 1]
            of_query.addcmul_(share, padded[window].to(query.dtype))
            of_padded[window].addcmul_(share, query)
        return of_query, of_padded.to(padded.dtype), None
