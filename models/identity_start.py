"""Attention that starts as nothing: x + g (f(x) - x) with a gate g a channel, which is zero at the start.

A fresh gate of one half damages pretrained features before it has learnt anything. Behind a zero gate the
network starts as the one its weights come from, to the last bit, and learns how much of the block it wants:
the idea of ReZero (arXiv 2003.04887, equation 1) and of layer scale (arXiv 2103.17239, equation 4), with the
difference to the input gated, so that g = 1 is the block as published.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

STARTS = ("plain", "identity")


class IdentityStart(nn.Module):
    """IdentityStart(block, channels): (B, channels, H, W) to the same shape, x + gate * (block(x) - x).

    `gate` (channels,) is a parameter without weight decay. On the first step it alone gets a gradient, the
    block gets its own from the second on.
    """

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.block(x)
        if attended.shape != x.shape:
            raise ValueError(
                f"turns {tuple(x.shape)} into {tuple(attended.shape)}, so it cannot start as the identity; "
                f"use attention_start: plain"
            )
        if self.gate is None:
            return attended
        return x + self.gate.view(-1, 1, 1) * (attended - x)

    def strength(self) -> float:
        """Mean |gate|: 0 is no attention at all, 1 about the block as published."""
        if self.gate is None:
            return 0.0 if isinstance(self.block, nn.Identity) else 1.0
        return float(self.gate.detach().abs().mean())

    def fuse(self) -> None:
        """For inference, leave out what a gate of all zeros or all ones makes superfluous: the block, or the mixing."""
        if self.gate is None:
            return
        if not self.gate.any():
            self.block, self.gate = nn.Identity(), None
        elif bool((self.gate == 1).all()):
            self.gate = None


class OpensItself(nn.Module):
    """A block that starts as the identity as it is published: behind a second zero gate neither would ever open.

    `opens_by` names the parameter that is zero at the start, which takes the gate's place.
    """

    opens_by: ClassVar[str]
    is_watched = False

    def start_as_identity(self) -> None:
        """Change nothing but that `strength` is told among the gates'."""
        self.is_watched = True

    def strength(self) -> float:
        """Mean magnitude of the parameter that opens the block: 0 is no attention at all."""
        return float(self.get_parameter(self.opens_by).detach().abs().mean())


@contextmanager
def fork_rng(number: int = 0) -> Iterator[None]:
    """Draw what is drawn inside from a stream of its own, of the seed and `number`, which moves the outer one by nothing.

    Inserted attention is built in it, so that with one seed all other layers start with the same numbers whatever was
    inserted: variants differ by their attention, not by their heads' chance starts.
    """
    outer = torch.get_rng_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), device="cpu")) + number)
    try:
        yield
    finally:
        torch.set_rng_state(outer)


def gate_strengths(model: nn.Module) -> dict[str, float]:
    """Return mean |gate| of each block that started as the identity, by layer and name, such as "9.CBAM" or
    "4.m.0.CBAM" inside a C3. The model is one that learns: `fuse` folds away what would tell.
    """
    found = {}
    for name, module in model.named_modules():
        path = name.removeprefix("model.").removesuffix(".attention")
        if isinstance(module, IdentityStart):
            found[f"{path}.{type(module.block).__name__}"] = module.strength()
        elif isinstance(module, OpensItself) and module.is_watched:
            found[f"{path}.{type(module).__name__}"] = module.strength()
    return found


def started_as_identity(layer: nn.Module, channels_in: int, channels_out: int) -> nn.Module:
    """Return an attention layer behind a zero gate, or as it is where it changes the width. A layer that holds
    attention inside does it there: it has a method `start_as_identity`.
    """
    if hasattr(layer, "start_as_identity"):
        layer.start_as_identity()
        return layer
    return IdentityStart(layer, channels_in) if channels_in == channels_out else layer
