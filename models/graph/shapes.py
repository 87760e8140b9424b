"""A yaml's model graph: the shape and stride of each layer, its parameters and operations, and which layers read it.

Layers are built one at a time on torch's meta device (shapes without content), and equal layers are built once
per `ShapeCache`, so that a catalogue of hundreds of yamls takes seconds. A block that needs real values is built
and run on the CPU instead.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.overrides import TorchFunctionMode

from models.graph.architecture import IMAGE_SOURCE, Architecture, check_sources, render_yaml
from models.graph.construction import build_layer, checked_map
from models.graph.flops import flop_counter
from models.graph.row_report import read_block_row
from models.graph.spec import LayerRow, ModelSpec, read_spec
from models.registry import BLOCK_ERRORS, Entry, find, registered
from utils.errors import CHOICES_LIMIT, ModelError, cut

IMGSZ = 640
FINEST_QUADRATIC_STRIDE = 8  # up to this stride N x N attention maps are refused
FLOAT32_BYTES = 4
MAX_COLUMN_WIDTH = 36  # characters

Shape = tuple[int, ...]  # (C, H, W) of one image's map


@dataclass(frozen=True)
class LayerStats:
    """Shape and cost of one layer for one image.

    Attributes:
        shape: (C, H, W) of its output, () for a head.
        parameters: Number of parameters.
        flops: Operations of matrix products and convolutions, 2 per multiply-add.
        attention_maps: (block, heads) of each module inside that computes an N x N attention map.
    """

    shape: Shape
    parameters: int
    flops: int
    attention_maps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class GraphLayer:
    """One layer of a model graph.

    Attributes:
        row: Its row in the yaml.
        entry: Its block.
        repeats: Repeats of the row, scaled.
        stats: Its shape and cost.
        stride: Pixels of the image per cell of its map, 0 for a head.
        readers: Indices of the layers that read it.
    """

    row: LayerRow
    entry: Entry
    repeats: int
    stats: LayerStats
    stride: float
    readers: tuple[int, ...] = ()

    @property
    def index(self) -> int:
        return self.row.index

    @property
    def shape(self) -> Shape:
        """(C, H, W) of its output, () for a head."""
        return self.stats.shape

    @property
    def is_head(self) -> bool:
        return self.entry.wiring_name == "detection"

    @property
    def attention_map_bytes(self) -> int:
        """Bytes of its N x N attention maps in float32, for one image of the graph's size."""
        positions = self.shape[1] * self.shape[2] if self.shape else 0
        return sum(heads for _, heads in self.stats.attention_maps) * positions**2 * FLOAT32_BYTES


class SkipInitialization(TorchFunctionMode):
    """Skips the random initialization of weights: it takes most of the time of building a layer, and is not needed."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Return the tensor as it is if `function` is one of torch.nn.init, else call it."""
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return function(*args, **kwargs)


@dataclass
class ShapeCache:
    """Shapes and costs of layers by block, arguments and input shapes, so that equal layers are built once."""

    known: dict[tuple, LayerStats] = field(default_factory=dict)

    def measure(self, entry: Entry, row: LayerRow, spec: ModelSpec, shapes: Sequence[Shape]) -> LayerStats:
        """Return shape and cost of a layer.

        Args:
            entry: The row's block.
            row: The row.
            spec: The model yaml that it is a row of.
            shapes: (C, H, W) of each source.

        Returns:
            What the layer returns and costs for one image.

        Raises:
            ValueError: If the block cannot be built or does not run on these shapes; a block's own error passes on.
        """
        plan = entry.plan([shape[0] for shape in shapes], spec.scale.repeats(row.repeats), spec.scale, row.args)
        key = (
            entry.name,
            entry.cls,
            repr(plan),
            tuple(shapes),
            isinstance(row.source, list),
            spec.attention_start,
            spec.scale.width if plan.copies > 1 else 0,
        )
        if key not in self.known:
            try:
                self.known[key] = _measure_on(entry, row, spec, shapes, "meta")
            except BLOCK_ERRORS:  # it depends on values, or it is wrong: then this raises again
                self.known[key] = _measure_on(entry, row, spec, shapes, "cpu")
        return self.known[key]


def _measure_on(entry: Entry, row: LayerRow, spec: ModelSpec, shapes: Sequence[Shape], device: str) -> LayerStats:
    """Build and run a layer on a device."""
    is_head = entry.wiring_name == "detection"
    with SkipInitialization(), torch.device("cpu" if is_head else device):  # a head reads its anchors
        layer, planned = build_layer(entry, row, spec, [shape[0] for shape in shapes])
    layer = layer.to(device).train(is_head)  # a head computes nothing but raw maps then
    inputs = [torch.zeros(1, *shape, device=device) for shape in shapes]
    with torch.no_grad(), flop_counter() as counter:
        output = layer(inputs if isinstance(row.source, list) else inputs[0])
    return LayerStats(
        () if is_head else tuple(checked_map(output, row, planned).shape[1:]),
        sum(parameter.numel() for parameter in layer.parameters()),
        counter.get_total_flops(),
        _attention_maps(layer),
    )


def _attention_maps(layer: nn.Module) -> tuple[tuple[str, int], ...]:
    """Return (block, heads) of each module of quadratic cost inside a layer."""
    quadratic = {entry.cls: name for name, entry in registered().items() if entry.cost == "quadratic"}
    modules = [module for module in layer.modules() if type(module) in quadratic]
    return tuple((quadratic[type(module)], int(getattr(module, "heads", 1))) for module in modules)


# ---- the graph ----


def load_spec(source: Architecture | Path | str | dict) -> ModelSpec:
    """Return the specification of a yaml, given by its path, its content, or an architecture in memory."""
    if isinstance(source, Architecture):
        source = {**yaml.safe_load(render_yaml(source)), "yaml_file": source.file}
    return read_spec(source)


def infer_shapes(
    spec: ModelSpec,
    cache: ShapeCache | None = None,
    imgsz: int = IMGSZ,
    faults: list[tuple[LayerRow, str]] | None = None,
) -> list[GraphLayer]:
    """Return the layers of a yaml with their shapes and costs for one square image.

    Args:
        spec: The model yaml.
        cache: Layers that were measured before; share one over several yamls.
        imgsz: Side of the image in pixels.
        faults: If given, (row, reason) of each layer that cannot be built or run is added here instead of raising an
            error, and such a layer passes on the shape of its first source.

    Returns:
        One layer per row.

    Raises:
        ModelError: If a layer cannot be built or run; names file, line, layer and sources.

    Example:
        >>> layers = infer_shapes(load_spec("yolov5n.yaml"))
        >>> layers[9].row.block, layers[9].shape, layers[9].stride, layers[9].readers
        ('SPPF', (256, 20, 20), 32.0, (10,))
    """
    cache = cache or ShapeCache()
    shapes: list[Shape] = []
    layers: list[GraphLayer] = []
    for row in spec.rows:
        entry = _find_block(row)
        inputs = _input_shapes(row, spec, shapes, imgsz)
        try:
            stats = cache.measure(entry, row, spec, inputs)
        except (*BLOCK_ERRORS, ModelError) as error:
            reason = cut(" ".join(str(error).split()), CHOICES_LIMIT) or type(error).__name__
            if faults is None:
                raise ModelError(f"{row.where}: {reason} [it reads {cut(_describe_inputs(row, inputs))}]") from error
            faults.append((row, reason))
            stats = LayerStats(inputs[0], 0, 0)
        shapes.append(stats.shape)
        stride = imgsz / stats.shape[1] if stats.shape else 0.0
        layers.append(GraphLayer(row, entry, spec.scale.repeats(row.repeats), stats, stride))
    return [
        replace(layer, readers=tuple(other.index for other in layers if layer.index in other.row.sources))
        for layer in layers
    ]


def _find_block(row: LayerRow) -> Entry:
    try:
        return find(row.block)
    except ModelError as error:
        raise ModelError(f"{row.where}: {error}") from None


def _input_shapes(row: LayerRow, spec: ModelSpec, shapes: Sequence[Shape], imgsz: int) -> list[Shape]:
    try:
        check_sources(row.source, [earlier.block for earlier in spec.rows[: row.index]])
    except ValueError as error:
        raise ModelError(f"{row.where}: {error}") from None
    return [(spec.ch, imgsz, imgsz) if source == IMAGE_SOURCE else shapes[source] for source in row.sources]


def input_channels(row: LayerRow, spec: ModelSpec, layers: Sequence[GraphLayer]) -> list[int]:
    """Return the channels of each source of a row.

    Args:
        row: The row.
        spec: The model yaml.
        layers: Its graph.

    Returns:
        Numbers of channels.
    """
    return [spec.ch if source == IMAGE_SOURCE else layers[source].shape[0] for source in row.sources]


def _describe_inputs(row: LayerRow, inputs: Sequence[Shape]) -> str:
    return ", ".join(
        f"{'the image' if source == IMAGE_SOURCE else f'layer {source}'} {shape}"
        for source, shape in zip(row.sources, inputs, strict=True)
    )


def layer_strides(source: Architecture | Path | str | dict) -> dict[int, float]:
    """Return layer index -> pixels of the image per cell of its map (0 for a head)."""
    return {layer.index: layer.stride for layer in infer_shapes(load_spec(source))}


def totals(layers: Iterable[GraphLayer]) -> tuple[int, int]:
    """Return (parameters, operations) of a model graph."""
    layers = list(layers)
    return sum(layer.stats.parameters for layer in layers), sum(layer.stats.flops for layer in layers)


def check_quadratic_attention(layers: Sequence[GraphLayer], new: Sequence[int], force: str) -> None:
    """Check that no new layer computes an N x N attention map at stride 8 or finer.

    Args:
        layers: The model graph at `IMGSZ` pixels.
        new: Indices of the layers to check.
        force: How to override the check, such as "confirm with --force"; ends the message.

    Raises:
        ModelError: If one does; names the memory of its maps.
    """
    for layer in (layers[index] for index in new):
        if layer.stats.attention_maps and layer.stride <= FINEST_QUADRATIC_STRIDE:
            block, (_, height, width) = layer.stats.attention_maps[0][0], layer.shape
            heads = sum(heads for _, heads in layer.stats.attention_maps)
            per_image = layer.attention_map_bytes
            raise ModelError(
                f"layer {layer.index} {layer.row.block}: {block} is of quadratic cost and would be at stride "
                f"{layer.stride:g} (P{math.log2(layer.stride):.0f}): {heads} x {height * width} x {height * width} "
                f"numbers take {_format_bytes(per_image)} per image and {_format_bytes(16 * per_image)} at batch 16, "
                f"at {IMGSZ} pixels; choose a coarser stride, or {force}"
            )


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_graph(spec: ModelSpec, layers: Sequence[GraphLayer]) -> str:
    """Return a model graph as text: one line per layer, one per attention row, the unused layers, and the totals.

    Args:
        spec: The model yaml.
        layers: Its graph at `IMGSZ` pixels.

    Returns:
        Aligned columns, several lines.
    """
    rows = [("layer", "from", "n", "block", "args", "shape", "stride", "params", "read by")]
    for layer in layers:
        shape = " x ".join(map(str, layer.shape)) or "-"
        readers = ", ".join(map(str, layer.readers)) or ("-" if layer.is_head else "none")
        rows.append(
            (
                str(layer.index),
                str(layer.row.source),
                str(layer.repeats),
                layer.row.block,
                str(list(layer.row.args)),
                shape,
                f"{layer.stride:g}" if layer.shape else "-",
                f"{layer.stats.parameters:,}",
                readers,
            )
        )
    widths = [min(max(len(row[column]) for row in rows), MAX_COLUMN_WIDTH) for column in range(len(rows[0]))]
    lines = [
        "  ".join(_fit_column(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += describe_rows(spec, layers)
    unused = [layer for layer in layers if not layer.readers and not layer.is_head]
    names = ", ".join(f"{layer.index} {layer.row.block}" for layer in unused)
    parameters, flops = totals(layers)
    return "\n".join(
        [
            *lines,
            f"unused layers: {names or 'none'}",
            f"{spec.file}: {len(layers)} layers, {parameters:,} parameters, {flops / 1e9:.1f} GFLOPs at {IMGSZ}",
        ]
    )


def describe_rows(spec: ModelSpec, layers: Sequence[GraphLayer]) -> list[str]:
    """Return a line for each attention row that says what its numbers became.

    Args:
        spec: The model yaml.
        layers: Its graph.

    Returns:
        Lines such as "layer 9 CBAM: ratio 16, kernel_size 7".
    """
    blocks = [read_block_row(layer.row, layer.entry, spec, input_channels(layer.row, spec, layers)) for layer in layers]
    return [block.describe() for block in blocks if block]


def _fit_column(cell: str, width: int) -> str:
    return (cell if len(cell) <= width else cell[: width - 3] + "...").ljust(width)
