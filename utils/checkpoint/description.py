"""What a checkpoint file is, in words: read from its description alone, without its numbers."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.graph.architecture import read_content
from utils.checkpoint.archive import Archive, StoredTensor, shown
from utils.checkpoint.official import official_facts
from utils.checkpoint.record import Checkpoint
from utils.checkpoint.restricted import PickledObject, read_restricted
from utils.checkpoint.store import is_ours, open_archive, outline
from utils.errors import ModelError

_LAYER = re.compile(r"model\.(\d{1,6})\.")
_COUNTED_APART = ("running_mean", "running_var", "num_batches_tracked", "anchors")  # not learnt
_TREE_LIMIT = 100_000


def describe(path: Path | str, tensors: bool = False) -> list[str]:
    """Return lines about a file: what it is, who wrote it, its layers, sizes, classes, settings and training, its sha256.

    tensors: list each tensor as well. Raises CheckpointError for what is no checkpoint and no file of tensors.
    """
    with open_archive(path) as archive:
        content = read_restricted(archive)
        facts = {"file": f"{path}, {archive.size:,} bytes", "sha256": _digest(archive.path)}
        loose = _loose_tensors(content)
        if loose is not None:
            facts = {"what": "tensors without a model's description (a state dict)", **facts, **_weights(loose)}
            yaml, state = {}, loose
        else:
            checkpoint = outline(archive, content)
            yaml, state = checkpoint.yaml, checkpoint.state
            about = _ours(content, checkpoint) if is_ours(content) else _official(content, checkpoint, archive)
            facts = {**about, **facts, **_weights(state), **_model(checkpoint), **_rest(content, checkpoint, archive)}
    lines = [f"{key:<11} {value}" for key, value in facts.items()]
    lines += ["", *_layers(yaml, state)]
    return lines + (["", *_each(state)] if tensors else [])


def _ours(content: dict, checkpoint: Checkpoint) -> dict[str, str]:
    kind = "can be resumed" if checkpoint.training else "weights only"
    return {
        "what": f"checkpoint of this program, format {content['version']}, {kind}",
        "written by": f"{shown(checkpoint.written_by)}, {shown(checkpoint.date)}",
    }


def _official(content: object, checkpoint: Checkpoint, archive: Archive) -> dict[str, str]:
    facts = official_facts(content, archive.path)
    kind = "unfinished, with its moving average" if facts["average"] else "finished or stripped"
    return {
        "what": f"official YOLOv5 checkpoint, {shown(str(facts['class']))}, {kind}",
        "written by": f"YOLOv5, {shown(checkpoint.date) or 'no date'}",
    }


def _weights(state: Mapping[str, StoredTensor]) -> dict[str, str]:
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    size = sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values())
    return {
        "weights": f"{len(state)} tensors ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {size:,} bytes, "
        f"{_parameters(state):,} parameters"
    }


def _model(checkpoint: Checkpoint) -> dict[str, str]:
    yaml = checkpoint.yaml
    keys = [key for key in yaml if key not in ("backbone", "head", "names", "anchors", "nc")]
    names = ", ".join(shown(name) for name in checkpoint.names[:8]) + (", ..." if checkpoint.nc > 8 else "")
    strides = " ".join(f"{pixels:g}" for pixels in checkpoint.stride)
    return {
        "classes": f"{checkpoint.nc}: {names}",
        "strides": strides or "not told",
        "model": ", ".join(f"{shown(str(key))} {shown(str(yaml[key]))}" for key in keys),
    }


def _rest(content: object, checkpoint: Checkpoint, archive: Archive) -> dict[str, str]:
    """Return settings and the state of training."""
    if not is_ours(content):
        facts = official_facts(content, archive.path)
        told = _figures(facts, ("epoch", "best_fitness", "updates")) + (
            ["with optimizer"] if facts["optimizer"] else []
        )
        return {"settings": _listed(facts.get("options", {})), "training": ", ".join(told) or "none"}
    training = checkpoint.training or {}
    state = training.get("state") if isinstance(training.get("state"), dict) else {}
    told = _figures(state, ("epoch", "step", "best_fitness"))
    count, size = _held(training)
    told += [f"{count} tensors, {size:,} bytes in {', '.join(shown(str(key)) for key in training)}"] if training else []
    config = training.get("config")
    settings = {**(config if isinstance(config, dict) else {}), **checkpoint.settings}
    return {"settings": _listed(settings), "training": "; ".join(told) or "none"}


def _figures(facts: Mapping, keys: Sequence[str]) -> list[str]:
    """Return "epoch 3" for each of `keys` that is a number."""
    return [
        f"{key.replace('_', ' ')} {facts[key]:.6g}"
        for key in keys
        if isinstance(facts.get(key), float) or isinstance(facts.get(key), int) and abs(facts[key]) < 2**63
    ]


def _listed(settings: Mapping) -> str:
    return (
        ", ".join(
            f"{shown(str(key))}={shown(str(value))}"
            for key, value in settings.items()
            if isinstance(value, (bool, int, float, str, list, tuple))
        )
        or "none"
    )


def _held(training: Mapping) -> tuple[int, int]:
    """Return number and bytes of the tensors in a training's state."""
    count = size = seen = 0
    waiting: list[object] = [training]
    while waiting and seen < _TREE_LIMIT:
        item = waiting.pop()
        seen += 1
        if isinstance(item, StoredTensor):
            count, size = count + 1, size + item.numel() * item.dtype.itemsize
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return count, size


def _loose_tensors(content: object) -> dict[str, StoredTensor] | None:
    """Return the tensors of a plain state dict, None for anything else."""
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


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _layers(yaml: Mapping, state: Mapping[str, StoredTensor]) -> list[str]:
    """Return the table of layers: number, what it reads, block, tensors and parameters."""
    groups: dict[int, dict[str, StoredTensor]] = {}
    for name, tensor in state.items():
        found = _LAYER.match(name)
        groups.setdefault(int(found[1]) if found else -1, {})[name] = tensor
    rows, lines = (), []
    try:
        rows = read_content(yaml)[2] if yaml else ()
    except ModelError as error:  # told, because the rest is worth seeing all the same
        lines = [f"the model description cannot be read: {shown(str(error))}"]
    lines += [f"{'layer':>5}  {'reads':<16} {'block':<20} {'repeats':>7} {'tensors':>7} {'parameters':>11}"]
    for number in sorted({*range(len(rows)), *groups}):
        tensors = groups.get(number, {})
        row = rows[number] if 0 <= number < len(rows) else None
        about = (shown(str(row.sources)), shown(row.block), str(row.repeats)) if row else ("", "", "")
        lines.append(
            f"{number if number >= 0 else 'other':>5}  {about[0]:<16} {about[1]:<20} {about[2]:>7} {len(tensors):>7} "
            f"{_parameters(tensors):>11,}"
        )
    return lines


def _each(state: Mapping[str, StoredTensor]) -> list[str]:
    return [
        f"{shown(name)}  {'x'.join(map(str, tensor.shape)) or 'scalar'}  {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state.items()
    ]


def _parameters(state: Mapping[str, StoredTensor]) -> int:
    return sum(tensor.numel() for name, tensor in state.items() if name.rsplit(".", 1)[-1] not in _COUNTED_APART)
