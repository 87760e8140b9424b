"""YOLOv5's own detection checkpoints, v5.0 to v7.0, as the record that this program works with.

What differs between the releases: the model's class (`models.yolo.Model`, since v6.2 `DetectionModel`), its names (a
list, later a dict by number), a buffer `anchor_grid` that v6.1 no longer keeps, numpy numbers among the plain ones,
and a moving average that is None once training has ended. What an equal network would need and is not built here, such
as another activation, is refused: weights that load and give other boxes would be worse.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.archive import Archive, StoredTensor, shown
from utils.checkpoint.record import Checkpoint
from utils.checkpoint.restricted import PickledObject, module_state, plain_value
from utils.errors import CheckpointError

DETECTORS = ("models.yolo.Model", "models.yolo.DetectionModel")
NORM_EPS = 1e-3  # of all norms in YOLOv5
CLASS_LIMIT = 100_000
_OTHERS = {  # models that look like detectors from outside
    "models.yolo.SegmentationModel": "a YOLOv5 segmentation model; only detection models are read",
    "models.yolo.ClassificationModel": "a YOLOv5 classification model; only detection models are read",
    "models.common.AutoShape": "a model inside torch.hub's AutoShape wrapper; save its .model instead",
    "models.common.DetectMultiBackend": "a model inside YOLOv5's DetectMultiBackend wrapper; save its .model instead",
}
_LEFTOVERS = (
    ".anchor_grid",
    ".total_ops",
    ".total_params",
    "total_ops",
    "total_params",
)  # buffers of v5.0, and of a profiler
_ACTIVATIONS = ("torch.nn.modules.activation.SiLU", "torch.nn.modules.linear.Identity")
# numpy's letters for types of numbers, and struct's
_NUMBERS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "f2": "e", "f4": "f", "f8": "d"}


def official_checkpoint(content: object, archive: Archive) -> Checkpoint:
    """Return an official checkpoint's moving average where it has one, else its model, tensors still in the file."""
    path = archive.path
    model, content = _model_in(content, path)
    modules = list(_modules(model))
    _check_kind(model, modules, path)
    _check_network(modules, path)
    yaml = plain_value(model.state.get("yaml"), path, other=_number)
    if not isinstance(yaml, dict):
        raise CheckpointError(
            f"{path}: holds no YOLOv5 detection model: {shown(model.name)} has no model description (yaml)"
        )
    state = {name: tensor for name, tensor in module_state(model, path).items() if not name.endswith(_LEFTOVERS)}
    stride = _small(archive, model.state.get("stride"))
    _bring_to_grid(archive, _head(modules), state, stride, yaml)
    yaml.pop("activation", None)  # a key of v7.0; what it led to has been checked
    date = content.get("date")
    return Checkpoint(
        yaml,
        _names(model, yaml, path),
        state,
        tuple(stride.flatten().tolist()) if stride is not None else (),
        date=date if isinstance(date, str) else "",
        written_by="YOLOv5",
        source=str(path),
    )


def official_facts(content: object, path: Path) -> dict[str, object]:
    """Return what an official file says beside the model: epoch, best fitness, whether it can be resumed, its flags."""
    model, content = _model_in(content, path)
    facts: dict[str, object] = {"class": model.name, "average": isinstance(content.get("ema"), PickledObject)}
    for key in ("epoch", "best_fitness", "updates"):
        value = _number(content.get(key))
        if value is not None:
            facts[key] = value
    facts["optimizer"] = isinstance(content.get("optimizer"), dict)
    options = content.get("opt")
    options = options.state if isinstance(options, PickledObject) and options.name == "argparse.Namespace" else options
    if isinstance(options, dict):
        facts["options"] = {
            str(key): value for key, value in options.items() if isinstance(value, (bool, int, float, str))
        }
    return facts


def _model_in(content: object, path: Path) -> tuple[PickledObject, dict]:
    """Return the model and the dict around it; a model saved on its own has an empty one."""
    if isinstance(content, PickledObject):
        return content, {}
    content = content if isinstance(content, dict) else {}
    model = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), PickledObject)), None)
    if model is None:
        raise CheckpointError(f"{path}: holds no YOLOv5 detection model")
    return model, content


def _modules(model: PickledObject) -> Iterator[PickledObject]:
    """Yield a model and the modules in it, in order; the last is the head. Each once, so that it ends."""
    waiting, seen = [model], set()
    while waiting:
        module = waiting.pop()
        if isinstance(module, PickledObject) and id(module) not in seen:
            seen.add(id(module))
            yield module
            children = module.state.get("_modules")
            waiting += reversed(children.values()) if isinstance(children, dict) else ()


def _head(modules: list[PickledObject]) -> PickledObject | None:
    """Return the module that holds anchors: the head, whatever its class."""
    return next((module for module in modules if "anchors" in (module.state.get("_buffers") or {})), None)


def _check_kind(model: PickledObject, modules: list[PickledObject], path: Path) -> None:
    """Refuse what is no detection model of YOLOv5, saying what it is."""
    if model.name in _OTHERS:
        raise CheckpointError(f"{path}: {model.name} is {_OTHERS[model.name]}")
    head = _head(modules)
    if model.name not in DETECTORS or head is None:
        raise CheckpointError(f"{path}: holds no YOLOv5 detection model: its model is a {shown(model.name)}")
    if head.name != "models.yolo.Detect":
        other = " (YOLOv7's)" if head.name.startswith("models.yolo.I") else ""
        raise CheckpointError(f"{path}: its head is a {shown(head.name)}{other}; only models.yolo.Detect is read")


def _check_network(modules: list[PickledObject], path: Path) -> None:
    """Refuse a network whose weights would load here and compute something else."""
    for module in modules:
        children = module.state.get("_modules")
        act = children.get("act") if isinstance(children, dict) else None
        if isinstance(act, PickledObject) and act.name not in _ACTIVATIONS:
            kind = shown(act.name.rpartition(".")[2])
            raise CheckpointError(
                f"{path}: its {shown(module.name)} has the activation {kind}, and SiLU is what is "
                "built here; take weights of YOLOv5 v4.0 or later that were trained with SiLU"
            )
        eps = module.state.get("eps")
        if module.name.endswith("batchnorm.BatchNorm2d") and not (
            isinstance(eps, float) and math.isclose(eps, NORM_EPS)
        ):
            raise CheckpointError(
                f"{path}: its norms add {shown(repr(eps))} to the variance, and {NORM_EPS} is added here"
            )


def _names(model: PickledObject, yaml: dict, path: Path) -> list[str]:
    """Return one name a class: of a list, or of a dict by number; "class<number>" where one is missing."""
    classes = yaml.get("nc") if _is_count(yaml.get("nc")) else _number(model.state.get("nc"))
    if not _is_count(classes) or not 1 <= classes <= CLASS_LIMIT:
        raise CheckpointError(f"{path}: its model description does not give the number of classes (nc)")
    given = plain_value(model.state.get("names"), path, "names", other=_number)
    if isinstance(given, dict):
        return [str(given.get(number, f"class{number}")) for number in range(classes)]
    if isinstance(given, (list, tuple)) and len(given) == classes:
        return [str(name) for name in given]
    return [f"class{number}" for number in range(classes)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# ---- anchors ----


def _bring_to_grid(archive: Archive, head: PickledObject, state: dict, stride: Tensor | None, yaml: dict) -> None:
    """Replace anchors that were left in pixels by their size in grid cells, which is what the state of a model holds."""
    name = next((name for name in state if name.endswith(".anchors")), None)
    anchors = _small(archive, state.get(name))
    if anchors is None or anchors.ndim != 3 or stride is None or stride.numel() != len(anchors):
        return
    pixels = _small(archive, (head.state.get("_buffers") or {}).get("anchor_grid"))
    given = yaml.get("anchors")
    if pixels is None and isinstance(given, list) and all(isinstance(row, list) for row in given):
        flat = [side for row in given for side in row if isinstance(side, (int, float))]
        pixels = torch.tensor(flat, dtype=torch.float32)
    steps = stride.view(-1, 1, 1)
    if pixels is not None and pixels.numel() == anchors.numel() and (steps > 1).all():
        if torch.allclose(anchors, pixels.view_as(anchors), rtol=1e-3):
            state[name] = anchors / steps


def _small(archive: Archive, stored: object) -> Tensor | None:
    """Return a tensor of few numbers in float32, or None where there is none."""
    if not isinstance(stored, StoredTensor) or stored.storage.count > 10_000:
        return None
    return archive.tensor(stored, full=True, keep=False)


# ---- numpy's numbers ----


def _number(value: object) -> bool | int | float | None:
    """Return a plain number, numpy's scalar or numpy's array of one element as a Python number, else None."""
    if isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, PickledObject):
        return None
    if value.name.endswith(".multiarray.scalar") and len(value.arguments) == 2:
        kind, raw = value.arguments
    elif (
        value.name.endswith(".multiarray._reconstruct")
        and isinstance(value.state.get(""), tuple)
        and len(value.state[""]) == 5
    ):
        _, _, kind, _, raw = value.state[""]
    else:
        return None
    return _unpacked(kind, raw)


def _unpacked(kind: object, raw: object) -> bool | int | float | None:
    """Return the one number in the bytes of a numpy type; Python 2's way to pickle bytes is as Latin-1 text."""
    if (
        isinstance(raw, PickledObject)
        and raw.name == "_codecs.encode"
        and raw.arguments
        and isinstance(raw.arguments[0], str)
    ):
        raw = raw.arguments[0].encode("latin-1", errors="replace")
    code = (
        kind.arguments[0] if isinstance(kind, PickledObject) and kind.name == "numpy.dtype" and kind.arguments else None
    )
    letter = _NUMBERS.get(code.lstrip("<=|")) if isinstance(code, str) else None
    if letter is None or not isinstance(raw, bytes) or len(raw) != struct.calcsize(letter):
        return None
    return struct.unpack(f"<{letter}", raw)[0]
