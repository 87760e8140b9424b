"""The exponential moving average of a model's weights: what is validated, saved and used."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Slots = list[tuple[Any, str]]  # a module's dictionary of parameters or buffers, and a name in it


DECAY = 0.9999  # limit of the share that an update keeps; v6.1's
TAU = 2000  # updates; v6.1's


def averaged_updates(share: float | None, steps: int) -> float | None:
    """Return over how many updates an average reaches that is to reach over a share of a training.

    v6.1's formula does not do for this: of 500 updates its average holds the last one or two, and with a smaller `tau`
    its share still rises to 0.9999, so that the average is as good as frozen before the training ends.

    Args:
        share: Of the training's optimizer steps; None for v6.1's formula.
        steps: Optimizer steps of the training.

    Returns:
        Updates, at least 1 and at most 1 / (1 - 0.9999) = 10,000; None for v6.1's formula.
    """
    return None if share is None else min(max(share * steps, 1.0), 1 / (1 - DECAY))


class ModelEMA:
    """Keeps `module`, a frozen copy of a model in evaluation mode, whose tensors follow the model's.

    After update t a floating-point tensor of the state dict becomes d * average + (1 - d) * model with
    d = decay * (1 - exp(-t / tau)): a young average follows quickly. With `reach` d is 1 - 1 / min(reach, t / 2)
    instead, and 0 for t < 2: the mean age of what is averaged is `reach` - 1 updates once t is some times as many, and
    about a third of all updates before. Other tensors (batch norm's counter) are copied. To resume, load `module`'s
    state dict and set `updates`.

    Args:
        model: What to follow; a data-parallel wrapper is unwrapped.
        decay: Limit of d.
        tau: Updates after which d has reached 63 % of its limit.
        updates: Updates made so far.
        reach: Updates that are averaged, at least 1; None for the formula of `decay` and `tau`.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = DECAY,
        tau: float = TAU,
        updates: int = 0,
        reach: float | None = None,
    ):
        self.decay_limit, self.tau, self.updates, self.reach = decay, tau, updates, reach
        self.module = copy.deepcopy(_unwrapped(model)).eval().requires_grad_(False)

    def decay(self, updates: int) -> float:
        """Return the share of the average that the update of this count keeps."""
        if self.reach is not None:
            return 1 - 1 / max(min(self.reach, updates / 2), 1)
        return self.decay_limit * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model. Call it after an optimizer step.

        The tensors are handled as whole lists: on a GPU a few launches, not two for each tensor.
        """
        self.updates += 1
        averaged, copied = sorted_tensors(self.module, model)
        if averaged.ours:
            torch._foreach_lerp_(averaged.ours, averaged.theirs, 1 - self.decay(self.updates))
        if copied.ours:
            torch._foreach_copy_(copied.ours, copied.theirs)


@dataclass
class TensorPairs:
    """Tensors of an average, and those of the model that it follows."""

    ours: list[Tensor] = field(default_factory=list)
    theirs: list[Tensor] = field(default_factory=list)


def sorted_tensors(average: nn.Module, model: nn.Module) -> tuple[TensorPairs, TensorPairs]:
    """Return the tensors of two state dicts as whole lists.

    Args:
        average: A copy of the model.
        model: What it follows; a data-parallel wrapper is unwrapped.

    Returns:
        Those to be averaged, which are floating-point, and those to be copied, such as batch norm's counter.
    """
    averaged, copied = TensorPairs(), TensorPairs()
    for (ours, name), (theirs, _) in zip(_slots(average), _slots(_unwrapped(model)), strict=True):
        pairs = averaged if ours[name].is_floating_point() else copied
        pairs.ours.append(ours[name])
        pairs.theirs.append(theirs[name])
    return averaged, copied


def _unwrapped(model: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def _slots(model: nn.Module) -> Slots:
    """Where each tensor of the model's state dict is held, in its order; a tenth of what state_dict() takes."""
    slots: Slots = []
    for module in model.modules():
        slots += [(module._parameters, name) for name, value in module._parameters.items() if value is not None]
        slots += [
            (module._buffers, name)
            for name, value in module._buffers.items()
            if value is not None and name not in module._non_persistent_buffers_set
        ]
    return slots
