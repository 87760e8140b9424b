"""Milliseconds of each layer: the fastest of several passes, because disturbances can only add time."""

import time

import torch
from torch import Tensor, nn

from models.graph.flops import Size, input_shape
from utils.device import synchronize
from utils.log import LOGGER
from utils.profile import ROUNDS
from utils.profile.components import Component, ComponentSums, component_hooks, layers_of


def random_images(model: nn.Module, size: Size, device: torch.device, batch: int = 1) -> Tensor:
    """Return images of random values, the same at every call.

    Args:
        model: Decides the number of channels and the type.
        size: Side of square images in pixels, or (height, width).
        device: The images' device.
        batch: Number of images.

    Returns:
        (batch, C, H, W) floating point, 0..1.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.rand(input_shape(model, size, batch), generator=generator).to(device, next(model.parameters()).dtype)


def component_times(
    model: nn.Module, device: torch.device, imgsz: Size = 640, rounds: int = ROUNDS
) -> dict[Component, float]:
    """Return the time of each layer, and of the attention in it, for one image in evaluation mode.

    Args:
        model: On `device`.
        device: The model's device.
        imgsz: Side of a square image in pixels, or (height, width).
        rounds: Number of timed passes, after one to warm up. Each component has its own fastest pass.

    Returns:
        Milliseconds of the fastest pass.
    """

    def now() -> float:
        synchronize(device)
        return time.perf_counter()

    training, image = model.training, random_images(model, imgsz, device)
    passes: list[dict[Component, float]] = []
    with torch.inference_mode():
        model.eval()(image)
        for _ in range(rounds):
            counted = ComponentSums(now)
            with component_hooks(model, counted.enter, counted.leave):
                model(image)
            passes.append(counted.sums)
    model.train(training)
    return {component: 1000 * min(sums[component] for sums in passes) for component in passes[0]}


def layer_times(model: nn.Module, device: torch.device, imgsz: Size = 640, rounds: int = ROUNDS) -> list[float]:
    """Return the time of each layer, as `component_times` measures it.

    Args:
        model: On `device`.
        device: The model's device.
        imgsz: Side of a square image in pixels, or (height, width).
        rounds: Number of timed passes.

    Returns:
        Milliseconds of the fastest pass of each layer.
    """
    times = component_times(model, device, imgsz, rounds)
    return [times[index, False] for index in range(len(layers_of(model)))]


def log_layer_times(model: nn.Module, device: torch.device, imgsz: int = 640) -> None:
    """Log a table of the layers' times and parameters.

    Args:
        model: On `device`; its layers carry `i`, `type` and `np`.
        device: The model's device.
        imgsz: Side of a square image in pixels.
    """
    times = layer_times(model, device, imgsz)
    LOGGER.info(f"{'time (ms)':>10}{'params':>12}  module")
    for layer, milliseconds in zip(layers_of(model), times, strict=True):
        LOGGER.info(f"{milliseconds:10.2f}{layer.np:12d}  {layer.i} {layer.type}")
    LOGGER.info(f"{sum(times):10.2f}{'':12}  total at {imgsz} x {imgsz}")
