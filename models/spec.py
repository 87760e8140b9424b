"""What a model yaml says, checked: keys, scaling, and one `LayerRow` a layer with its line in the file.

Only `read_spec` knows the format. Nothing in a yaml is ever executed: the words "nc" and "anchors" stand
for the file's own values, other strings are read as a literal or kept as text."""

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.registry import Scale
from utils.errors import ModelError, nearest
from utils.files import ROOT, read_text
from utils.log import LOGGER

KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
OPTIONAL_KEYS = ("ch", "inplace", "names")
IMAGE = -1  # the source of layer 0
FOLDERS = (ROOT / "models", ROOT / "models" / "hub")


@dataclass(frozen=True)
class LayerRow:
    """One row of backbone or head.

    source: as written; sources: absolute layer numbers, IMAGE for the picture; number: repeats before
    scaling; args: with names and literals read; place: "head row 3"; line: in the file, None for a dict."""

    index: int
    source: int | list[int]
    sources: tuple[int, ...]
    number: int
    block: str
    args: tuple[Any, ...]
    place: str
    line: int | None

    def at(self, file: str) -> str:
        """Return "file.yaml:31: layer 12 (head row 3) CBAM", the beginning of a message."""
        spot = file if self.line is None else f"{file}:{self.line}"
        return f"{spot}: layer {self.index} ({self.place}) {self.block}"


@dataclass(frozen=True)
class ModelSpec:
    """A model yaml ready to be built. `yaml` is its content with ch, nc and anchors as they are used."""

    file: str
    ch: int
    nc: int
    anchors: int | list[list[float]]
    scale: Scale
    rows: tuple[LayerRow, ...]
    yaml: dict[str, Any]


def find_yaml(path: Path | str) -> Path:
    """Return the model yaml meant by `path`: as it stands, from the project's folder, or a bare name in
    models/ or models/hub/. Raises ModelError with the nearest names when it is nowhere."""
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ModelError(f"{path} is no model yaml: its name must end in .yaml (weights are given by --weights)")
    for candidate in (path, ROOT / path, *(folder / path.name for folder in FOLDERS if path.parent == Path("."))):
        if candidate.is_file():
            return candidate
    there = [item.name for folder in (path.parent, *FOLDERS) if folder.is_dir() for item in folder.glob("*.yaml")]
    raise ModelError(f"{path} does not exist{nearest(path.name, there)}; model yamls lie in models/ and models/hub/")


def read_spec(cfg: Path | str | Mapping, ch: int = 3, nc: int | None = None,
              anchors: int | float | list | None = None) -> ModelSpec:
    """Read and check a model yaml (a path or its content). `nc` and `anchors`, where given, replace the yaml's."""
    if isinstance(cfg, Mapping):
        file, content, lines = str(cfg.get("yaml_file", "model yaml")), copy.deepcopy(dict(cfg)), {}
    else:
        path = find_yaml(cfg)
        file = str(path)
        content, lines = _load(path)
    _check_keys(file, content)
    content["ch"] = content.get("ch", ch)
    _override(content, nc, anchors)
    _check_numbers(file, content)
    na = content["anchors"] if isinstance(content["anchors"], int) else len(content["anchors"][0]) // 2
    scale = Scale(content["depth_multiple"], content["width_multiple"], na * (content["nc"] + 5))
    names = {"nc": content["nc"], "anchors": content["anchors"]}
    rows = _rows(file, content, lines, names)
    return ModelSpec(file, content["ch"], content["nc"], content["anchors"], scale, rows, content)


def _load(path: Path) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Return a yaml's content and the line of each row by (section, row number)."""
    loader = yaml.SafeLoader(read_text(path))
    try:
        node = loader.get_single_node()
        content = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        spot = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ModelError(f"{spot}: not valid yaml: {getattr(error, 'problem', None) or 'cannot be read'}") from None
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a model yaml: it must hold the keys {', '.join(KEYS)}")
    lines = {}
    for key, value in node.value:
        if key.value in ("backbone", "head") and isinstance(value, yaml.SequenceNode):
            lines.update({(key.value, number): row.start_mark.line + 1 for number, row in enumerate(value.value)})
    return content, lines


def _check_keys(file: str, content: dict[str, Any]) -> None:
    strangers = [str(key) for key in content if key not in KEYS and key not in OPTIONAL_KEYS]
    for key in KEYS:
        if key not in content:
            found = nearest(key, strangers).replace("did you mean", "the file has").replace("?", "")
            raise ModelError(f"{file}: the key {key!r} is missing{found}; a model yaml holds {', '.join(KEYS)}")
    for section in ("backbone", "head"):
        if not isinstance(content[section], list) or not content[section]:
            raise ModelError(f"{file}: {section} must be a list of [from, number, module, args] rows")


def _override(content: dict[str, Any], nc: int | None, anchors: int | float | list | None) -> None:
    if nc and nc != content["nc"]:
        LOGGER.info(f"Overriding model.yaml nc={content['nc']} with nc={nc}")
        content["nc"] = int(nc)
    if anchors:
        LOGGER.info(f"Overriding model.yaml anchors with anchors={anchors}")
        content["anchors"] = round(anchors) if isinstance(anchors, (int, float)) else anchors


def _is_number(value: Any, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_numbers(file: str, content: dict[str, Any]) -> None:
    for key in ("nc", "ch"):
        if not _is_number(content[key], int) or content[key] < 1:
            raise ModelError(f"{file}: {key} must be a whole number of at least 1, got {content[key]!r}")
    for key in ("depth_multiple", "width_multiple"):
        if not _is_number(content[key]) or content[key] <= 0:
            raise ModelError(f"{file}: {key} must be a number above 0, got {content[key]!r}")
    anchors = content["anchors"]
    if _is_number(anchors, int) and anchors >= 1:
        return
    table = isinstance(anchors, list) and anchors and all(isinstance(row, list) and len(row) >= 2 for row in anchors)
    if not table or not all(_is_number(side) for row in anchors for side in row):
        raise ModelError(f"{file}: anchors must be a list of [w,h, w,h, ...] rows in pixels, "
                         f"or their number a level, got {anchors!r}")


def _rows(file: str, content: dict[str, Any], lines: dict, names: dict[str, Any]) -> tuple[LayerRow, ...]:
    rows: list[LayerRow] = []
    for section in ("backbone", "head"):
        for number, raw in enumerate(content[section]):
            line = lines.get((section, number))
            rows.append(_row(file, raw, len(rows), f"{section} row {number + 1}", line, names))
    return tuple(rows)


def _row(file: str, raw: Any, index: int, place: str, line: int | None, names: dict[str, Any]) -> LayerRow:
    spot = f"{file if line is None else f'{file}:{line}'}: layer {index} ({place})"
    if not isinstance(raw, list) or len(raw) != 4:
        raise ModelError(f"{spot}: a row is [from, number, module, args], got {raw!r}")
    source, number, block, args = raw
    if not isinstance(block, str):
        raise ModelError(f"{spot}: the third entry is the block's name, got {block!r}")
    spot = f"{spot} {block}"
    if not _is_number(number, int) or number < 1:
        raise ModelError(f"{spot}: the second entry is how often it repeats, at least 1, got {number!r}")
    if not isinstance(args, list):
        raise ModelError(f"{spot}: the fourth entry is a list of arguments, [] for none, got {args!r}")
    sources = tuple(_absolute(spot, each, index) for each in (source if isinstance(source, list) else [source]))
    if not sources:
        raise ModelError(f"{spot}: it reads no layer; -1 is the one before")
    return LayerRow(index, source, sources, number, block, tuple(_read_arg(arg, names) for arg in args), place, line)


def _absolute(spot: str, source: Any, index: int) -> int:
    """Return the layer number that `source` means in row `index`."""
    if not _is_number(source, int):
        raise ModelError(f"{spot}: a source is a layer's number or -1 for the one before, got {source!r}")
    if index == 0 and source == -1:
        return IMAGE
    absolute = index + source if source < 0 else source
    if absolute < 0:
        raise ModelError(f"{spot}: source {source} reaches {-absolute} before layer 0; "
                         + (f"-1 to -{index} are there" if index else "the first layer reads the image, -1"))
    if absolute == index:
        raise ModelError(f"{spot}: source {source} is the layer itself; it may read -1 or layers 0 to {index - 1}")
    if absolute > index:
        raise ModelError(f"{spot}: source {source} comes later in the file; it may read -1 or layers 0 to {index - 1}")
    return absolute


def _read_arg(value: Any, names: dict[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
