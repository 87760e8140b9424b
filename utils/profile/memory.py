"""Bytes of tensors, counted on tensors without content: the same figure on a quiet and a busy machine, for a model
of any size.

torch's FakeTensorMode runs a model's operators as its device would, attention's fused kernels included, without
values; a dispatch mode notes each storage that comes and goes. Not counted is what is no tensor: kernels' scratch
space, the allocator's rounding, the libraries themselves. A block that looks at values is run for real.
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
from utils.profile.components import Part, watched

LEARNING_RATE, MOMENTUM = 0.01, 0.9
Result = TypeVar("Result")


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all storages that operators make while it is on. live: now; peak: the most since `restart`."""

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
        """Begin a new peak at what is alive now."""
        self.peak = self.live

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return output


def without_values(model: nn.Module, measure: Callable[[nn.Module], Result]) -> Result:
    """Return `measure(copy)` with tensors that have no content or, where a block needs content, with real ones.

    `measure` makes its tensors itself. Raises what a block raises on real tensors.
    """
    fake = FakeTensorMode()
    try:
        shapes = copy_with_tensors(model, lambda tensor: fake.from_tensor(tensor, static_shapes=True))
        with fake:
            return measure(shapes)
    except BLOCK_ERRORS:
        return measure(copy.deepcopy(model))


def inference_peak(model: nn.Module, size: Size, batch: int = 1) -> int:
    """Return the most bytes alive during a pass in evaluation without gradients: weights, images and maps."""

    def measure(model: nn.Module) -> int:
        with _everything(model.eval()) as live, torch.no_grad():
            model(_images(model, size, batch))
        return live.peak

    return without_values(model, measure)


def training_peak(model: nn.Module, size: Size, batch: int = 16, amp: bool = False) -> int:
    """Return the most bytes alive during one training step: weights, gradients, momentum, images and maps kept for backward.

    The loss is a stand-in, the mean of the raw maps, and the optimizer is SGD with momentum; amp: under autocast.
    """

    def measure(model: nn.Module) -> int:
        with _everything(model.train().requires_grad_()) as live:
            step(model, _images(model, size, batch), amp)
        return live.peak

    return without_values(model, measure)


def step(model: nn.Module, images: Tensor, amp: bool = False) -> None:
    """Train `model` by one step on the mean of its raw maps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    with torch.autocast(images.device.type) if amp else nullcontext():
        loss = sum(leaf.float().mean() for leaf in tree_leaves(model(images)))
    loss.backward()
    optimizer.step()


@contextmanager
def _everything(model: nn.Module) -> Iterator[LiveBytes]:
    """Follow all storages, those of the model's own tensors among them."""
    with LiveBytes() as live:
        for tensor in _own(model):
            live.add(tensor)
        yield live


def _own(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _images(model: nn.Module, size: Size, batch: int) -> Tensor:
    weight = next(model.parameters())
    return torch.zeros(input_shape(model, size, batch), dtype=weight.dtype, device=weight.device)


# ---- by layer ----


def live_at(model: nn.Module, size: Size) -> dict[Part, int]:
    """Return, for each part, the most bytes of maps alive while it runs on one image in evaluation: its own and those
    that later layers wait for; weights are left out.
    """

    def measure(model: nn.Module) -> dict[Part, int]:
        peaks: dict[Part, int] = {}
        running: set[Part] = set()

        def note() -> None:
            peaks.update({part: max(peaks.get(part, 0), live.peak) for part in running})
            live.restart()

        def enter(part: Part) -> None:
            note()
            running.add(part)

        def leave(part: Part, output: object) -> None:
            note()
            running.discard(part)

        known = {tensor.untyped_storage()._cdata for tensor in _own(model)}
        with LiveBytes() as live, torch.no_grad(), watched(model.eval(), enter, leave):
            live._sizes.update(dict.fromkeys(known, 0))  # views of weights are no maps
            model(_images(model, size, 1))
        return peaks

    return without_values(model, measure)


def kept_for_backward(model: nn.Module, size: Size) -> dict[Part, int]:
    """Return, for each part, the bytes that a training pass over one image keeps for backward.

    Each storage counts once, where it is first kept (which is often the layer that reads a map, not the one that
    made it); weights do not. A block that refuses a batch of one is given two, and half is returned.
    """

    def measure(model: nn.Module) -> dict[Part, int]:
        try:
            return _kept(model, size, 1)
        except BLOCK_ERRORS:
            return {part: count // 2 for part, count in _kept(model, size, 2).items()}

    return without_values(model, measure)


def _kept(model: nn.Module, size: Size, batch: int) -> dict[Part, int]:
    sums: dict[Part, int] = {}
    running: set[Part] = set()
    known: dict[int, UntypedStorage] = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _own(model)
    }

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = storage  # held, so that its place is not given to another
            for part in running:
                sums[part] = sums.get(part, 0) + storage.nbytes()
        return tensor

    def leave(part: Part, output: object) -> None:
        running.discard(part)

    images = _images(model, size, batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), watched(model, running.add, leave):
        model.train().requires_grad_()(images)
    return sums
