"""Heat maps for the page: one detection's map as a transparent image that lies over the original."""

import base64

import cv2
import numpy as np

from models.yolo import Model
from utils.config import PredictOptions
from utils.config.heatmap_options import CAM_METHODS
from utils.engine.heat_map_maker import HeatResult, HeatSource, make_heat_maps
from utils.errors import nearest
from utils.heatmaps.detection_target import TargetChoice
from utils.heatmaps.map_layers import find_layers
from utils.heatmaps.placement import normalized, on_image
from utils.plots.heat_figures import COLORMAP
from utils.serve.answers import HeatMapImage
from utils.serve.served_models import ServedModel
from utils.serve.uploads import UploadError

_SIDE = 960  # pixels: the long side of the overlay


def heat_overlay(
    model: ServedModel, image: np.ndarray, options: PredictOptions, method: str, layer: str, box: int
) -> HeatMapImage:
    """Return the heat map of one detection.

    Args:
        model: The model.
        image: (H, W, 3) uint8 RGB.
        options: Size of the network input and thresholds.
        method: One of `CAM_METHODS`.
        layer: As `--layer` of heatmap.py; "" takes the default.
        box: Which detection, 1 being the most confident.

    Returns:
        The overlay and what it shows.

    Raises:
        UploadError: If the model is an exported file, the method is unknown, or nothing is found.
        ConfigError: If there is no such layer.
    """
    if method not in CAM_METHODS:
        raise UploadError(f"method: unknown {method[:60]!r}{nearest(method, CAM_METHODS)}", 422)
    network = model.predictor.model
    if not isinstance(network, Model):
        raise UploadError(f"{model.name} is an exported file, which has no layers: serve its checkpoint", 422)
    layers = tuple(find_layers(network, [layer])) if layer else ()
    source = HeatSource(model.predictor, model.name, model.path, layers)
    result = make_heat_maps(source, image, options, TargetChoice("box", box), method)
    if not result.maps:
        raise UploadError(f"detection {box}: {len(result.found)} are found at this confidence", 422)
    return HeatMapImage(
        model=model.name,
        method=method,
        layer=result.final.title,
        target=result.target_title(),
        maximum=result.final.peak,
        png=_png(result),
    )


def _png(result: HeatResult) -> str:
    """Return the colors of the map, divided by its maximum, as a PNG in base64; the map's value is its opacity."""
    from matplotlib import colormaps

    values = on_image(normalized(result.final.values), result.placed)
    scale = min(_SIDE / max(values.shape), 1)
    size = [max(round(side * scale), 1) for side in values.shape[::-1]]
    values = cv2.resize(values, size, interpolation=cv2.INTER_AREA).clip(0, 1)
    colors = colormaps[COLORMAP](values)
    colors[..., 3] = values**0.5
    pixels = (colors * 255).round().astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1].tobytes()).decode()
