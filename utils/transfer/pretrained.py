"""Pretrained weights for a changed model: what a checkpoint gives each of its tensors.

Keys carry layer numbers, and an inserted block moves every number behind it. So layers are aligned by what they are
(utils/transfer/alignment.py), and inside a pair of layers tensors go by name and shape.

    python -m utils.transfer --cfg models/yolov5n_CBAM.yaml --weights yolov5n.pt --output cbam.pt --attention-start identity
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.checkpoint import Checkpoint
from utils.errors import CheckpointError
from utils.files import write_text_atomically
from utils.log import LOGGER
from utils.transfer.alignment import LayerSignature, align, layers_of, matches

WAYS = ("layers", "keys")
NORM_EPS = 1e-3  # of the norms in a detector
LEAST_USED = 0.5  # share of the checkpoint's parameters below which a warning is due
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid", "grid")
_GATED = "attention that the checkpoint has open starts behind a zero gate here"
_UNGATED = "attention that has a gate in the checkpoint starts without one here"
_KEEPS = {_GATED: "plain", _UNGATED: "identity"}  # the --attention-start that would take it as it is
_COLUMNS = ("status", "from", "to", "shape", "parameters", "reason")


@dataclass(frozen=True)
class Transfer:
    """What becomes of one tensor. status: transferred (same name), remapped, new (the model's, left as it was) or
    dropped (the checkpoint's, not used); source and target: full names, "" where there is none.
    """

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
        used, dropped = (
            sum(row.parameters for row in self.rows if row.status in kinds)
            for kinds in (("transferred", "remapped"), ("dropped",))
        )
        return used / (used + dropped) if used + dropped else 0.0

    def line(self) -> str:
        """One line for the log."""
        counts = Counter(row.status for row in self.rows)
        details = ", ".join(f"{counts[status]} {status}" for status in ("remapped", "new", "dropped") if counts[status])
        return (
            f"Transferred {self.transferred}/{self.total} items from {self.source}: {self.used:.1%} of its parameters"
            + (f" ({details})" if details else "")
        )

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
            table.writerow(
                (row.status, row.source, row.target, "x".join(map(str, row.shape)), row.parameters, row.reason)
            )
        return write_text_atomically(path, text.getvalue())


def transfer_weights(
    model: nn.Module, checkpoint: Checkpoint, keep_anchors: bool = False, way: str = "layers", require: float = 0.0
) -> TransferReport:
    """Copy into `model` what a checkpoint has for it, log one line, and return what became of every tensor.

    keep_anchors: the model's anchors stay (a cfg or hyperparameters chose them); way: "layers" aligns layers by what
    they are, "keys" takes the same name and shape only, as v6.1 does; require: least share of the checkpoint's
    parameters that must find a place, else CheckpointError.
    """
    own = model.state_dict()
    report = plan_transfer(
        model.yaml, _shapes(own), checkpoint.yaml, _shapes(checkpoint.state), checkpoint.source, keep_anchors, way
    )
    _copy(own, checkpoint.state, report)
    LOGGER.info(report.line())
    if report.used < require:
        raise CheckpointError(
            f"{checkpoint.source}: {report.used:.1%} of its parameters find a place in this model, "
            f"--require-transfer asks for {require:.0%}; mostly because {report.why()}"
        )
    if not report.transferred:
        LOGGER.warning(f"WARNING: nothing in {checkpoint.source} fits this model; it starts from random weights")
    elif report.used < LEAST_USED:
        LOGGER.warning(
            f"WARNING: only {report.used:.1%} of the parameters in {checkpoint.source} are used: "
            f"mostly because {report.why()}"
        )
    for reason in sorted(_KEEPS.keys() & {row.reason for row in report.rows}):
        LOGGER.warning(
            f"WARNING: {reason}, so the network does not start as the checkpoint's; "
            f"--attention-start {_KEEPS[reason]} would"
        )
    return report


def plan_transfer(
    model_yaml: Mapping,
    model_shapes: Mapping[str, tuple[int, ...]],
    source_yaml: Mapping,
    source_shapes: Mapping[str, tuple[int, ...]],
    source: str = "",
    keep_anchors: bool = False,
    way: str = "layers",
) -> TransferReport:
    """Return what `transfer_weights` would do, from the descriptions and the shapes by name alone."""
    target_layers, source_layers = layers_of(model_yaml, model_shapes), layers_of(source_yaml, source_shapes)
    by_number = way == "keys"
    pairs = (
        {index: index for index in range(min(len(target_layers), len(source_layers)))}
        if by_number
        else align(source_layers, target_layers)
    )
    rows: list[Transfer] = []
    used: set[str] = set()
    for layer in target_layers:
        partner = source_layers[pairs[layer.index]] if layer.index in pairs else None
        for row in _fill_layer(layer, partner, keep_anchors, by_number):
            rows.append(row)
            used.add(row.source)
    homes = {index: layer for layer, index in ((target_layers[target], index) for target, index in pairs.items())}
    for layer in source_layers:
        rows += [
            Transfer(
                "dropped", f"model.{layer.index}.{rest}", "", shape, _why_dropped(layer, homes.get(layer.index), rest)
            )
            for rest, shape in layer.shapes.items()
            if f"model.{layer.index}.{rest}" not in used
        ]
    return TransferReport(tuple(rows), len(model_shapes), source)


def _is_folded(row: Transfer) -> bool:
    return ".bn." in row.target and row.source.endswith(".conv.bias")


def _fill_layer(
    layer: LayerSignature, partner: LayerSignature | None, keep_anchors: bool, by_number: bool
) -> Iterator[Transfer]:
    """Yield what becomes of each tensor of a model's layer."""
    if partner is None:
        origins = {}
    elif by_number:
        origins = {rest: rest for rest, shape in layer.shapes.items() if partner.shapes.get(rest) == shape}
    else:
        origins = dict(matches(partner, layer))
    for rest, shape in layer.shapes.items():
        target = f"model.{layer.index}.{rest}"
        if rest in origins and not (keep_anchors and rest == "anchors"):
            source = f"model.{partner.index}.{origins[rest]}"
            status = "transferred" if source == target else "remapped"
            yield Transfer(status, source, target, shape, _why_moved(layer, partner, rest, origins[rest]))
        else:
            yield Transfer("new", "", target, shape, _why_new(layer, partner, rest, keep_anchors))


def _why_moved(layer: LayerSignature, partner: LayerSignature, rest: str, origin: str) -> str:
    if rest.rpartition(".")[0].endswith("bn") and origin.endswith("conv.bias"):
        return "batch norm that the checkpoint has folded into its convolution"
    if rest != origin:
        return _GATED if len(rest) > len(origin) else _UNGATED
    return "same layer" if layer.index == partner.index else f"{partner} of the checkpoint is {layer} here"


def _why_new(layer: LayerSignature, partner: LayerSignature | None, rest: str, keep_anchors: bool) -> str:
    if rest == "anchors" and keep_anchors:
        return "the anchors of the model yaml or the hyperparameters stay"
    if (
        rest.endswith("gate")
        and rest.replace("gate", "block", 1) != rest
        and any(".block." in f".{other}" for other in layer.shapes)
    ):
        return "gate that starts at zero"
    if partner is None:
        return f"{layer} has no counterpart in the checkpoint"
    if rest in partner.shapes:
        return f"its shape differs from the checkpoint's {'x'.join(map(str, partner.shapes[rest]))}"
    return f"{partner} of the checkpoint has no such tensor"


def _why_dropped(layer: LayerSignature, home: LayerSignature | None, rest: str) -> str:
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
            target.fill_(
                {"weight": 1.0, "running_mean": 0.0, "running_var": 1.0 - NORM_EPS, "num_batches_tracked": 0}[leaf]
            )


# ---- the command ----
