"""Transfer of a checkpoint's weights to a changed model, and the report of it.

Keys contain layer indices, and an inserted block shifts every index behind it. So layers are aligned by block type,
shapes and order (utils/transfer/alignment.py), and within a pair of layers tensors are matched by name and shape.
`python -m utils.transfer` is the command.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.yolo import Model
from utils.checkpoint import Checkpoint
from utils.checkpoint.archive import printable
from utils.errors import CheckpointError
from utils.files import write_text_atomically
from utils.log import LOGGER
from utils.transfer.alignment import LayerSignature, align_layers, layer_signatures, matching_tensors

NORM_EPS = 1e-3  # of the batch norms in a detector
MIN_USED_SHARE = 0.5  # of the checkpoint's parameters; below, a warning is logged
_NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid", "grid")
_GATE_ADDED = "attention without a gate in the checkpoint has a zero-initialized gate here"
_GATE_REMOVED = "attention that has a gate in the checkpoint has none here"
_MATCHING_START = {_GATE_ADDED: "plain", _GATE_REMOVED: "identity"}  # the --attention-start of the checkpoint
_COLUMNS = ("status", "from", "to", "shape", "parameters", "reason")


@dataclass(frozen=True)
class TensorTransfer:
    """One row of the transfer report: a tensor of the model, or one of the checkpoint that is not used.

    Attributes:
        status: "transferred" (to the same name), "remapped" (to another name), "new" (of the model, unchanged) or
            "dropped" (of the checkpoint, not used).
        source: Full name in the checkpoint, "" if there is none.
        target: Full name in the model, "" if there is none.
        shape: Its shape.
        reason: Why, for the reader of the report.
    """

    status: str
    source: str
    target: str
    shape: tuple[int, ...]
    reason: str

    @property
    def parameters(self) -> int:
        """Learned parameters in it; 0 for statistics, anchors, and the tensors that are set around a folded bias."""
        leaf = (self.target or self.source).rsplit(".", 1)[-1]
        set_to_constant = _is_folded(self) and leaf != "bias"
        return 0 if set_to_constant or leaf in _NOT_LEARNED else torch.Size(self.shape).numel()


@dataclass(frozen=True)
class TransferReport:
    """Transfer report: the status of every tensor of a model, and of every unused one of the checkpoint.

    Attributes:
        rows: Those of the model in its order, then the dropped ones of the checkpoint.
        total: Number of the model's tensors.
        source: The checkpoint's file.
    """

    rows: tuple[TensorTransfer, ...]
    total: int
    source: str

    @property
    def transferred(self) -> int:
        """Number of the model's tensors that come from the checkpoint."""
        return sum(row.status in ("transferred", "remapped") for row in self.rows)

    @property
    def new_tensors(self) -> tuple[str, ...]:
        """Names of the model's tensors that are unchanged."""
        return tuple(row.target for row in self.rows if row.status == "new")

    @property
    def used_share(self) -> float:
        """Share of the checkpoint's parameters that are used in the model, 0..1."""
        used, dropped = (
            sum(row.parameters for row in self.rows if row.status in statuses)
            for statuses in (("transferred", "remapped"), ("dropped",))
        )
        return used / (used + dropped) if used + dropped else 0.0

    def summary(self) -> str:
        """Return one line for the log."""
        counts = Counter(row.status for row in self.rows)
        details = ", ".join(f"{counts[status]} {status}" for status in ("remapped", "new", "dropped") if counts[status])
        line = f"Transferred {self.transferred}/{self.total} items from {self.source}"
        return f"{line}: {self.used_share:.1%} of its parameters" + (f" ({details})" if details else "")

    def main_reason(self) -> str:
        """Return the reason why most of the unused parameters were dropped."""
        reasons: Counter[str] = Counter()
        for row in self.rows:
            if row.status == "dropped":
                reasons[row.reason] += row.parameters
        return reasons.most_common(1)[0][0] if reasons else "it has no parameters"

    def write_csv(self, path: Path) -> Path:
        """Write transfer.csv, one row per tensor, and return its path."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in self.rows:
            table.writerow(
                (
                    row.status,
                    printable(row.source),
                    row.target,
                    "x".join(map(str, row.shape)),
                    row.parameters,
                    row.reason,
                )
            )
        return write_text_atomically(path, text.getvalue())


def transfer_weights(
    model: Model, checkpoint: Checkpoint, keep_anchors: bool = False, mode: str = "layers", require: float = 0.0
) -> TransferReport:
    """Copy the weights of a checkpoint that fit a model into it, log a summary, and return the transfer report.

    Args:
        model: The model, whose tensors are changed.
        checkpoint: Where weights are taken from.
        keep_anchors: Whether the model's anchors stay, as those of a yaml or of hyperparameters do.
        mode: "layers" aligns layers by block type, shapes and order; "keys" takes tensors of the same name and shape
            only, as v6.1 does.
        require: Smallest share of the checkpoint's parameters that must be used, 0..1.

    Returns:
        The transfer report.

    Raises:
        CheckpointError: If less than `require` is used, or a tensor of the checkpoint belongs to no layer.
    """
    own = model.state_dict()
    report = plan_transfer(
        model.yaml, _shapes(own), checkpoint.yaml, _shapes(checkpoint.state), checkpoint.source, keep_anchors, mode
    )
    _copy(own, checkpoint.state, report)
    LOGGER.info(report.summary())
    if report.used_share < require:
        raise CheckpointError(
            f"{checkpoint.source}: {report.used_share:.1%} of its parameters fit this model, "
            f"--require-transfer asks for {require:.0%}; mostly because {report.main_reason()}"
        )
    if not report.transferred:
        LOGGER.warning(f"WARNING: nothing in {checkpoint.source} fits this model; it starts from random weights")
    elif report.used_share < MIN_USED_SHARE:
        LOGGER.warning(
            f"WARNING: only {report.used_share:.1%} of the parameters in {checkpoint.source} are used: "
            f"mostly because {report.main_reason()}"
        )
    for reason in sorted(_MATCHING_START.keys() & {row.reason for row in report.rows}):
        LOGGER.warning(
            f"WARNING: {reason}, so the network does not start as the checkpoint's; "
            f"--attention-start {_MATCHING_START[reason]} would"
        )
    return report


def plan_transfer(
    model_yaml: Mapping,
    model_shapes: Mapping[str, tuple[int, ...]],
    source_yaml: Mapping,
    source_shapes: Mapping[str, tuple[int, ...]],
    source: str = "",
    keep_anchors: bool = False,
    mode: str = "layers",
) -> TransferReport:
    """Return the report of a transfer, from the models' descriptions and tensor shapes alone.

    Args:
        model_yaml: Content of the model's yaml.
        model_shapes: Shapes of the model's tensors by name.
        source_yaml: Content of the checkpoint's model description.
        source_shapes: Shapes of the checkpoint's tensors by name.
        source: The checkpoint's file, for the report.
        keep_anchors: As in `transfer_weights`.
        mode: As in `transfer_weights`.

    Returns:
        The report of what `transfer_weights` copies.

    Raises:
        CheckpointError: If a description cannot be read, or a tensor belongs to no layer.
    """
    target_layers = layer_signatures(model_yaml, model_shapes)
    source_layers = layer_signatures(source_yaml, source_shapes)
    by_key = mode == "keys"
    pairs = (
        {index: index for index in range(min(len(target_layers), len(source_layers)))}
        if by_key
        else align_layers(source_layers, target_layers)
    )
    rows: list[TensorTransfer] = []
    used: set[str] = set()
    for layer in target_layers:
        partner = source_layers[pairs[layer.index]] if layer.index in pairs else None
        for row in _layer_rows(layer, partner, keep_anchors, by_key):
            rows.append(row)
            used.add(row.source)
    partners = {index: target_layers[target] for target, index in pairs.items()}
    for layer in source_layers:
        rows += [
            TensorTransfer(
                "dropped",
                f"model.{layer.index}.{name}",
                "",
                shape,
                _dropped_reason(layer, partners.get(layer.index), name),
            )
            for name, shape in layer.shapes.items()
            if f"model.{layer.index}.{name}" not in used
        ]
    return TransferReport(tuple(rows), len(model_shapes), source)


def _is_folded(row: TensorTransfer) -> bool:
    return ".bn." in row.target and row.source.endswith(".conv.bias")


def _layer_rows(
    layer: LayerSignature, partner: LayerSignature | None, keep_anchors: bool, by_key: bool
) -> Iterator[TensorTransfer]:
    """Yield the rows of the report for a layer of the model."""
    if partner is None:
        origins: dict[str, str] = {}
    elif by_key:
        origins = {name: name for name, shape in layer.shapes.items() if partner.shapes.get(name) == shape}
    else:
        origins = dict(matching_tensors(partner, layer))
    for name, shape in layer.shapes.items():
        target = f"model.{layer.index}.{name}"
        if partner is not None and name in origins and not (keep_anchors and name == "anchors"):
            source = f"model.{partner.index}.{origins[name]}"
            status = "transferred" if source == target else "remapped"
            yield TensorTransfer(status, source, target, shape, _transfer_reason(layer, partner, name, origins[name]))
        else:
            yield TensorTransfer("new", "", target, shape, _new_reason(layer, partner, name, keep_anchors))


def _transfer_reason(layer: LayerSignature, partner: LayerSignature, name: str, origin: str) -> str:
    if name.rpartition(".")[0].endswith("bn") and origin.endswith("conv.bias"):
        return "batch norm that the checkpoint has folded into its convolution"
    if name != origin:
        return _GATE_ADDED if len(name) > len(origin) else _GATE_REMOVED
    return "same layer" if layer.index == partner.index else f"{partner} of the checkpoint is {layer} here"


def _new_reason(layer: LayerSignature, partner: LayerSignature | None, name: str, keep_anchors: bool) -> str:
    if name == "anchors" and keep_anchors:
        return "the anchors of the model yaml or the hyperparameters stay"
    if (
        name.endswith("gate")
        and name.replace("gate", "block", 1) != name
        and any(".block." in f".{other}" for other in layer.shapes)
    ):
        return "gate that starts at zero"
    if partner is None:
        return f"{layer} has no counterpart in the checkpoint"
    if name in partner.shapes:
        return f"its shape differs from the checkpoint's {'x'.join(map(str, partner.shapes[name]))}"
    return f"{partner} of the checkpoint has no such tensor"


def _dropped_reason(layer: LayerSignature, partner: LayerSignature | None, name: str) -> str:
    if partner is None:
        return f"{layer} of the checkpoint has no counterpart in the model"
    if name == "anchors":
        return "the model's own anchors stay"
    if name in partner.shapes:
        return f"{partner} of the model has another shape there (another number of classes or channels)"
    return f"{partner} of the model has no such tensor"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], state: Mapping[str, Tensor], report: TransferReport) -> None:
    """Copy tensors into the model; a folded batch norm becomes one that only adds its convolution's bias."""
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
