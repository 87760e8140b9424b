"""The tables of docs/attention.md and its Chinese edition: figures, arguments of a row, memory, names from elsewhere.

A page is written by hand except for the parts between markers, which `python -m models.zoo document` rewrites:

    <!-- made by `python -m models.zoo document`: variants -->   ...   <!-- end: variants -->

Of a block, the table shows the first sentence of its module, and what the docstrings of its wiring and of its class say
between the summary and the first section (`Args:` and so on). Chinese phrases are looked up by the English ones in
docs/attention.zh-CN.yaml; a phrase that is not there stays English and is reported, so a changed docstring asks for its
translation.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import aliases
from models.graph.architecture import format_value, read_yaml
from models.graph.places import insert_at
from models.graph.shapes import ShapeCache, infer_shapes, load_spec
from models.registry import Entry, Scale, registered
from models.zoo import catalogue
from models.zoo.table import MODELS, load_variants
from models.zoo.wild_rows import WildReading, read_wild_rows
from utils.config import yaml_files
from utils.errors import ModelError
from utils.files import ROOT, read_text, write_text_atomically

DOCS = ROOT / "docs"
PAGES = {"attention.md": "English", "attention.zh-CN.md": "Chinese"}
WORDS = "attention.zh-CN.yaml"
COMMAND = "python -m models.zoo document"
WIDTH = 64  # channels of the instance that is tested for starting as the identity
SCALE = Scale()
LEVELS = ("P3", "P4", "P5")
SECTION = re.compile(r"^(?:Args|Attributes|Examples?|Raises|Returns|Yields):$", re.MULTILINE)  # of a docstring


@dataclass
class Translator:
    """English phrases in the language of a page.

    Attributes:
        chinese: English phrase -> Chinese phrase; None for an English page.
        missing: Phrases without a translation, collected.
    """

    chinese: Mapping[str, str] | None = None
    missing: list[str] = field(default_factory=list)

    def __call__(self, phrase: str) -> str:
        if self.chinese is None or not phrase:
            return phrase
        if phrase not in self.chinese:
            self.missing.append(phrase)
        return self.chinese.get(phrase, phrase)


# ---- pages ----


def render_pages(folder: Path = DOCS) -> tuple[dict[Path, str], list[str]]:
    """Return path -> text of each page with its tables up to date, and the phrases that have no translation.

    Raises ModelError if a page lacks a table's markers, ConfigError if the phrases are no yaml.
    """
    chinese = {pair["en"]: pair["zh"] for pair in yaml_files.read_yaml(folder / WORDS)["words"]}
    found = catalogue.measure_variants(progress=True)
    memory, blocks, readings = measure_map_memory(), describe_blocks(), list(read_wild_rows())
    texts: dict[Path, str] = {}
    missing: list[str] = []
    for name, language in PAGES.items():
        translate = Translator(chinese if language == "Chinese" else None)
        tables = {
            "variants": render_variants(found, translate),
            "memory": render_memory(memory, translate),
            "blocks": render_blocks(blocks, translate),
            "names": render_names(aliases.ALIASES.values(), translate),
            "rows": render_rows(readings, translate),
        }
        texts[folder / name] = replace_tables(read_text(folder / name), tables, name)
        missing += translate.missing
    return texts, list(dict.fromkeys(missing))


def replace_tables(text: str, tables: Mapping[str, str], page: str) -> str:
    """Return a page with the text between the markers of each table replaced.

    Args:
        text: The page.
        tables: Name of the markers -> table in Markdown.
        page: The page's file name, for the error.

    Returns:
        The new page.

    Raises:
        ModelError: A table's markers are missing, repeated or in the wrong order.
    """
    for name, table in tables.items():
        start, end = f"<!-- made by `{COMMAND}`: {name} -->", f"<!-- end: {name} -->"
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ModelError(f"docs/{page}: needs the lines {start} and {end}, once each and in that order")
        before, after = text.split(start)[0], text.split(end)[1]
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    return text


def document(folder: Path = DOCS, check: bool = False) -> tuple[list[Path], list[str]]:
    """Rewrite the pages that are out of date, unless `check`.

    Args:
        folder: The folder of the pages and of the phrases.
        check: Whether nothing is written.

    Returns:
        The pages that are, or were, out of date, and the phrases that have no translation.

    Raises:
        ModelError: A page lacks a table's markers.
    """
    texts, missing = render_pages(folder)
    changed = [path for path, text in texts.items() if path.read_bytes() != text.encode()]
    for path in () if check else changed:
        write_text_atomically(path, texts[path])
    return changed, missing


def _render_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# ---- variants ----


def render_variants(found: Sequence[catalogue.CatalogueEntry], translate: Translator) -> str:
    """Return the table of all variants, the base model's totals in its first row.

    Args:
        found: One entry per variant.
        translate: The page's language.

    Returns:
        The table in Markdown.
    """
    heads = ("variant", "block", "paper", "place", "cost", "parameters n / l", "GFLOPs n / l", "yaml")
    base = catalogue.measure_base()
    rows = [["base", "–", "YOLOv5 6.1", "–", "–", *_figures(base, ""), _link("yolov5l.yaml", "../models/yolov5l.yaml")]]
    for record in found:
        title, url = record.paper.rsplit(", ", 1)
        file = f"yolov5_{record.tag}.yaml"
        rows.append(
            [
                f"**{record.tag}**",
                f"`{record.block}`",
                _link(title, url),
                translate(record.place),
                translate(record.cost),
                *_figures(record, "+"),
                _link(file, f"../models/{file}"),
            ]
        )
    return _render_table([translate(head) for head in heads], rows)


def _figures(record: catalogue.CatalogueEntry, sign: str) -> list[str]:
    return [
        " / ".join(f"{record.parameters[scale]:{sign},}" for scale in catalogue.SCALES_SHOWN),
        " / ".join(f"{record.gflops[scale]:{sign}.2f}" for scale in catalogue.SCALES_SHOWN),
    ]


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})"


# ---- memory ----


def measure_map_memory() -> dict[str, list[tuple[int, int]]]:
    """Return block of quadratic cost -> (maps, bytes) at P3, P4 and P5 of the l scale, for one image of 640 x 640."""
    cache, found = ShapeCache(), {}
    for name, entry in sorted(_shown_blocks().items()):
        if entry.cost == "quadratic":
            layers = infer_shapes(load_spec(insert_at(read_yaml(MODELS / catalogue.BASE_YAML), name, "neck")), cache)
            inserted = [layer for layer in layers if layer.row.block == name]
            found[name] = [
                (sum(heads for _, heads in layer.stats.attention_maps), layer.attention_map_bytes) for layer in inserted
            ]
    return found


def render_memory(memory: Mapping[str, Sequence[tuple[int, int]]], translate: Translator) -> str:
    """Return the table of the memory that the N x N attention maps would take if they were held.

    Args:
        memory: What `measure_map_memory` returns.
        translate: The page's language.

    Returns:
        The table in Markdown.
    """
    heads = [translate("block"), *(f"{level}, N = {(640 // 2 ** int(level[1])) ** 2:,}" for level in LEVELS)]
    rows = [
        [f"`{name}`", *(f"{maps} × {count / maps / 1e6:,.1f} MB = {count / 1e6:,.0f} MB" for maps, count in levels)]
        for name, levels in memory.items()
    ]
    return _render_table(heads, rows)


# ---- blocks ----


@dataclass(frozen=True)
class BlockDescription:
    """A block in words.

    Attributes:
        name: Its registered name.
        file: Link to its module.
        does: The first sentence of its module.
        arguments: The constructor's arguments after the channels, with their defaults.
        notes: What the docstrings of its wiring and class say of them.
        identity: Whether a fresh block returns its input.
        shows: The kinds of what it records when it runs.
    """

    name: str
    file: str
    does: str
    arguments: str
    notes: tuple[str, ...]
    identity: bool
    shows: tuple[str, ...] = ()


def describe_blocks() -> list[BlockDescription]:
    """Return every attention block, and every block that a variant uses, by name."""
    return [_describe(entry) for _, entry in sorted(_shown_blocks().items(), key=lambda pair: pair[0].lower())]


def _shown_blocks() -> dict[str, Entry]:
    import models.every_block  # noqa: F401  fills the registry

    used = {variant.block for variant in load_variants().values()}
    return {name: entry for name, entry in registered().items() if entry.attention or name in used}


def _describe(entry: Entry) -> BlockDescription:
    headline = _paragraphs(inspect.getmodule(entry.cls))[0]
    does = re.sub(r"^[^:]{1,60}: ", "", headline)  # without the block's name
    wiring = _paragraphs(entry.wiring) if entry.wiring.__module__ == entry.module else []
    notes = (" ".join(wiring), " ".join(_paragraphs(entry.cls)[1:]))
    return BlockDescription(
        entry.name,
        f"../{entry.module.replace('.', '/')}.py",
        does[:1].upper() + does[1:],
        _arguments(entry.cls),
        tuple(note for note in notes if note),
        starts_as_identity(entry),
        entry.shows,
    )


def _paragraphs(documented: object) -> list[str]:
    """Return the paragraphs of a docstring before its first section, each as one line; the first is the summary."""
    prose = SECTION.split(inspect.getdoc(documented) or "")[0]
    return [" ".join(paragraph.split()) for paragraph in prose.split("\n\n") if paragraph.strip()]


def _arguments(cls: type[nn.Module]) -> str:
    """Return the constructor's arguments after the channels, with their defaults."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]
    shown = (each.name if each.default is each.empty else f"{each.name}={_value(each.default)}" for each in parameters)
    return ", ".join(f"`{each}`" for each in shown) or "–"


def _value(default: Any) -> str:
    return repr(list(default)) if isinstance(default, tuple) else repr(default)


def starts_as_identity(entry: Entry) -> bool:
    """Return whether a fresh block of `WIDTH` channels returns its input unchanged, to the last bit."""
    try:
        plan = entry.plan([WIDTH], 1, SCALE, [])
    except ValueError:  # it needs a width of its own
        return False
    block = entry.cls(*plan.args).eval()
    x = torch.randn(2, WIDTH, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(block(x), x)


def render_blocks(blocks: Sequence[BlockDescription], translate: Translator) -> str:
    """Return the table of blocks: what each does, its arguments, notes on them, and what it shows of itself.

    Args:
        blocks: What `describe_blocks` returns.
        translate: The page's language.

    Returns:
        The table in Markdown.
    """
    heads = [translate(head) for head in ("block", "what it does", "arguments after the channels", "notes", "shows")]
    rows = []
    for block in blocks:
        notes = [*block.notes, *["Starts as the identity."] * block.identity]
        words = " ".join(translate(note) for note in notes)
        shows = ", ".join(translate(kind) for kind in block.shows) or "–"
        rows.append([_link(f"`{block.name}`", block.file), translate(block.does), block.arguments, words, shows])
    return _render_table(heads, rows)


# ---- names from elsewhere ----


def render_names(found: Iterable[aliases.Alias], translate: Translator) -> str:
    """Return the table of names that tutorials, forks and papers use: what each is here.

    Args:
        found: The aliases; those that share all but their name share a row.
        translate: The page's language.

    Returns:
        The table in Markdown.
    """
    rows: dict[aliases.Alias, list[str]] = {}
    for alias in found:
        rows.setdefault(replace(alias, name=""), []).append(f"`{alias.name}`")
    heads = [translate(head) for head in ("name elsewhere", "from", "here", "same or different")]
    return _render_table(heads, [_name_cells(names, alias, translate) for alias, names in rows.items()])


def _name_cells(names: Sequence[str], alias: aliases.Alias, translate: Translator) -> list[str]:
    default = f" `{list(alias.args)}`" if alias.args else ""
    here = f"`{alias.block}`{default}" if alias.block else "–"
    verdict = "builds:" if alias.builds else "refused:"
    return [", ".join(names), alias.source, here, f"{translate(verdict)} {translate(alias.reason)}"]


# ---- rows from elsewhere ----


def render_rows(readings: Sequence[WildReading], translate: Translator) -> str:
    """Return the table of rows as tutorials and forks write them: what each number becomes, as the build prints it.

    Args:
        readings: What `read_wild_rows` yields.
        translate: The page's language; what is printed stays as it is.

    Returns:
        The table in Markdown.
    """
    heads = [translate(head) for head in ("row", "channels that arrive", "from", "here", "parameters")]
    rows = []
    for reading in readings:
        row, args = reading.row, format_value(reading.row.args)
        meaning = f"`{reading.meaning}`" if reading.built else f"{translate('refused:')} `{reading.meaning}`"
        count = f"{reading.parameters:,}" if reading.built else "–"
        arrives = f"{Scale(width=row.width)(row.arrives)}"
        rows.append([f"`{row.block} {args}`", arrives, translate(row.source), meaning, count])
    return _render_table(heads, rows)
