"""What the tests need to know of each attention block: one module here per module of models/attention.

Each holds `CASES`, a dict of registered name -> `BlockCase`. tests/models/attention/test_attention.py and its _numbers
run them all; a block that has no case fails there."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from models.recording import AppliedAttention
from models.registry import registered


@dataclass(frozen=True)
class Oracle:
    """A small instance and a slow, literal form of its equations: slow(block, x) in float64 and evaluation mode.

    channels: the width of the inputs it is compared on; sizes: their heights and widths; gradients: whether the
    gradients are compared too (where forward takes an exact short cut)."""

    build: Callable[[], nn.Module]
    slow: Callable[[nn.Module, Tensor], Tensor]
    channels: int
    sizes: Sequence[tuple[int, int]] = ((1, 1), (2, 3), (7, 5), (4, 9))
    gradients: bool = True


@dataclass(frozen=True)
class Golden:
    """A reference figure: the instance whose keys, shapes, parameter count and output are compared with it.

    to_map, from_map: turn the reference's input into (B, C, H, W) and the block's output into the reference's shape
    (a layout of tokens or channels last)."""

    build: Callable[[], nn.Module]
    to_map: Callable[[Tensor], Tensor] = lambda x: x
    from_map: Callable[[Tensor], Tensor] = lambda x: x


@dataclass(frozen=True)
class BlockCase:
    """What is known of one registered block.

    oracles: by a word that says what is special about each; counts: parameters by number of channels, from the
    closed form of the block's layers; args: its yaml arguments if they are not empty; golden: by the name of the
    reference figure; delayed: (ends of) names of parameters that receive no gradient on the first step -> the reason
    (what a gate that starts at zero gates; a bias that softmax ignores); flat: (ends of) names whose exact gradient
    is always zero -> the reason; spread: the reason why the output's spread at the start is not within [0.3, 3] of
    the input's; low_tolerance: mean relative error allowed in bfloat16; refused: constructor arguments (channels
    first) that cannot work -> a word of the error, which names those that can; rebuilt: the block's output
    recomputed from its input and from what it recorded, rebuilt(block, x, records), so that what is shown is what was
    applied."""

    oracles: Mapping[str, Oracle]
    counts: Mapping[int, int]
    args: Callable[[int], list[Any]] = lambda channels: []
    golden: Mapping[str, Golden] = field(default_factory=dict)
    delayed: Mapping[str, str] = field(default_factory=dict)
    flat: Mapping[str, str] = field(default_factory=dict)
    spread: str = ""
    low_tolerance: float = 0.05
    refused: Mapping[tuple, str] = field(default_factory=dict)
    rebuilt: Callable[[nn.Module, Tensor, Sequence[AppliedAttention]], Tensor] | None = None


def cases() -> dict[str, BlockCase]:
    """Return the case of every registered attention block; a block without one is left out."""
    found: dict[str, BlockCase] = {}
    for module in sorted({entry.module.rsplit(".", 1)[1] for entry in registered().values() if entry.attention}):
        try:
            found.update(importlib.import_module(f"blocks.{module}").CASES)
        except ModuleNotFoundError as error:
            if error.name != f"blocks.{module}":
                raise
    return found
