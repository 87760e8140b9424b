"""The layers whose maps heat maps are made of: named by the user, or those that a detection's level depends on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.graph.architecture import as_list
from models.graph.construction import NetworkLayer
from models.yolo import Model
from utils.errors import ConfigError, cut, nearest

ROOT_PATH = "model."


@dataclass(frozen=True)
class MapLayer:
    """A layer by its path in the network.

    Attributes:
        path: As `get_submodule` takes it, such as "model.9.m".
        kind: Its class, such as "C3".
    """

    path: str
    kind: str

    @property
    def name(self) -> str:
        """The path without "model.", such as "9.m"."""
        return self.path.removeprefix(ROOT_PATH)

    @property
    def title(self) -> str:
        """Such as "17 C3"."""
        return f"{self.name} {self.kind}"


def find_layers(model: Model, wanted: Sequence[str]) -> list[MapLayer]:
    """Return the layers that `--layer` names.

    Args:
        model: The network.
        wanted: Row indices (negative ones from the head), module paths, or names of rows as the yaml and the summary
            have them; a name means every row that has it.

    Returns:
        The layers in the order given, none twice.

    Raises:
        ConfigError: If there is no such layer, or it is the head; the line has the nearest names.
    """
    found: list[MapLayer] = []
    for text in wanted:
        found += [layer for layer in _named(model, text) if layer not in found]
    return found


def _named(model: Model, text: str) -> list[MapLayer]:
    rows, last = list(model.model), len(model.model) - 1
    if text.lstrip("-").isdigit():
        index = int(text)
        if not -last - 1 <= index <= last:
            raise ConfigError(f"--layer {text}: the network has the rows 0 to {last}")
        return [_layer(model, f"{ROOT_PATH}{index % (last + 1)}", text)]
    by_name = [index for index, row in enumerate(rows) if text in _names(row)]
    if by_name:
        return [_layer(model, f"{ROOT_PATH}{index}", text) for index in by_name]
    paths = dict(model.named_modules())
    for path in (text, f"{ROOT_PATH}{text}"):
        if path in paths and path not in ("", "model"):
            return [_layer(model, path, text)]
    names = {name for row in rows[:-1] for name in _names(row)}
    names |= {path.removeprefix(ROOT_PATH) for path in paths if path}
    rows_of = f"; its rows are 0 to {last - 1}, such as {last - 1} or {type(rows[last - 1]).__name__}"
    raise ConfigError(f"--layer {cut(text)}: the network has no such layer{nearest(text, names) or rows_of}")


def _names(row: nn.Module) -> tuple[str, ...]:
    """The names that a row has in a yaml, in the summary and behind a gate."""
    return (str(row.type).rpartition(".")[2], type(row).__name__, *_inside(row))


def _inside(row: nn.Module) -> tuple[str, ...]:
    """The name of the block behind an identity start's gate."""
    block = getattr(row, "block", None)
    return (type(block).__name__,) if isinstance(block, nn.Module) else ()


def _layer(model: Model, path: str, text: str) -> MapLayer:
    module = model.get_submodule(path)
    head = f"{ROOT_PATH}{len(model.model) - 1}"
    if path == head or path.startswith(f"{head}."):
        raise ConfigError(f"--layer {cut(text)}: is the head, which has no map; its inputs are rows {_sources(model)}")
    inside = _inside(module)
    return MapLayer(path, inside[0] if inside else type(module).__name__)


def _sources(model: Model) -> str:
    return ", ".join(str(index) for index in head_sources(model))


def head_sources(model: Model) -> list[int]:
    """Return the rows whose maps enter the head, one per level."""
    head = len(model.model) - 1
    given = cast("NetworkLayer", model.model[-1]).f
    return [head + index if index < 0 else index for index in as_list(given)]


def default_layers(model: Model, levels: Sequence[int], method: str) -> list[MapLayer]:
    """Return the layers whose maps explain detections of some levels of the head.

    They are the rows that enter the head at these levels. For LayerCAM they are the last rows of the backbone with the
    strides of the levels: a detection depends on one cell of what enters the head, so that this map would be that cell.

    Args:
        model: The network.
        levels: Indices of levels.
        method: One of `CAM_METHODS`.

    Returns:
        One layer per level.
    """
    sources = head_sources(model)
    if method == "layercam":
        strides = row_strides(model)[: len(model.yaml["backbone"])]
        for level in levels:
            same = [row for row, stride in enumerate(strides) if stride == model.head.strides[level]]
            sources[level] = same[-1] if same else sources[level]
    return [_layer(model, f"{ROOT_PATH}{sources[level]}", str(sources[level])) for level in levels]


@torch.no_grad()
def row_strides(model: Model) -> list[float]:
    """Return the pixels per cell of each row's output, 0 for one that is no map."""
    side, strides, hooks = 2 * int(max(model.head.strides)), [], []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        strides.append(side / output.shape[2] if isinstance(output, Tensor) and output.ndim == 4 else 0.0)

    first = next(model.parameters())
    try:
        hooks += [row.register_forward_hook(note) for row in model.model]
        model(torch.zeros(1, model.yaml.get("ch", 3), side, side, device=first.device, dtype=first.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return strides
