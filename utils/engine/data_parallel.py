"""One network in several processes: torch's DistributedDataParallel around the training pass, and what it must know."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.norms import synchronize_batch_norm
from utils.log import LOGGER
from utils.processes import Processes

FEW_IMAGES = 8  # per process, below which its own batch norm statistics are noisy


def wrap(model: nn.Module, processes: Processes, imgsz: int) -> DistributedDataParallel | None:
    """Return the model as the training pass of several processes runs it, None if there is only one.

    All processes start from the first one's tensors. Unused parameters are looked for in every step only if a pass
    finds some: a step that skips a parameter unannounced leaves the gradients of the others un-averaged.

    Args:
        model: The network, on its device.
        processes: Those that train together.
        imgsz: Side of the network input in pixels, for that pass.

    Returns:
        The wrapper, for the training pass only: what else needs the network takes the model itself.
    """
    if not processes.is_several:
        return None
    unused = unused_parameters(model, imgsz)
    has_unused = bool(processes.agree(int(bool(unused))))
    if has_unused:
        LOGGER.info(f"find_unused_parameters: {len(unused)} parameters get no gradient, the first is {unused[0]}")
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None, find_unused_parameters=has_unused
    )


def unused_parameters(model: nn.Module, imgsz: int) -> list[str]:
    """Return the trainable parameters that a training pass gives no gradient; the model and torch's generator stay.

    Args:
        model: The network.
        imgsz: Side of the input in pixels.

    Returns:
        Their names.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        trial = copy.deepcopy(model).train()
        outputs = trial(torch.zeros(2, 3, imgsz, imgsz, device=device))
        torch.stack([output.float().sum() for output in _tensors(outputs)]).sum().backward()
    return [name for name, each in trial.named_parameters() if each.requires_grad and each.grad is None]


def _tensors(outputs: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def prepare_batch_norm(model: nn.Module, processes: Processes, is_synced: bool, batch_size: int) -> None:
    """Make batch norm global if asked for, else warn if a process has few images for its own statistics.

    Args:
        model: The network; its layers are replaced, its tensors stay.
        processes: Those that train together.
        is_synced: `--sync-bn`.
        batch_size: Images per batch of all processes.
    """
    if not processes.is_several:
        return
    if is_synced:
        LOGGER.info(f"--sync-bn: {synchronize_batch_norm(model)} batch norms share their statistics")
        return
    own = batch_size // processes.world.size
    if own < FEW_IMAGES:
        LOGGER.warning(
            f"WARNING: batch norm sees {own} images per process, and the running statistics are those of the first "
            f"process alone; --sync-bn shares them, --batch-size {FEW_IMAGES * processes.world.size} gives each "
            f"process {FEW_IMAGES}"
        )


def own_generators(processes: Processes, seed: int, step: int) -> None:
    """Give each process but the first random numbers of its own, for dropout.

    Args:
        processes: Those that train together.
        seed: `--seed`.
        step: Where the training starts.
    """
    if not processes.is_first:
        sequence = np.random.SeedSequence([seed, processes.world.rank, step])
        torch.manual_seed(int(sequence.generate_state(1, np.uint32)[0]))
