"""One pass of a network with gradients of a detection's score at the maps of some layers.

The network stays as it was: its parameters get no gradient, whether they are frozen or not, because the graph starts at
the image; hooks are removed; nothing else is touched. A map is kept as it leaves its layer and handed on as a copy, so
that a later operation in place cannot change what was kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from utils.errors import ConfigError
from utils.heatmaps.cam_methods import activation_map, needs_gradients
from utils.heatmaps.detection_target import HeatTarget
from utils.heatmaps.map_layers import MapLayer


@contextmanager
def kept_maps(model: nn.Module, layers: Sequence[MapLayer]) -> Iterator[dict[str, Tensor]]:
    """Keep the maps that leave some layers while the context is open.

    Args:
        model: The network.
        layers: Which layers.

    Yields:
        Path of the layer -> its map (B, C, H, W); of a layer that runs several times, the last.
    """
    maps: dict[str, Tensor] = {}
    hooks = []
    try:
        for layer in layers:
            hooks.append(model.get_submodule(layer.path).register_forward_hook(_keep(maps, layer)))
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _keep(maps: dict[str, Tensor], layer: MapLayer) -> Callable[[nn.Module, object, object], Tensor]:
    def keep(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"--layer {layer.name}: its output is no map (1, C, H, W), got {shape}")
        maps[layer.path] = output
        return output.clone()

    return keep


def target_gradients(
    model: nn.Module, image: Tensor, target: HeatTarget, layers: Sequence[MapLayer]
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Return the score of a target, the maps of layers, and the score's gradients at them.

    Args:
        model: A detector in evaluation mode.
        image: (1, 3, H, W) of values 0..1.
        target: What is explained.
        layers: Which layers.

    Returns:
        The score; path -> (C, H, W) map; path -> (C, H, W) gradients, all zero if the score does not depend on the map.
    """
    if model.training:
        raise ValueError("expected a network in evaluation mode")
    with torch.inference_mode(False), torch.enable_grad():
        source = image.detach().clone().requires_grad_(True)
        with kept_maps(model, layers) as maps:
            score = target.score(model(source)[0])
        missing = next((layer for layer in layers if layer.path not in maps), None)
        if missing:
            raise ConfigError(f"--layer {missing.name}: is not called in a pass; name the layer that it is part of")
        paths = list(maps)
        gradients = torch.autograd.grad(score, [maps[path] for path in paths], allow_unused=True)
    known = {
        path: torch.zeros_like(maps[path][0]) if gradient is None else gradient[0]
        for path, gradient in zip(paths, gradients, strict=True)
    }
    return float(score.detach()), {path: maps[path].detach()[0] for path in paths}, known


def layer_maps(
    model: nn.Module, image: Tensor, target: HeatTarget, layers: Sequence[MapLayer], method: str
) -> list[Tensor]:
    """Return the heat map of each layer for a target.

    Args:
        model: A detector in evaluation mode.
        image: (1, 3, H, W) of values 0..1.
        target: What is explained.
        layers: Which layers.
        method: One of `CAM_METHODS`.

    Returns:
        One (h, w) float64 per layer on the CPU, at least 0, in the method's own unit.
    """
    if needs_gradients(method):
        _, maps, gradients = target_gradients(model, image, target, layers)
        return [activation_map(method, maps[layer.path], gradients[layer.path]).cpu() for layer in layers]
    with torch.no_grad(), kept_maps(model, layers) as kept:
        model(image)
    return [activation_map(method, kept[layer.path][0], None).cpu() for layer in layers]
