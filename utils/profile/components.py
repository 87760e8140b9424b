"""The components of a model that are measured: its layers, and the attention in each of them."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from models.identity_start import IdentityStart
from models.mobilenet import SqueezeExcitation
from models.registry import registered

OPEN_GATE = 0.5
Component = tuple[int, bool]  # index of a layer, and whether only its attention is meant


def layers_of(model: nn.Module) -> nn.Sequential:
    """Return the layers of a model: its attribute `model`."""
    layers = model.model
    if not isinstance(layers, nn.Sequential):
        raise TypeError(f"layers_of: expected the layers in an nn.Sequential, got {type(layers).__name__}")
    return layers


def attention_modules(layer: nn.Module) -> list[nn.Module]:
    """Return the outermost attention modules of a layer, possibly the layer itself.

    They are blocks of the catalogue, a user's own blocks that keep their width, and the residual gate around either;
    torch's multi-head attention; and the gates inside MobileNetV3's blocks.
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
def component_hooks(
    model: nn.Module, enter: Callable[[Component], None], leave: Callable[[Component, object], None]
) -> Iterator[None]:
    """Register hooks around each pass through a layer and through its attention, for the length of a `with` block.

    Args:
        model: Its layers are in `model.model`.
        enter: Called with the component before its pass.
        leave: Called with the component and its output after its pass.

    Yields:
        Nothing.
    """
    with contextlib.ExitStack() as hooks:
        for index, layer in enumerate(layers_of(model)):
            for component, module in [
                ((index, False), layer),
                *(((index, True), inner) for inner in attention_modules(layer)),
            ]:
                before, after = _hooks(component, enter, leave)
                hooks.callback(module.register_forward_pre_hook(before).remove)
                # prepended, so that a layer that is attention itself is left last
                hooks.callback(module.register_forward_hook(after, prepend=True).remove)
        yield


def _hooks(
    component: Component, enter: Callable[[Component], None], leave: Callable[[Component, object], None]
) -> tuple[Callable, Callable]:
    def before(*_: object) -> None:
        enter(component)

    def after(module: nn.Module, inputs: object, output: object) -> None:
        leave(component, output)

    return before, after


class ComponentSums:
    """Adds up, for each component, the increase of a counter while the component runs.

    Attributes:
        read: Returns the counter.
        started: The counter when the component was entered.
        sums: The increase, by component.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.started: dict[Component, float] = {}
        self.sums: dict[Component, float] = {}

    def enter(self, component: Component) -> None:
        """Note the counter; for `component_hooks`."""
        self.started[component] = self.read()

    def leave(self, component: Component, output: object) -> None:
        """Add the increase of the counter; for `component_hooks`.

        Args:
            component: The component that has run.
            output: Its output, which is not used.
        """
        self.sums[component] = self.sums.get(component, 0) + self.read() - self.started[component]


def for_inference(model: nn.Module, open_gates: bool = True) -> nn.Module:
    """Return a fused copy of a model in evaluation mode.

    Args:
        model: Any model; one without `fuse` is only copied.
        open_gates: Fusing removes attention whose gate is zero, which training would open. With this, such gates are
            set to 0.5 first, so that the work of the block is measured.

    Returns:
        The copy.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if open_gates and isinstance(module, IdentityStart) and module.gate is not None and not module.gate.any():
            with torch.no_grad():
                module.gate.fill_(OPEN_GATE)
    fuse = getattr(model, "fuse", None)
    return fuse() if callable(fuse) else model
