"""Bytes of tensors, counted on tensors without data: the same number on any machine, for a model of any size.

torch's FakeTensorMode runs a model's operators as its device would, fused attention kernels included, without values; a
dispatch mode counts each storage that is allocated or freed. Only tensors are counted, not the scratch space of
kernels, the rounding of the allocator, or the libraries. A block that reads values is run on real data.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import finalize

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.graph.flops import Size, copy_with_tensors, input_shape
from models.registry import BLOCK_ERRORS
from utils.profile.components import Component, component_hooks

LEARNING_RATE, MOMENTUM = 0.01, 0.9
Result = TypeVar("Result")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operators allocate while the mode is on.

    Attributes:
        live: Bytes alive now.
        peak: Most bytes alive since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Count the tensor's storage from now until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += self._sizes[key]
            self.peak = max(self.peak, self.live)
            finalize(storage, self._drop, key).atexit = False

    def restart(self) -> None:
        """Set the peak to the bytes alive now."""
        self.peak = self.live

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return output


def measure_on_shapes(model: nn.Module, measure: Callable[[nn.Module], Result]) -> Result:
    """Return a measurement of a copy of a model on tensors without data, or on real ones if a block reads values.

    An exception that a block raises on real tensors is passed on.

    Args:
        model: Is not changed.
        measure: Called with the copy; creates its inputs itself.

    Returns:
        What `measure` returns.
    """
    fake = FakeTensorMode()
    try:
        shapes = copy_with_tensors(model, lambda tensor: fake.from_tensor(tensor, static_shapes=True))
        with fake:
            return measure(shapes)
    except BLOCK_ERRORS:
        return measure(copy.deepcopy(model))


def inference_peak(model: nn.Module, size: Size, batch: int = 1) -> int:
    """Return the most bytes alive during a pass in evaluation mode without gradients: weights, images and feature maps.

    Args:
        model: Is not changed.
        size: Side of square images in pixels, or (height, width).
        batch: Number of images.

    Returns:
        Bytes.
    """

    def measure(model: nn.Module) -> int:
        with _count_all(model.eval()) as live, torch.no_grad():
            model(_images(model, size, batch))
        return live.peak

    return measure_on_shapes(model, measure)


def training_peak(model: nn.Module, size: Size, batch: int = 16, amp: bool = False) -> int:
    """Return the most bytes alive during one training step.

    They are weights, gradients, momentum, images and feature maps saved for backward. The loss is the mean of the raw
    maps, the optimizer SGD with momentum.

    Args:
        model: Is not changed.
        size: Side of square images in pixels, or (height, width).
        batch: Number of images.
        amp: Whether the forward pass runs under autocast.

    Returns:
        Bytes.
    """

    def measure(model: nn.Module) -> int:
        with _count_all(model.train().requires_grad_()) as live:
            train_step(model, _images(model, size, batch), amp)
        return live.peak

    return measure_on_shapes(model, measure)


def train_step(model: nn.Module, images: Tensor, amp: bool = False) -> None:
    """Train a model by one step of SGD with momentum on the mean of its raw maps.

    Args:
        model: In training mode.
        images: (B, C, H, W) floating point on the model's device.
        amp: Whether the forward pass runs under autocast.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    with torch.autocast(images.device.type) if amp else nullcontext():
        loss = sum(leaf.float().mean() for leaf in tree_leaves(model(images)))
    loss.backward()
    optimizer.step()


@contextmanager
def _count_all(model: nn.Module) -> Iterator[LiveBytes]:
    """Count all storages, those of the model's own tensors included."""
    with LiveBytes() as live:
        for tensor in _own_tensors(model):
            live.add(tensor)
        yield live


def _own_tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _images(model: nn.Module, size: Size, batch: int) -> Tensor:
    weight = next(model.parameters())
    return torch.zeros(input_shape(model, size, batch), dtype=weight.dtype, device=weight.device)


# ---- per layer ----


def live_in_inference(model: nn.Module, size: Size) -> dict[Component, int]:
    """Return the most bytes of feature maps alive while each component runs on one image in evaluation mode.

    They are its own maps and those that later layers need; weights are not counted.

    Args:
        model: Is not changed.
        size: Side of a square image in pixels, or (height, width).

    Returns:
        Bytes by component.
    """

    def measure(model: nn.Module) -> dict[Component, int]:
        peaks: dict[Component, int] = {}
        running: set[Component] = set()

        def update_peaks() -> None:
            peaks.update({component: max(peaks.get(component, 0), live.peak) for component in running})
            live.restart()

        def enter(component: Component) -> None:
            update_peaks()
            running.add(component)

        def leave(component: Component, output: object) -> None:
            update_peaks()
            running.discard(component)

        known = {tensor.untyped_storage()._cdata for tensor in _own_tensors(model)}
        with LiveBytes() as live, torch.no_grad(), component_hooks(model.eval(), enter, leave):
            live._sizes.update(dict.fromkeys(known, 0))  # views of weights are not feature maps
            model(_images(model, size, 1))
        return peaks

    return measure_on_shapes(model, measure)


def kept_for_backward(model: nn.Module, size: Size) -> dict[Component, int]:
    """Return the bytes that each component saves for backward in a training pass over one image.

    Each storage counts once, at the layer that first saves it (often the layer that reads a map, not the one that
    computed it); weights do not count. If a block refuses a batch of one, two images are used, and half the bytes are
    returned.

    Args:
        model: Is not changed.
        size: Side of a square image in pixels, or (height, width).

    Returns:
        Bytes by component.
    """

    def measure(model: nn.Module) -> dict[Component, int]:
        try:
            return _kept(model, size, 1)
        except BLOCK_ERRORS:
            return {component: count // 2 for component, count in _kept(model, size, 2).items()}

    return measure_on_shapes(model, measure)


def _kept(model: nn.Module, size: Size, batch: int) -> dict[Component, int]:
    sums: dict[Component, int] = {}
    running: set[Component] = set()
    known: dict[int, UntypedStorage] = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _own_tensors(model)
    }

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = storage  # held, so that its address is not used again
            for component in running:
                sums[component] = sums.get(component, 0) + storage.nbytes()
        return tensor

    def leave(component: Component, output: object) -> None:
        running.discard(component)

    images = _images(model, size, batch)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        component_hooks(model, running.add, leave),
    ):
        model.train().requires_grad_()(images)
    return sums
