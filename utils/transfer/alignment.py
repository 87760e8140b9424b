"""Which layer of one network is which layer of another: rows of yamls and shapes of tensors, aligned by what they are.

Of all order-keeping pairings, the one that has the most parameters in common (a weighted longest common subsequence);
between equals, layers of the same stride and repeats go together. Where the two begin with different shapes, only layers
of the same stride go together, so that a narrower checkpoint is not scattered over layers that happen to have its shapes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

import torch

from models.graph.architecture import Row, as_list, read_content, source_index
from models.registry import find
from utils.checkpoint.archive import printable
from utils.errors import CheckpointError, ModelError

_TENSOR = re.compile(r"model\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)
_FAMILIES = ({"C3", "C3Attention", "C3TR", "C3Ghost", "C3SPP"}, {"SPP", "SPPF"})  # they share their outer convolutions


@dataclass(frozen=True)
class LayerSignature:
    """One layer: its number, block, section, repeats, log2 of its stride, and its tensors' shapes by the rest of the name.

    inserted: whether it is an attention block put between the layers of a base model.
    """

    index: int
    block: str
    section: str
    repeats: int
    level: float
    inserted: bool
    shapes: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        return f"layer {self.index} ({self.block})"


def layers_of(description: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> list[LayerSignature]:
    """Return the layers of a model from its yaml's content and the shapes of its tensors ("model.<layer>.<rest>")."""
    try:
        rows = read_content(description)[2]
    except ModelError as error:
        raise CheckpointError(f"its model description cannot be read: {error}") from None
    grouped: list[dict[str, tuple[int, ...]]] = [{} for _ in rows]
    for name, shape in shapes.items():
        found = _TENSOR.fullmatch(name)
        if not found or int(found[1]) >= len(rows):
            raise CheckpointError(
                f"{printable(name)} belongs to no layer: the model description has {len(rows)}, "
                f"whose tensors are called model.<number>.<name>"
            )
        grouped[int(found[1])][found[2]] = shape
    levels = _levels(rows)
    read = [levels[source_index(source, len(rows) - 1)] for source in as_list(rows[-1].sources)]
    if any(after - before != 1 for before, after in zip(read, read[1:])):
        levels = [0.0] * len(rows)  # a block changes the stride in a way that its row does not tell
    return [
        LayerSignature(index, row.block, row.section, row.repeats, levels[index], _is_inserted(row), grouped[index])
        for index, row in enumerate(rows)
    ]


def _levels(rows: Sequence[Row]) -> list[float]:
    """Return log2 of each layer's stride, as far as the rows tell it: it only decides between equals."""
    levels: list[float] = []
    for index, row in enumerate(rows):
        first = source_index(as_list(row.sources)[0], index)
        levels.append((levels[first] if 0 <= first < index else 0.0) + _step(row))
    return levels


def _step(row: Row) -> float:
    """Return log2 of what a row does to the stride."""
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
    except ModelError:  # a block of another program's
        return False


def base_numbers(description: Mapping) -> list[int | None]:
    """Return for each layer its number in the model without attention, None for inserted blocks.

    A block directly behind a stride-2 convolution that no stage follows stands in the place of the stage and counts
    (the stem, of stride 2, has no stage).
    """
    rows = read_content(description)[2]
    levels = _levels(rows)
    numbers: list[int | None] = []
    count = 0
    for index, row in enumerate(rows):
        behind = index > 0 and _step(rows[index - 1]) > 0 and levels[index - 1] > 1
        stage_follows = index + 1 < len(rows) and rows[index + 1].block.startswith(("C3", "Bottleneck"))
        inserted = _is_inserted(row) and not (behind and not stage_follows)
        numbers.append(None if inserted else count)
        count += not inserted
    return numbers


# ---- alignment ----


def align(source: Sequence[LayerSignature], target: Sequence[LayerSignature]) -> dict[int, int]:
    """Return the number of the source layer that each target layer is, for those that are one: order-keeping, each
    layer at most once, most parameters in common.
    """
    same_width = bool(source and target) and source[0].shapes == target[0].shapes
    best = [[0.0] * (len(target) + 1) for _ in range(len(source) + 1)]
    gains = [[gain(left, right, same_width) for right in target] for left in source]
    for i in range(len(source) - 1, -1, -1):
        for j in range(len(target) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + gains[i][j] if gains[i][j] else 0.0)
    pairs, i, j = {}, 0, 0
    while i < len(source) and j < len(target):
        if gains[i][j] and best[i][j] == best[i + 1][j + 1] + gains[i][j]:
            pairs[j] = i
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def gain(source: LayerSignature, target: LayerSignature, any_level: bool) -> float:
    """Return what pairing two layers is worth: parameters in common, and less than one more for the same role."""
    family = source.block == target.block or any({source.block, target.block} <= kin for kin in _FAMILIES)
    same_level = source.level == target.level
    if source.section != target.section or not family or not (same_level or any_level):
        return 0.0
    shared = sum(torch.Size(target.shapes[rest]).numel() for rest, _ in matches(source, target))
    if not shared and (source.shapes or target.shapes):
        return 0.0
    # eighths are exact in binary, so sums compare exactly however they are added up
    return shared + (1 + 4 * same_level + 2 * (source.repeats == target.repeats)) / 8


def matches(source: LayerSignature, target: LayerSignature) -> Iterator[tuple[str, str]]:
    """Yield (target's, source's) rest of name for the tensors that fit; the source's of a folded norm is its convolution's."""
    plain = {_ungated(rest, source): rest for rest in source.shapes}
    for rest, shape in target.shapes.items():
        origin = plain.get(_ungated(rest, target))
        if origin is None:
            origin = _folded_origin(rest, source, target)
        if origin is not None and (source.shapes[origin] == shape or shape == ()):
            yield rest, origin


def _ungated(rest: str, layer: LayerSignature) -> str:
    """Return a tensor's name as it would be without the gate in front of an attention block."""
    head, found, tail = rest.partition("block.")
    gated = found and (not head or head.endswith(".")) and f"{head}gate" in layer.shapes
    return head + tail if gated and (layer.inserted or "attention." in head) else rest


def _folded_origin(rest: str, source: LayerSignature, target: LayerSignature) -> str | None:
    """Return the bias that a folded batch norm became, where the checkpoint was fused and the model is not."""
    head, found, _ = rest.rpartition("bn.")
    bias = f"{head}conv.bias"
    is_folded = (
        found and bias in source.shapes and bias not in target.shapes and f"{head}bn.weight" not in source.shapes
    )
    return bias if is_folded else None
