"""The tables of docs/attention.md and of its Chinese edition: figures of the catalogue, what a yaml row may say, memory.

A page is written by hand but for the parts between markers, which `python -m models.zoo document` makes anew:

    <!-- made by `python -m models.zoo document`: variants -->   ...   <!-- end: variants -->

Chinese words are looked up by their English ones in docs/attention.zh-CN.yaml; a phrase that is not there stays English
and is reported, so a changed docstring asks for its translation.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.graph.architecture import read_yaml
from models.graph.places import insert_at
from models.graph.shapes import ShapeCache, infer_shapes, load_spec
from models.registry import Entry, Scale, registered
from models.zoo import catalogue
from models.zoo.table import MODELS, load_variants
from utils.config import yaml_files
from utils.errors import ModelError
from utils.files import ROOT, read_text, write_text_atomically

DOCS = ROOT / "docs"
PAGES = {"attention.md": "English", "attention.zh-CN.md": "Chinese"}
WORDS = "attention.zh-CN.yaml"
COMMAND = "python -m models.zoo document"
WIDTH = 64  # channels of the instance that is asked whether it starts as the identity
SCALE = Scale()
LEVELS = ("P3", "P4", "P5")
CLAIMS = (
    r"\(B, [\w-]+, H, W\) to the same shape(, any H and W)?[.,;:]? ?"  # what is true of nearly all, not worth a cell
)


@dataclass
class Words:
    """English phrases as a page has them; `missing` collects those without a translation, None: an English page."""

    chinese: Mapping[str, str] | None = None
    missing: list[str] = field(default_factory=list)

    def __call__(self, phrase: str) -> str:
        if self.chinese is None or not phrase:
            return phrase
        if phrase not in self.chinese:
            self.missing.append(phrase)
        return self.chinese.get(phrase, phrase)


# ---- pages ----


def rendered(folder: Path = DOCS) -> tuple[dict[Path, str], list[str]]:
    """Return path -> text of each page with its parts made anew, and the phrases that have no Chinese words.

    Raises ModelError when a page lacks a part's markers, ConfigError when the words are no yaml.
    """
    chinese = {pair["en"]: pair["zh"] for pair in yaml_files.read_yaml(folder / WORDS)["words"]}
    found = catalogue.measure_variants(progress=True)
    memory, blocks = map_memory(), described_blocks()
    texts, missing = {}, []
    for name, language in PAGES.items():
        say = Words(chinese if language == "Chinese" else None)
        parts = {
            "variants": variant_table(found, say),
            "memory": memory_table(memory, say),
            "blocks": block_table(blocks, say),
        }
        texts[folder / name] = replaced(read_text(folder / name), parts, name)
        missing += say.missing
    return texts, list(dict.fromkeys(missing))


def replaced(text: str, parts: Mapping[str, str], name: str) -> str:
    """Return `text` with what stands between the markers of each part replaced; `name` is the page in an error."""
    for part, table in parts.items():
        start, end = f"<!-- made by `{COMMAND}`: {part} -->", f"<!-- end: {part} -->"
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ModelError(f"docs/{name}: needs the lines {start} and {end}, once each and in that order")
        before, after = text.split(start)[0], text.split(end)[1]
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    return text


def document(folder: Path = DOCS, check: bool = False) -> tuple[list[Path], list[str]]:
    """Return the pages that differ from what they should be, rewritten unless `check`, and untranslated phrases."""
    texts, missing = rendered(folder)
    changed = [path for path, text in texts.items() if path.read_bytes() != text.encode()]
    for path in () if check else changed:
        write_text_atomically(path, texts[path])
    return changed, missing


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# ---- variants ----


def variant_table(found: Sequence[catalogue.CatalogueEntry], say: Words) -> str:
    """Return the table of all variants, the base model's totals in its first row."""
    heads = [
        say(head) for head in ("variant", "block", "paper", "place", "cost", "parameters n / l", "GFLOPs n / l", "yaml")
    ]
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
                say(record.place),
                say(record.cost),
                *_figures(record, "+"),
                _link(file, f"../models/{file}"),
            ]
        )
    return _table(heads, rows)


def _figures(record: catalogue.CatalogueEntry, sign: str) -> list[str]:
    return [
        " / ".join(f"{record.parameters[scale]:{sign},}" for scale in catalogue.SCALES_SHOWN),
        " / ".join(f"{record.gflops[scale]:{sign}.2f}" for scale in catalogue.SCALES_SHOWN),
    ]


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})"


# ---- memory ----


def map_memory() -> dict[str, list[tuple[int, int]]]:
    """Return block of quadratic cost -> (maps, bytes) at P3, P4 and P5 of the l scale, one image of 640 x 640."""
    cache, found = ShapeCache(), {}
    for name, entry in sorted(_shown_blocks().items()):
        if entry.cost == "quadratic":
            layers = infer_shapes(load_spec(insert_at(read_yaml(MODELS / catalogue.BASE_YAML), name, "neck")), cache)
            placed = [layer for layer in layers if layer.row.block == name]
            found[name] = [
                (sum(heads for _, heads in layer.stats.attention_maps), layer.attention_map_bytes) for layer in placed
            ]
    return found


def memory_table(memory: Mapping[str, Sequence[tuple[int, int]]], say: Words) -> str:
    """Return the table of what the N x N maps would take if they were held."""
    heads = [say("block"), *(f"{level}, N = {(640 // 2 ** int(level[1])) ** 2:,}" for level in LEVELS)]
    rows = [
        [f"`{name}`", *(f"{maps} × {count / maps / 1e6:,.1f} MB = {count / 1e6:,.0f} MB" for maps, count in levels)]
        for name, levels in memory.items()
    ]
    return _table(heads, rows)


# ---- blocks ----


@dataclass(frozen=True)
class Described:
    """A block in words: `does` is its module's first sentence; `arguments` what a row may say behind the channels;
    `notes` what wiring and class say of them; `identity`: whether a fresh block returns its input.
    """

    name: str
    file: str
    does: str
    arguments: str
    notes: tuple[str, ...]
    identity: bool


def described_blocks() -> list[Described]:
    """Return every attention block, and every block that a variant brings in, by name."""
    return [_described(entry) for _, entry in sorted(_shown_blocks().items(), key=lambda pair: pair[0].lower())]


def _shown_blocks() -> dict[str, Entry]:
    import models.common  # noqa: F401  fills the registry

    used = {variant.block for variant in load_variants().values()}
    return {name: entry for name, entry in registered().items() if entry.attention or name in used}


def _described(entry: Entry) -> Described:
    module = inspect.getmodule(entry.cls)
    first = (inspect.getdoc(module) or "").split("\n\n")[0]
    does = _sentence(re.sub(r"^[^:]{1,60}: ", "", _joined(first)))
    notes = [_joined(inspect.getdoc(entry.wiring) or "")] if entry.wiring.__module__ == entry.module else []
    notes.append(_class_notes(entry.cls))
    return Described(
        entry.name,
        f"../{entry.module.replace('.', '/')}.py",
        does,
        _arguments(entry.cls),
        tuple(note for note in notes if note),
        starts_as_identity(entry),
    )


def _joined(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _class_notes(cls: type[nn.Module]) -> str:
    """What a class docstring says behind its signature, without the shapes where they stay."""
    text, depth = _joined(inspect.getdoc(cls) or ""), 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ":" and not depth:
            text = text[index + 1 :].strip()
            break
    text = re.sub(f"^{CLAIMS}", "", text)
    first = re.match(r"\w*", text)
    return text if first and first[0] in inspect.signature(cls.__init__).parameters else _sentence(text)


def _arguments(cls: type[nn.Module]) -> str:
    """The constructor's arguments behind the channels that arrive, with their defaults."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]
    shown = (each.name if each.default is each.empty else f"{each.name}={_value(each.default)}" for each in parameters)
    return ", ".join(f"`{each}`" for each in shown) or "–"


def _value(default: Any) -> str:
    return repr(list(default)) if isinstance(default, tuple) else repr(default)


def starts_as_identity(entry: Entry) -> bool:
    """Return whether a fresh block of `WIDTH` channels hands its input on unchanged, to the last bit."""
    try:
        plan = entry.wiring([WIDTH], 1, SCALE, [])
    except ValueError:  # it asks for a width of its own
        return False
    block = entry.cls(*plan.args).eval()
    x = torch.randn(2, WIDTH, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(block(x), x)


def block_table(blocks: Sequence[Described], say: Words) -> str:
    """Return the table of blocks: what each does, its arguments, and notes on them."""
    heads = [say(head) for head in ("block", "what it does", "arguments behind the channels", "notes")]
    rows = []
    for block in blocks:
        notes = [say(note) for note in block.notes] + [say("Starts as the identity.")] * block.identity
        rows.append([_link(f"`{block.name}`", block.file), say(block.does), block.arguments, " ".join(notes)])
    return _table(heads, rows)
