"""The specification of a network in a model yaml: settings checked and overridden, scaling, one `LayerRow` per layer.

The format itself is known to models/graph/architecture.py. Nothing in a yaml is ever executed: the words "nc" and
"anchors" stand for the file's own values, other strings are read as a literal or kept as text.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.graph.architecture import as_list, is_number, read_content, source_index
from models.identity_start import STARTS
from models.registry import Scale
from utils.config.yaml_files import MOST_CLASSES
from utils.errors import ModelError, cut, shown
from utils.log import LOGGER

MOST_CHANNELS = 65_536  # of a row, before width_multiple; also the largest of any number in a row
MOST_MULTIPLE = 10  # depth_multiple and width_multiple; v6.1's go to 1.33
MOST_ANCHORS = 100  # per level


@dataclass(frozen=True)
class LayerRow:
    """One row of backbone or head, ready to be built.

    Attributes:
        index: The layer's index, counted over both sections.
        source: The layers it reads, as written.
        sources: Their indices, IMAGE_SOURCE for the image; not yet known to exist.
        repeats: How often the block is repeated, before depth_multiple scales it.
        block: The block's registered name.
        args: The block's yaml arguments with names and literals read.
        where: Start of a message about the row.
    """

    index: int
    source: int | list[int]
    sources: tuple[int, ...]
    repeats: int
    block: str
    args: tuple[Any, ...]
    where: str


@dataclass(frozen=True)
class ModelSpec:
    """A model yaml ready to be built.

    Attributes:
        file: Path of the yaml, or its name if it was given as content.
        ch: Channels of the image.
        nc: Number of classes.
        anchors: Rows of [w, h, w, h, ...] in pixels, one per level, or the number of anchors per level.
        scale: The compound scaling.
        rows: The layers, the head last.
        yaml: The content, with ch, nc and anchors as they are used.
        attention_start: "plain", "identity", or None if every block decides.
    """

    file: str
    ch: int
    nc: int
    anchors: int | list[list[float]]
    scale: Scale
    rows: tuple[LayerRow, ...]
    yaml: dict[str, Any]
    attention_start: str | None = None


def read_spec(
    cfg: Path | str | Mapping,
    ch: int = 3,
    nc: int | None = None,
    anchors: int | float | list | None = None,
    attention_start: str | None = None,
) -> ModelSpec:
    """Read and check a model yaml.

    Args:
        cfg: Its path, as for `find_yaml`, or its content.
        ch: Channels of the image, unless the yaml has a key `ch`.
        nc: Number of classes, replaces the yaml's if given.
        anchors: Rows of [w, h, w, h, ...] in pixels, or a number of anchors per level; replaces the yaml's if given.
        attention_start: "plain" or "identity", replaces the yaml's if given.

    Returns:
        The specification, from which the layers can be built.

    Raises:
        ModelError: If the yaml does not have the v6.1 form or a setting is out of range; names file and key or row.
    """
    file, content, rows = read_content(cfg)
    content["ch"] = content.get("ch", ch)
    _override(content, nc, anchors)
    if attention_start:
        content["attention_start"] = attention_start
    _check_settings(file, content)
    na = content["anchors"] if isinstance(content["anchors"], int) else len(content["anchors"][0]) // 2
    scale = Scale(content["depth_multiple"], content["width_multiple"], na * (content["nc"] + 5))
    names = {"nc": content["nc"], "anchors": content["anchors"]}
    layers = tuple(
        LayerRow(
            index,
            row.sources,
            tuple(source_index(source, index) for source in as_list(row.sources)),
            row.repeats,
            row.block,
            _read_args(row.where, row.args, names),
            row.where,
        )
        for index, row in enumerate(rows)
    )
    return ModelSpec(
        file, content["ch"], content["nc"], content["anchors"], scale, layers, content, content.get("attention_start")
    )


def _override(content: dict[str, Any], nc: int | None, anchors: int | float | list | None) -> None:
    if nc and nc != content["nc"]:
        before = shown(content["nc"], 40).encode("ascii", "backslashreplace").decode()
        LOGGER.info(f"Overriding model.yaml nc={cut(before, 40)} with nc={nc}")
        content["nc"] = int(nc)
    if anchors:
        LOGGER.info(f"Overriding model.yaml anchors with anchors={shown(anchors)}")
        content["anchors"] = round(anchors) if isinstance(anchors, (int, float)) else anchors


def _check_settings(file: str, content: dict[str, Any]) -> None:
    for key, most in (("nc", MOST_CLASSES), ("ch", MOST_CHANNELS)):
        if not is_number(content[key], int) or content[key] < 1:
            raise ModelError(f"{file}: {key} must be a whole number of at least 1, got {shown(content[key])}")
        if content[key] > most:
            raise ModelError(f"{file}: {key} must be at most {most}, got {shown(content[key])}")
    start = content.get("attention_start")
    if start is not None and (not isinstance(start, str) or start not in STARTS):
        raise ModelError(f"{file}: attention_start must be {' or '.join(STARTS)}, got {shown(start)}")
    for key in ("depth_multiple", "width_multiple"):
        if not is_number(content[key]) or not 0 < content[key] <= MOST_MULTIPLE:
            raise ModelError(
                f"{file}: {key} must be a number above 0, at most {MOST_MULTIPLE}, got {shown(content[key])}"
            )
    _check_anchors(file, content["anchors"])


def _check_anchors(file: str, anchors: Any) -> None:
    """Raise ModelError unless `anchors` is a table of sides in pixels, or a number of anchors per level."""
    table = isinstance(anchors, list) and anchors and all(isinstance(row, list) and len(row) >= 2 for row in anchors)
    if is_number(anchors, int) and anchors >= 1:
        count = anchors
    elif table and all(is_number(side) for row in anchors for side in row):
        count = max(len(row) for row in anchors) // 2
        if not all(math.isfinite(side) for row in anchors for side in row):
            raise ModelError(f"{file}: anchors must be finite numbers, got {shown(anchors)}")
    else:
        raise ModelError(
            f"{file}: anchors must be a list of [w,h, w,h, ...] rows in pixels, "
            f"or their number per level, got {shown(anchors)}"
        )
    if count > MOST_ANCHORS:
        raise ModelError(f"{file}: a level has at most {MOST_ANCHORS} anchors, got {shown(count)}")


def _read_args(where: str, args: list[Any], names: dict[str, Any]) -> tuple[Any, ...]:
    """Return a row's arguments with names and literals read. Raises ModelError for a number beyond any channels."""
    read = tuple(_read_arg(arg, names) for arg in args)
    for arg, value in zip(args, read, strict=True):
        if not isinstance(arg, str) or arg not in names:
            number = _largest(value)
            if number > MOST_CHANNELS:
                raise ModelError(
                    f"{where}: {shown(number)} in its arguments {shown(args)}: channels and all other numbers of a row "
                    f"are at most {MOST_CHANNELS}"
                )
    return read


def _largest(value: Any) -> float:
    """Return the largest size of a number in an argument, 0 if it holds none; infinity counts as none."""
    if isinstance(value, Mapping):
        return _largest(list(value.values()))
    if isinstance(value, list | tuple | set):
        return max((_largest(item) for item in value), default=0)
    if isinstance(value, dict):
        return max((_largest(item) for item in value.values()), default=0)
    return abs(value) if is_number(value) and math.isfinite(value) else 0


def _read_arg(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):  # keywords
        return {key: _read_arg(each, names) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
