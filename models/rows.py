"""Model yamls as rows of layers: reading, inserting and replacing blocks, renumbering, writing. No torch.

A row is [sources, repeats, block, args]. A source is a layer's number, or a negative distance. When a
block B is put behind layer k, every layer that read k, by number, by distance or as the row above,
reads B instead, and every number and distance that spans B moves by one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace as with_fields
from pathlib import Path
from typing import Any

import yaml

from utils.errors import ModelError, nearest
from utils.files import read_text

SECTIONS = ("backbone", "head")
LEADING_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors")  # in this order at the head of a file
WORD = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Row:
    """One layer: `sources` is an integer or a list of them, `note` a word for the comment behind it."""

    sources: int | list[int]
    repeats: int
    block: str
    args: list[Any]
    section: str
    note: str = ""


@dataclass(frozen=True)
class Architecture:
    """A model yaml: its settings (all keys but backbone and head) and its rows, backbone first."""

    file: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]


def parse(where: str, text: str) -> list[Any]:
    """Return the list written in `text`. Raises ModelError, naming `where`, if it is none."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, list):
        raise ModelError(f'{where}: {text!r} is not a list; write for example "[1024, 16]"')
    return value


def read_yaml(path: Path | str) -> Architecture:
    """Return the model yaml at `path`. Raises ModelError naming file and row when it has not the v6.1 form."""
    path = Path(path)
    if not path.is_file():
        there = [each.name for each in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ModelError(f"{path} does not exist{nearest(path.name, there)}")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a model yaml: it holds no keys")
    rows: list[Row] = []
    for section in SECTIONS:
        if not isinstance(content.get(section), list):
            raise ModelError(f"{path}: not a model yaml: it has no {section!r} list of [from, number, module, args] rows")
        for row in content[section]:
            rows.append(_row(f"{path}: layer {len(rows)}", row, section, len(rows)))
    return Architecture(path.name, {key: value for key, value in content.items() if key not in SECTIONS}, tuple(rows))


def _row(where: str, row: Any, section: str, index: int) -> Row:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or not isinstance(row[3], list):
        raise ModelError(f"{where}: expected [from, number, module, args], got {row}")
    sources = row[0] if isinstance(row[0], list) else [row[0]]
    for source in sources:
        if not isinstance(source, int) or isinstance(source, bool):
            raise ModelError(f"{where} ({row[2]}): source {source!r} is not a layer number")
        absolute = index + source if source < 0 else source
        if absolute >= index or (absolute < 0 and not (index == 0 and source == -1)):
            raise ModelError(f"{where} ({row[2]}): source {source} is out of range; a layer reads -1 or one of 0 to {index - 1}")
    return Row(row[0], row[1], row[2], row[3], section)


def insert_block(architecture: Architecture, block: str, after: Sequence[int], args: Sequence[Any] = ()) -> Architecture:
    """Return `architecture` with `block` behind each layer of `after` (numbers of the given architecture).

    args: the block's yaml arguments, one list for all places or a list of lists, one for each place.
    Raises ModelError when a layer is not there, stands twice, or is the last (nothing reads it)."""
    rows = architecture.rows
    _check_layers(architecture, "after", after, len(rows) - 1)
    per_place = dict(zip(after, _args_per_place(architecture, after, args), strict=True))
    result: list[Row] = []
    for index, row in enumerate(rows):
        result.append(with_fields(row, sources=_renumbered(row.sources, index, set(after))))
        if index in per_place:
            result.append(Row(-1, 1, block, per_place[index], row.section, "attention"))
    return with_fields(architecture, rows=tuple(result))


def replace_block(architecture: Architecture, old: str, at: Sequence[int], new: str,
                  args: Sequence[Any] | None = None) -> Architecture:
    """Return `architecture` with `new` in the place of the `old` blocks at the layers `at`; sources and repeats
    stay. args: as for `insert_block`; None keeps each row's first argument (its channels) and drops the rest.
    Raises ModelError when a layer is not there or is no `old`."""
    _check_layers(architecture, "at", at, len(architecture.rows))
    rows = list(architecture.rows)
    for index in at:
        if rows[index].block != old:
            there = [number for number, row in enumerate(rows) if row.block == old]
            raise ModelError(f"{architecture.file}: layer {index} is {rows[index].block}, not {old}; "
                             + (f"{old} stands at {there}" if there else
                                f"no layer is {old}{nearest(old, {row.block for row in rows})}"))
    per_place = [rows[index].args[:1] for index in at] if args is None else _args_per_place(architecture, at, args)
    for index, own in zip(at, per_place, strict=True):
        rows[index] = with_fields(rows[index], block=new, args=own, note=f"was {old}")
    return with_fields(architecture, rows=tuple(rows))


def _check_layers(architecture: Architecture, word: str, layers: Any, end: int) -> None:
    if not isinstance(layers, (list, tuple)) or not layers or not all(type(layer) is int for layer in layers):
        raise ModelError(f"{architecture.file}: {word} must be a list of layer numbers, got {layers!r}")
    for layer in layers:
        if not 0 <= layer < end:
            raise ModelError(f"{architecture.file}: {word} {layer}: there are layers 0 to {end - 1} to choose from")
    if len(set(layers)) != len(layers):
        raise ModelError(f"{architecture.file}: {word} {list(layers)} names a layer twice")


def _args_per_place(architecture: Architecture, places: Sequence[int], args: Sequence[Any]) -> list[list[Any]]:
    if not isinstance(args, (list, tuple)):
        raise ModelError(f"{architecture.file}: args must be a list, got {args!r}")
    if args and all(isinstance(each, (list, tuple)) for each in args):
        if len(args) != len(places):
            raise ModelError(f"{architecture.file}: {len(args)} lists of args for {len(places)} places")
        return [list(each) for each in args]
    return [list(args) for _ in places]


def _renumbered(sources: int | list[int], index: int, after: set[int]) -> int | list[int]:
    """Return the sources of layer `index` once blocks stand behind the layers `after`."""
    if isinstance(sources, list):
        return [_renumbered_one(source, index, after) for source in sources]
    return _renumbered_one(sources, index, after)


def _renumbered_one(source: int, index: int, after: set[int]) -> int:
    if index == 0:  # reads the image
        return source
    layer = index + source if source < 0 else source
    attended = layer + sum(1 for place in after if place <= layer)  # the block behind it, if there is one
    own = index + sum(1 for place in after if place < index)
    return attended - own if source < 0 else attended


def render(architecture: Architecture, header: Sequence[str] = ()) -> str:
    """Return `architecture` as the text of a v6.1-format yaml with layer numbers in comments."""
    lines = [f"# {line}" for line in header] + [""] * bool(header)
    settings = architecture.settings
    for key in (*(key for key in LEADING_KEYS if key in settings), *(key for key in settings if key not in LEADING_KEYS)):
        lines += _setting(key, settings[key])
    for section in SECTIONS:
        lines += ["", f"{section}:", "  # [from, number, module, args]"]
        for index, row in enumerate(architecture.rows):
            if row.section == section:
                body = f"[{_text(row.sources)}, {_text(row.repeats)}, {_text(row.block)}, {_text(row.args)}]"
                lines.append(f"  - {body}  # {index}" + (f" {row.note}" if row.note else ""))
    return "\n".join(lines) + "\n"


def _setting(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(each, list) for each in value):
        return [f"{key}:"] + [f"  - {_text(each)}" for each in value]
    return [f"{key}: {_text(value)}"]


def _text(value: Any) -> str:
    """A value in yaml's one-line form, reading back as the same value."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(each) for each in value) + "]"
    if isinstance(value, str) and WORD.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).replace("\n...", "").strip()
