"""Official YOLOv5 detection checkpoints, v5.0 to v7.0, converted to our record.

The releases differ in the model's class (`models.yolo.Model`, since v6.2 `DetectionModel`), its names (a list, later a
dict by class id), a buffer `anchor_grid` that v6.1 no longer keeps, NumPy scalars among the plain numbers, and a moving
average that is None once training has ended. A network that cannot be built here, such as one with another activation,
is refused: its weights would load and predict other boxes.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from utils.checkpoint.archive import Archive, StoredTensor, printable
from utils.checkpoint.record import CheckpointOutline
from utils.checkpoint.restricted import MEMBER_LIMIT, PickledObject, module_members, module_state, plain_value
from utils.errors import CheckpointError

DETECTORS = ("models.yolo.Model", "models.yolo.DetectionModel")
NORM_EPS = 1e-3  # of all norms in YOLOv5
CLASS_LIMIT = 100_000
_OTHER_MODELS = {  # classes that are no detectors
    "models.yolo.SegmentationModel": "a YOLOv5 segmentation model; only detection models are read",
    "models.yolo.ClassificationModel": "a YOLOv5 classification model; only detection models are read",
    "models.common.AutoShape": "a model inside torch.hub's AutoShape wrapper; save its .model instead",
    "models.common.DetectMultiBackend": "a model inside YOLOv5's DetectMultiBackend wrapper; save its .model instead",
}
_UNUSED_BUFFERS = (  # of v5.0's head, and of a profiler
    ".anchor_grid",
    ".total_ops",
    ".total_params",
    "total_ops",
    "total_params",
)
_ACTIVATIONS = ("torch.nn.modules.activation.SiLU", "torch.nn.modules.linear.Identity")
# NumPy's codes of dtypes, and struct's
_FORMATS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "f2": "e", "f4": "f", "f8": "d"}
_NUMBER_BYTES = 8  # of the largest of them


@dataclass(frozen=True)
class OfficialFacts:
    """What an official file holds beside the model.

    Attributes:
        model_class: Dotted name of the model's class.
        has_average: Whether it holds a moving average beside the model.
        has_optimizer: Whether it holds an optimizer, so that YOLOv5 could resume it.
        progress: "epoch", "best_fitness" and "updates", as far as they are given.
        options: Flags of the training.
    """

    model_class: str
    has_average: bool
    has_optimizer: bool
    progress: dict[str, int | float]
    options: dict[str, bool | int | float | str]


def official_checkpoint(content: object, archive: Archive) -> CheckpointOutline:
    """Return an official checkpoint's moving average if it has one, else its model, as an outline.

    Args:
        content: What `read_restricted` returned for the file.
        archive: The file, open.

    Returns:
        The outline, its tensors still in the file.

    Raises:
        CheckpointError: If it holds no detection model of YOLOv5, or one that would compute something else here.
    """
    path = archive.path
    model, content = _find_model(content, path)
    modules = list(_modules(model, path))
    head = _checked_head(model, modules, path)
    _check_network(modules, path)
    yaml = plain_value(model.state.get("yaml"), path, convert=_python_number)
    if not isinstance(yaml, dict):
        raise CheckpointError(
            f"{path}: holds no YOLOv5 detection model: {printable(model.name)} has no model description (yaml)"
        )
    state: dict[str, Tensor | StoredTensor] = {
        name: tensor for name, tensor in module_state(model, path).items() if not name.endswith(_UNUSED_BUFFERS)
    }
    stride = _small_tensor(archive, model.state.get("stride"))
    _convert_pixel_anchors(archive, head, state, stride, yaml)
    yaml.pop("activation", None)  # a key of v7.0; the modules themselves have been checked
    date = content.get("date")
    return CheckpointOutline(
        yaml,
        _names(model, yaml, path),
        state,
        tuple(stride.flatten().tolist()) if stride is not None else (),
        date=date if isinstance(date, str) else "",
        written_by="YOLOv5",
        source=str(path),
    )


def official_facts(content: object, path: Path) -> OfficialFacts:
    """Return what an official file holds beside the model.

    Args:
        content: What `read_restricted` returned for it.
        path: The file, for messages.

    Returns:
        The facts.

    Raises:
        CheckpointError: If it holds no model.
    """
    model, content = _find_model(content, path)
    progress = {key: _python_number(content.get(key)) for key in ("epoch", "best_fitness", "updates")}
    options = content.get("opt")
    options = options.state if isinstance(options, PickledObject) and options.name == "argparse.Namespace" else options
    return OfficialFacts(
        model.name,
        isinstance(content.get("ema"), PickledObject),
        isinstance(content.get("optimizer"), dict),
        {key: value for key, value in progress.items() if value is not None},
        {str(key): value for key, value in options.items() if isinstance(value, (bool, int, float, str))}
        if isinstance(options, dict)
        else {},
    )


def _find_model(content: object, path: Path) -> tuple[PickledObject, dict]:
    """Return the model and the dict around it, which is empty for a model that was saved on its own."""
    if isinstance(content, PickledObject):
        return content, {}
    content = content if isinstance(content, dict) else {}
    model = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), PickledObject)), None)
    if model is None:
        raise CheckpointError(f"{path}: holds no YOLOv5 detection model")
    return model, content


def _modules(model: PickledObject, path: Path) -> Iterator[PickledObject]:
    """Yield a model and the modules in it in order, each once, so that cycles end."""
    waiting: list[object] = [model]
    seen: set[int] = set()
    found = 0
    while waiting:
        module = waiting.pop()
        if isinstance(module, PickledObject) and id(module) not in seen:
            seen.add(id(module))
            yield module
            children = module_members(module, "_modules", path)
            found += len(children)
            if found > MEMBER_LIMIT:  # modules may share their children
                raise CheckpointError(f"{path}: damaged: its modules nest without end")
            waiting += reversed(children.values())


def _find_head(modules: list[PickledObject], path: Path) -> PickledObject | None:
    """Return the first module with anchors, which is the head whatever its class."""
    return next((module for module in modules if "anchors" in module_members(module, "_buffers", path)), None)


def _checked_head(model: PickledObject, modules: list[PickledObject], path: Path) -> PickledObject:
    """Return the head of a YOLOv5 detection model; refuse any other model, and name it."""
    if model.name in _OTHER_MODELS:
        raise CheckpointError(f"{path}: {model.name} is {_OTHER_MODELS[model.name]}")
    head = _find_head(modules, path)
    if model.name not in DETECTORS or head is None:
        raise CheckpointError(f"{path}: holds no YOLOv5 detection model: its model is a {printable(model.name)}")
    if head.name != "models.yolo.Detect":
        other = " (YOLOv7's)" if head.name.startswith("models.yolo.I") else ""
        raise CheckpointError(f"{path}: its head is a {printable(head.name)}{other}; only models.yolo.Detect is read")
    return head


def _check_network(modules: list[PickledObject], path: Path) -> None:
    """Refuse a network whose weights would load here but compute something else."""
    for module in modules:
        act = module_members(module, "_modules", path).get("act")
        if isinstance(act, PickledObject) and act.name not in _ACTIVATIONS:
            kind = printable(act.name.rpartition(".")[2])
            raise CheckpointError(
                f"{path}: its {printable(module.name)} has the activation {kind}, and SiLU is the one that "
                "is built here; take weights of YOLOv5 v4.0 or later that were trained with SiLU"
            )
        eps = module.state.get("eps")
        if module.name.endswith("batchnorm.BatchNorm2d") and not (
            isinstance(eps, float) and math.isclose(eps, NORM_EPS)
        ):
            given = printable(repr(eps)) if isinstance(eps, (int, float)) else "what is no number"
            raise CheckpointError(f"{path}: its norms add {given} to the variance, and {NORM_EPS} is added here")


def _names(model: PickledObject, yaml: dict, path: Path) -> list[str]:
    """Return one name per class, from a list or from a dict by class id; "class<id>" for a missing one."""
    nc = yaml.get("nc") if _is_int(yaml.get("nc")) else _python_number(model.state.get("nc"))
    if not _is_int(nc) or not 1 <= nc <= CLASS_LIMIT:
        raise CheckpointError(f"{path}: its model description does not give the number of classes (nc)")
    given = plain_value(model.state.get("names"), path, "names", convert=_python_number)
    names: list[object] = [f"class{class_id}" for class_id in range(nc)]
    if isinstance(given, dict):
        names = [given.get(class_id, name) for class_id, name in enumerate(names)]
    elif isinstance(given, (list, tuple)) and len(given) == nc:
        names = list(given)
    if not all(isinstance(name, (str, int, float)) for name in names):
        raise CheckpointError(f"{path}: damaged: its names hold something else than text")
    return [str(name) for name in names]


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


# ---- anchors ----


def _convert_pixel_anchors(
    archive: Archive,
    head: PickledObject,
    state: dict[str, Tensor | StoredTensor],
    stride: Tensor | None,
    yaml: dict,
) -> None:
    """Replace anchors in pixels by anchors in grid cells, the unit of a model's state."""
    name = next((name for name in state if name.endswith(".anchors")), None)
    anchors = _small_tensor(archive, state[name]) if name is not None else None
    if name is None or anchors is None or anchors.ndim != 3 or stride is None or stride.numel() != len(anchors):
        return
    pixels = _small_tensor(archive, module_members(head, "_buffers", archive.path).get("anchor_grid"))
    given = yaml.get("anchors")
    if pixels is None and isinstance(given, list) and all(isinstance(row, list) for row in given):
        flat = [side for row in given for side in row if isinstance(side, float) or _is_int(side) and abs(side) < 2**31]
        pixels = torch.tensor(flat, dtype=torch.float32)
    steps = stride.reshape(-1, 1, 1)
    if pixels is None or pixels.numel() != anchors.numel() or not (steps > 1).all():
        return
    if torch.allclose(anchors, pixels.reshape(anchors.shape), rtol=1e-3):
        state[name] = anchors / steps


def _small_tensor(archive: Archive, stored: object) -> Tensor | None:
    """Return a stored tensor of at most 10,000 elements in float32, None for anything else."""
    if not isinstance(stored, StoredTensor) or stored.storage.count > 10_000:
        return None
    return archive.tensor(stored, full=True, keep=False).float()


# ---- NumPy scalars ----


def _python_number(value: object) -> bool | int | float | None:
    """Return a plain number, a NumPy scalar or a NumPy array of one element as a Python number, else None."""
    if isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, PickledObject):
        return None
    if value.name.endswith(".multiarray.scalar") and len(value.arguments) == 2:
        dtype, raw = value.arguments
    elif (
        value.name.endswith(".multiarray._reconstruct")
        and isinstance(value.state.get(""), tuple)
        and len(value.state[""]) == 5
    ):
        _, _, dtype, _, raw = value.state[""]
    else:
        return None
    return _unpack_number(dtype, raw)


def _unpack_number(dtype: object, raw: object) -> bool | int | float | None:
    """Return the one number in the bytes of a NumPy dtype. Protocol 2 pickles bytes as Latin-1 text."""
    if (
        isinstance(raw, PickledObject)
        and raw.name == "_codecs.encode"
        and raw.arguments
        and isinstance(raw.arguments[0], str)
        and len(raw.arguments[0]) <= _NUMBER_BYTES
    ):
        raw = raw.arguments[0].encode("latin-1", errors="replace")
    if not isinstance(dtype, PickledObject) or dtype.name != "numpy.dtype" or not dtype.arguments:
        return None
    code = dtype.arguments[0]
    letter = _FORMATS.get(code.lstrip("<=|")) if isinstance(code, str) and len(code) <= 4 else None
    if letter is None or not isinstance(raw, bytes) or len(raw) != struct.calcsize(letter):
        return None
    return struct.unpack(f"<{letter}", raw)[0]
