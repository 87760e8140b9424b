"""Finds where a number stopped being finite: the first layer, or the first gradient."""

import torch
from torch import Tensor, nn


def _tensors(output: object):
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)


def _finite(output: object) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output) if tensor.is_floating_point())


@torch.no_grad()
def describe_outputs(model: nn.Module, images: Tensor) -> str:
    """Return where the forward pass stops being finite, found by running it once more.

    Args:
        model: The network.
        images: Its input, (B, 3, H, W).

    Returns:
        The first module whose output is not finite, or the first such parameter, or that the loss alone is at fault.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weight {name} is not finite"
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():

        def inspect(module, inputs, output, name=name):
            # a module's hook runs when it is done, so the first that fires is the earliest place
            if not found and not _finite(output):
                place = f"{name or 'the model'} ({type(module).__name__})"
                if not _finite(inputs):  # its input was spoilt by arithmetic outside any module
                    place = f"{name.rpartition('.')[0] or 'the model'}, in its own arithmetic before {place}"
                found.append(f"the first layer whose output is not finite is {place}")

        handles.append(module.register_forward_hook(inspect))
    try:
        if not _finite(images):
            return "the input images hold numbers that are not finite"
        outputs = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    return "every layer's output is finite" if _finite(outputs) else "the model's output is not finite"


def describe_gradients(model: nn.Module) -> str:
    """Return the name of the first parameter whose gradient is not finite."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name} is not finite"
    return "the norm of all gradients is not finite"


def all_finite(model: nn.Module) -> bool:
    """Return whether every floating-point parameter and buffer is finite."""
    return all(
        bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values() if tensor.is_floating_point()
    )
