"""Heat maps of one network in one image: the target found, a map per layer, its figures and checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.yolo import Model
from utils.class_choice import class_ids
from utils.config import PredictOptions
from utils.datasets.letterboxing import letterbox
from utils.engine.predictor import Predictor
from utils.heatmaps.deletion import ScoreOf, TrustCurve, TrustSettings, forward_images, orders, trust_curves
from utils.heatmaps.detection_target import HeatTarget, TargetChoice, find_target
from utils.heatmaps.gradient_pass import layer_maps
from utils.heatmaps.map_layers import MapLayer, default_layers
from utils.heatmaps.placement import merged, normalized, on_image, on_input
from utils.heatmaps.randomization import SanityStep, cascade, depths
from utils.log import progress
from utils.plots.heat_figures import ColorScale, OverlayBox, OverlayPanel, draw_overlays
from utils.types import Detections, Letterbox

MAP_SCALE = ColorScale("share of each map's maximum")


@dataclass(frozen=True)
class HeatMap:
    """A heat map.

    Attributes:
        title: Layer, such as "17 C3", or "merged".
        values: (h, w) float64 at the layer's size, at least 0; a merged one has the size of the largest layer.
    """

    title: str
    values: Tensor

    @property
    def peak(self) -> float:
        """The largest value, in the unit of the method."""
        return float(self.values.max())


@dataclass(frozen=True)
class HeatSource:
    """A network whose heat maps are drawn.

    Attributes:
        predictor: The network on its device.
        name: Short name in figures and files.
        weights: The file that it is from.
        layers: Whose maps are shown; empty for the default ones.
    """

    predictor: Predictor
    name: str
    weights: str
    layers: tuple[MapLayer, ...] = ()

    @property
    def model(self) -> Model:
        """The network."""
        return self.predictor.model  # type: ignore[return-value]  # ensembles and files are refused before


@dataclass(frozen=True)
class HeatResult:
    """What a network's heat maps show of an image.

    Attributes:
        source: The network.
        method: How the maps were made.
        image: (1, 3, H, W) network input.
        placed: How the image was put into it.
        found: The detections in pixels of the network input.
        target: What is explained; None if there is no such detection.
        layers: The layers of the first maps.
        maps: One per layer, and behind them the merged one if there are several.
    """

    source: HeatSource
    method: str
    image: Tensor
    placed: Letterbox
    found: Detections
    target: HeatTarget | None
    layers: tuple[MapLayer, ...]
    maps: tuple[HeatMap, ...]

    @property
    def final(self) -> HeatMap:
        """The map that checks are about: the merged one if there are several."""
        return self.maps[-1]

    @cached_property
    def native(self) -> Detections:
        """The detections in pixels of the image, on the CPU."""
        return self.found.to_native(self.placed).cpu()

    @property
    def chosen(self) -> tuple[int, ...]:
        """Indices of the explained detections."""
        return self.target.chosen if self.target else ()

    def target_title(self) -> str:
        """Return such as "person 0.88", or "3 x person, sum 1.90"."""
        if self.target is None:
            return "nothing found"
        names, classes = self.source.predictor.names, self.target.classes.tolist()
        scores = self.native.conf[list(self.chosen)]
        if len(classes) == 1:
            return f"{names[classes[0]]} {float(scores[0]):.2f}"
        return f"{len(classes)} x {names[classes[0]]}, sum {float(scores.sum()):.2f}"

    def boxes(self) -> tuple[OverlayBox, ...]:
        """Return the detections for a figure; the explained ones have a label."""
        names, found = self.source.predictor.names, self.native
        is_one = len(self.chosen) == 1
        return tuple(
            OverlayBox(
                tuple(corners),
                f"{names[class_id]} " * is_one + f"{confidence:.2f}" if index in self.chosen else "",
                index in self.chosen,
            )
            for index, (corners, confidence, class_id) in enumerate(
                zip(found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True)
            )
        )

    def panels(self) -> list[OverlayPanel]:
        """Return one panel per map, each divided by its maximum; the plain image if there is no target."""
        if not self.maps:
            return [OverlayPanel(f"{self.source.name}\n{self.target_title()}", None, self.boxes())]
        return [
            OverlayPanel(
                f"{self.source.name}, {self.method}\nlayer {each.title}: {self.target_title()}"
                if each.title != "merged"
                else f"{self.source.name}, {self.method}\nmerged: {self.target_title()}",
                on_image(normalized(each.values), self.placed),
                self.boxes(),
            )
            for each in self.maps
        ]

    def figures(self, heat: HeatMap) -> dict[str, float | str]:
        """Return the figures of a map: its largest value, and how well it points at the target's boxes.

        `peak_inside` is the pointing game (Zhang et al., 2016), `share_inside` the energy-based one (Wang et al.,
        Score-CAM, 2020): the share of the map's sum that lies inside the boxes.
        """
        values = on_image(heat.values, self.placed)
        inside = np.zeros(values.shape, bool)
        for left, top, right, bottom in self.native.xyxy[list(self.chosen)].round().int().tolist():
            inside[top:bottom, left:right] = True
        total = float(values.sum(dtype=np.float64))
        peak_y, peak_x = np.unravel_index(int(values.argmax()), values.shape)
        return {
            "maximum": f"{heat.peak:.6g}",
            "peak_x": int(peak_x),
            "peak_y": int(peak_y),
            "peak_inside": int(bool(inside[peak_y, peak_x]) and heat.peak > 0),
            "share_inside": round(float(values[inside].sum(dtype=np.float64)) / total, 4) if total > 0 else "",
            "area_inside": round(float(inside.mean()), 4),
        }


def make_heat_maps(
    source: HeatSource, image: np.ndarray, options: PredictOptions, choice: TargetChoice, method: str
) -> HeatResult:
    """Return the heat maps of a network in an image.

    Args:
        source: The network and its layers.
        image: (H, W, 3) uint8 RGB.
        options: Size of the network input, thresholds and classes.
        choice: Which detections are explained.
        method: One of `CAM_METHODS`.

    Returns:
        The maps, with what was detected.
    """
    predictor = source.predictor
    options = replace(options, classes=class_ids(options.classes, predictor.names))
    canvas, placed = letterbox(image, predictor.input_shape(options.imgsz), auto=True, stride=predictor.stride)
    tensor = predictor.tensor(canvas[None])
    found, target = find_target(source.model, tensor, options, choice)
    if target is None:
        return HeatResult(source, method, tensor, placed, found, None, (), ())
    layers = source.layers or tuple(default_layers(source.model, target.levels, method))
    values = layer_maps(source.model, tensor, target, layers, method)
    maps = [HeatMap(layer.title, each) for layer, each in zip(layers, values, strict=True)]
    if len(maps) > 1:
        maps.append(HeatMap("merged", merged(values, largest(values))))
    return HeatResult(source, method, tensor, placed, found, target, layers, tuple(maps))


def largest(maps: Sequence[Tensor]) -> tuple[int, int]:
    """Return the (height, width) of the largest map."""
    height, width = max((each.shape for each in maps), key=lambda shape: shape[0] * shape[1])
    return height, width


def check_sanity(result: HeatResult, draws: int, seed: int) -> list[SanityStep]:
    """Return the steps of the sanity check of a result's final map.

    Args:
        result: With a target.
        draws: How often the network is randomized.
        seed: Decides the random numbers.

    Returns:
        The steps of `cascade`.
    """
    steps = cascade(result.source.model, partial(_final_map, result), draws, seed)
    total = draws * depths(result.source.model)
    return list(progress(steps, total, f"sanity {result.source.name}"))


def _final_map(result: HeatResult, model: Model) -> Tensor:
    """The map of a changed network for the same rows of its predictions, on the resized image."""
    assert result.target is not None
    values = layer_maps(model, result.image, result.target, result.layers, result.method)
    values = [torch.nan_to_num(each, nan=0.0, posinf=0.0) for each in values]
    final = merged(values, largest(values)) if len(values) > 1 else values[0]
    return on_input(final, result.placed)


def check_deletion(result: HeatResult, settings: TrustSettings) -> list[TrustCurve]:
    """Return the deletion and insertion curves of a result's final map and of its baselines.

    Args:
        result: With a target.
        settings: Number of parts, random maps, seed.

    Returns:
        One curve per kind and order.
    """
    assert result.target is not None
    left, top = result.placed.pad
    boxes = (result.found.xyxy[list(result.chosen)].cpu() - torch.tensor([left, top, left, top])).tolist()
    values = on_input(result.final.values, result.placed)
    height, width = result.final.values.shape
    maps = orders(values, (height, width), boxes, settings)
    score_of = ScoreOf(result.source.model, result.found, result.target)
    bar = progress(None, forward_images(maps, settings), f"deletion {result.source.name}")
    with bar:
        return trust_curves(score_of, result.image, result.placed, maps, settings, bar.update)


def save_arrays(result: HeatResult, folder: Path, stem: str) -> None:
    """Write each map as float32: at the image's size, and at the layer's.

    Args:
        result: With maps.
        folder: Where to.
        stem: Beginning of the names.
    """
    for heat in result.maps:
        name = f"{stem}_{result.source.name}_{result.method}_{heat.title.replace(' ', '_')}"
        np.save(folder / f"{name}.npy", on_image(heat.values, result.placed))
        np.save(folder / f"{name}_layer.npy", heat.values.float().numpy())


def draw_results(file: Path, image: np.ndarray, results: Sequence[HeatResult]) -> Path:
    """Write the figure of an image: the image, then the maps of each network; one row per map if there are several.

    Args:
        file: The image file to write.
        image: (H, W, 3) uint8 RGB.
        results: One per network.

    Returns:
        `file`.
    """
    panels = [result.panels() for result in results]
    rows = max(map(len, panels))
    blank = OverlayPanel("image")
    grid = [
        [blank if row == 0 else OverlayPanel("", None)] * (row == 0 or rows > 1)
        + [each[row] for each in panels if row < len(each)]
        for row in range(rows)
    ]
    if rows > 1 and len(panels) == 1:  # one network, several maps: side by side
        grid = [[blank, *panels[0]]]
    names = results[0].source.predictor.names
    return draw_overlays(file, image, grid, MAP_SCALE, names)
