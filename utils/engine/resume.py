"""What a checkpoint's training must hold before it goes on: what does not fit ends in one line, not in the first step.

A fused optimizer step takes shapes and layouts for granted: with a file's own it would read and write beside its buffers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from utils.checkpoint import Checkpoint
from utils.checkpoint.archive import shown
from utils.errors import CheckpointError


@contextmanager
def restoring(source: str) -> Iterator[None]:
    """Turn what a training in the file `source` lacks, or has in another form, into one line that says so."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[min(1, len(lines) - 1)]  # the first of several is torch's title
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise CheckpointError(
            f"{source}: its training cannot be resumed: {shown(reason)}; --weights {source} starts a new one from it"
        ) from None


def check_classes(resumed: Checkpoint, count: int, file: object) -> None:
    """Raise CheckpointError where the data yaml has another number of classes than the training had."""
    if resumed.nc != count:
        raise CheckpointError(
            f"{resumed.source}: trained on {resumed.nc} classes, and {file} has {count} now; "
            f"--weights {resumed.source} starts a new training from it"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping) -> None:
    """Give an optimizer its saved state. Raises ValueError where that is of other parameters."""
    groups = saved["param_groups"]
    counts, expected = ([len(group["params"]) for group in each] for each in (groups, optimizer.param_groups))
    if counts != expected:
        raise ValueError(f"its optimizer has parameters in groups of {counts}, this program makes {expected}")
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape != (() if name == "step" else parameter.shape):
                raise ValueError(
                    f"its optimizer's {name} is {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                )
            if name != "step":
                state[name] = torch.empty_like(parameter.detach()).copy_(value)
