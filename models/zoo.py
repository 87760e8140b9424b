"""The table of attention variants (zoo.yaml), the writer of their yamls, and the commands on anyone's yaml.

    python -m models.zoo list                              the catalogue: blocks, papers, places, costs
    python -m models.zoo write [--check]                   render every variant at every scale
    python -m models.zoo document [--check]                make the tables of docs/attention.md anew, in both languages
    python -m models.zoo insert BLOCK --at before-sppf --into yolov5s.yaml --output my.yaml [--args "[1024]"] [--plugin my.py]
    python -m models.zoo replace C3 --at 2 4 6 8 --with CBAM --into yolov5s.yaml --output my.yaml
    python -m models.zoo show my.yaml                      the wired graph: shapes, strides, who reads what
    python -m models.zoo check my.yaml ...                 mistakes that build all the same; exit code 1 where there are any

Places are those of models/places.py, renumbering is models/rows.py's, rules are models/lint.py's. What insert and
replace make is built once before it is written. torch is imported by the commands that need it, not by --check.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import yaml

from models.places import IN_C3, PLACES, STAGES, layers_at, put, words
from models.rows import SCALES, Architecture, listed, parse, read_yaml, render, replace_block
from utils.config import yaml_files
from utils.errors import ModelError, UserError, nearest
from utils.files import ROOT, read_text, write_atomically

MODELS = ROOT / "models"
TABLE = MODELS / "zoo.yaml"
MADE_BY = "Made by `python -m models.zoo write` from models/zoo.yaml; edit the table, not this file."
VERBS = {"insert", "after", "args", "replace", "at", "with", "base", "block", "force", "place", "paper"}
FORCE = "say so twice, with --force"


@dataclass(frozen=True)
class Variant:
    """One line of the table: `verbs` holds insert/at/args, replace/at/with, base and block as written."""

    name: str
    place: str
    paper: str
    verbs: dict[str, Any]

    @property
    def block(self) -> str:
        """The block that the variant brings in."""
        return self.verbs.get("insert") or self.verbs.get("with") or self.verbs["block"]

    @property
    def base(self) -> str:
        """The yaml that the variant changes."""
        return self.verbs.get("base", "yolov5l.yaml")

    def file_names(self) -> dict[str, str]:
        """Return file name -> scale; the name without a letter is the l scale."""
        return {f"yolov5_{self.name}.yaml": "l", **{f"yolov5{scale}_{self.name}.yaml": scale for scale in SCALES}}

    def architecture(self, folder: Path = MODELS) -> Architecture:
        """Return the base yaml of `folder` with the verbs applied."""
        verbs, result = self.verbs, read_yaml(folder / self.base)
        if "replace" in verbs:
            result = _replaced(result, verbs["replace"], verbs["at"], verbs["with"], verbs.get("args"))
        if "insert" in verbs:
            result = put(result, verbs["insert"], self.behind, verbs.get("args", []))
        return result

    @property
    def behind(self) -> Any:
        """The places of an insertion as written; with both verbs in a line `at` is the replacement's."""
        return self.verbs["after"] if "after" in self.verbs else self.verbs["at"]

    def at_scale(self, scale: str, folder: Path = MODELS) -> Architecture:
        """Return the variant at one of `SCALES`."""
        return scaled(self.architecture(folder), scale)


def scaled(architecture: Architecture, scale: str) -> Architecture:
    """Return `architecture` with the depth and width of one of `SCALES`."""
    depth, width = SCALES[scale]
    return with_fields(
        architecture, settings={**architecture.settings, "depth_multiple": depth, "width_multiple": width}
    )


def _replaced(
    architecture: Architecture, old: str, at: Any, new: str, args: Any, stages: Collection[str] = STAGES
) -> Architecture:
    if IN_C3 in listed(at):
        raise ModelError(
            f"{architecture.file}: {IN_C3} is a place for insert; replace takes layers, or places such as backbone"
        )
    return replace_block(architecture, old, layers_at(architecture, at, stages), new, args)


def load_table(path: Path = TABLE) -> dict[str, Variant]:
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
        if key not in VERBS:
            raise ModelError(f"{where}: unknown word {key!r}{nearest(str(key), VERBS)}")
    for verb, companions in (("insert", ("after", "at")), ("replace", ("at",)), ("replace", ("with",))):
        if verb in line and not set(companions) & set(line):
            raise ModelError(f"{where}: {verb!r} needs {' or '.join(map(repr, companions))}")
    if not {"insert", "replace"} & set(line) and not {"base", "block"} <= set(line):
        raise ModelError(f"{where}: says neither insert nor replace, nor base and block")
    if not isinstance(line.get("paper"), str):
        raise ModelError(f"{where}: needs 'paper' as text")
    place = line.get("place") or words(line.get("after", line.get("at")) or [])
    if not isinstance(place, str):
        raise ModelError(f"{where}: needs 'place' as text, unless its places are names: {', '.join(PLACES)}")
    verbs = {key: value for key, value in line.items() if key not in ("place", "paper")}
    return Variant(str(name), place, line["paper"], verbs)


def rendered_files(variant: Variant, folder: Path = MODELS) -> dict[str, str]:
    """Return file name -> yaml text of a variant at every scale."""
    architecture = variant.architecture(folder)
    return {name: _render_scale(variant, architecture, name, scale) for name, scale in variant.file_names().items()}


def _render_scale(variant: Variant, architecture: Architecture, name: str, scale: str) -> str:
    change = f" with {variant.block} {variant.place}" if {"insert", "replace"} & set(variant.verbs) else ""
    header = (
        f"{name}: the layers of {architecture.file} at scale {scale}{change}",
        f"Paper: {variant.paper}",
        MADE_BY,
    )
    return render(scaled(architecture, scale), header)


def check_costs(table: Path = TABLE) -> None:
    """Raise ModelError when a variant puts a block of quadratic cost at stride 8 or finer without `force: true`."""
    from models.wired import Bench, refuse_large_maps, specification, wire

    bench = Bench()
    for variant in load_table(table).values():
        if not variant.verbs.get("force"):
            architecture = variant.architecture()
            try:
                refuse_large_maps(
                    wire(specification(architecture), bench), _new_layers(architecture), "say so with force: true"
                )
            except ModelError as error:
                raise ModelError(f"{table}: variant {variant.name}: {error}") from None


def _new_layers(architecture: Architecture) -> list[int]:
    """The layers that were inserted or replaced: those that carry a note."""
    return [index for index, row in enumerate(architecture.rows) if row.note]


def write(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Render every variant into `folder`; return the files whose content changed."""
    changed = []
    for path, text in _expected(folder, table).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            changed.append(write_atomically(path, lambda stream, text=text: stream.write(text.encode())))
    return changed


def stale(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Return the files of `folder` that are missing, differ from the table, or were rendered for a variant that has
    left it. Yamls that this module did not write are nobody's business.
    """
    expected = _expected(folder, table)
    wrong = [path for path, text in expected.items() if not path.is_file() or path.read_bytes() != text.encode()]
    others = sorted(path for path in folder.glob("yolov5*_*.yaml") if path not in expected)
    return wrong + [path for path in others if MADE_BY in read_text(path)]


def _expected(folder: Path, table: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for variant in load_table(table).values():
        texts.update({folder / name: text for name, text in rendered_files(variant, folder).items()})
    return texts


def list_variants() -> str:
    """Return the catalogue as text (models/catalogue.py)."""
    from models import catalogue

    return catalogue.text(catalogue.records(progress=True))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m models.zoo`."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo", description="Attention variants as v6.1-format yamls."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the catalogue: variants, their blocks, papers, places, and what they add")
    writing = commands.add_parser("write", help="render every variant of models/zoo.yaml at every scale")
    writing.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a file differs from the table"
    )
    documenting = commands.add_parser(
        "document", help="make the tables of docs/attention.md and its Chinese edition anew"
    )
    documenting.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is not current")
    _add_edits(commands)
    showing = commands.add_parser("show", help="the wired graph of any v6.1-format yaml: shapes, strides, readers")
    showing.add_argument("yaml", type=Path, help="a path, or a name in models/ or models/hub/")
    checking = commands.add_parser(
        "check", help="mistakes in yamls that build all the same; exit 1 where there are any"
    )
    checking.add_argument("yaml", type=Path, nargs="+", help="paths, or names in models/ or models/hub/")
    for command in (showing, checking):
        _add_plugin(command)
    return parser


def _add_edits(commands: Any) -> None:
    """Add the parsers of insert and replace."""
    inserting = commands.add_parser("insert", help="put a block at places of any v6.1-format yaml")
    inserting.add_argument("block", help="the block's name, such as CBAM")
    inserting.add_argument(
        "--at",
        "--after",
        nargs="+",
        type=_place,
        required=True,
        metavar="PLACE",
        help=f"layer numbers (the block stands behind them) or {', '.join(PLACES)}",
    )
    replacing = commands.add_parser("replace", help="put a block in the place of layers of any v6.1-format yaml")
    replacing.add_argument("block", metavar="OLD", help="the block that stands there now, such as C3")
    replacing.add_argument(
        "--at",
        nargs="+",
        type=_place,
        required=True,
        metavar="PLACE",
        help="layer numbers, or backbone, neck, neck-p4p5, last-neck for the C3s there",
    )
    replacing.add_argument("--with", dest="new", required=True, metavar="BLOCK", help="the new block's name")
    for command in (inserting, replacing):
        command.add_argument("--args", metavar="LIST", help='the block\'s yaml arguments, such as "[1024, 16]"')
        command.add_argument(
            "--into",
            required=True,
            type=Path,
            metavar="YAML",
            help="the yaml to read: a path, or a name in models/ or models/hub/",
        )
        command.add_argument("--output", required=True, type=Path, metavar="YAML", help="the yaml to write")
        command.add_argument(
            "--force", action="store_true", help="allow a block of quadratic cost at stride 8 or finer"
        )
        _add_plugin(command)


def _add_plugin(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers blocks of your own"
    )


def _place(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _edit(options: argparse.Namespace) -> None:
    """Run insert or replace."""
    _check_output(options.output)
    source = read_yaml(options.into)
    args = None if options.args is None else parse("--args", options.args)
    stages = _load_plugins(options.plugin)
    if options.command == "insert":
        block = _block_meant(options.block)
        result = put(source, block, options.at, args or [], stages)
    else:
        block = _block_meant(options.new)
        result = _replaced(source, options.block, options.at, block, args, stages)
    header = (
        f"Made by `python -m models.zoo {_command(options)} --into {options.into.name} --output {options.output.name}`",
    )
    text = render(result, header)
    parameters = _verify(text, block, options, result)
    write_atomically(options.output, lambda stream: stream.write(text.encode()))
    print(
        f"{options.output}: {len(result.rows)} layers, {len(result.rows) - len(source.rows)} more than {options.into}; "
        f"{parameters:,} parameters"
    )


def _block_meant(name: str) -> str:
    """Return the block of a name, which may be a variant's tag, such as SE for SEAttention."""
    from models.registry import registered

    table = load_table()
    return table[name].block if name not in registered() and name in table else name


def _command(options: argparse.Namespace) -> str:
    """The words of an insert or replace as a file's first line has them."""
    words = f"{options.command} {options.block} --at {' '.join(map(str, options.at))}"
    words += f" --with {options.new}" if options.command == "replace" else ""
    words += f' --args "{options.args}"' if options.args else ""
    words += "".join(f" --plugin {Path(plugin).name}" for plugin in options.plugin)
    return words + " --force" * options.force


def _check_output(output: Path) -> None:
    if output.suffix not in (".yaml", ".yml"):
        raise ModelError(f"--output {output}: the name must end in .yaml")
    if not output.parent.is_dir():
        raise ModelError(f"--output {output}: the folder {output.parent} does not exist")


def _load_plugins(plugins: Sequence[str]) -> set[str]:
    """Import them; return the blocks that count as a C3: ours, and those that are wired like one."""
    from models.registry import load_plugin, registered  # torch
    from models.yolo import Model  # noqa: F401  fills the registry

    for plugin in plugins:
        load_plugin(plugin)
    return {*STAGES, *(name for name, entry in registered().items() if entry.wiring_name == "stacked")}


def _verify(text: str, block: str, options: argparse.Namespace, result: Architecture) -> int:
    """Build the model yaml `text` once and return its parameters. Raises ModelError when `block` is unknown, with
    the row that fails, or when it would compare all positions of a large map.
    """
    from models.registry import find
    from models.wired import refuse_large_maps, specification, wire
    from models.yolo import Model

    find(block)
    content = {**yaml.safe_load(text), "yaml_file": str(options.output)}
    try:
        model = Model(content)
        if not options.force:
            refuse_large_maps(wire(specification(content)), _new_layers(result), FORCE)
    except ModelError as error:
        raise ModelError(f"not written: {error}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def _show(options: argparse.Namespace) -> None:
    _load_plugins(options.plugin)
    from models.wired import specification, table, wire

    spec = specification(options.yaml)
    print(table(spec, wire(spec)))


def _check(options: argparse.Namespace) -> int:
    """Print the findings about each yaml, one a line; return the exit code."""
    _load_plugins(options.plugin)
    from models.lint import check
    from models.wired import Bench

    bench, found = Bench(), []
    for path in options.yaml:
        try:
            found += map(str, check(path, bench))
        except ModelError as error:
            found.append(str(error))
    print("\n".join(found) or f"{len(options.yaml)} yaml{'s' * (len(options.yaml) > 1)}: nothing to find fault with")
    return int(bool(found))


def _write(options: argparse.Namespace) -> int:
    if not options.check:
        check_costs()
    wrong = stale() if options.check else write()
    print("\n".join(str(path.relative_to(ROOT)) for path in wrong) or "every yaml is up to date")
    return int(bool(wrong) and options.check)


def _document(options: argparse.Namespace) -> int:
    """Print the pages that changed and the phrases without Chinese words; return the exit code."""
    from models.handbook import WORDS, document

    changed, missing = document(check=options.check)
    print("\n".join(str(path.relative_to(ROOT)) for path in changed) or "every page is up to date")
    if missing:
        print("\n  ".join((f"docs/{WORDS} has no Chinese for:", *missing)))
    return int(options.check and bool(changed or missing))


def _list(options: argparse.Namespace) -> None:
    print(list_variants())


COMMANDS = {
    "list": _list,
    "write": _write,
    "document": _document,
    "insert": _edit,
    "replace": _edit,
    "show": _show,
    "check": _check,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (1: --check found stale files or check a mistake, 2: an error of the user's)."""
    options = build_parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
