"""Devices: choosing one, bringing images to one, timing on one, and mixed precision on one."""

import contextlib
import time

import torch
from torch import Tensor
from torch.nn import functional

from utils.errors import ConfigError


def select_device(text: str = "") -> torch.device:
    """Return the device that v6.1's --device text names.

    "" is the first CUDA device or, without one, the CPU; "cpu", "mps", "0", "cuda:1"
    name one. Raises ConfigError when it is not there, or when several are named.
    """
    name = str(text).strip().lower().removeprefix("cuda:")
    if "," in name:
        raise ConfigError(f"--device {text}: one process drives one device; name a single one such as --device 0")
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


def autocast(device: torch.device, enabled: bool):
    """Return a mixed-precision context for CUDA, and one that does nothing elsewhere."""
    if enabled and device.type == "cuda":
        return torch.autocast("cuda")
    return contextlib.nullcontext()


class Timer:
    """A stopwatch to use in `with`: adds up the seconds spent inside, device work included."""

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
    """Return (B, 3, H, W) uint8 0..255 as floating point 0..1 on `device`.

    The bytes travel, not the floats; memory order (channels last) is kept.
    """
    images = images.to(device, non_blocking=True)
    return (images.half() if half else images.float()).div_(255)


def resized(images: Tensor, side: int | None, stride: int) -> Tensor:
    """Return the batch scaled so that its long side measures `side` pixels, both sides rounded to
    multiples of `stride` (None: as it is).
    """
    if side is None or side == max(images.shape[2:]):
        return images
    height, width = images.shape[2:]
    scale = side / max(height, width)
    shape = [max(stride, round(length * scale / stride) * stride) for length in (height, width)]
    return functional.interpolate(images, size=shape, mode="bilinear", align_corners=False)
