"""A model yaml as a wired graph: what shape leaves each layer, at which stride, what it costs and who reads it.

Layers are built one at a time on torch's meta device (shapes without content), and equal layers are measured
once a `ShapeCache`, so that a catalogue of hundreds of yamls takes seconds. A block that needs real values is built
and run on the CPU instead.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.graph.architecture import IMAGE_SOURCE, Architecture, check_sources, render_yaml
from models.graph.construction import build_layer
from models.graph.flops import flop_counter
from models.graph.spec import LayerRow, ModelSpec, read_spec
from models.registry import BLOCK_ERRORS, Entry, find, registered
from utils.errors import ModelError

IMGSZ = 640
FINEST_QUADRATIC_STRIDE = 8  # the stride up to which maps of all positions against all are refused
FLOAT32_BYTES = 4  # of a float32
MAX_COLUMN_WIDTH = 36  # characters of a table's column


@dataclass(frozen=True)
class LayerStats:
    """What one layer makes of its inputs. shape: (C, H, W) that leaves it, () for a head; flops: 2 a multiply-add of
    matrix products and convolutions; maps: (block, heads) of each part that compares all positions with all.
    """

    shape: tuple[int, ...]
    parameters: int
    flops: int
    attention_maps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class GraphLayer:
    """One row of a wired graph; `readers` are the numbers of the layers that read it."""

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
    def shape(self) -> tuple[int, ...]:
        return self.stats.shape

    @property
    def is_head(self) -> bool:
        return self.entry.wiring_name == "detection"

    @property
    def attention_map_bytes(self) -> int:
        """Bytes of the N x N maps in float32 for one image at the size of the graph."""
        positions = self.shape[1] * self.shape[2] if self.shape else 0
        return sum(heads for _, heads in self.stats.attention_maps) * positions**2 * FLOAT32_BYTES


class SkipInitialization(TorchFunctionMode):
    """Leaves out the drawing of random weights, which takes most of building a model and is not looked at."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return function(*args, **kwargs)


@dataclass
class ShapeCache:
    """Measures layers and remembers them."""

    known: dict[tuple, LayerStats] = field(default_factory=dict)

    def measure(self, entry: Entry, row: LayerRow, spec: ModelSpec, shapes: Sequence[tuple[int, ...]]) -> LayerStats:
        """Return what `row` makes of maps of `shapes`. Raises ValueError, or what a block raises, when it cannot."""
        plan = entry.wiring([shape[0] for shape in shapes], spec.scale.repeats(row.repeats), spec.scale, row.args)
        key = (
            entry.cls,
            repr(plan),
            tuple(shapes),
            isinstance(row.source, list),
            spec.attention_start,
            spec.scale.width if plan.copies > 1 else 0,
        )
        if key not in self.known:
            try:
                self.known[key] = _measured(entry, row, spec, shapes, "meta")
            except BLOCK_ERRORS:  # it looks at values, or it is wrong: then this raises again
                self.known[key] = _measured(entry, row, spec, shapes, "cpu")
        return self.known[key]


def _measured(
    entry: Entry, row: LayerRow, spec: ModelSpec, shapes: Sequence[tuple[int, ...]], device: str
) -> LayerStats:
    is_head = entry.wiring_name == "detection"
    with SkipInitialization(), torch.device("cpu" if is_head else device):  # a head reads its anchors
        layer, planned = build_layer(entry, row, spec, [shape[0] for shape in shapes])
    layer = layer.to(device).train(is_head)  # raw maps are a head's whole work
    inputs = [torch.zeros(1, *shape, device=device) for shape in shapes]
    with torch.no_grad(), flop_counter() as counter:
        output = layer(inputs if isinstance(row.source, list) else inputs[0])
    return LayerStats(
        () if is_head else _checked(output, planned),
        sum(parameter.numel() for parameter in layer.parameters()),
        counter.get_total_flops(),
        _maps(layer),
    )


def _checked(output: Any, planned: int) -> tuple[int, ...]:
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ValueError(
            f"it must return one (B, C, H, W) tensor, got {getattr(output, 'shape', type(output).__name__)}"
        )
    if output.shape[1] != planned:
        raise ValueError(f"it emits {output.shape[1]} channels where its wiring promises {planned}")
    return tuple(output.shape[1:])


def _maps(layer: nn.Module) -> tuple[tuple[str, int], ...]:
    quadratic = {entry.cls: name for name, entry in registered().items() if entry.cost == "quadratic"}
    return tuple(
        (quadratic[type(part)], int(getattr(part, "heads", 1))) for part in layer.modules() if type(part) in quadratic
    )


# ---- the graph ----


def load_spec(source: Architecture | Path | str | dict) -> ModelSpec:
    """Return the specification of a yaml: its path, its content, or rows in memory."""
    if isinstance(source, Architecture):
        source = {**yaml.safe_load(render_yaml(source)), "yaml_file": source.file}
    return read_spec(source)


def infer_shapes(
    spec: ModelSpec,
    cache: ShapeCache | None = None,
    imgsz: int = IMGSZ,
    faults: list[tuple[LayerRow, str]] | None = None,
) -> list[GraphLayer]:
    """Return the layers of a yaml for one square image of `imgsz` pixels.

    Raises ModelError naming file, line, layer and sources where a layer cannot be built or run; with a list
    `faults` such layers are put there with the reason and pass on what they read.
    """
    cache = cache or ShapeCache()
    shapes: list[tuple[int, ...]] = []
    layers: list[GraphLayer] = []
    for row in spec.rows:
        entry = _found(row)
        inputs = _inputs(row, spec, shapes, imgsz)
        try:
            measured = cache.measure(entry, row, spec, inputs)
        except (*BLOCK_ERRORS, ModelError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if faults is None:
                raise ModelError(f"{row.where}: {reason} [it reads {_shown(row, inputs)}]") from error
            faults.append((row, reason))
            measured = LayerStats(inputs[0], 0, 0)
        shapes.append(measured.shape)
        stride = imgsz / measured.shape[1] if measured.shape else 0.0
        layers.append(GraphLayer(row, entry, spec.scale.repeats(row.repeats), measured, stride))
    return [
        with_fields(layer, readers=tuple(other.index for other in layers if layer.index in other.row.sources))
        for layer in layers
    ]


def _found(row: LayerRow) -> Entry:
    try:
        return find(row.block)
    except ModelError as error:
        raise ModelError(f"{row.where}: {error}") from None


def _inputs(row: LayerRow, spec: ModelSpec, shapes: Sequence[tuple[int, ...]], imgsz: int) -> list[tuple[int, ...]]:
    try:
        check_sources(row.source, [earlier.block for earlier in spec.rows[: row.index]])
    except ValueError as error:
        raise ModelError(f"{row.where}: {error}") from None
    return [(spec.ch, imgsz, imgsz) if source == IMAGE_SOURCE else shapes[source] for source in row.sources]


def _shown(row: LayerRow, inputs: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(
        f"{'the image' if source == IMAGE_SOURCE else f'layer {source}'} {shape}"
        for source, shape in zip(row.sources, inputs)
    )


def layer_strides(source: Architecture | Path | str | dict) -> dict[int, float]:
    """Return layer -> pixels of the image per cell of its map (0 for a head)."""
    return {layer.index: layer.stride for layer in infer_shapes(load_spec(source))}


def totals(layers: Iterable[GraphLayer]) -> tuple[int, int]:
    """Return (parameters, flops) of a wired graph."""
    layers = list(layers)
    return sum(layer.stats.parameters for layer in layers), sum(layer.stats.flops for layer in layers)


def check_quadratic_attention(layers: Sequence[GraphLayer], new: Sequence[int], force: str) -> None:
    """Raise ModelError when one of the layers `new` compares all positions with all at stride 8 or finer, with the
    memory of its N x N maps; `force` says how to have it all the same.
    """
    for layer in (layers[index] for index in new):
        if layer.stats.attention_maps and layer.stride <= FINEST_QUADRATIC_STRIDE:
            block, (_, height, width) = layer.stats.attention_maps[0][0], layer.shape
            raise ModelError(
                f"layer {layer.index} {layer.row.block}: {block} is of quadratic cost and would stand at stride {layer.stride:g} "
                f"(P{math.log2(layer.stride):.0f}): {sum(heads for _, heads in layer.stats.attention_maps)} x {height * width} x "
                f"{height * width} numbers take {_size(layer.attention_map_bytes)} an image and {_size(16 * layer.attention_map_bytes)} at batch 16, "
                f"at {IMGSZ} pixels; put it at a coarser stride, or {force}"
            )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_graph(spec: ModelSpec, layers: Sequence[GraphLayer]) -> str:
    """Return a wired graph as text: a line a layer, what nobody reads, and the sums."""
    rows = [("layer", "from", "n", "block", "args", "shape", "stride", "params", "read by")]
    for layer in layers:
        shape = " x ".join(map(str, layer.shape)) or "-"
        readers = ", ".join(map(str, layer.readers)) or ("-" if layer.is_head else "NOBODY")
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
    lines = ["  ".join(_clipped(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    unread = [layer for layer in layers if not layer.readers and not layer.is_head]
    names = ", ".join(f"{layer.index} {layer.row.block}" for layer in unread)
    parameters, flops = totals(layers)
    return "\n".join(
        [
            *lines,
            f"read by nobody: {names or 'none'}",
            f"{spec.file}: {len(layers)} layers, {parameters:,} parameters, {flops / 1e9:.1f} GFLOPs at {IMGSZ}",
        ]
    )


def _clipped(cell: str, width: int) -> str:
    return (cell if len(cell) <= width else cell[: width - 3] + "...").ljust(width)
