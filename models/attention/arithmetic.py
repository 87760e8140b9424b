"""Arithmetic that several attention blocks share: number types, safe softmax, sizes that divide, checks of arguments."""

import torch
from torch import Tensor

from utils.errors import ModelError


def wide(values: Tensor) -> Tensor:
    """Return `values` in float32 where they are half precision, and as they are otherwise. Norms, powers and sums of
    squares are worked out on it; the caller casts the result back to the type it was given."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def softmax(logits: Tensor, dim: int) -> Tensor:
    """Return softmax along `dim`, computed in float32 where the logits are half precision
    (autocast or a cast model) and returned in the logits' own type."""
    return torch.softmax(logits, dim, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)


def reduced(channels: int, reduction: float, least: int = 1) -> int:
    """Return the hidden width channels / reduction, rounded, never below `least`."""
    return max(least, round(channels / reduction))


def fitting(channels: int, wanted: int) -> int:
    """Return the largest number up to `wanted` that divides `channels`: heads or groups that any width can have."""
    return next(number for number in range(min(max(wanted, 1), channels), 0, -1) if channels % number == 0)


def require_multiple(block: str, channels: int, divisor: int, why: str) -> None:
    """Raise ModelError unless `channels` is a positive multiple of `divisor`."""
    if divisor < 1 or channels < 1 or channels % divisor:
        raise ModelError(f"{block}: {channels} channels do not divide into {divisor} {why}; "
                         f"use a multiple of {max(divisor, 1)}, or fewer {why}")


def require_odd(block: str, name: str, kernel_size: int) -> None:
    """Raise ModelError unless `kernel_size` is an odd positive integer, as "same" padding needs."""
    if not isinstance(kernel_size, int) or isinstance(kernel_size, bool) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(f"{block}: {name} {kernel_size!r} would change the map's size; use an odd number such as 3, 5 or 7")


def require_positive(block: str, **numbers: int) -> None:
    """Raise ModelError unless every number is a positive integer, naming the first that is not."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ModelError(f"{block}: {name} must be a positive integer, got {number!r}")


def require_choice(block: str, name: str, value: object, choices: tuple) -> None:
    """Raise ModelError unless `value` is one of `choices`."""
    if value not in choices:
        raise ModelError(f"{block}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
