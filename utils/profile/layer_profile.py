"""What each layer of a model costs, and what the attention in it takes of that; as records and as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.graph.flops import Size, count_on_shapes, flop_counter, height_width, short_message, thop_layer_gflops
from models.registry import BLOCK_ERRORS
from utils.profile.components import Meter, Part, attention_parts, for_inference, watched
from utils.profile.memory import kept_for_backward, live_at
from utils.profile.timing import ROUNDS, part_times

MIB = 2**20
LEGEND = """GFLOPs: 2 a multiply-add of convolutions and matrix products, attention's included; thop: as in YOLOv5's tables
kept: what a training step keeps for backward; live: maps alive while the layer runs in inference, a peak and not a sum
ms: the least of the timed passes; attention: its share of ms. Time and live are the fused model's, the rest the model's as it trains"""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Figures:
    """For one image. parameters; flops: 2 a multiply-add of products and convolutions; kept: bytes that training keeps for
    backward; live: most bytes of maps alive in inference while it runs; milliseconds: in inference.
    """

    parameters: int = 0
    flops: int = 0
    kept: int | None = 0
    live: int | None = 0
    milliseconds: float | None = 0.0


@dataclass(frozen=True)
class LayerProfile:
    """One layer. shape: "64 x 80 x 80" that leaves it; all: its figures; attention: those of the attention in it, zeros without
    any; thop: operations by thop, None where `ModelProfile.notes` say why.
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
    """The layers of a model for one image of `size` (height, width) on `device`, the same figures summed (for `live`: the
    highest), and notes on figures that could not be had.
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
    """Measure every layer of `model` on its device. Raises what a block raises on images of `size`.

    Parameters, operations and what is kept for backward are those of the model as it trains, maps alive and time those of the
    fused model; `open_gates` as in `for_inference`.
    """
    device = next(model.parameters()).device
    shapes, flops = _shapes_and_flops(model, size)
    notes: list[str] = []
    fused = for_inference(model, open_gates)
    kept = _or_note(notes, "memory kept for backward", lambda: kept_for_backward(model, size))
    live = _or_note(notes, "memory alive in inference", lambda: live_at(fused, size))
    times = _or_note(notes, "time", lambda: part_times(fused, device, size, rounds))
    thop, thop_layers = _or_note(notes, "thop's count", lambda: thop_layer_gflops(model, size)) or (None, None)
    parameters = _parameters(model)

    def figures(part: Part) -> Figures:
        return Figures(
            parameters.get(part, 0),
            int(flops.get(part, 0)),
            *(None if table is None else table.get(part, 0) for table in (kept, live, times)),
        )

    layers = tuple(
        LayerProfile(
            index,
            str(layer.f),
            _block_name(layer),
            shapes[index],
            figures((index, False)),
            figures((index, True)),
            thop_layers and thop_layers.get(str(index), 0.0),
        )
        for index, layer in enumerate(model.model)
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


def _or_note(notes: list[str], what: str, measure: Callable[[], Result]) -> Result | None:
    """Return what `measure` returns, or None with a note on what it raises."""
    try:
        return measure()
    except BLOCK_ERRORS as error:
        notes.append(f"{what}: {short_message(error)}")
        return None


def _shapes_and_flops(model: nn.Module, size: Size) -> tuple[dict[int, str], dict[Part, float]]:
    def count(model: nn.Module, image: Tensor) -> tuple[dict[int, str], dict[Part, float]]:
        shapes: dict[int, str] = {}
        with flop_counter() as counter, torch.no_grad():
            meter = Meter(counter.get_total_flops)

            def leave(part: Part, output: object) -> None:
                meter.leave(part, output)
                shapes[part[0]] = _shape(output)

            with watched(model, meter.enter, leave):
                model(image)
        return shapes, meter.sums

    return count_on_shapes(model, size, count)


def _shape(output: object) -> str:
    """Return the shape of an output of one image, without the batch: a head's is that of its decoded rows."""
    if isinstance(output, (tuple, list)):
        output = output[0]
    return " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else type(output).__name__


def _parameters(model: nn.Module) -> dict[Part, int]:
    found = {}
    for index, layer in enumerate(model.model):
        found[index, False] = _count(layer)
        found[index, True] = sum(_count(part) for part in attention_parts(layer))
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _block_name(layer: nn.Module) -> str:
    return str(getattr(layer, "type", type(layer).__name__)).rsplit(".", 1)[-1]


def _sum(rows: Sequence[Figures]) -> Figures:
    def total(values: list, combine: Callable) -> int | float | None:
        return None if None in values else combine(values)

    return Figures(
        sum(row.parameters for row in rows),
        sum(row.flops for row in rows),
        total([row.kept for row in rows], sum),
        total([row.live for row in rows], max),
        total([row.milliseconds for row in rows], sum),
    )


# ---- the table ----


def render(profile: ModelProfile) -> str:
    """Return a profile as text: a line a layer, the sums, what attention takes of them, and what the columns are."""
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
            for column, (cell, width) in enumerate(zip(line, widths))
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


def _share(part: float | None, whole: float | None) -> str:
    if part is None or whole is None:
        return "n/a"
    return f"{100 * part / whole if whole else 0:.1f} %"


def _attention_line(profile: ModelProfile) -> str:
    part, whole = profile.attention, profile.all
    places = [
        f"{layer.index} {layer.block}"
        for layer in profile.layers
        if layer.attention.parameters or layer.attention.milliseconds
    ]
    if not places:
        return "attention: none of its layers"
    return (
        f"attention ({', '.join(places)}): {part.parameters:,} parameters ({_share(part.parameters, whole.parameters)}), "
        f"{part.flops / 1e9:.4f} GFLOPs ({_share(part.flops, whole.flops)}), {_shown(part.kept, MIB, 2)} MiB kept "
        f"({_share(part.kept, whole.kept)}), {_shown(part.milliseconds, 1.0, 2)} ms "
        f"({_share(part.milliseconds, whole.milliseconds)})"
    )
