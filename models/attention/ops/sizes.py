"""Arithmetic on sizes of maps that holds for numbers and for the symbols of exporters and tracers alike.

In a file for maps of any size a size is a symbol. A branch on it is taken as the example takes it and is wrong at other
sizes, and the division of a negative number rounds to another side in ONNX than in Python.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def is_known(*sizes: int) -> bool:
    """Return whether sizes are numbers, on which a branch may depend: a symbol or a traced size is none."""
    return all(isinstance(size, int) for size in sizes)


def ceil_divide(size: int, divisor: int) -> int:
    """Return size / divisor rounded up, without a negative number.

    Args:
        size: From 0.
        divisor: From 1.

    Returns:
        The smallest number of parts of `divisor` that hold `size`.
    """
    return (size + divisor - 1) // divisor


def at_least(size: int, limit: int) -> int:
    """Return max(size, limit), without a branch on a symbol.

    Args:
        size: A number, a symbol or a traced size.
        limit: A number.

    Returns:
        The larger one.
    """
    return cast(int, size.clamp(min=limit) if isinstance(size, Tensor) else torch.sym_max(size, limit))


def at_most(size: int, limit: int) -> int:
    """Return min(size, limit), without a branch on a symbol.

    Args:
        size: A number, a symbol or a traced size.
        limit: A number.

    Returns:
        The smaller one.
    """
    return cast(int, size.clamp(max=limit) if isinstance(size, Tensor) else torch.sym_min(size, limit))


def roll(maps: Tensor, shifts: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return torch.roll(maps, shifts, axes) with shifts that may be symbols.

    Args:
        maps: Of any shape.
        shifts: Positions by which values move on along each axis, between minus and plus its length.
        axes: The axes, from 0.

    Returns:
        The shape of `maps`; `maps` itself if nothing moves.
    """
    if is_known(*shifts):
        return maps.roll(tuple(shifts), tuple(axes)) if any(shifts) else maps
    for shift, axis in zip(shifts, axes, strict=True):
        length = maps.shape[axis]
        start = (length - shift) % length
        ends, begins = torch.arange(start, length, device=maps.device), torch.arange(start, device=maps.device)
        maps = maps.index_select(axis, torch.cat((ends, begins)))
    return maps
