"""The memory that a training step takes, estimated on shapes: the batch of --batch-size -1, and the one that would fit.

Bytes are counted on tensors without data (utils.profile.memory), so the estimate is the same on the CPU and on a GPU,
and takes some seconds, whatever the size of the model. The scratch space of kernels and the gaps of the allocator are
not counted; a share of the free memory is left for them.
"""

from dataclasses import dataclass

import torch
from torch import nn

from models.graph.flops import copy_with_tensors
from models.inference import largest_stride
from utils.config import TrainConfig
from utils.device import amp_dtype
from utils.free_memory import available_memory
from utils.log import LOGGER
from utils.profile.memory import training_peak

SHARE = 0.8  # of the free memory that a training may plan with
LARGEST = 1024  # images in the batch of --batch-size -1, however small they are
_PROBES = 2, 4  # images; a straight line through two steps: the bytes of a step are one
_PREFETCHED = 2  # batches that each worker has ready
_CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes of a training: `fixed + per_image * batch`.

    Attributes:
        fixed: Weights, their average, gradients and the optimizer's state.
        per_image: Feature maps kept for the backward pass, and images that workers have ready.
        side: Side in pixels of the square input that was counted.
    """

    fixed: float
    per_image: float
    side: int

    def fitting(self, free: int) -> int:
        """Return the largest batch that takes at most SHARE of the free bytes; 0 if not even one image does."""
        return max(int((SHARE * free - self.fixed) / self.per_image), 0)

    def __str__(self) -> str:
        return (
            f"a step takes {self.fixed / 1e9:.2f} GB and {self.per_image / 1e9:.3f} GB per image of {self.side} pixels"
        )


def estimate_memory(model: nn.Module, config: TrainConfig, device: torch.device) -> MemoryEstimate:
    """Return the estimate of a training.

    Args:
        model: The network; it is not changed.
        config: The flags, with the image size resolved.
        device: Where it will train; mixed precision, and who holds the images of the workers, depend on it.

    Returns:
        The bytes of a step.
    """
    on_shapes = copy_with_tensors(model, lambda tensor: tensor.cpu()) if device.type != "cpu" else model
    stride = largest_stride(model)
    side = stride * round(1.5 * config.imgsz / stride) if config.multi_scale else config.imgsz  # the largest drawn
    amp = amp_dtype(device, config.amp, config.amp_type) is not None
    low, high = _PROBES
    at_low, at_high = (training_peak(on_shapes, side, images, amp) for images in _PROBES)
    per_image = (at_high - at_low) / (high - low)
    weights = sum(weight.nbytes for weight in model.parameters())
    copies = 2 if config.optimizer.startswith("Adam") else 1  # the average; Adam has a state more than SGD and Muon
    fixed = at_low - low * per_image + copies * weights
    if device.type == "cpu":
        per_image += _PREFETCHED * config.workers * 3 * side**2
    return MemoryEstimate(fixed, per_image, side)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a training on `device` can take, its own cached ones included; None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return available_memory()


def auto_batch_size(model: nn.Module, config: TrainConfig, device: torch.device, default: int = 16) -> int:
    """Return the largest batch whose training step is estimated to take SHARE of the free memory; logs how.

    Args:
        model: The network.
        config: The flags, with the image size resolved.
        device: Where it will train.
        default: Used if the system does not say how much memory is free.

    Returns:
        Images per batch, from 1 to LARGEST.
    """
    free = free_memory(device)
    if free is None:
        LOGGER.info(f"--batch-size -1: the system does not say how much memory is free: using {default}")
        return default
    estimate = estimate_memory(model, config, device)
    fitting = estimate.fitting(free)
    batch = min(max(fitting, 1), LARGEST)
    more = f" (the most; {fitting} would fit)" if fitting > LARGEST else ""
    LOGGER.info(
        f"--batch-size -1: {free / 1e9:.2f} GB are free on {device.type}, of which {SHARE:.0%} may be used; "
        f"{estimate}: using {batch}{more}"
    )
    if not fitting:
        LOGGER.warning("WARNING: --batch-size -1: not even one image fits by this estimate; lower --imgsz")
    return batch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory could not be had, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MESSAGES)


def advice_on_memory(model: nn.Module, config: TrainConfig, device: torch.device) -> str:
    """Return what to do after a training ran out of memory.

    Args:
        model: The network.
        config: The flags.
        device: Where it trained.

    Returns:
        The batch that fits by the estimate, and how it came to it.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    estimate, free = estimate_memory(model, config, device), free_memory(device)
    batch = smaller_batch(estimate, free, config.batch_size)
    known = "" if free is None else f", {free / 1e9:.2f} GB are free without it"
    return f"of --batch-size {config.batch_size} {batch} images fit by the estimate ({estimate}{known})"


def smaller_batch(estimate: MemoryEstimate, free: int | None, batch: int) -> int:
    """Return the batch to advise after one ran out of memory: what fits by the estimate, and less than that one.

    Args:
        estimate: Of the training.
        free: Bytes that are free now that the step is gone; None if unknown.
        batch: The batch that did not fit.

    Returns:
        Images, at least 1.
    """
    half = max(batch // 2, 1)
    fitting = half if free is None else estimate.fitting(free)
    return max(fitting, 1) if fitting < batch else half  # other programs took memory, or its gaps are too small
