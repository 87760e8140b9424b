"""The table of attention variants (zoo.yaml): load it, render every variant's yamls, write them, find stale ones.

Places are those of models/graph/places.py, renumbering is done by models/graph/architecture.py, and the commands are in
models/zoo/__main__.py. torch is imported by `check_costs` alone, so `python -m models.zoo write --check` needs none.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.aliases import variant_block
from models.graph.architecture import SCALES, Architecture, read_yaml, render_yaml
from models.graph.places import PLACES, describe_places, insert_at, replace_at
from utils.config import yaml_files
from utils.errors import ModelError, nearest
from utils.files import ROOT, read_text, write_text_atomically

MODELS = ROOT / "models"
TABLE = MODELS / "zoo.yaml"
GENERATED_BY = "Made by `python -m models.zoo write` from models/zoo.yaml; edit the table, not this file."
VARIANT_KEYS = {"insert", "after", "args", "replace", "at", "with", "base", "block", "force", "place", "paper"}


@dataclass(frozen=True)
class Variant:
    """One variant of the table.

    Attributes:
        name: Its tag, which is part of the names of its yamls.
        place: Where the block is, in words.
        paper: Title and link.
        edits: insert/at/after/args, replace/at/with, base, block and force, as written.
    """

    name: str
    place: str
    paper: str
    edits: dict[str, Any]

    @property
    def block(self) -> str:
        """The block that the variant brings in."""
        return variant_block(self.edits)

    @property
    def base(self) -> str:
        """The yaml that the variant changes."""
        return self.edits.get("base", "yolov5l.yaml")

    def file_names(self) -> dict[str, str]:
        """Return file name -> scale; the name without a letter is the l scale."""
        return {f"yolov5_{self.name}.yaml": "l", **{f"yolov5{scale}_{self.name}.yaml": scale for scale in SCALES}}

    def architecture(self, folder: Path = MODELS) -> Architecture:
        """Return the variant's base yaml in `folder` with its edits applied."""
        edits, result = self.edits, read_yaml(folder / self.base)
        if "replace" in edits:
            result = replace_at(
                result, edits["replace"], edits["at"], variant_block({"with": edits["with"]}), edits.get("args")
            )
        if "insert" in edits:
            result = insert_at(
                result, variant_block({"insert": edits["insert"]}), self.insertion_places, edits.get("args", [])
            )
        return result

    @property
    def insertion_places(self) -> Any:
        """Places of the insertion as written: `after`, or `at` if there is no `after` (`at` may be a replacement's)."""
        return self.edits["after"] if "after" in self.edits else self.edits["at"]


def scale_architecture(architecture: Architecture, scale: str) -> Architecture:
    """Return an architecture at another scale.

    Args:
        architecture: The rows and settings; it is left as it is.
        scale: A letter of `SCALES`.

    Returns:
        The same rows with the depth_multiple and width_multiple of that scale.
    """
    depth, width = SCALES[scale]
    return replace(architecture, settings={**architecture.settings, "depth_multiple": depth, "width_multiple": width})


def load_variants(path: Path = TABLE) -> dict[str, Variant]:
    """Return the variants of a table by name.

    Raises:
        ModelError: If a variant is not well-formed; names file, variant and remedy.
        ConfigError: If the file is not yaml.
    """
    return {name: _parse_variant(path, name, line) for name, line in yaml_files.read_yaml(path).items()}


def _parse_variant(path: Path, name: str, line: Any) -> Variant:
    where = f"{path}: variant {name}"
    if not isinstance(line, dict):
        raise ModelError(
            f"{where}: expected {{insert: BLOCK, at: [places]}} or {{replace: OLD, at: [places], with: BLOCK}}"
        )
    for key in line:
        if key not in VARIANT_KEYS:
            raise ModelError(f"{where}: unknown key {key!r}{nearest(str(key), VARIANT_KEYS)}")
    for edit, companions in (("insert", ("after", "at")), ("replace", ("at",)), ("replace", ("with",))):
        if edit in line and not set(companions) & set(line):
            raise ModelError(f"{where}: {edit!r} needs {' or '.join(map(repr, companions))}")
    if not {"insert", "replace"} & set(line) and not {"base", "block"} <= set(line):
        raise ModelError(f"{where}: has neither insert nor replace, nor base and block")
    if not isinstance(line.get("paper"), str):
        raise ModelError(f"{where}: needs 'paper' as text")
    place = line.get("place") or describe_places(line.get("after", line.get("at")) or [])
    if not isinstance(place, str):
        raise ModelError(f"{where}: needs 'place' as text, unless its places are names: {', '.join(PLACES)}")
    edits = {key: value for key, value in line.items() if key not in ("place", "paper")}
    return Variant(str(name), place, line["paper"], edits)


def render_variant(variant: Variant, folder: Path = MODELS) -> dict[str, str]:
    """Return the yamls of a variant at every scale.

    Args:
        variant: The variant.
        folder: Folder of its base yaml.

    Returns:
        File name -> text.
    """
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
    """Check that no variant has a block of quadratic cost at stride 8 or finer, unless it says `force: true`.

    Raises:
        ModelError: If one has; names it and the memory of its maps.
    """
    from models.graph.shapes import ShapeCache, check_quadratic_attention, infer_shapes, load_spec

    cache = ShapeCache()
    for variant in load_variants(table).values():
        if not variant.edits.get("force"):
            architecture = variant.architecture()
            try:
                check_quadratic_attention(
                    infer_shapes(load_spec(architecture), cache),
                    changed_layers(architecture),
                    "confirm with force: true",
                )
            except ModelError as error:
                raise ModelError(f"{table}: variant {variant.name}: {error}") from None


def changed_layers(architecture: Architecture) -> list[int]:
    """Return the indices of the layers that were inserted or replaced: those whose rows carry a note."""
    return [index for index, row in enumerate(architecture.rows) if row.note]


def write_yamls(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Write the yamls of every variant.

    Args:
        folder: Folder of the base yamls, and of those written.
        table: The table of variants.

    Returns:
        The files whose content changed.
    """
    changed = []
    for path, text in _render_all(folder, table).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            changed.append(write_text_atomically(path, text))
    return changed


def find_stale(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Return the yamls that are missing, differ from the table, or belong to a variant that was removed from it.

    Args:
        folder: Folder of the base yamls and of those written; yamls that this module did not write are ignored.
        table: The table of variants.

    Returns:
        The files.
    """
    expected = _render_all(folder, table)
    wrong = [path for path, text in expected.items() if not path.is_file() or path.read_bytes() != text.encode()]
    others = sorted(path for path in folder.glob("yolov5*_*.yaml") if path not in expected)
    return wrong + [path for path in others if GENERATED_BY in read_text(path)]


def _render_all(folder: Path, table: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for variant in load_variants(table).values():
        texts.update({folder / name: text for name, text in render_variant(variant, folder).items()})
    return texts
