"""The cost of each layer of a model and the share of the attention in it, as records and as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.graph.flops import Size, count_on_shapes, flop_counter, height_width, short_message, thop_layer_gflops
from models.registry import BLOCK_ERRORS
from utils.profile import ROUNDS
from utils.profile.components import (
    Component,
    ComponentSums,
    attention_modules,
    component_hooks,
    for_inference,
    layers_of,
)
from utils.profile.memory import kept_for_backward, live_in_inference
from utils.profile.timing import component_times

MIB = 2**20
LEGEND = (
    "GFLOPs: 2 per multiply-add of convolutions and matrix products, attention included; thop: as in YOLOv5's tables\n"
    "kept: bytes saved for backward in training; live: feature maps alive while the layer runs, a peak and not a sum\n"
    "ms: the fastest pass; attention: its share of ms. Time and live are the fused model's, the rest the unfused's"
)
Result = TypeVar("Result")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Figures:
    """The cost of a component for one image; None for what could not be measured.

    Attributes:
        parameters: Number of values.
        flops: 2 per multiply-add of convolutions and matrix products.
        kept: Bytes saved for backward in training.
        live: Most bytes of feature maps alive in inference while it runs.
        milliseconds: In inference.
    """

    parameters: int = 0
    flops: int = 0
    kept: int | None = 0
    live: int | None = 0
    milliseconds: float | None = 0.0


@dataclass(frozen=True)
class LayerProfile:
    """The cost of one layer.

    Attributes:
        index: Of the layer.
        source: Indices of the layers that it reads.
        block: Its class.
        shape: Of its output, such as "64 x 80 x 80".
        all: Its cost.
        attention: The cost of the attention in it, zeros without any.
        thop: GFLOPs by thop, None if `ModelProfile.notes` state why.
    """

    index: int
    source: str
    block: str
    shape: str
    all: Figures
    attention: Figures
    thop: float | None


@dataclass(frozen=True)
class ModelProfile:
    """The cost of a model and of its layers for one image.

    Attributes:
        name: Of the model.
        size: (height, width) of the image in pixels.
        device: That the model was timed on.
        layers: One per layer.
        all: The sums over the layers; of `live` the largest.
        attention: The same of the attention alone.
        thop: GFLOPs by thop.
        notes: Why figures could not be measured.
    """

    name: str
    size: tuple[int, int]
    device: str
    layers: tuple[LayerProfile, ...]
    all: Figures
    attention: Figures
    thop: float | None
    notes: tuple[str, ...] = ()


def profile_layers(
    model: nn.Module, size: Size = 640, rounds: int = ROUNDS, open_gates: bool = True, name: str = ""
) -> ModelProfile:
    """Return the cost of every layer of a model on its device.

    Parameters, operations and bytes saved for backward are those of the training model, live feature maps and time
    those of the fused model. An exception that a block raises on images of this size is passed on.

    Args:
        model: Its layers are in `model.model`; it is not changed.
        size: Side of a square image in pixels, or (height, width).
        rounds: Number of timed passes.
        open_gates: As in `for_inference`.
        name: Of the model; by default the name of its yaml.

    Returns:
        The profile; notes state what could not be measured.
    """
    device = next(model.parameters()).device
    shapes, flops = _shapes_and_flops(model, size)
    notes: list[str] = []
    fused = for_inference(model, open_gates)
    kept = _or_note(notes, "memory kept for backward", lambda: kept_for_backward(model, size))
    live = _or_note(notes, "memory alive in inference", lambda: live_in_inference(fused, size))
    times = _or_note(notes, "time", lambda: component_times(fused, device, size, rounds))
    thop, thop_layers = _or_note(notes, "thop's count", lambda: thop_layer_gflops(model, size)) or (None, None)
    parameters = _parameters(model)

    def figures(component: Component) -> Figures:
        return Figures(
            parameters=parameters.get(component, 0),
            flops=int(flops.get(component, 0)),
            kept=_entry(kept, component),
            live=_entry(live, component),
            milliseconds=_entry(times, component),
        )

    layers = tuple(
        LayerProfile(
            index,
            str(layer.f),
            _block_name(layer),
            shapes[index],
            figures((index, False)),
            figures((index, True)),
            None if thop_layers is None else thop_layers.get(str(index), 0.0),
        )
        for index, layer in enumerate(layers_of(model))
    )
    return ModelProfile(
        name or getattr(model, "yaml_file", type(model).__name__),
        height_width(size),
        str(device),
        layers,
        _sum([layer.all for layer in layers]),
        _sum([layer.attention for layer in layers]),
        thop,
        tuple(notes),
    )


def _entry(table: Mapping[Component, Number] | None, component: Component) -> Number | None:
    """The figure of a component, 0 if it has none, None without a table."""
    return None if table is None else table.get(component, 0)


def _or_note(notes: list[str], what: str, measure: Callable[[], Result]) -> Result | None:
    """Return a measurement, or None with a note on the exception."""
    try:
        return measure()
    except BLOCK_ERRORS as error:
        notes.append(f"{what}: {short_message(error)}")
        return None


def _shapes_and_flops(model: nn.Module, size: Size) -> tuple[dict[int, str], dict[Component, float]]:
    def count(model: nn.Module, image: Tensor) -> tuple[dict[int, str], dict[Component, float]]:
        shapes: dict[int, str] = {}
        with flop_counter() as counter, torch.no_grad():
            counted = ComponentSums(counter.get_total_flops)

            def leave(component: Component, output: object) -> None:
                counted.leave(component, output)
                shapes[component[0]] = _shape(output)

            with component_hooks(model, counted.enter, leave):
                model(image)
        return shapes, counted.sums

    return count_on_shapes(model, size, count)


def _shape(output: object) -> str:
    """Return the shape of an output of one image, without the batch: a head's is that of its decoded rows."""
    if isinstance(output, (tuple, list)):
        output = output[0]
    return " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else type(output).__name__


def _parameters(model: nn.Module) -> dict[Component, int]:
    found = {}
    for index, layer in enumerate(layers_of(model)):
        found[index, False] = _count(layer)
        found[index, True] = sum(_count(module) for module in attention_modules(layer))
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _block_name(layer: nn.Module) -> str:
    return str(getattr(layer, "type", type(layer).__name__)).rsplit(".", 1)[-1]


def _sum(rows: Sequence[Figures]) -> Figures:
    return Figures(
        sum(row.parameters for row in rows),
        sum(row.flops for row in rows),
        _combined([row.kept for row in rows], sum),
        _combined([row.live for row in rows], max),
        _combined([row.milliseconds for row in rows], sum),
    )


def _combined(values: Sequence[Number | None], combine: Callable[[Iterable[Number]], Number]) -> Number | None:
    """The sum or maximum of values, None if one of them is."""
    known = [value for value in values if value is not None]
    return combine(known) if len(known) == len(values) else None


# ---- the table ----


def render(profile: ModelProfile) -> str:
    """Return a profile as text: one line per layer, the sums, the share of attention, and a legend of the columns."""
    head = ("layer", "from", "block", "shape", "params", "GFLOPs", "thop", "kept MiB", "live MiB", "ms", "attention")
    rows = [
        (
            str(layer.index),
            layer.source,
            layer.block,
            layer.shape,
            *_cells(layer.all, layer.thop),
            _share(layer.attention.milliseconds, layer.all.milliseconds),
        )
        for layer in profile.layers
    ]
    sums = (
        "",
        "",
        "all",
        "",
        *_cells(profile.all, profile.thop),
        _share(profile.attention.milliseconds, profile.all.milliseconds),
    )
    lines = [head, *rows, sums]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = [
        "  ".join(
            cell.ljust(width) if column < 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    height, width = profile.size
    title = f"{profile.name}: one image of {height} x {width} on {profile.device}"
    return "\n".join(
        [*table, "", title, _attention_line(profile), *(f"not measured: {note}" for note in profile.notes), LEGEND]
    )


def _cells(figures: Figures, thop: float | None) -> tuple[str, ...]:
    return (
        f"{figures.parameters:,}",
        f"{figures.flops / 1e9:.4f}",
        _shown(thop, 1.0, 4),
        _shown(figures.kept, MIB, 2),
        _shown(figures.live, MIB, 2),
        _shown(figures.milliseconds, 1.0, 2),
    )


def _shown(value: float | None, unit: float, digits: int) -> str:
    return "n/a" if value is None else f"{value / unit:.{digits}f}"


def _share(share: float | None, whole: float | None) -> str:
    if share is None or whole is None:
        return "n/a"
    return f"{100 * share / whole if whole else 0:.1f} %"


def _attention_line(profile: ModelProfile) -> str:
    attention, whole = profile.attention, profile.all
    layers = [
        f"{layer.index} {layer.block}"
        for layer in profile.layers
        if layer.attention.parameters or layer.attention.milliseconds
    ]
    if not layers:
        return "attention: none of its layers"
    return (
        f"attention ({', '.join(layers)}): {attention.parameters:,} parameters "
        f"({_share(attention.parameters, whole.parameters)}), {attention.flops / 1e9:.4f} GFLOPs "
        f"({_share(attention.flops, whole.flops)}), {_shown(attention.kept, MIB, 2)} MiB kept "
        f"({_share(attention.kept, whole.kept)}), {_shown(attention.milliseconds, 1.0, 2)} ms "
        f"({_share(attention.milliseconds, whole.milliseconds)})"
    )
