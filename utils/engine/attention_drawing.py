"""Figures of what the attention blocks of networks applied to an image, and a table of their values."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor, nn

from models.identity_start import IdentityStart
from models.recording import AppliedAttention, recording
from utils.class_choice import class_ids
from utils.config import HeatmapConfig, PredictOptions
from utils.datasets.letterboxing import letterbox
from utils.datasets.sources import Frame
from utils.engine.heat_map_maker import HeatSource
from utils.errors import DataError
from utils.heatmaps.applied_views import AppliedView, views_of
from utils.heatmaps.detection_target import TargetChoice, find_target
from utils.heatmaps.map_layers import ROOT_PATH
from utils.heatmaps.placement import on_image
from utils.log import LOGGER
from utils.plots.attention_plots import DrawnRecord, DrawnView, draw_records
from utils.plots.heat_figures import OverlayBox, OverlayPanel
from utils.types import Detections, Letterbox

_FIELDS = ("image", "frame", "network", "block", "class", "kind", "label", "shape", "min", "mean", "max", "file")


class AttentionFigures:
    """Writes the figures of each image: one per attention block, named by its layer.

    Args:
        config: The flags.
        sources: The networks.
        folder: The run folder.
    """

    def __init__(self, config: HeatmapConfig, sources: Sequence[HeatSource], folder: Path):
        self._config, self._sources, self._folder = config, sources, folder
        self._table = (folder / "attention.csv").open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._table, _FIELDS)
        self._rows.writeheader()

    def draw(self, frame: Frame) -> None:
        """Write the figures of an image.

        Args:
            frame: The image.
        """
        for source in self._sources:
            self._draw(frame, source)
        self._table.flush()

    def close(self) -> None:
        """Close the table."""
        self._table.close()

    def _draw(self, frame: Frame, source: HeatSource) -> None:
        predictor, config = source.predictor, self._config
        shape = predictor.input_shape(config.imgsz)
        canvas, placed = letterbox(frame.image, shape, auto=True, stride=predictor.stride)
        query = None if config.query is None else _query_share(config.query, placed, frame.path)
        options = PredictOptions(
            config.imgsz, config.conf_thres, config.iou_thres, config.max_det,
            class_ids(config.classes, predictor.names), config.agnostic_nms,
        )  # fmt: skip
        with input_sizes(source.model) as sizes, recording() as records:
            found, _ = find_target(source.model, predictor.tensor(canvas[None]), options, TargetChoice())
        by_block = records_by_block(source.model, records)
        if source.layers:
            chosen = tuple(layer.path for layer in source.layers)
            by_block = {
                path: shown
                for path, shown in by_block.items()
                if any(f"{path}.".startswith(f"{each}.") for each in chosen)
            }
        stem = str(PurePosixPath(frame.name).with_suffix("")) + (f"_{frame.number}" if frame.kind != "image" else "")
        title = f"{frame.kind} {frame.index + 1}/{frame.total} {frame.path} {source.name}"
        if not by_block:
            LOGGER.info(f"{title}: no attention block {'in these layers' if source.layers else 'in this network'}")
            return
        blocks = [f"{path.removeprefix(ROOT_PATH)} {_kind(source.model, path)}" for path in by_block]
        LOGGER.info(f"{title}: {', '.join(blocks)}")
        drawn = DrawnImage(frame.image, found.to_native(placed).cpu(), source, placed, query)
        for path, shown in by_block.items():
            name = path.removeprefix(ROOT_PATH)
            file = self._folder / stem / f"{source.name}_{name}_{_kind(source.model, path)}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [drawn.record(each, sizes.get(each.block)) for each in shown]
            rows[0] = DrawnRecord(rows[0].title, (drawn.image_view(), *rows[0].views))
            draw_records(
                file,
                frame.image,
                f"{source.name}, layer {name}: {_kind(source.model, path)}{_opened(source, path)}",
                rows,
            )
            for index, each in enumerate(shown):
                self._note(frame, source, name, each, file)
                if config.save_npy:
                    np.save(
                        file.with_name(f"{file.stem}_{index}_{each.kind}.npy"), each.values[0].float().cpu().numpy()
                    )

    def _note(self, frame: Frame, source: HeatSource, name: str, shown: AppliedAttention, file: Path) -> None:
        values = shown.values[0].float()
        self._rows.writerow(
            {
                "image": frame.path,
                "frame": frame.number,
                "network": source.name,
                "block": name,
                "class": type(shown.block).__name__,
                "kind": shown.kind,
                "label": shown.label,
                "shape": "x".join(map(str, values.shape)),
                "min": f"{float(values.min()):.5g}",
                "mean": f"{float(values.mean()):.5g}",
                "max": f"{float(values.max()):.5g}",
                "file": file.relative_to(self._folder).as_posix(),
            }
        )


def _query_share(query: Sequence[int], placed: Letterbox, path: str) -> tuple[float, float]:
    """(y, x) of a pixel of the image as shares of the network input."""
    x, y = query
    height, width = placed.native
    if x >= width or y >= height:
        raise DataError(f"{path}: --query {x} {y} lies outside of the image of {width} x {height} pixels")
    point = placed.from_native(np.array([[x + 0.5, y + 0.5, 0, 0]]))[0]
    return float(point[1] / placed.shape[0]), float(point[0] / placed.shape[1])


@contextmanager
def input_sizes(model: nn.Module) -> Iterator[dict[nn.Module, tuple[int, int]]]:
    """Note (H, W) of the map that enters each module while the context is open.

    Args:
        model: The network.

    Yields:
        Module -> size; without those that get no map.
    """
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def note(module: nn.Module, inputs: tuple) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            sizes[module] = (inputs[0].shape[2], inputs[0].shape[3])

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


def records_by_block(model: nn.Module, records: Sequence[AppliedAttention]) -> dict[str, list[AppliedAttention]]:
    """Return what was recorded by the path of the row's attention: records of the parts of a block are its own.

    Args:
        model: The network.
        records: In the order of the pass.

    Returns:
        Path of the block in the network -> its records.
    """
    paths = {module: path for path, module in model.named_modules()}
    found: dict[str, list[AppliedAttention]] = {}
    for shown in records:
        path = paths[shown.block]
        parents = [".".join(path.split(".")[:depth]) for depth in range(2, path.count(".") + 2)]
        found.setdefault(_outermost(model, parents), []).append(shown)
    return found


def _outermost(model: nn.Module, paths: Sequence[str]) -> str:
    """The first module on the way down that is an attention block itself, else the last one."""
    for path in paths:
        if type(model.get_submodule(path)).__module__.startswith("models.attention."):
            return path
    return paths[-1]


def _kind(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path)).__name__


def _opened(source: HeatSource, path: str) -> str:
    """How far the gate around a block is open."""
    parent = source.model.get_submodule(path.rpartition(".")[0])
    return f", behind a gate of mean |g| {parent.strength():.3f}" if isinstance(parent, IdentityStart) else ""


class DrawnImage:
    """An image on which records are drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        found: The detections in its pixels.
        source: The network.
        placed: How the image was put into the network input.
        query: (y, x) of the query point as shares of the network input.
    """

    def __init__(
        self,
        image: np.ndarray,
        found: Detections,
        source: HeatSource,
        placed: Letterbox,
        query: tuple[float, float] | None,
    ):
        self._image, self._found, self._source = image, found, source
        self._placed, self._query = placed, query

    def image_view(self) -> DrawnView:
        """Return the image with its detections."""
        boxes = tuple(OverlayBox(tuple(corners)) for corners in self._found.xyxy.tolist())
        return DrawnView("image", OverlayPanel("image", None, boxes, self._point()), np.zeros(0))

    def record(self, shown: AppliedAttention, input_size: tuple[int, int] | None) -> DrawnRecord:
        """Return a row of the figure.

        Args:
            shown: What was applied.
            input_size: (H, W) of the map that enters the block.

        Returns:
            Its panels.
        """
        views = tuple(self._view(view) for view in views_of(shown, self._query, input_size))
        height, width = shown.size
        return DrawnRecord(f"{shown.label} ({shown.kind}, {height} x {width})", views)

    def _view(self, view: AppliedView) -> DrawnView:
        point = self._point() if view.at_query and view.form in ("overlay", "arrows") else None
        if view.form == "overlay":
            plane = on_image(torch.from_numpy(view.values).double(), self._placed)
            return DrawnView("overlay", OverlayPanel(view.title, plane, (), point), view.values)
        if view.form == "arrows":
            return DrawnView("arrows", OverlayPanel(view.title, None, (), point), self.arrows(view.values))
        return DrawnView(view.form, OverlayPanel(view.title), view.values, view.labels)

    def arrows(self, values: np.ndarray) -> np.ndarray:
        """Return arrows (n, 4) y, x, dy, dx in shares of the network input as x, y, dx, dy in pixels of the image."""
        height, width = self._placed.shape
        (across, down), (left, top) = self._placed.ratio, self._placed.pad
        y, x, dy, dx = values.T
        rows = ((x * width - left) / across, (y * height - top) / down, dx * width / across, dy * height / down)
        return np.stack(rows, 1)

    def _point(self) -> tuple[float, float] | None:
        if self._query is None:
            return None
        y, x = self._query
        point = self.arrows(np.array([[y, x, 0.0, 0.0]]))[0]
        return float(point[0]), float(point[1])
