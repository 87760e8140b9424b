"""Milliseconds of each layer: the least of several passes, since what else a machine does only ever adds."""

import time

import torch
from torch import Tensor, nn

from models.graph.flops import Size, input_shape
from utils.device import synchronize
from utils.log import LOGGER
from utils.profile.components import Meter, Part, watched

ROUNDS = 10


def noise(model: nn.Module, size: Size, device: torch.device, batch: int = 1) -> Tensor:
    """Return images of random values 0..1, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(input_shape(model, size, batch), generator=generator).to(device, next(model.parameters()).dtype)


def part_times(model: nn.Module, device: torch.device, imgsz: Size = 640, rounds: int = ROUNDS) -> dict[Part, float]:
    """Return the milliseconds of each layer, and of the attention in it, in the fastest of `rounds` passes of one image in
    evaluation, after one to warm up. Each layer has its own fastest pass.
    """

    def now() -> float:
        synchronize(device)
        return time.perf_counter()

    training, image = model.training, noise(model, imgsz, device)
    passes: list[dict[Part, float]] = []
    with torch.inference_mode():
        model.eval()(image)
        for _ in range(rounds):
            meter = Meter(now)
            with watched(model, meter.enter, meter.leave):
                model(image)
            passes.append(meter.sums)
    model.train(training)
    return {part: 1000 * min(sums[part] for sums in passes) for part in passes[0]}


def layer_times(model: nn.Module, device: torch.device, imgsz: Size = 640, rounds: int = ROUNDS) -> list[float]:
    """Return the least milliseconds of each layer of `model.model`, as `part_times` measures them."""
    times = part_times(model, device, imgsz, rounds)
    return [times[index, False] for index in range(len(model.model))]


def log_layer_times(model: nn.Module, device: torch.device, imgsz: int = 640) -> None:
    """Log a table of the layers' times and parameters."""
    times = layer_times(model, device, imgsz)
    LOGGER.info(f"{'time (ms)':>10}{'params':>12}  module")
    for layer, milliseconds in zip(model.model, times):
        LOGGER.info(f"{milliseconds:10.2f}{layer.np:12d}  {layer.i} {layer.type}")
    LOGGER.info(f"{sum(times):10.2f}{'':12}  total at {imgsz} x {imgsz}")
