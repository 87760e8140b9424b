"""Builders of every registered attention block, for tests that run over the registry."""

import torch

import models.attention  # noqa: F401 - fills the registry
from blocks import cases
from models.registry import Scale, find, registered

BLOCKS = sorted(name for name, entry in registered().items() if entry.attention)
CASES = cases()


def build_arguments(name, channels):
    """The constructor's arguments for a row of the case's yaml arguments and `channels` input channels."""
    plan = find(name).wiring([channels], 1, Scale(), CASES[name].args(channels))
    assert plan.channels_out == channels
    return plan.args


def build(name, channels=32):
    arguments = build_arguments(name, channels)
    torch.manual_seed(0)
    return find(name).cls(*arguments)


def image(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def opened(block):
    """The block with every parameter moved, so that no gate at zero hides the layers before it."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * image(*parameter.shape, seed=3))
    return block


def randomised(block, seed=5):
    """The block in float64 with random parameters and running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    block = block.double().eval()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else 0.5 * drawn)
    return block
