"""Mistakes in a model yaml that builds all the same.

Stages and attention that are bypassed, layers that no other reads, levels in the wrong order, widths that fit one
scale only, numbers that no one means. A rule is a function (spec, layers, cache) that yields (layer index, finding).
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from models.graph.architecture import SCALES, Architecture, as_list
from models.graph.row_report import read_block_row
from models.graph.shapes import GraphLayer, ShapeCache, infer_shapes, input_channels, load_spec
from models.graph.spec import LayerRow, ModelSpec
from models.registry import Scale
from models.row_reading import argument_of
from utils.errors import ModelError


@dataclass(frozen=True)
class LintFinding:
    """One mistake in a yaml.

    Attributes:
        where: The row, such as "mine.yaml:31: layer 12 (head row 3) Concat".
        text: What is wrong.
        fix: What to write instead.
    """

    where: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}; {self.fix}"


Finding = tuple[int, LintFinding]  # with the index of the layer


def lint_yaml(source: Architecture | Path | str | dict, cache: ShapeCache | None = None) -> list[LintFinding]:
    """Return the mistakes in a model yaml, in the order of its layers.

    Args:
        source: Path, content, or an architecture in memory.
        cache: Layers that were measured before; share one over several yamls.

    Returns:
        The findings; empty if there are none.

    Raises:
        ModelError: If the yaml cannot be read or does not build at its own scale.
    """
    cache = cache or ShapeCache()
    spec = load_spec(source)
    layers = infer_shapes(spec, cache)
    _check_head(layers)
    found = [finding for rule in RULES for finding in rule(spec, layers, cache)]
    return [finding for _, finding in sorted(found, key=lambda pair: pair[0])]


def _check_head(layers: Sequence[GraphLayer]) -> None:
    heads = [layer for layer in layers if layer.is_head]
    if heads != list(layers[-1:]):
        wrong = heads[0] if heads else layers[-1]
        raise ModelError(
            f"{wrong.row.where}: a model ends in one detection head, such as [[17, 20, 23], 1, Detect, [nc, anchors]]"
        )


# ---- bypassed layers ----


def _find_bypassed_layers(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find a Concat or Detect that reads a layer although a later one holds the finished map of that size."""
    for join in layers:
        if len(join.row.sources) < 2 and not join.is_head:
            continue
        for source in join.row.sources:
            later = _later_layers(spec, layers, layers[source], join)
            if later and not set(later) & set(join.row.sources):
                skipped = ", ".join(f"{layer} {layers[layer].row.block}" for layer in later)
                yield (
                    join.index,
                    LintFinding(
                        join.row.where,
                        f"it reads layer {source} {layers[source].row.block} and so skips layer {skipped}, "
                        f"which has the same stride {layers[source].stride:g} and comes after it",
                        f"read {later[-1]} instead",
                    ),
                )


def _later_layers(spec: ModelSpec, layers: Sequence[GraphLayer], source: GraphLayer, join: GraphLayer) -> list[int]:
    """Return the layers after `source` that `join` should have read.

    In the head, these are the rest of the backbone's stage of that stride; anywhere, attention on that very map.
    """
    backbone = len(spec.yaml["backbone"])
    in_stage = source.index < backbone <= join.index
    later: list[int] = []
    reached = {source.index}
    for layer in layers[source.index + 1 : join.index]:
        if not reached & set(layer.row.sources) or layer.shape[1:] != source.shape[1:]:
            continue
        follows = layer.row.sources in ((source.index,), tuple(later[-1:]))
        is_attention = follows and layer.shape == source.shape and _is_attention(layer)
        if in_stage and layer.index < backbone or is_attention:
            reached.add(layer.index)
            if not _narrows(layer, layers):
                later.append(layer.index)
    return later


def _is_attention(layer: GraphLayer) -> bool:
    return layer.entry.attention or layer.entry.wiring_name == "same_width" and not layer.row.block.startswith("nn.")


def _narrows(layer: GraphLayer, layers: Sequence[GraphLayer]) -> bool:
    """Return whether a layer is a 1x1 convolution that only the next downsampling reads, not a stage's finished map."""
    return _is_pointwise(layer) and all(layers[reader].shape[1:] != layer.shape[1:] for reader in layer.readers)


# ---- sources that did not move with the rows ----


def _find_unmoved_sources(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find an index that means the layer before the one that a join should read, as after a row was inserted above.

    Only sources written as an index can be such: a negative distance moves with its row. The layer read is then a
    Concat or Upsample whose result the next rows finish, or a map that a 1x1 convolution narrows to the width of the
    join's other source before it is upsampled.
    """
    for join in layers:
        written = as_list(join.row.source)
        if len(written) < 2 and not join.is_head:
            continue
        for source in (source for source in written if source >= 0):
            right = _unfinished(layers, source) or _lateral(layers, join, source)
            if right and right not in join.row.sources and right < join.index:
                yield (
                    join.index,
                    LintFinding(
                        join.row.where,
                        f"it reads layer {source} {layers[source].row.block}, and layer {right} "
                        f"{layers[right].row.block} makes the map of stride {layers[source].stride:g} to join of that; "
                        f"indices count the rows that are inserted above them",
                        f"read {right} instead",
                    ),
                )


def _unfinished(layers: Sequence[GraphLayer], source: int) -> int | None:
    """Return the first layer that makes more of a Concat or Upsample than a join of it; None for other layers."""
    layer, passed = layers[source], {source}
    if not _is_raw(layer):
        return None
    for later in layers[source + 1 :]:
        if set(later.row.sources) & passed and later.shape[1:] == layer.shape[1:]:
            if not _is_raw(later) and not _is_attention(later):
                return later.index
            passed.add(later.index)
    return None


def _is_raw(layer: GraphLayer) -> bool:
    return layer.entry.wiring_name == "concatenated" or layer.row.block == "nn.Upsample"


def _lateral(layers: Sequence[GraphLayer], join: GraphLayer, source: int) -> int | None:
    """Return the 1x1 convolution of the top-down path that a join of the bottom-up path should read, if there is one.

    It narrows the map at `source`, is upsampled, and is as wide as the downsampled map that the join reads, which the
    map at `source` is not. Both are true of YOLOv5's necks. In necks that join the wide map on purpose, as YOLOv7's do,
    the downsampled map is as wide as that, or there are two.
    """
    written = zip(as_list(join.row.source), join.row.sources, strict=True)
    downsampled = [layers[each].shape for distance, each in written if distance < 0]
    if len(downsampled) != 1 or downsampled[0][0] == layers[source].shape[0]:
        return None
    for reader in layers[source].readers:
        past = [layers[each] for each in _readers_past_attention(layers, reader)]
        upsampled = any(layer.shape and layer.stride < layers[reader].stride for layer in past)
        if _is_pointwise(layers[reader]) and upsampled and layers[reader].shape == downsampled[0]:
            return reader
    return None


def _is_pointwise(layer: GraphLayer) -> bool:
    return layer.row.block in ("Conv", "GhostConv", "DWConv") and argument_of(layer.row.args, 1, "kernel", 1) == 1


def _readers_past_attention(layers: Sequence[GraphLayer], index: int) -> list[int]:
    """Return the layers that read a layer, or attention on it."""
    found: list[int] = []
    for reader in layers[index].readers:
        found += _readers_past_attention(layers, reader) if _is_attention(layers[reader]) else [reader]
    return found


# ---- dead layers ----


def _find_dead_layers(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find layers whose output never reaches the head."""
    alive = {layers[-1].index}
    for layer in reversed(layers):
        if layer.index in alive:
            alive.update(layer.row.sources)
    for layer in layers:
        if layer.index not in alive:
            readers = ", ".join(f"{reader} {layers[reader].row.block}" for reader in layer.readers)
            reason = f"only layer {readers} reads it" if readers else "no layer reads it"
            yield (
                layer.index,
                LintFinding(
                    layer.row.where,
                    f"its output never reaches the head: {reason}",
                    "add it to the sources of a layer that should read it, or delete the row and renumber",
                ),
            )


# ---- the order of levels ----


def _find_unordered_levels(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find a head whose strides or anchors do not increase from level to level."""
    head = layers[-1]
    strides = [layers[source].stride for source in head.row.sources]
    if any(after <= before for before, after in pairwise(strides)):
        rising = [source for _, source in sorted(zip(strides, head.row.sources, strict=True))]
        yield (
            head.index,
            LintFinding(
                head.row.where,
                f"its sources {list(head.row.sources)} have the strides "
                f"{', '.join(f'{stride:g}' for stride in strides)}, which must increase",
                f"write {rising}" if len(set(strides)) == len(strides) else "read one map of each stride",
            ),
        )
    if isinstance(spec.anchors, list) and len({len(row) for row in spec.anchors}) == 1:
        areas = [
            sum(width * height for width, height in zip(row[::2], row[1::2], strict=False)) for row in spec.anchors
        ]
        if any(after <= before for before, after in pairwise(areas)):
            yield (
                head.index,
                LintFinding(
                    head.row.where,
                    "the anchors do not grow from the first level to the last",
                    "put the smallest anchors first, like the smallest stride",
                ),
            )


# ---- other scales ----


def _find_single_scale_layers(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find layers that build at the yaml's own depth and width but not at those of another scale."""
    failing: dict[int, tuple[LayerRow, list[str], str]] = {}
    for letter, (depth, width) in SCALES.items():
        if (depth, width) == (spec.scale.depth, spec.scale.width):
            continue
        for row, reason in _find_faults(replace(spec, scale=Scale(depth, width, spec.scale.head_width)), cache):
            failing.setdefault(row.index, (row, [], reason))[1].append(f"{width:g} ({letter})")
    for index, (row, scales, reason) in failing.items():
        text = f"it builds at width_multiple {spec.scale.width:g} but not at {', '.join(scales)}: {reason}"
        yield index, LintFinding(row.where, text, "leave the width out, or write that of scale l")


def _find_faults(spec: ModelSpec, cache: ShapeCache) -> list[tuple[LayerRow, str]]:
    """Return (row, reason) of each layer that cannot be built or run."""
    faults: list[tuple[LayerRow, str]] = []
    infer_shapes(spec, cache, faults=faults)
    return faults


# ---- implausible arguments ----


def _find_implausible_arguments(spec: ModelSpec, layers: Sequence[GraphLayer], cache: ShapeCache) -> Iterator[Finding]:
    """Find numbers of an attention row that are outside the range of what they were read as."""
    for layer in layers:
        block = read_block_row(layer.row, layer.entry, spec, input_channels(layer.row, spec, layers))
        for argument, problem in block.implausible() if block else ():
            default = "" if argument.default in (None, inspect.Parameter.empty) else f", which is {argument.default}"
            fix = f"leave it out for the default{default}, or name what is meant: {{{argument.name}: ...}}"
            yield layer.index, LintFinding(layer.row.where, problem, fix)


RULES = (
    _find_bypassed_layers,
    _find_unmoved_sources,
    _find_dead_layers,
    _find_unordered_levels,
    _find_single_scale_layers,
    _find_implausible_arguments,
)
