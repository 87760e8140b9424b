"""--batch-size -1: the largest batch that the device's memory holds."""

import copy

import torch
from torch import nn

from utils.log import LOGGER

DEFAULT_BATCH = 16
FRACTION = 0.9  # of the free memory that a training may plan with


def auto_batch_size(model: nn.Module, imgsz: int, device: torch.device, amp: bool) -> int:
    """Return the batch size whose training step would take FRACTION of the free CUDA memory.

    It follows a straight line through steps of 1, 2, 4 and 8 images.

    Args:
        model: The network; copies of it are run.
        imgsz: Side of the square network input in pixels.
        device: Where training will run.
        amp: Whether it will run in mixed precision.

    Returns:
        Images per batch, at least 1; 16 if the device is not CUDA.
    """
    if device.type != "cuda":
        LOGGER.info(f"--batch-size -1: memory is measured on CUDA only, using {DEFAULT_BATCH}")
        return DEFAULT_BATCH
    sizes = (1, 2, 4, 8)
    used = [_step_memory(model, size, imgsz, device, amp) for size in sizes]
    slope = (used[-1] - used[0]) / (sizes[-1] - sizes[0])
    free, total = torch.cuda.mem_get_info(device)
    batch = max(1, int((free * FRACTION - (used[0] - slope)) / slope)) if slope > 0 else DEFAULT_BATCH
    LOGGER.info(
        f"--batch-size -1: {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {slope / 1e9:.2f} GB per image: using {batch}"
    )
    return batch


def _step_memory(model: nn.Module, size: int, imgsz: int, device: torch.device, amp: bool) -> float:
    model = copy.deepcopy(model).to(device).train()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.autocast("cuda", enabled=amp):
        loss = sum(level.float().mean() for level in model(torch.zeros(size, 3, imgsz, imgsz, device=device)))
    loss.backward()
    return torch.cuda.max_memory_allocated(device) - before
