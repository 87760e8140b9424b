"""Alignment of the layers of two networks by block type, tensor shapes and order.

Of all order-preserving pairings, the one that has the most parameters in common is taken (a weighted longest common
subsequence); between equals, layers of the same stride and repeats are paired. If the first layers differ in shape,
only layers of the same stride are paired, so that a narrower checkpoint is not scattered over layers that happen to
have its shapes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

import torch

from models.aliases import canonical
from models.graph.architecture import Row, as_list, read_content, source_index
from models.registry import find
from utils.checkpoint.archive import printable
from utils.errors import CheckpointError, ModelError

_TENSOR_NAME = re.compile(r"model\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)
_BLOCK_FAMILIES = (
    {"C3", "C3Attention", "C3TR", "C3Ghost", "C3SPP"},
    {"SPP", "SPPF"},
)  # they share their outer convolutions


@dataclass(frozen=True)
class LayerSignature:
    """What a layer is aligned by.

    Attributes:
        index: Its index in the model.
        block: The name of its block.
        section: "backbone" or "head".
        repeats: Repeats in the yaml.
        log2_stride: log2 of the stride of its output.
        inserted: Whether it is an attention block inserted between the layers of a base model.
        shapes: Shapes of its tensors by name within the layer, such as "conv.weight".
    """

    index: int
    block: str
    section: str
    repeats: int
    log2_stride: float
    inserted: bool
    shapes: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        return f"layer {self.index} ({printable(self.block)})"


def layer_signatures(description: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> list[LayerSignature]:
    """Return the signatures of a model's layers.

    Args:
        description: Content of the model yaml.
        shapes: Shapes of the model's tensors by full name, "model.<layer index>.<name within the layer>".

    Returns:
        One per layer, in order.

    Raises:
        CheckpointError: If the description cannot be read, or a tensor belongs to none of its layers.
    """
    try:
        rows = read_content(description)[2]
    except ModelError as error:
        raise CheckpointError(f"its model description cannot be read: {printable(str(error), 1000)}") from None
    grouped: list[dict[str, tuple[int, ...]]] = [{} for _ in rows]
    for name, shape in shapes.items():
        found = _TENSOR_NAME.fullmatch(name)
        if not found or int(found[1]) >= len(rows):
            raise CheckpointError(
                f"{printable(name)} belongs to no layer: the model description has {len(rows)}, "
                f"whose tensors are called model.<index>.<name>"
            )
        grouped[int(found[1])][found[2]] = shape
    strides = _log2_strides(rows)
    head_strides = [strides[source_index(source, len(rows) - 1)] for source in as_list(rows[-1].sources)]
    if any(after - before != 1 for before, after in pairwise(head_strides)):
        strides = [0.0] * len(rows)  # a block changes the stride in a way that its row does not show
    return [
        LayerSignature(
            index, canonical(row.block), row.section, row.repeats, strides[index], _is_inserted(row), grouped[index]
        )
        for index, row in enumerate(rows)
    ]


def _log2_strides(rows: Sequence[Row]) -> list[float]:
    """Return log2 of each layer's stride, as far as rows show it; it only decides between equal pairings."""
    strides: list[float] = []
    for index, row in enumerate(rows):
        first = source_index(as_list(row.sources)[0], index)
        strides.append((strides[first] if 0 <= first < index else 0.0) + _log2_stride_change(row))
    return strides


def _log2_stride_change(row: Row) -> float:
    """Return log2 of the factor by which a row changes the stride."""
    if row.block in ("Focus", "Contract"):
        return 1.0
    if row.block == "Expand":
        return -1.0
    numbers = [arg if isinstance(arg, (int, float)) and not isinstance(arg, bool) else 0 for arg in row.args]
    if row.block == "nn.Upsample":
        return -log2(numbers[1]) if len(numbers) > 1 and numbers[1] > 0 else 0.0
    position = {"MobileNetV3Block": 3, "nn.MaxPool2d": 1}.get(row.block, 2)
    convolves = row.block in ("Conv", "DWConv", "GhostConv", "nn.Conv2d", "MobileNetV3Block", "nn.MaxPool2d")
    return log2(numbers[position]) if convolves and len(numbers) > position and numbers[position] > 0 else 0.0


def _is_inserted(row: Row) -> bool:
    try:
        return find(row.block).inserted
    except ModelError:  # a block of another program
        return False


def base_indices(description: Mapping) -> list[int | None]:
    """Return for each layer its index in the model without attention, None for inserted blocks.

    An attention block behind a stride-2 convolution that no C3 or bottleneck follows replaces the stage and is counted.
    The stem, of stride 2, has no stage.
    """
    rows = read_content(description)[2]
    strides = _log2_strides(rows)
    indices: list[int | None] = []
    count = 0
    for index, row in enumerate(rows):
        behind_downsampling = index > 0 and _log2_stride_change(rows[index - 1]) > 0 and strides[index - 1] > 1
        stage_follows = index + 1 < len(rows) and rows[index + 1].block.startswith(("C3", "Bottleneck"))
        inserted = _is_inserted(row) and not (behind_downsampling and not stage_follows)
        indices.append(None if inserted else count)
        count += not inserted
    return indices


# ---- alignment ----


def align_layers(source: Sequence[LayerSignature], target: Sequence[LayerSignature]) -> dict[int, int]:
    """Return the source layer that each target layer is paired with.

    Order is preserved, each layer is paired at most once, and the pairs have the most parameters in common.

    Args:
        source: Layers of the checkpoint.
        target: Layers of the model.

    Returns:
        Index of the source layer by index of the target layer, for those that have one.
    """
    same_width = bool(source and target) and source[0].shapes == target[0].shapes
    best = [[0.0] * (len(target) + 1) for _ in range(len(source) + 1)]
    scores = [[pairing_score(left, right, same_width) for right in target] for left in source]
    for i in range(len(source) - 1, -1, -1):
        for j in range(len(target) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + scores[i][j] if scores[i][j] else 0.0)
    pairs: dict[int, int] = {}
    i = j = 0
    while i < len(source) and j < len(target):
        if scores[i][j] and best[i][j] == best[i + 1][j + 1] + scores[i][j]:
            pairs[j] = i
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def pairing_score(source: LayerSignature, target: LayerSignature, any_stride: bool) -> float:
    """Return the score of pairing two layers: parameters in common, plus less than one for the same stride and repeats.

    Args:
        source: A layer of the checkpoint.
        target: A layer of the model.
        any_stride: Whether layers of different strides may be paired.

    Returns:
        The score, 0 if the layers cannot be paired.
    """
    family = source.block == target.block or any({source.block, target.block} <= blocks for blocks in _BLOCK_FAMILIES)
    same_stride = source.log2_stride == target.log2_stride
    if source.section != target.section or not family or not (same_stride or any_stride):
        return 0.0
    shared = sum(torch.Size(target.shapes[name]).numel() for name, _ in matching_tensors(source, target))
    if not shared and (source.shapes or target.shapes):
        return 0.0
    # eighths are exact in binary, so sums compare exactly however they are added up
    return shared + (1 + 4 * same_stride + 2 * (source.repeats == target.repeats)) / 8


def matching_tensors(source: LayerSignature, target: LayerSignature) -> Iterator[tuple[str, str]]:
    """Yield the names of the tensors that match in a pair of layers.

    Args:
        source: A layer of the checkpoint.
        target: A layer of the model.

    Yields:
        (target's name, source's name), within the layer. For a batch norm that the checkpoint has folded, the source
        is the bias of its convolution.
    """
    by_plain_name = {_name_without_gate(name, source): name for name in source.shapes}
    for name, shape in target.shapes.items():
        origin = by_plain_name.get(_name_without_gate(name, target))
        if origin is None:
            origin = _folded_bias(name, source, target)
        if origin is not None and (source.shapes[origin] == shape or shape == ()):
            yield name, origin


def _name_without_gate(name: str, layer: LayerSignature) -> str:
    """Return the name that a tensor has if its attention block has no gate."""
    head, found, tail = name.partition("block.")
    gated = found and (not head or head.endswith(".")) and f"{head}gate" in layer.shapes
    return head + tail if gated and (layer.inserted or "attention." in head) else name


def _folded_bias(name: str, source: LayerSignature, target: LayerSignature) -> str | None:
    """Return the bias that a batch norm was folded into, if the checkpoint was fused and the model is not."""
    head, found, _ = name.rpartition("bn.")
    bias = f"{head}conv.bias"
    is_folded = (
        found and bias in source.shapes and bias not in target.shapes and f"{head}bn.weight" not in source.shapes
    )
    return bias if is_folded else None
