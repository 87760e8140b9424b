"""Text description of a checkpoint file, made from its pickled description alone, without reading weights."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from models.graph.architecture import Row, read_content
from utils.checkpoint.archive import Archive, StoredTensor, printable
from utils.checkpoint.official import official_facts
from utils.checkpoint.record import CheckpointOutline
from utils.checkpoint.restricted import PickledObject, read_restricted
from utils.checkpoint.store import is_ours, open_archive, outline_of
from utils.errors import ModelError

_LAYER = re.compile(r"model\.(\d{1,6})\.")
_NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked", "anchors")
_TREE_LIMIT = 100_000  # values of a training state that are visited


def describe(path: Path | str, tensors: bool = False) -> list[str]:
    """Return lines that describe a file: origin, layers, sizes, classes, settings, training, sha256.

    Args:
        path: A checkpoint, or a file of tensors by name.
        tensors: Whether each tensor is listed as well.

    Returns:
        The lines; text from the file is made safe to print.

    Raises:
        CheckpointError: If the file is neither a checkpoint nor a file of tensors.
    """
    with open_archive(path) as archive:
        content = read_restricted(archive)
        facts = {"file": f"{path}, {archive.size:,} bytes", "sha256": _sha256(archive.path)}
        state_dict = _plain_state_dict(content)
        yaml: dict = {}
        state: Mapping[str, Tensor | StoredTensor]
        if state_dict is not None:
            facts = {"what": "tensors without a model's description (a state dict)", **facts, **_weights(state_dict)}
            state = state_dict
        else:
            checkpoint = outline_of(archive, content)
            yaml, state = checkpoint.yaml, checkpoint.state
            origin = _ours(content, checkpoint) if is_ours(content) else _official(content, checkpoint, archive)
            facts = {
                **origin,
                **facts,
                **_weights(state),
                **_model(checkpoint),
                **_settings_and_training(content, checkpoint, archive),
            }
    lines = [f"{key:<11} {value}" for key, value in facts.items()]
    lines += ["", *_layer_table(yaml, state)]
    return lines + (["", *_tensor_lines(state)] if tensors else [])


def _ours(content: dict, checkpoint: CheckpointOutline) -> dict[str, str]:
    kind = "can be resumed" if checkpoint.training else "weights only"
    return {
        "what": f"checkpoint of this program, format {content['version']}, {kind}",
        "written by": f"{printable(checkpoint.written_by)}, {printable(checkpoint.date)}",
    }


def _official(content: object, checkpoint: CheckpointOutline, archive: Archive) -> dict[str, str]:
    facts = official_facts(content, archive.path)
    kind = "unfinished, with its moving average" if facts.has_average else "finished or stripped"
    return {
        "what": f"official YOLOv5 checkpoint, {printable(facts.model_class)}, {kind}",
        "written by": f"YOLOv5, {printable(checkpoint.date) or 'no date'}",
    }


def _weights(state: Mapping[str, Tensor | StoredTensor]) -> dict[str, str]:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    size = sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values())
    return {
        "weights": f"{len(state)} tensors ({', '.join(f'{count} {dtype}' for dtype, count in dtypes.items())}), "
        f"{size:,} bytes, {_parameters(state):,} parameters"
    }


def _model(checkpoint: CheckpointOutline) -> dict[str, str]:
    yaml = checkpoint.yaml
    keys = [key for key in yaml if key not in ("backbone", "head", "names", "anchors", "nc")]
    names = ", ".join(printable(name) for name in checkpoint.names[:8]) + (", ..." if checkpoint.nc > 8 else "")
    strides = " ".join(f"{pixels:g}" for pixels in checkpoint.stride)
    return {
        "classes": f"{checkpoint.nc}: {names}",
        "strides": strides or "unknown",
        "model": ", ".join(f"{printable(str(key))} {printable(str(yaml[key]))}" for key in keys),
    }


def _settings_and_training(content: object, checkpoint: CheckpointOutline, archive: Archive) -> dict[str, str]:
    """Return the rows about settings and the training state."""
    if not is_ours(content):
        facts = official_facts(content, archive.path)
        progress = _figures(facts.progress, ("epoch", "best_fitness", "updates"))
        progress += ["with optimizer"] if facts.has_optimizer else []
        return {"settings": _listed(facts.options), "training": ", ".join(progress) or "none"}
    training = checkpoint.training or {}
    state = training.get("state")
    progress = _figures(state if isinstance(state, dict) else {}, ("epoch", "step", "best_fitness"))
    count, size = _count_tensors(training)
    if training:
        progress.append(f"{count} tensors, {size:,} bytes in {', '.join(printable(str(key)) for key in training)}")
    config = training.get("config")
    settings = {**(config if isinstance(config, dict) else {}), **checkpoint.settings}
    return {"settings": _listed(settings), "training": "; ".join(progress) or "none"}


def _figures(facts: Mapping, keys: Sequence[str]) -> list[str]:
    """Return "epoch 3" for each of `keys` that is a number in `facts`."""
    return [
        f"{key.replace('_', ' ')} {facts[key]:.6g}"
        for key in keys
        if isinstance(facts.get(key), float) or isinstance(facts.get(key), int) and abs(facts[key]) < 2**63
    ]


def _listed(settings: Mapping) -> str:
    return (
        ", ".join(
            f"{printable(str(key))}={printable(str(value))}"
            for key, value in settings.items()
            if isinstance(value, (bool, int, float, str, list, tuple))
        )
        or "none"
    )


def _count_tensors(training: Mapping) -> tuple[int, int]:
    """Return number and bytes of the tensors in a training state."""
    count = size = visited = 0
    waiting: list[object] = [training]
    while waiting and visited < _TREE_LIMIT:
        item = waiting.pop()
        visited += 1
        if isinstance(item, StoredTensor):
            count, size = count + 1, size + item.numel() * item.dtype.itemsize
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return count, size


def _plain_state_dict(content: object) -> dict[str, StoredTensor] | None:
    """Return the tensors of a plain state dict, None for any other content."""
    if (
        not isinstance(content, dict)
        or is_ours(content)
        or any(isinstance(value, PickledObject) for value in content.values())
    ):
        return None
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, StoredTensor)
    }
    return tensors if tensors and len(tensors) == len(content) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _layer_table(yaml: Mapping, state: Mapping[str, Tensor | StoredTensor]) -> list[str]:
    """Return the table of layers: index, sources, block, repeats, tensors and parameters."""
    groups: dict[int, dict[str, Tensor | StoredTensor]] = {}
    for name, tensor in state.items():
        found = _LAYER.match(name)
        groups.setdefault(int(found[1]) if found else -1, {})[name] = tensor
    rows: tuple[Row, ...] = ()
    lines: list[str] = []
    try:
        rows = read_content(yaml)[2] if yaml else ()
    except ModelError as error:  # reported in the table, because the rest can still be shown
        lines = [f"the model description cannot be read: {printable(str(error))}"]
    lines += [f"{'layer':>5}  {'reads':<16} {'block':<20} {'repeats':>7} {'tensors':>7} {'parameters':>11}"]
    for index in sorted({*range(len(rows)), *groups}):
        tensors = groups.get(index, {})
        row = rows[index] if 0 <= index < len(rows) else None
        cells = (printable(str(row.sources)), printable(row.block), str(row.repeats)) if row else ("", "", "")
        lines.append(
            f"{index if index >= 0 else 'other':>5}  {cells[0]:<16} {cells[1]:<20} {cells[2]:>7} {len(tensors):>7} "
            f"{_parameters(tensors):>11,}"
        )
    return lines


def _tensor_lines(state: Mapping[str, Tensor | StoredTensor]) -> list[str]:
    return [
        f"{printable(name)}  {'x'.join(map(str, tensor.shape)) or 'scalar'}  {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state.items()
    ]


def _parameters(state: Mapping[str, Tensor | StoredTensor]) -> int:
    return sum(tensor.numel() for name, tensor in state.items() if name.rsplit(".", 1)[-1] not in _NOT_LEARNED)
