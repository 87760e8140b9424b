"""The parts of a model that figures are given for: its layers, and the attention in each of them."""

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import nn

from models.identity_start import IdentityStart
from models.mobilenet import SqueezeExcitation
from models.registry import registered

OPEN_GATE = 0.5
Part = tuple[int, bool]  # number of a layer, and whether its attention alone is meant


def attention_parts(layer: nn.Module) -> list[nn.Module]:
    """Return the outermost modules of `layer`, itself perhaps, that are inserted attention: blocks of the catalogue, a
    user's own blocks that keep their width, the gate that starts either as the identity; torch's multi-head attention; and the
    gates inside MobileNetV3's blocks.
    """
    kinds = tuple(entry.cls for entry in registered().values() if entry.inserted)
    return list(_outermost(layer, (*kinds, IdentityStart, nn.MultiheadAttention, SqueezeExcitation)))


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    if isinstance(module, kinds):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, kinds)


@contextlib.contextmanager
def watched(model: nn.Module, enter: Callable[[Part], None], leave: Callable[[Part, object], None]) -> Iterator[None]:
    """Call `enter(part)` and `leave(part, output)` around each pass through a layer of `model.model` and its attention."""
    with contextlib.ExitStack() as hooks:
        for index, layer in enumerate(model.model):
            for part, module in [
                ((index, False), layer),
                *(((index, True), inner) for inner in attention_parts(layer)),
            ]:
                before, after = _hooks(part, enter, leave)
                hooks.callback(module.register_forward_pre_hook(before).remove)
                hooks.callback(
                    module.register_forward_hook(after, prepend=True).remove
                )  # a layer that is attention is left last
        yield


def _hooks(
    part: Part, enter: Callable[[Part], None], leave: Callable[[Part, object], None]
) -> tuple[Callable, Callable]:
    def before(*_: object) -> None:
        enter(part)

    def after(module: nn.Module, inputs: object, output: object) -> None:
        leave(part, output)

    return before, after


class Meter:
    """Adds up, for each part, how much a rising figure rises while the part runs."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.started: dict[Hashable, float] = {}
        self.sums: dict[Part, float] = {}

    def enter(self, part: Part) -> None:
        self.started[part] = self.read()

    def leave(self, part: Part, output: object) -> None:
        self.sums[part] = self.sums.get(part, 0) + self.read() - self.started[part]


def for_inference(model: nn.Module, open_gates: bool = True) -> nn.Module:
    """Return a fused copy of `model` in evaluation.

    Fusing leaves out attention whose gate is still zero, which a training would open: with `open_gates` such a
    gate is set to a half first, so that the work of the block is there to be measured.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if open_gates and isinstance(module, IdentityStart) and module.gate is not None and not module.gate.any():
            with torch.no_grad():
                module.gate.fill_(OPEN_GATE)
    return model.fuse() if callable(getattr(model, "fuse", None)) else model
