"""The table of attention variants (zoo.yaml), the writer of their yamls, and the commands on anyone's yaml.

    python -m models.zoo list                              the catalogue: blocks, papers, places, costs
    python -m models.zoo write [--check]                   render every variant at every scale
    python -m models.zoo document [--check]                make the tables of docs/attention.md anew, in both languages
    python -m models.zoo insert BLOCK --at before-sppf --into yolov5s.yaml --output my.yaml [--args "[1024]"] [--plugin my.py]
    python -m models.zoo replace C3 --at 2 4 6 8 --with CBAM --into yolov5s.yaml --output my.yaml
    python -m models.zoo show my.yaml                      the wired graph: shapes, strides, who reads what
    python -m models.zoo check my.yaml ...                 mistakes that build all the same; exit code 1 where there are any

Places are those of models/graph/places.py, renumbering is models/graph/architecture.py's, rules are models/graph/lint.py's. What insert and
replace make is built once before it is written. torch is imported by the commands that need it, not by --check.
"""

from collections.abc import Collection
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from models.graph.architecture import SCALES, Architecture, as_list, read_yaml, render_yaml, replace_block
from models.graph.places import IN_C3, PLACES, STAGE_BLOCKS, describe_places, insert_at, layers_at
from utils.config import yaml_files
from utils.errors import ModelError, nearest
from utils.files import ROOT, read_text, write_text_atomically

MODELS = ROOT / "models"
TABLE = MODELS / "zoo.yaml"
GENERATED_BY = "Made by `python -m models.zoo write` from models/zoo.yaml; edit the table, not this file."
VARIANT_KEYS = {"insert", "after", "args", "replace", "at", "with", "base", "block", "force", "place", "paper"}
FORCE = "say so twice, with --force"


@dataclass(frozen=True)
class Variant:
    """One line of the table: `edits` holds insert/at/args, replace/at/with, base and block as written."""

    name: str
    place: str
    paper: str
    edits: dict[str, Any]

    @property
    def block(self) -> str:
        """The block that the variant brings in."""
        return self.edits.get("insert") or self.edits.get("with") or self.edits["block"]

    @property
    def base(self) -> str:
        """The yaml that the variant changes."""
        return self.edits.get("base", "yolov5l.yaml")

    def file_names(self) -> dict[str, str]:
        """Return file name -> scale; the name without a letter is the l scale."""
        return {f"yolov5_{self.name}.yaml": "l", **{f"yolov5{scale}_{self.name}.yaml": scale for scale in SCALES}}

    def architecture(self, folder: Path = MODELS) -> Architecture:
        """Return the base yaml of `folder` with the edits applied."""
        edits, result = self.edits, read_yaml(folder / self.base)
        if "replace" in edits:
            result = replace_at(result, edits["replace"], edits["at"], edits["with"], edits.get("args"))
        if "insert" in edits:
            result = insert_at(result, edits["insert"], self.insertion_places, edits.get("args", []))
        return result

    @property
    def insertion_places(self) -> Any:
        """The places of an insertion as written; with both edits in a line `at` is the replacement's."""
        return self.edits["after"] if "after" in self.edits else self.edits["at"]

    def at_scale(self, scale: str, folder: Path = MODELS) -> Architecture:
        """Return the variant at one of `SCALES`."""
        return scale_architecture(self.architecture(folder), scale)


def scale_architecture(architecture: Architecture, scale: str) -> Architecture:
    """Return `architecture` with the depth and width of one of `SCALES`."""
    depth, width = SCALES[scale]
    return with_fields(
        architecture, settings={**architecture.settings, "depth_multiple": depth, "width_multiple": width}
    )


def replace_at(
    architecture: Architecture, old: str, at: Any, new: str, args: Any, stage_blocks: Collection[str] = STAGE_BLOCKS
) -> Architecture:
    if IN_C3 in as_list(at):
        raise ModelError(
            f"{architecture.file}: {IN_C3} is a place for insert; replace takes layers, or places such as backbone"
        )
    return replace_block(architecture, old, layers_at(architecture, at, stage_blocks), new, args)


def load_variants(path: Path = TABLE) -> dict[str, Variant]:
    """Return the variants of a table by name. Raises ModelError naming file, variant and the fix, and ConfigError
    when the file is no yaml.
    """
    return {name: _variant(path, name, line) for name, line in yaml_files.read_yaml(path).items()}


def _variant(path: Path, name: str, line: Any) -> Variant:
    where = f"{path}: variant {name}"
    if not isinstance(line, dict):
        raise ModelError(
            f"{where}: expected {{insert: BLOCK, at: [places]}} or {{replace: OLD, at: [places], with: BLOCK}}"
        )
    for key in line:
        if key not in VARIANT_KEYS:
            raise ModelError(f"{where}: unknown word {key!r}{nearest(str(key), VARIANT_KEYS)}")
    for verb, companions in (("insert", ("after", "at")), ("replace", ("at",)), ("replace", ("with",))):
        if verb in line and not set(companions) & set(line):
            raise ModelError(f"{where}: {verb!r} needs {' or '.join(map(repr, companions))}")
    if not {"insert", "replace"} & set(line) and not {"base", "block"} <= set(line):
        raise ModelError(f"{where}: says neither insert nor replace, nor base and block")
    if not isinstance(line.get("paper"), str):
        raise ModelError(f"{where}: needs 'paper' as text")
    place = line.get("place") or describe_places(line.get("after", line.get("at")) or [])
    if not isinstance(place, str):
        raise ModelError(f"{where}: needs 'place' as text, unless its places are names: {', '.join(PLACES)}")
    edits = {key: value for key, value in line.items() if key not in ("place", "paper")}
    return Variant(str(name), place, line["paper"], edits)


def render_variant(variant: Variant, folder: Path = MODELS) -> dict[str, str]:
    """Return file name -> yaml text of a variant at every scale."""
    architecture = variant.architecture(folder)
    return {name: _render_scale(variant, architecture, name, scale) for name, scale in variant.file_names().items()}


def _render_scale(variant: Variant, architecture: Architecture, name: str, scale: str) -> str:
    change = f" with {variant.block} {variant.place}" if {"insert", "replace"} & set(variant.edits) else ""
    header = (
        f"{name}: the layers of {architecture.file} at scale {scale}{change}",
        f"Paper: {variant.paper}",
        GENERATED_BY,
    )
    return render_yaml(scale_architecture(architecture, scale), header)


def check_costs(table: Path = TABLE) -> None:
    """Raise ModelError when a variant puts a block of quadratic cost at stride 8 or finer without `force: true`."""
    from models.graph.shapes import ShapeCache, check_quadratic_attention, infer_shapes, load_spec

    cache = ShapeCache()
    for variant in load_variants(table).values():
        if not variant.edits.get("force"):
            architecture = variant.architecture()
            try:
                check_quadratic_attention(
                    infer_shapes(load_spec(architecture), cache),
                    changed_layers(architecture),
                    "say so with force: true",
                )
            except ModelError as error:
                raise ModelError(f"{table}: variant {variant.name}: {error}") from None


def changed_layers(architecture: Architecture) -> list[int]:
    """The layers that were inserted or replaced: those that carry a note."""
    return [index for index, row in enumerate(architecture.rows) if row.note]


def write_yamls(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Render every variant into `folder`; return the files whose content changed."""
    changed = []
    for path, text in _expected(folder, table).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            changed.append(write_text_atomically(path, text))
    return changed


def find_stale(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Return the files of `folder` that are missing, differ from the table, or were rendered for a variant that has
    left it. Yamls that this module did not write are nobody's business.
    """
    expected = _expected(folder, table)
    wrong = [path for path, text in expected.items() if not path.is_file() or path.read_bytes() != text.encode()]
    others = sorted(path for path in folder.glob("yolov5*_*.yaml") if path not in expected)
    return wrong + [path for path in others if GENERATED_BY in read_text(path)]


def _expected(folder: Path, table: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for variant in load_variants(table).values():
        texts.update({folder / name: text for name, text in render_variant(variant, folder).items()})
    return texts
