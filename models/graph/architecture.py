"""Model yamls as rows of layers: find, read and check them, insert and replace blocks, write. No torch.

A row is [sources, repeats, block, args]. A source is a layer index, or a negative distance to an earlier row. Only
this module knows the format; models/graph/spec.py adds what a network needs of it. When a block B is inserted behind
layer k, every layer that read k, by index, by distance or as the row above, reads B instead, and every index and
distance that spans B moves by one.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from models.aliases import canonical
from utils.config.yaml_loader import parse_yaml
from utils.errors import CHOICES_LIMIT, ModelError, cut, nearest, shown
from utils.files import ROOT, is_dir, is_file, read_text

SECTIONS = ("backbone", "head")
LEADING_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors")  # written first, in this order
REQUIRED_KEYS = (*LEADING_KEYS, *SECTIONS)
OPTIONAL_KEYS = ("ch", "inplace", "names", "attention_start")
MOST_LAYERS = 1000
MOST_REPEATS = 100  # of a row, before depth_multiple; v6.1 has 9
YAML_FOLDERS = (ROOT / "models", ROOT / "models" / "hub")
IMAGE_SOURCE = -1  # the source of layer 0
SCALES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}  # depth, width
T = TypeVar("T")
PLAIN_SCALAR = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Row:
    """One layer of a model yaml.

    Attributes:
        sources: The layers it reads, as written: an index or a negative distance, or a list of them.
        repeats: How often the block is repeated, before depth_multiple scales it.
        block: The block's registered name.
        args: The block's yaml arguments, as written.
        section: "backbone" or "head".
        note: Text for the comment behind the row; set for rows that were inserted or replaced.
        where: Start of a message about the row, such as "mine.yaml:31: layer 12 (head row 3) CBAM".
    """

    sources: int | list[int]
    repeats: int
    block: str
    args: list[Any]
    section: str
    note: str = ""
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Architecture:
    """A model yaml: its file name, its settings (all keys but backbone and head) and its rows, backbone first."""

    file: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]


# ---- reading ----


def find_yaml(path: Path | str) -> Path:
    """Return the model yaml meant by `path`.

    It is looked for as given, then below the project's folder, and a bare name in models/ and models/hub/.

    Raises:
        ModelError: If there is no such file; names the nearest ones.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ModelError(
            f"{cut(path)} is not a model yaml: its name must end in .yaml (weights are given by --weights)"
        )
    for candidate in (path, ROOT / path, *(folder / path.name for folder in YAML_FOLDERS if path.parent == Path("."))):
        if is_file(candidate):
            return candidate
    folders = [folder for folder in (path.parent, *YAML_FOLDERS) if is_dir(folder)]
    there = [item.name for folder in folders for item in folder.glob("*.yaml")]
    raise ModelError(
        f"{cut(path)} does not exist{nearest(path.name, there)}; model yamls are in models/ and models/hub/"
    )


def read_yaml(path: Path | str) -> Architecture:
    """Return the model yaml that `find_yaml` finds, with its rows and sources checked.

    Raises:
        ModelError: If it does not have the v6.1 form; names file, line, row and remedy.
    """
    file, content, rows = read_content(path)
    for index, row in enumerate(rows):
        try:
            check_sources(row.sources, [earlier.block for earlier in rows[:index]])
        except ValueError as error:
            raise ModelError(f"{row.where}: {error}") from None
    settings = {key: value for key, value in content.items() if key not in SECTIONS}
    return Architecture(Path(file).name, settings, rows)


def read_content(cfg: Path | str | Mapping) -> tuple[str, dict[str, Any], tuple[Row, ...]]:
    """Return a model yaml's name, content (a copy) and rows, from a path for `find_yaml` or from its content.

    Keys and the form of each row are checked. Whether the sources exist is not: see `check_sources`.

    Raises:
        ModelError: If the yaml does not have the v6.1 form; names file, line, row and remedy.
    """
    if isinstance(cfg, Mapping):
        file, content = cut(cfg.get("yaml_file", "model yaml")), copy.deepcopy(dict(cfg))
        lines: dict[tuple[str, int], int] = {}
    else:
        path = find_yaml(cfg)
        file = str(path)
        content, lines = _load_yaml(path)
    _check_keys(file, content)
    rows: list[Row] = []
    for section in SECTIONS:
        for position, raw in enumerate(content[section]):
            line = lines.get((section, position))
            place = cut(file) if line is None else f"{cut(file)}:{line}"
            where = f"{place}: layer {len(rows)} ({section} row {position + 1})"
            rows.append(_parse_row(where, raw, section))
    return file, content, tuple(rows)


def _load_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Return a yaml's content and the line of each row by (section, position in it)."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ModelError(f"{cut(path)}: cannot be read: {error.strerror}") from None
    content, node = parse_yaml(text, path, error_class=ModelError)
    if node is None or not isinstance(content, dict):
        raise ModelError(f"{cut(path)}: not a model yaml: it must hold the keys {', '.join(REQUIRED_KEYS)}")
    lines: dict[tuple[str, int], int] = {}
    for key, value in node.value:
        if key.value in SECTIONS and isinstance(value, yaml.SequenceNode):
            lines.update({(key.value, index): row.start_mark.line + 1 for index, row in enumerate(value.value)})
    return content, lines


def _check_keys(file: str, content: dict[str, Any]) -> None:
    file = cut(file)
    unknown = [str(key) for key in content if key not in REQUIRED_KEYS and key not in OPTIONAL_KEYS]
    for key in REQUIRED_KEYS:
        if key not in content:
            found = nearest(key, unknown).replace("did you mean", "the file has").replace("?", "")
            raise ModelError(
                f"{file}: the key {key!r} is missing{found}; a model yaml holds {', '.join(REQUIRED_KEYS)}"
            )
    for section in SECTIONS:
        if not isinstance(content[section], list) or not content[section]:
            raise ModelError(f"{file}: {section} must be a list of [from, number, module, args] rows")
    count = sum(len(content[section]) for section in SECTIONS)
    if count > MOST_LAYERS:
        raise ModelError(f"{file}: {count} rows; a model has at most {MOST_LAYERS} layers")


def _parse_row(where: str, raw: Any, section: str) -> Row:
    if not isinstance(raw, list) or len(raw) != 4:
        raise ModelError(f"{where}: a row is [from, number, module, args], got {shown(raw)}")
    sources, repeats, block, args = raw
    if not isinstance(block, str):
        raise ModelError(f"{where}: the third entry is the block's name, got {shown(block)}")
    where = f"{where} {cut(block, 100)}"
    if not is_number(repeats, int) or repeats < 1:
        raise ModelError(f"{where}: the second entry is how often it repeats, at least 1, got {shown(repeats)}")
    if repeats > MOST_REPEATS:
        raise ModelError(f"{where}: the second entry is how often it repeats, at most {MOST_REPEATS}, got {repeats}")
    if not isinstance(args, list):
        raise ModelError(f"{where}: the fourth entry is a list of arguments, [] for none, got {shown(args)}")
    if sources == []:
        raise ModelError(f"{where}: it reads no layer; -1 is the one before")
    for source in as_list(sources):
        if not is_number(source, int):
            raise ModelError(f"{where}: a source is a layer's index or -1 for the one before, got {shown(source)}")
    return Row(sources, repeats, block, args, section, where=where)


def is_number(value: Any, kind: type | tuple[type, ...] = (int, float)) -> bool:
    """Return whether `value` is a number of that kind; yaml's true and false are not numbers.

    Args:
        value: What a yaml holds.
        kind: The type or types that count, such as int.

    Returns:
        Whether it is one.
    """
    return isinstance(value, kind) and not isinstance(value, bool)


def as_list(value: T | list[T]) -> list[T]:
    """Return a list as it is, and anything else as the only item of one."""
    return value if isinstance(value, list) else [value]


def source_index(source: int, index: int) -> int:
    """Return the index of the layer that a row's source means.

    Args:
        source: A source as written: an index, or a negative distance.
        index: The row's own index.

    Returns:
        The layer's index, not yet known to exist; IMAGE_SOURCE if layer 0 reads -1.
    """
    return index + source if source < 0 else source


def check_sources(sources: int | list[int], earlier: Sequence[str]) -> None:
    """Check that every source of a row is an earlier layer, or the image if the row is the first.

    Args:
        sources: The row's sources as written.
        earlier: A description of each layer before the row, such as its block, for the message.

    Raises:
        ValueError: If a source is not there; lists what may be read.
    """
    index = len(earlier)
    for source in as_list(sources):
        layer = source_index(source, index)
        if 0 <= layer < index or index == 0 and layer == IMAGE_SOURCE:
            continue
        if index == 0:
            raise ValueError(f"source {shown(source)} is not the image; the first layer reads the image, -1")
        if layer < 0:
            reason = f"reaches {shown(-layer)} before layer 0; -1 to -{index} exist"
        else:
            reason = "is the layer itself" if layer == index else "comes later in the file"
            reason += f"; it may read -1 or layers 0 to {index - 1}"
        choices = ", ".join(f"{layer_index} {description}" for layer_index, description in enumerate(earlier))
        raise ValueError(f"source {shown(source)} {reason}: {cut(choices, CHOICES_LIMIT)}")


# ---- changing ----


def insert_block(
    architecture: Architecture, block: str, after: Sequence[int], args: Sequence[Any] = ()
) -> Architecture:
    """Return `architecture` with `block` inserted behind each layer of `after`.

    Args:
        architecture: The rows to insert into; it is left as it is.
        block: Registered name of the block.
        after: Layer indices in the given architecture.
        args: The block's yaml arguments: one list for all places, or a list of lists, one per place.

    Returns:
        The new architecture, with every source renumbered; inserted rows carry the note "attention".

    Raises:
        ModelError: If a layer does not exist, is named twice, or is the last (nothing reads it).
    """
    rows = architecture.rows
    _check_layers(architecture, "after", after, len(rows) - 1)
    per_place = dict(zip(after, _args_per_place(architecture, after, args), strict=True))
    result: list[Row] = []
    for index, row in enumerate(rows):
        result.append(replace(row, sources=_renumber_sources(row.sources, index, set(after))))
        if index in per_place:
            result.append(Row(-1, 1, block, per_place[index], row.section, "attention"))
    return replace(architecture, rows=tuple(result))


def replace_block(
    architecture: Architecture, old: str, at: Sequence[int], new: str, args: Sequence[Any] | None = None
) -> Architecture:
    """Return `architecture` with `new` in place of the `old` blocks at the layers `at`.

    Args:
        architecture: The rows to change; it is left as it is.
        old: Name of the block that the layers must hold now.
        at: Layer indices.
        new: Registered name of the block that replaces it.
        args: As for `insert_block`; None keeps each row's first argument (its channels) and drops the rest.

    Returns:
        The new architecture; sources and repeats stay, and replaced rows carry a note.

    Raises:
        ModelError: If a layer does not exist, is named twice, or is not an `old`.
    """
    _check_layers(architecture, "at", at, len(architecture.rows))
    rows = list(architecture.rows)
    for index in at:
        if canonical(rows[index].block) != canonical(old):
            found = [layer_index for layer_index, row in enumerate(rows) if canonical(row.block) == canonical(old)]
            known = f"{old} is at {found}" if found else f"no layer is {old}{nearest(old, {row.block for row in rows})}"
            raise ModelError(f"{architecture.file}: layer {index} is {rows[index].block}, not {old}; {known}")
    per_place = [rows[index].args[:1] for index in at] if args is None else _args_per_place(architecture, at, args)
    for index, own in zip(at, per_place, strict=True):
        rows[index] = replace(rows[index], block=new, args=own, note=f"was {old}")
    return replace(architecture, rows=tuple(rows))


def _check_layers(architecture: Architecture, word: str, layers: Any, end: int) -> None:
    if not isinstance(layers, (list, tuple)) or not layers or not all(type(layer) is int for layer in layers):
        raise ModelError(f"{architecture.file}: {word} must be a list of layer indices, got {shown(layers)}")
    for layer in layers:
        if not 0 <= layer < end:
            raise ModelError(f"{architecture.file}: {word} {layer}: there are layers 0 to {end - 1} to choose from")
    if len(set(layers)) != len(layers):
        raise ModelError(f"{architecture.file}: {word} {list(layers)} names a layer twice")


def _args_per_place(architecture: Architecture, places: Sequence[int], args: Sequence[Any]) -> list[list[Any]]:
    if not isinstance(args, (list, tuple)):
        raise ModelError(f"{architecture.file}: args must be a list, got {shown(args)}")
    if args and all(isinstance(each, (list, tuple)) for each in args):
        if len(args) != len(places):
            raise ModelError(f"{architecture.file}: {len(args)} lists of args for {len(places)} places")
        return [list(each) for each in args]
    return [list(args) for _ in places]


def _renumber_sources(sources: int | list[int], index: int, after: set[int]) -> int | list[int]:
    """Return the sources of layer `index` after blocks were inserted behind the layers `after`."""
    if isinstance(sources, list):
        return [_renumber_source(source, index, after) for source in sources]
    return _renumber_source(sources, index, after)


def _renumber_source(source: int, index: int, after: set[int]) -> int:
    if index == 0:  # reads the image
        return source
    layer = source_index(source, index)
    attended = layer + sum(1 for place in after if place <= layer)  # the block behind it, if there is one
    own = index + sum(1 for place in after if place < index)
    return attended - own if source < 0 else attended


# ---- writing ----


def parse_list(where: str, text: str) -> list[Any]:
    """Return the list that `text` holds in yaml's one-line form.

    Args:
        where: Start of the error message, such as the flag's name.
        text: For example "[1024, 16]".

    Returns:
        The list.

    Raises:
        ModelError: If the text is not a list.
    """
    value, _ = parse_yaml(text, where, error_class=ModelError)
    if not isinstance(value, list):
        raise ModelError(f'{where}: {shown(text)} is not a list; write for example "[1024, 16]"')
    return value


def render_yaml(architecture: Architecture, header: Sequence[str] = ()) -> str:
    """Return `architecture` as the text of a v6.1-format yaml with layer indices in comments.

    Args:
        architecture: The rows and settings to write.
        header: Comment lines for the top of the file, without "# ".

    Returns:
        The text; it reads back as the same rows and settings.
    """
    lines = [f"# {line}" for line in header] + [""] * bool(header)
    settings = architecture.settings
    for key in (
        *(key for key in LEADING_KEYS if key in settings),
        *(key for key in settings if key not in LEADING_KEYS),
    ):
        lines += _format_setting(key, settings[key])
    for section in SECTIONS:
        lines += ["", f"{section}:", "  # [from, number, module, args]"]
        for index, row in enumerate(architecture.rows):
            if row.section == section:
                body = format_value([row.sources, row.repeats, row.block, row.args])
                lines.append(f"  - {body}  # {index}" + (f" {row.note}" if row.note else ""))
    return "\n".join(lines) + "\n"


def _format_setting(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(each, list) for each in value):
        return [f"{key}:"] + [f"  - {format_value(each)}" for each in value]
    return [f"{key}: {format_value(value)}"]


def format_value(value: Any) -> str:
    """Return a value in yaml's one-line form, which reads back as the same value."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(format_value(each) for each in value) + "]"
    if isinstance(value, str) and PLAIN_SCALAR.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).replace("\n...", "").strip()
