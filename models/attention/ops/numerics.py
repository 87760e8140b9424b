"""Numerics that attention blocks share: precision, safe softmax, sizes that divide, checks of arguments."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from utils.errors import ModelError


def upcast(values: Tensor) -> Tensor:
    """Return `values` in float32 if they are half precision, otherwise as they are.

    Norms, powers and sums of squares are computed on it; the caller casts the result back to its own type.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast_disabled(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which autocast leaves matrix products in the type of their factors."""
    if x.device.type == "meta":  # shapes only: autocast does not know the device
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def softmax(logits: Tensor, dim: int) -> Tensor:
    """Return softmax along `dim` in the logits' own type, computed in float32 if that is half precision.

    Args:
        logits: Any shape; half precision under autocast or in a cast model.
        dim: The axis whose weights sum to one.

    Returns:
        The weights, in the shape and type of `logits`.
    """
    return torch.softmax(logits, dim, dtype=torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)


def lifting_factor(epsilon: float) -> float:
    """Return a power of two that brings `epsilon` to 1/2..1: 1 if it is larger, 2^60 if it is tiny.

    Numerator, denominator and epsilon of a quotient are multiplied by it, which changes no bit of the result: exporters
    take a constant up to 1e-8 for zero.

    Args:
        epsilon: Above zero.

    Returns:
        The factor, from 1 on.
    """
    return 2.0 ** min(max(-math.frexp(epsilon)[1], 0), 60)


def reduced_width(channels: int, reduction: float, least: int = 1) -> int:
    """Return the hidden width channels / reduction, rounded, never below `least`.

    Args:
        channels: The width that is reduced.
        reduction: The divisor, above zero.
        least: The smallest width to return.

    Returns:
        A number of channels.
    """
    return max(least, round(channels / reduction))


def largest_divisor(channels: int, limit: int) -> int:
    """Return the largest divisor of `channels` up to `limit`: heads or groups that fit any width.

    Args:
        channels: The width to divide, at least 1.
        limit: The number that is wanted; below 1 it counts as 1.

    Returns:
        The number of heads or groups.
    """
    return next(number for number in range(min(max(limit, 1), channels), 0, -1) if channels % number == 0)


def resolve_divisor(block: str, name: str, given: int | None, channels: int, wanted: int, of: str = "channels") -> int:
    """Return the heads or groups that were given, or the largest divisor of `channels` up to `wanted`.

    Args:
        block: The block's name, for the error.
        name: The argument's name, for the error.
        given: The argument; None for the default.
        channels: What it must divide.
        wanted: Upper limit of the default.
        of: What is divided, in words, for the error.

    Returns:
        A divisor of `channels`.

    Raises:
        ModelError: `given` does not divide `channels`; the message lists the numbers that do.
    """
    require_positive(block, **{of: channels})
    if given is None:
        return largest_divisor(channels, wanted)
    if not _is_whole(given) or given < 1 or channels % given:
        divisors = ", ".join(str(number) for number in range(1, channels + 1) if channels % number == 0)
        raise ModelError(f"{block}: {name} must divide the {channels} {of}, got {given!r}; use one of {divisors}")
    return given


def require_multiple(block: str, channels: int, divisor: int, parts: str) -> None:
    """Raise ModelError unless `channels` is a positive multiple of `divisor`.

    Args:
        block: The block's name, for the error.
        channels: The width that is checked.
        divisor: What must divide it.
        parts: What the width is divided into, in words, such as "groups".

    Raises:
        ModelError: `channels` is no such multiple.
    """
    if not _is_whole(channels) or channels < 1 or channels % divisor:
        raise ModelError(
            f"{block}: {channels} channels do not divide into {divisor} {parts}; use a multiple of {divisor}"
        )


def require_odd(block: str, name: str, kernel_size: int) -> None:
    """Raise ModelError unless `kernel_size` is an odd positive integer, as "same" padding needs.

    Args:
        block: The block's name, for the error.
        name: The argument's name, for the error.
        kernel_size: The argument.

    Raises:
        ModelError: It is even, not positive or not an integer.
    """
    if not _is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(
            f"{block}: {name} {kernel_size!r} would change the map's size; use an odd number such as 3, 5 or 7"
        )


def require_odd_list(block: str, name: str, kernels: Any, such_as: list[int]) -> None:
    """Raise ModelError unless `kernels` is a list of odd positive integers, at least one.

    Args:
        block: The block's name, for the error.
        name: The argument's name, for the error.
        kernels: The argument.
        such_as: A list that would do, for the error.

    Raises:
        ModelError: It is empty, no list, or holds something else.
    """
    if not isinstance(kernels, list | tuple) or not kernels:
        raise ModelError(f"{block}: {name} must be a list of odd numbers such as {such_as}, got {kernels!r}")
    for kernel in kernels:
        require_odd(block, name, kernel)


def require_positive(block: str, **numbers: int) -> None:
    """Raise ModelError unless every number is a positive integer.

    Args:
        block: The block's name, for the error.
        **numbers: The arguments by name.

    Raises:
        ModelError: One is not; the message names the first.
    """
    for name, number in numbers.items():
        if not _is_whole(number) or number < 1:
            raise ModelError(f"{block}: {name} must be a positive integer, got {number!r}")


def require_flag(block: str, **flags: bool) -> None:
    """Raise ModelError unless every flag is True or False: a number in its place was meant for another argument.

    Args:
        block: The block's name, for the error.
        **flags: The arguments by name.

    Raises:
        ModelError: One is not; the message names the first.
    """
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
    """Raise ModelError unless `value` is a finite number within the limits.

    Args:
        block: The block's name, for the error.
        name: The argument's name, for the error.
        value: The argument.
        such_as: A number that would do, for the error.
        above: Exclusive lower limit.
        least: Inclusive lower limit.
        most: Inclusive upper limit.

    Raises:
        ModelError: It is no number, not finite, or outside the limits.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (above < value and least <= value <= most):
        limits = {"above": above, "from": least, "to": most}
        wording = "".join(f" {word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ModelError(f"{block}: {name} must be a number{wording}, such as {such_as:g}, got {value!r}")


def require_choice(block: str, name: str, value: object, choices: tuple) -> None:
    """Raise ModelError unless `value` is one of `choices`.

    Args:
        block: The block's name, for the error.
        name: The argument's name, for the error.
        value: The argument.
        choices: All values that are allowed.

    Raises:
        ModelError: It is none of them; the message lists them.
    """
    if value not in choices:
        raise ModelError(f"{block}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def records_gradients(*tensors: Tensor) -> bool:
    """Return whether gradients are recorded; a tracer or compiler takes the operators themselves."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    return any(tensor.requires_grad for tensor in tensors)
