"""Devices: selection, transfer of images, timing and mixed precision."""

import contextlib
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from utils.errors import ConfigError
from utils.world import World, launch_command


def device_of(text: str, world: World) -> torch.device:
    """Return the device of a process among several: of `--device 0,1` each process of a host takes one.

    Args:
        text: `--device`; '' is every CUDA device or, without one, the CPU.
        world: The process's place.

    Returns:
        The device of this process.

    Raises:
        ConfigError: If there are not as many devices as processes on this host, or they do not exist.
    """
    if not world.is_several:
        return select_device(text)
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    if not names and torch.cuda.is_available():
        names = [str(index) for index in range(torch.cuda.device_count())]
    if names in ([], ["cpu"]):
        return torch.device("cpu")
    if len(names) < world.local_size or len(set(names)) < len(names) or "mps" in names:
        raise ConfigError(
            f"--device {text or ','.join(names)}: {world.local_size} processes on this host need a CUDA device each; "
            f"start {len(names)} with torchrun --nproc_per_node, or use --device cpu"
        )
    return select_device(names[world.local_rank])


def select_device(text: str = "") -> torch.device:
    """Return the device that a --device text names, as v6.1 reads it.

    "" is the first CUDA device or, without one, the CPU; "cpu", "mps", "0" and "cuda:1" name one. Raises ConfigError if
    it does not exist here, or if several are named.

    Example:
        >>> select_device("cpu")
        device(type='cpu')
    """
    name = str(text).strip().lower().removeprefix("cuda:")
    if "," in name:
        raise ConfigError(
            f"--device {text}: one process drives one device; name a single one such as --device 0, or train with "
            f"{launch_command(name.count(',') + 1, [*sys.argv[1:]] or ['--device', text])}"
        )
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("--device mps: this machine or this torch has no Metal device; use --device cpu")
        return torch.device("mps")
    if name in ("", "cuda"):
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        if name == "":
            return torch.device("cpu")
        name = "0"
    if not name.isdigit():
        raise ConfigError(f"--device {text}: expected cpu, mps or a CUDA device number such as 0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name) >= count:
        raise ConfigError(
            f"--device {text}: {count} CUDA devices are available here; use --device cpu to run without one"
        )
    return torch.device(f"cuda:{name}")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued; only timers call this."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def amp_dtype(device: torch.device, amp: bool | None, wanted: str = "auto") -> torch.dtype | None:
    """Return the type of mixed precision in which a training computes, None for float32 alone.

    Args:
        device: Where it runs.
        amp: `--amp` (True), `--no-amp` (False), or neither (None): where it is faster.
        wanted: `--amp-type`: "fp16", "bf16", or "auto", which is float16 as in v6.1.

    Returns:
        None on other devices than CUDA; on GPUs without matrix units for float16 (compute capability below 7.0) None
        unless `amp` is True.

    Raises:
        ConfigError: If the GPU does not compute in bfloat16 (compute capability below 8.0).
    """
    if amp is False or device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if wanted == "bf16":
        if capability < (8, 0):
            found = ".".join(map(str, capability))
            raise ConfigError(f"--amp-type bf16: needs compute capability 8.0, this GPU has {found}; use fp16")
        return torch.bfloat16
    return torch.float16 if amp or wanted == "fp16" or capability >= (7, 0) else None


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 in float32: no TF32, whose products keep 10 bits and which convolutions use by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Return a mixed-precision context for CUDA; on other devices it does nothing.

    Args:
        device: The model's device.
        dtype: The type of mixed precision, None for none.

    Returns:
        A context manager.
    """
    if dtype is not None and device.type == "cuda":
        return torch.autocast("cuda", dtype=dtype)
    return contextlib.nullcontext()


class Timer:
    """A stopwatch for `with` blocks: `seconds` adds up the time spent inside, queued work of `device` included."""

    def __init__(self, device: torch.device | None = None):
        self.device = device
        self.seconds = 0.0

    def __enter__(self):
        self._start = self._now()
        return self

    def __exit__(self, *_):
        self.seconds += self._now() - self._start

    def _now(self) -> float:
        if self.device is not None:
            synchronize(self.device)
        return time.perf_counter()


def network_input(images: Tensor, device: torch.device, half: bool = False) -> Tensor:
    """Return images as a network's input; bytes are transferred, not floats, and the memory format is kept.

    Args:
        images: (B, 3, H, W) uint8, 0..255.
        device: The network's device.
        half: Whether the result is float16 instead of float32.

    Returns:
        (B, 3, H, W) floating point, 0..1, on `device`.
    """
    images = images.to(device, non_blocking=True)
    return (images.half() if half else images.float()).div_(255)


def resize_long_side(images: Tensor, side: int | None, stride: int) -> Tensor:
    """Return images scaled so that their long side has `side` pixels.

    Args:
        images: (B, C, H, W) floating point.
        side: The new long side in pixels; None returns the images as they are.
        stride: Both new sides are rounded to multiples of it, at least one.

    Returns:
        (B, C, H', W').
    """
    if side is None or side == max(images.shape[2:]):
        return images
    height, width = images.shape[2:]
    scale = side / max(height, width)
    shape = [max(stride, round(length * scale / stride) * stride) for length in (height, width)]
    return functional.interpolate(images, size=shape, mode="bilinear", align_corners=False)
