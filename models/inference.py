"""The one form in which networks predict and are validated, and the multiple of which their input sides are."""

from typing import Any

import torch
from torch import Tensor, nn

from models.one_thread import use_onednn

LEAST_STRIDE = 32  # pixels per cell of the backbones of v6.1
_OWN_CODE = ("models", "torch")  # packages whose layers take maps of any memory layout


def prepare_for_inference(model: nn.Module) -> nn.Module:
    """Return a network made ready to predict: the same results but for rounding, in less time.

    Batch norms are folded into convolutions. On the CPU, in float32, maps are kept channels last: the channels of each
    position side by side, as oneDNN's convolutions compute. Training it further is not possible.

    Args:
        model: A detector or an ensemble in evaluation mode; it is changed. What cannot be fused is returned as it is.

    Returns:
        `model`.
    """
    fuse = getattr(model, "fuse", None)
    if not callable(fuse):
        return model
    fuse()
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32:
        return model
    for module in _own_modules(model):
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
            use_onednn(module)
    return model


def largest_stride(model: nn.Module) -> int:
    """Return the pixels of which a detector's or an ensemble's input sides are multiples.

    They are those per cell of the coarsest output map, and at least 32, as in v6.1: a backbone may go deeper than its
    head's levels, and joins maps of equal size only if its own coarsest map has whole cells.
    """
    return max(int(max(torch.as_tensor(model.stride).flatten().tolist())), LEAST_STRIDE)


def _own_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules outside blocks of plugins, which get contiguous maps: their code may ask for a view of one."""
    inside: set[nn.Module] = set()
    own = []
    for module in model.modules():
        if module in inside:
            continue
        if _is_own(module):
            own.append(module)
        else:
            inside.update(module.modules())
            module.register_forward_pre_hook(_make_contiguous)
    return own


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] in _OWN_CODE


def _make_contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_contiguous(value) for value in inputs)


def _contiguous(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.contiguous()
    return [_contiguous(one) for one in value] if isinstance(value, list) else value
