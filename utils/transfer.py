"""Pretrained weights for a changed model: which layer of a checkpoint a layer of the model is, and what it gives it.

Keys carry layer numbers, and an inserted block moves every number behind it. So layers are aligned by what they are.
The alignment is the one of all order-keeping pairings that uses the most of the checkpoint's parameters (a weighted
longest common subsequence); where the two begin with different shapes, only layers of the same stride go together,
so that a narrower checkpoint is not scattered over layers that happen to have its shapes. Inside a pair, tensors go
by name and shape."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

import torch
from torch import Tensor, nn

from models.registry import find
from models.rows import Row, absolute, listed, read_content
from utils.checkpoint import Checkpoint
from utils.errors import CheckpointError, ModelError
from utils.files import write_atomically
from utils.log import LOGGER

WAYS = ("layers", "keys")
NORM_EPS = 1e-3  # of the norms in a detector
LEAST_USED = 0.5  # share of the checkpoint's parameters below which a warning is due
_FAMILIES = ({"C3", "C3Attention", "C3TR", "C3Ghost", "C3SPP"}, {"SPP", "SPPF"})  # they share their outer convolutions
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid", "grid")
_COLUMNS = ("status", "from", "to", "shape", "parameters", "reason")


@dataclass(frozen=True)
class Layer:
    """One layer: its number, block, section, repeats, log2 of its stride, and its tensors' shapes by the rest of the name.

    inserted: whether it is an attention block put between the layers of a base model."""

    index: int
    block: str
    section: str
    repeats: int
    level: float
    inserted: bool
    shapes: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        return f"layer {self.index} ({self.block})"


@dataclass(frozen=True)
class Transfer:
    """What becomes of one tensor. status: transferred (same name), remapped, new (the model's, left as it was) or
    dropped (the checkpoint's, not used); source and target: full names, "" where there is none."""

    status: str
    source: str
    target: str
    shape: tuple[int, ...]
    reason: str

    @property
    def parameters(self) -> int:
        """Learnt numbers in it; 0 for statistics and anchors, and for what is made up around a folded norm's bias."""
        leaf = (self.target or self.source).rsplit(".", 1)[-1]
        made_up = _is_folded(self) and leaf != "bias"
        return 0 if made_up or leaf in _STATISTICS else torch.Size(self.shape).numel()


@dataclass(frozen=True)
class TransferReport:
    """Every tensor of a model and of a checkpoint, and what became of it. total: tensors of the model."""

    rows: tuple[Transfer, ...]
    total: int
    source: str

    @property
    def transferred(self) -> int:
        """Tensors of the model that came from the checkpoint."""
        return sum(row.status in ("transferred", "remapped") for row in self.rows)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the model's tensors that stayed as they were."""
        return tuple(row.target for row in self.rows if row.status == "new")

    @property
    def used(self) -> float:
        """Share of the checkpoint's parameters that are in the model now, 0..1."""
        used, dropped = (sum(row.parameters for row in self.rows if row.status in kinds)
                         for kinds in (("transferred", "remapped"), ("dropped",)))
        return used / (used + dropped) if used + dropped else 0.0

    def line(self) -> str:
        """One line for the log."""
        counts = Counter(row.status for row in self.rows)
        details = ", ".join(f"{counts[status]} {status}" for status in ("remapped", "new", "dropped") if counts[status])
        return (f"Transferred {self.transferred}/{self.total} items from {self.source}: {self.used:.1%} of its parameters"
                + (f" ({details})" if details else ""))

    def why(self) -> str:
        """The reason that left most of the checkpoint's parameters unused."""
        reasons: Counter[str] = Counter()
        for row in self.rows:
            if row.status == "dropped":
                reasons[row.reason] += row.parameters
        return reasons.most_common(1)[0][0] if reasons else "it has no parameters"

    def write(self, path: Path) -> Path:
        """Write transfer.csv: one row a tensor."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in self.rows:
            table.writerow((row.status, row.source, row.target, "x".join(map(str, row.shape)), row.parameters, row.reason))
        return write_atomically(path, lambda stream: stream.write(text.getvalue().encode()))


def transfer_weights(model: nn.Module, checkpoint: Checkpoint, keep_anchors: bool = False, way: str = "layers",
                     require: float = 0.0) -> TransferReport:
    """Copy into `model` what a checkpoint has for it, log one line, and return what became of every tensor.

    keep_anchors: the model's anchors stay (a cfg or hyperparameters chose them); way: "layers" aligns layers by what
    they are, "keys" takes the same name and shape only, as v6.1 does; require: least share of the checkpoint's
    parameters that must find a place, else CheckpointError."""
    own = model.state_dict()
    report = plan_transfer(model.yaml, _shapes(own), checkpoint.yaml, _shapes(checkpoint.state), checkpoint.source,
                           keep_anchors, way)
    _copy(own, checkpoint.state, report)
    LOGGER.info(report.line())
    if report.used < require:
        raise CheckpointError(f"{checkpoint.source}: {report.used:.1%} of its parameters find a place in this model, "
                              f"--require-transfer asks for {require:.0%}; mostly because {report.why()}")
    if not report.transferred:
        LOGGER.warning(f"WARNING: nothing in {checkpoint.source} fits this model; it starts from random weights")
    elif report.used < LEAST_USED:
        LOGGER.warning(f"WARNING: only {report.used:.1%} of the parameters in {checkpoint.source} are used: "
                       f"mostly because {report.why()}")
    return report


def plan_transfer(model_yaml: Mapping, model_shapes: Mapping[str, tuple[int, ...]], source_yaml: Mapping,
                  source_shapes: Mapping[str, tuple[int, ...]], source: str = "", keep_anchors: bool = False,
                  way: str = "layers") -> TransferReport:
    """Return what `transfer_weights` would do, from the descriptions and the shapes by name alone."""
    target_layers, source_layers = layers_of(model_yaml, model_shapes), layers_of(source_yaml, source_shapes)
    by_number = way == "keys"
    pairs = {index: index for index in range(min(len(target_layers), len(source_layers)))} if by_number else align(
        source_layers, target_layers)
    rows: list[Transfer] = []
    used: set[str] = set()
    for layer in target_layers:
        partner = source_layers[pairs[layer.index]] if layer.index in pairs else None
        for row in _fill_layer(layer, partner, keep_anchors, by_number):
            rows.append(row)
            used.add(row.source)
    homes = {index: layer for layer, index in ((target_layers[target], index) for target, index in pairs.items())}
    for layer in source_layers:
        rows += [Transfer("dropped", f"model.{layer.index}.{rest}", "", shape, _why_dropped(layer, homes.get(layer.index), rest))
                 for rest, shape in layer.shapes.items() if f"model.{layer.index}.{rest}" not in used]
    return TransferReport(tuple(rows), len(model_shapes), source)


# ---- layers ----


def layers_of(description: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Return the layers of a model from its yaml's content and the shapes of its tensors ("model.<layer>.<rest>")."""
    try:
        rows = read_content(description)[2]
    except ModelError as error:
        raise CheckpointError(f"its model description cannot be read: {error}") from None
    grouped: list[dict[str, tuple[int, ...]]] = [{} for _ in rows]
    for name, shape in shapes.items():
        _, number, rest = name.split(".", 2)
        if int(number) >= len(rows):
            raise CheckpointError(f"{name} belongs to no layer: the model description has {len(rows)}")
        grouped[int(number)][rest] = shape
    levels = _levels(rows)
    read = [levels[absolute(source, len(rows) - 1)] for source in listed(rows[-1].sources)]
    if any(after - before != 1 for before, after in zip(read, read[1:])):
        levels = [0.0] * len(rows)  # a block changes the stride in a way that its row does not tell
    return [Layer(index, row.block, row.section, row.repeats, levels[index], _is_inserted(row), grouped[index])
            for index, row in enumerate(rows)]


def _levels(rows: Sequence[Row]) -> list[float]:
    """Return log2 of each layer's stride, as far as the rows tell it: it only decides between equals."""
    levels: list[float] = []
    for index, row in enumerate(rows):
        first = absolute(listed(row.sources)[0], index)
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
    (the stem, of stride 2, has no stage)."""
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


def align(source: Sequence[Layer], target: Sequence[Layer]) -> dict[int, int]:
    """Return the number of the source layer that each target layer is, for those that are one: order-keeping, each
    layer at most once, most parameters in common."""
    same_width = bool(source and target) and source[0].shapes == target[0].shapes
    best = [[0.0] * (len(target) + 1) for _ in range(len(source) + 1)]
    gains = [[_gain(left, right, same_width) for right in target] for left in source]
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


def _gain(source: Layer, target: Layer, any_level: bool) -> float:
    """Return what pairing two layers is worth: parameters in common, and less than one more for the same role."""
    family = source.block == target.block or any({source.block, target.block} <= kin for kin in _FAMILIES)
    same_level = source.level == target.level
    if source.section != target.section or not family or not (same_level or any_level):
        return 0.0
    shared = sum(torch.Size(target.shapes[rest]).numel() for rest, _ in _matches(source, target))
    if not shared and (source.shapes or target.shapes):
        return 0.0
    # eighths are exact in binary, so sums compare exactly however they are added up
    return shared + (1 + 4 * same_level + 2 * (source.repeats == target.repeats)) / 8


def _matches(source: Layer, target: Layer) -> Iterator[tuple[str, str]]:
    """Yield (target's, source's) rest of name for the tensors that fit; the source's of a folded norm is its convolution's."""
    plain = {_ungated(rest, source): rest for rest in source.shapes}
    for rest, shape in target.shapes.items():
        origin = plain.get(_ungated(rest, target))
        if origin is None:
            origin = _folded_origin(rest, source, target)
        if origin is not None and (source.shapes[origin] == shape or shape == ()):
            yield rest, origin


def _ungated(rest: str, layer: Layer) -> str:
    """Return a tensor's name as it would be without the gate in front of an attention block."""
    head, found, tail = rest.partition("block.")
    gated = found and (not head or head.endswith(".")) and f"{head}gate" in layer.shapes
    return head + tail if gated and (layer.inserted or "attention." in head) else rest


def _folded_origin(rest: str, source: Layer, target: Layer) -> str | None:
    """Return the bias that a folded batch norm became, where the checkpoint was fused and the model is not."""
    head, found, _ = rest.rpartition("bn.")
    bias = f"{head}conv.bias"
    is_folded = found and bias in source.shapes and bias not in target.shapes and f"{head}bn.weight" not in source.shapes
    return bias if is_folded else None


def _is_folded(row: Transfer) -> bool:
    return ".bn." in row.target and row.source.endswith(".conv.bias")


# ---- tensors ----


def _fill_layer(layer: Layer, partner: Layer | None, keep_anchors: bool, by_number: bool) -> Iterator[Transfer]:
    """Yield what becomes of each tensor of a model's layer."""
    if partner is None:
        origins = {}
    elif by_number:
        origins = {rest: rest for rest, shape in layer.shapes.items() if partner.shapes.get(rest) == shape}
    else:
        origins = dict(_matches(partner, layer))
    for rest, shape in layer.shapes.items():
        target = f"model.{layer.index}.{rest}"
        if rest in origins and not (keep_anchors and rest == "anchors"):
            source = f"model.{partner.index}.{origins[rest]}"
            status = "transferred" if source == target else "remapped"
            yield Transfer(status, source, target, shape, _why_moved(layer, partner, rest, origins[rest]))
        else:
            yield Transfer("new", "", target, shape, _why_new(layer, partner, rest, keep_anchors))


def _why_moved(layer: Layer, partner: Layer, rest: str, origin: str) -> str:
    if rest.rpartition(".")[0].endswith("bn") and origin.endswith("conv.bias"):
        return "batch norm that the checkpoint has folded into its convolution"
    return "same layer" if layer.index == partner.index else f"{partner} of the checkpoint is {layer} here"


def _why_new(layer: Layer, partner: Layer | None, rest: str, keep_anchors: bool) -> str:
    if rest == "anchors" and keep_anchors:
        return "the anchors of the model yaml or the hyperparameters stay"
    if rest.endswith("gate") and rest.replace("gate", "block", 1) != rest and any(".block." in f".{other}" for other in layer.shapes):
        return "gate that starts at zero"
    if partner is None:
        return f"{layer} has no counterpart in the checkpoint"
    if rest in partner.shapes:
        return f"its shape differs from the checkpoint's {'x'.join(map(str, partner.shapes[rest]))}"
    return f"{partner} of the checkpoint has no such tensor"


def _why_dropped(layer: Layer, home: Layer | None, rest: str) -> str:
    if home is None:
        return f"{layer} of the checkpoint has no counterpart in the model"
    if rest == "anchors":
        return "the model's own anchors stay"
    if rest in home.shapes:
        return f"{home} of the model has another shape there (another number of classes or channels)"
    return f"{home} of the model has no such tensor"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], state: Mapping[str, Tensor], report: TransferReport) -> None:
    """Fill the model's tensors; a folded norm becomes one that does nothing but add its convolution's bias."""
    for row in report.rows:
        if row.status not in ("transferred", "remapped"):
            continue
        target = own[row.target]
        leaf = row.target.rsplit(".", 1)[-1]
        if not _is_folded(row) or leaf == "bias":
            target.copy_(state[row.source])
        else:
            target.fill_({"weight": 1.0, "running_mean": 0.0, "running_var": 1.0 - NORM_EPS, "num_batches_tracked": 0}[leaf])
