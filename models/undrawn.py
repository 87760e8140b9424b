"""Layers that are zero at first: if a checkpoint has their weights, drawing random ones would be wasted time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = frozenset(("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"))


class UndrawnWeights(TorchFunctionMode):
    """Inside, what would fill a tensor with random numbers fills it with zeros, and torch's generator does not move.

    Zeros and not what was in the memory: a layer is tried as soon as it is built, and should see finite numbers.

    Example:
        >>> with UndrawnWeights():
        ...     layer = torch.nn.Conv2d(512, 512, 3)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the tensor, zero, if `func` would fill it with random numbers, else what `func` returns."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **kwargs)
