"""The rows of a model as YOLOv5's own parse_model builds them, and the blocks in them that YOLOv5 does not have.

Rows of YOLOv5's layers stay as they are. A row of another block is resolved: behind the number of channels that leave
it stand its constructor's arguments, so that one line of parse_model, `c2, *args = args`, builds any of them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.c3_attention import C3Attention, plan_inner_block
from models.graph.architecture import LEADING_KEYS, Architecture, Row, read_content
from models.graph.spec import LayerRow, ModelSpec, read_spec
from models.identity_start import IdentityStart
from models.registry import Entry, WiringPlan, count_wired, find
from models.yolo import Model
from utils.checkpoint.record import Checkpoint
from utils.errors import CheckpointError

GATED = "Gated"  # block of the rows whose block is behind a zero-initialized gate
# Layers of yamls that YOLOv5 v6.1 and later build from the same rows to the same layers.
YOLOV5_BLOCKS = frozenset(
    (
        "Bottleneck",
        "BottleneckCSP",
        "C3",
        "C3Ghost",
        "C3SPP",
        "C3TR",
        "Concat",
        "Contract",
        "Conv",
        "CrossConv",
        "DWConv",
        "Detect",
        "Expand",
        "Focus",
        "GhostBottleneck",
        "GhostConv",
        "MixConv2d",
        "SPP",
        "SPPF",
    )
)
_SETTINGS = (*LEADING_KEYS, "ch", "inplace")


@dataclass(frozen=True)
class ResolvedModel:
    """A model's rows for YOLOv5.

    Attributes:
        architecture: Its yaml.
        blocks: Classes of its rows that YOLOv5 does not have, each once, those inside a `C3Attention` included.
        gated: Whether a block is behind a zero-initialized gate.
    """

    architecture: Architecture
    blocks: tuple[type[nn.Module], ...]
    gated: bool


def resolve_rows(checkpoint: Checkpoint, model: Model) -> ResolvedModel:
    """Return a checkpoint's rows for YOLOv5.

    Args:
        checkpoint: Its description.
        model: The model that was built from it, not fused.

    Returns:
        The rows.

    Raises:
        CheckpointError: If a row cannot be said in a yaml of YOLOv5.
    """
    spec = read_spec(checkpoint.yaml, nc=checkpoint.nc)
    _, content, written = read_content(spec.yaml)
    channels: list[int] = []
    rows: list[Row] = []
    blocks: dict[type[nn.Module], None] = {}
    has_gates = False
    for row, given in zip(spec.rows, written, strict=True):
        entry = find(row.block)
        arriving = [channels[source] if row.index else spec.ch for source in row.sources]
        plan = entry.plan(arriving, spec.scale.repeats(row.repeats), spec.scale, row.args)
        channels.append(plan.channels_out)
        where = f"{checkpoint.source}: layer {row.index} ({row.block})"
        if _is_native(entry):
            args = _native_arguments(entry, row, plan, given.args, where)
            rows.append(Row(row.source, row.repeats, _yaml_name(entry), args, given.section))
            continue
        _check_resolvable(entry, row, plan, spec, where)
        layer = model.model[row.index]
        is_gated = any(isinstance(module, IdentityStart) for module in layer.modules())
        inner, constructor_arguments = _constructor_arguments(entry, plan, where)
        name, args = _yaml_name(entry), [*constructor_arguments]
        if is_gated:
            name, args = GATED, [arriving[0], name, *args]
        repeats = row.repeats if plan.copies > 1 else 1
        note = given.block if given.block != name else ""
        rows.append(Row(row.source, repeats, name, [plan.channels_out, *args], given.section, note))
        blocks.update(dict.fromkeys((entry.cls, *inner)))
        has_gates |= is_gated
    settings = {key: content[key] for key in _SETTINGS if key in content}
    return ResolvedModel(Architecture("model.yaml", settings, tuple(rows)), tuple(blocks), has_gates)


def _is_native(entry: Entry) -> bool:
    """Return whether YOLOv5 has the block and builds a row of it as we do."""
    if entry.cls.__module__.startswith("torch.nn."):
        return entry.wiring_name == "untouched" or entry.cls is nn.BatchNorm2d
    return entry.name in YOLOV5_BLOCKS and entry.module in ("models.layers", "models.head")


def _yaml_name(entry: Entry) -> str:
    return f"nn.{entry.cls.__name__}" if entry.cls.__module__.startswith("torch.nn.") else entry.cls.__name__


def _native_arguments(entry: Entry, row: LayerRow, plan: WiringPlan, given: list, where: str) -> list:
    """Return the arguments of a row of YOLOv5's, by position; as they are written unless it has keywords."""
    wired = count_wired(entry.form, entry.wiring_name)
    leading = 1 if entry.wiring_name in ("widened", "stacked") else 0
    unchanged = not plan.keywords and list(plan.args[wired:]) == list(row.args[leading:])
    if unchanged or entry.wiring_name not in ("widened", "stacked", "untouched", "concatenated"):
        return given
    return [*given[:leading], *_as_yaml(_by_position(entry, plan, where)[wired:])]


def _constructor_arguments(
    entry: Entry, plan: WiringPlan, where: str
) -> tuple[tuple[type[nn.Module], ...], Sequence[Any]]:
    """Return the blocks inside a block that it finds by name, and its constructor's arguments for a yaml."""
    if entry.cls is not C3Attention:
        return (), _as_yaml(_by_position(entry, plan, where))
    inner, inner_plan, _ = plan_inner_block(plan)
    leading = (*plan.args[:4], inner.name)
    return (inner.cls,), _as_yaml((*leading, *_by_position(inner, inner_plan, where)))


def _by_position(entry: Entry, plan: WiringPlan, where: str) -> tuple[Any, ...]:
    """Return a constructor's arguments with keywords in their places."""
    if not plan.keywords:
        return tuple(plan.args)
    bound = inspect.signature(entry.cls).bind(*plan.args, **plan.keywords)
    bound.apply_defaults()
    if bound.kwargs:
        names = ", ".join(bound.kwargs)
        raise CheckpointError(f"{where}: its arguments {names} have no position, and YOLOv5's rows have no keywords")
    return bound.args


def _as_yaml(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments as a row has them: parse_model evaluates text, so text is written as Python writes it."""
    return [
        repr(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
        for value in arguments
    ]


def _check_resolvable(entry: Entry, row: LayerRow, plan: WiringPlan, spec: ModelSpec, where: str) -> None:
    """Refuse what parse_model would build otherwise, whatever the row says."""
    if entry.cls.__module__.startswith("torch.nn."):
        raise CheckpointError(f"{where}: YOLOv5's yamls do not build {_yaml_name(entry)} as a layer; use Conv")
    if entry.cls.__module__.startswith("yolo_plugin_"):
        raise CheckpointError(f"{where}: a plugin's block is not written; only blocks of this program are")
    if plan.copies > 1:
        further = entry.plan([plan.channels_out], spec.scale.repeats(row.repeats), spec.scale, row.args)
        if (further.args, further.keywords) != (plan.args, plan.keywords):
            raise CheckpointError(
                f"{where}: its copies differ in width, and YOLOv5 repeats a row with the same numbers"
            )
