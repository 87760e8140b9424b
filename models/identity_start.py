"""Identity start: a block behind a zero-initialized residual gate, x + g (f(x) - x) with a gate g per channel.

A fresh gate of one half damages pretrained features before it has learned anything. Behind a gate of zero the network
starts as the one its weights come from, to the last bit, and learns how much of the block it wants: the idea of ReZero
(arXiv 2003.04887, equation 1) and of LayerScale (arXiv 2103.17239, equation 4), with the difference to the input gated,
so that g = 1 is the block as published.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.recording import is_recording, record

STARTS = ("plain", "identity")


@runtime_checkable
class StartsAsIdentity(Protocol):
    """A layer that makes itself, or the attention inside it, start as the identity."""

    def start_as_identity(self) -> None:
        """Change the layer, which is freshly built, so that its attention starts as the identity."""


class IdentityStart(nn.Module):
    """A block behind a residual gate, x + gate * (block(x) - x): (B, channels, H, W) to the same shape.

    `gate` (channels,) is a parameter that starts at zero and has no weight decay. On the first step it alone gets a
    gradient, the block gets its own from the second on.

    Args:
        block: Keeps shape and channels of its input.
        channels: Channels of the map.
    """

    block: nn.Module
    gate: nn.Parameter | None

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.block(x)
        if attended.shape != x.shape:
            raise ValueError(
                f"maps {tuple(x.shape)} to {tuple(attended.shape)}, so it cannot start as the identity; "
                f"use attention_start: plain"
            )
        if self.gate is None:
            return attended
        gate = self.gate.view(-1, 1, 1)
        if is_recording():
            label = f"identity start: gate of what {type(self.block).__name__} changes"
            record(self, "gate", label, gate.expand(x.shape[0], -1, 1, 1), x.shape[2:])
        return x + gate * (attended - x)

    def strength(self) -> float:
        """Return the mean |gate|: 0 is no attention at all, 1 about the block as published."""
        if self.gate is None:
            return 0.0 if isinstance(self.block, nn.Identity) else 1.0
        return float(self.gate.detach().abs().mean())

    def fuse(self) -> None:
        """For inference, remove what a gate of all zeros or all ones makes superfluous: the block, or the mixing."""
        if self.gate is None:
            return
        if not self.gate.any():
            self.block, self.gate = nn.Identity(), None
        elif bool((self.gate == 1).all()):
            self.gate = None


class ZeroInitResidual(nn.Module):
    """Base of blocks that start as the identity as published: behind a second zero gate neither would ever open.

    Attributes:
        gate_parameter: Name of the zero-initialized parameter that opens the block in place of a gate.
        reports_strength: Whether `gate_strengths` lists the block.
    """

    gate_parameter: str
    reports_strength: bool = False

    def start_as_identity(self) -> None:
        """Change nothing but that `strength` is reported among the gates'."""
        self.reports_strength = True

    def strength(self) -> float:
        """Return the mean magnitude of the parameter that opens the block: 0 is no attention at all."""
        return float(self.get_parameter(self.gate_parameter).detach().abs().mean())


@contextmanager
def fork_rng(offset: int = 0) -> Iterator[None]:
    """Fork torch's CPU generator: inside, it is seeded by its own next number plus `offset`; afterwards it is restored.

    Inserted attention is built in it, so that with one seed all other layers start with the same numbers whatever was
    inserted: variants differ by their attention, not by their heads' random starts.
    """
    outer = torch.get_rng_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), device="cpu")) + offset)
    try:
        yield
    finally:
        torch.set_rng_state(outer)


def gate_strengths(model: nn.Module) -> dict[str, float]:
    """Return the mean |gate| of each block that started as the identity, by layer and name.

    Names are such as "9.CBAM", or "4.m.0.CBAM" inside a C3. The model must not be fused: `fuse` removes gates.
    """
    found = {}
    for name, module in model.named_modules():
        path = name.removeprefix("model.").removesuffix(".attention")
        if isinstance(module, IdentityStart):
            found[f"{path}.{type(module.block).__name__}"] = module.strength()
        elif isinstance(module, ZeroInitResidual) and module.reports_strength:
            found[f"{path}.{type(module).__name__}"] = module.strength()
    return found


def apply_identity_start(layer: nn.Module, channels_in: int, channels_out: int) -> nn.Module:
    """Return an attention layer that starts as the identity, or the layer unchanged if it changes the width.

    A layer that has a method `start_as_identity` does it itself; others are put behind a zero-initialized gate.

    Args:
        layer: The layer as it was built.
        channels_in: Channels that arrive.
        channels_out: Channels that leave.

    Returns:
        The layer, or an `IdentityStart` around it.
    """
    if isinstance(layer, StartsAsIdentity):
        layer.start_as_identity()
        return layer
    return IdentityStart(layer, channels_in) if channels_in == channels_out else layer
