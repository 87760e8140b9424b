"""Arithmetic that several attention blocks share: number types, safe softmax, sizes that divide, checks of arguments."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from utils.errors import ModelError


def wide(values: Tensor) -> Tensor:
    """Return `values` in float32 where they are half precision, and as they are otherwise. Norms, powers and sums of
    squares are worked out on it; the caller casts the result back to the type it was given.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which autocast leaves matrix products in the type of their factors."""
    if x.device.type == "meta":  # shapes only: autocast does not know the device
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def softmax(logits: Tensor, dim: int) -> Tensor:
    """Return softmax along `dim`, computed in float32 where the logits are half precision
    (autocast or a cast model) and returned in the logits' own type.
    """
    return torch.softmax(logits, dim, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)


def reduced(channels: int, reduction: float, least: int = 1) -> int:
    """Return the hidden width channels / reduction, rounded, never below `least`."""
    return max(least, round(channels / reduction))


def fitting(channels: int, wanted: int) -> int:
    """Return the largest number up to `wanted` that divides `channels`: heads or groups that any width can have."""
    return next(number for number in range(min(max(wanted, 1), channels), 0, -1) if channels % number == 0)


def divisor(block: str, name: str, given: int | None, channels: int, wanted: int, of: str = "channels") -> int:
    """Return the heads or groups that were given, or without any those that fit up to `wanted`.
    Raises ModelError, which lists what can be given, unless the number divides `channels`, which `of` says in words.
    """
    require_positive(block, **{of: channels})
    if given is None:
        return fitting(channels, wanted)
    if not _is_whole(given) or given < 1 or channels % given:
        able = ", ".join(str(number) for number in range(1, channels + 1) if channels % number == 0)
        raise ModelError(f"{block}: {name} must divide the {channels} {of}, got {given!r}; use one of {able}")
    return given


def require_multiple(block: str, channels: int, divisor: int, why: str) -> None:
    """Raise ModelError unless `channels` is a positive multiple of `divisor`."""
    if not _is_whole(channels) or channels < 1 or channels % divisor:
        raise ModelError(
            f"{block}: {channels} channels do not divide into {divisor} {why}; use a multiple of {divisor}"
        )


def require_odd(block: str, name: str, kernel_size: int) -> None:
    """Raise ModelError unless `kernel_size` is an odd positive integer, as "same" padding needs."""
    if not _is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(
            f"{block}: {name} {kernel_size!r} would change the map's size; use an odd number such as 3, 5 or 7"
        )


def require_odds(block: str, name: str, kernels: Any, such_as: list[int]) -> None:
    """Raise ModelError unless `kernels` is a list of odd positive integers, at least one."""
    if not isinstance(kernels, list | tuple) or not kernels:
        raise ModelError(f"{block}: {name} must be a list of odd numbers such as {such_as}, got {kernels!r}")
    for kernel in kernels:
        require_odd(block, name, kernel)


def require_positive(block: str, **numbers: int) -> None:
    """Raise ModelError unless every number is a positive integer, naming the first that is not."""
    for name, number in numbers.items():
        if not _is_whole(number) or number < 1:
            raise ModelError(f"{block}: {name} must be a positive integer, got {number!r}")


def require_flag(block: str, **flags: bool) -> None:
    """Raise ModelError unless every flag is True or False: a number in its place was meant for another argument."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ModelError(f"{block}: {name} must be True or False, got {flag!r}")


def require_number(
    block: str,
    name: str,
    value: float,
    such_as: float,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raise ModelError unless `value` is a finite number above `above`, not below `least` and not over `most`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (above < value and least <= value <= most):
        limits = {"above": above, "from": least, "to": most}
        said = "".join(f" {word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ModelError(f"{block}: {name} must be a number{said}, such as {such_as:g}, got {value!r}")


def require_choice(block: str, name: str, value: object, choices: tuple) -> None:
    """Raise ModelError unless `value` is one of `choices`."""
    if value not in choices:
        raise ModelError(f"{block}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
