"""The commands of the zoo: list, write, document, insert, replace, show and check.

    python -m models.zoo list                              the catalogue: blocks, papers, places, costs
    python -m models.zoo write [--check]                   write the yamls of every variant at every scale
    python -m models.zoo document [--check]                rewrite the tables of docs/attention.md, in both languages
    python -m models.zoo insert BLOCK --at before-sppf --into yolov5s.yaml --output my.yaml [--args "[1024]"]
                                [--plugin my.py]
    python -m models.zoo replace C3 --at 2 4 6 8 --with CBAM --into yolov5s.yaml --output my.yaml
    python -m models.zoo show my.yaml                      the model graph: shapes, strides, connections
    python -m models.zoo check my.yaml ...                 mistakes in yamls that build all the same; exit code 1 if any

What insert and replace make is built once before it is written. torch is imported by the commands that need it, not
by `write --check`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.aliases import lookup, notes
from models.graph.architecture import Architecture, parse_list, read_content, read_yaml, render_yaml
from models.graph.places import PLACES, STAGE_BLOCKS, insert_at, replace_at
from models.zoo.table import changed_layers, check_costs, find_stale, write_yamls
from utils.cli import run_guarded
from utils.errors import ModelError
from utils.files import ROOT, write_text_atomically


def list_variants() -> str:
    """Return the catalogue as text (models/zoo/catalogue.py)."""
    from models.zoo import catalogue

    return catalogue.format_catalogue(catalogue.measure_variants(progress=True))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m models.zoo`."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo", description="Attention variants as v6.1-format yamls."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the catalogue: variants, their blocks, papers, places, and what they add")
    writing = commands.add_parser("write", help="write the yamls of every variant of models/zoo.yaml at every scale")
    writing.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs from the table")
    documenting = commands.add_parser(
        "document", help="rewrite the tables of docs/attention.md and its Chinese edition"
    )
    documenting.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    _add_edits(commands)
    showing = commands.add_parser("show", help="the model graph of any v6.1-format yaml: shapes, strides, readers")
    showing.add_argument("yaml", type=Path, help="a path, or a name in models/ or models/hub/")
    checking = commands.add_parser("check", help="mistakes in yamls that build all the same; exit 1 if there are any")
    checking.add_argument("yaml", type=Path, nargs="+", help="paths, or names in models/ or models/hub/")
    for command in (showing, checking):
        _add_plugin(command)
    return parser


def _add_edits(commands: Any) -> None:
    """Add the parsers of insert and replace."""
    inserting = commands.add_parser("insert", help="insert a block into any v6.1-format yaml")
    inserting.add_argument("block", help="the block's name, such as CBAM, or one that tutorials and forks use")
    inserting.add_argument(
        "--at",
        "--after",
        nargs="+",
        type=_parse_place,
        required=True,
        metavar="PLACE",
        help=f"layer indices (the block is inserted behind them) or {', '.join(PLACES)}",
    )
    replacing = commands.add_parser("replace", help="replace layers of any v6.1-format yaml by a block")
    replacing.add_argument("block", metavar="OLD", help="the block that is there now, such as C3")
    replacing.add_argument(
        "--at",
        nargs="+",
        type=_parse_place,
        required=True,
        metavar="PLACE",
        help="layer indices, or backbone, neck, neck-p4p5, last-neck for the C3s there",
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


def _parse_place(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _edit(options: argparse.Namespace) -> None:
    """Run insert or replace: check, edit, build once, write."""
    _check_output(options.output)
    source = read_yaml(options.into)
    args = None if options.args is None else parse_list("--args", options.args)
    stage_blocks = _load_plugins(options.plugin)
    if options.command == "insert":
        block = _resolve_block(options.block)
        result = insert_at(source, block, options.at, args or [], stage_blocks)
    else:
        block = _resolve_block(options.new)
        result = replace_at(source, options.block, options.at, block, args, stage_blocks)
    text = render_yaml(result, [f"Made by `python -m models.zoo {_command_line(options)}`"])
    parameters, readings = _verify(text, block, options, result)
    write_text_atomically(options.output, text)
    print(
        f"{options.output}: {len(result.rows)} layers, {len(result.rows) - len(source.rows)} more than {options.into}; "
        f"{parameters:,} parameters"
    )
    for line in readings:
        print(line)


def _resolve_block(name: str) -> str:
    """Return the name of a block as the yaml has it: our own, if an alias such as SE means just that block.

    Raises:
        ModelError: If the name is unknown, or means another class than ours; says how it differs.
    """
    from models.registry import find, registered

    find(name)
    alias = None if name in registered() else lookup(name)
    if alias:
        print(alias.note())
    return alias.block if alias and alias.plain else name


def _command_line(options: argparse.Namespace) -> str:
    """Return the command of an insert or replace as the first line of its yaml shows it."""
    words = f"{options.command} {options.block} --at {' '.join(map(str, options.at))}"
    words += f" --with {options.new}" if options.command == "replace" else ""
    words += f' --args "{options.args}"' if options.args else ""
    words += "".join(f" --plugin {Path(plugin).name}" for plugin in options.plugin)
    words += " --force" * options.force
    return f"{words} --into {options.into.name} --output {options.output.name}"


def _check_output(output: Path) -> None:
    if output.suffix not in (".yaml", ".yml"):
        raise ModelError(f"--output {output}: the name must end in .yaml")
    if not output.parent.is_dir():
        raise ModelError(f"--output {output}: the folder {output.parent} does not exist")


def _load_plugins(plugins: Sequence[str]) -> set[str]:
    """Import plugins and return the blocks that count as a C3: ours, and those that register with its wiring."""
    from models.registry import load_plugins, registered  # torch
    from models.yolo import Model  # noqa: F401  fills the registry

    load_plugins(plugins)
    return {*STAGE_BLOCKS, *(name for name, entry in registered().items() if entry.wiring_name == "stacked")}


def _verify(text: str, block: str, options: argparse.Namespace, result: Architecture) -> tuple[int, list[str]]:
    """Build the model yaml `text` once and return its number of parameters and what its attention rows became.

    Raises ModelError if `block` is unknown, a layer fails, or `block` would compute an N x N map at a fine stride.
    """
    from models.graph.shapes import check_quadratic_attention, describe_rows, infer_shapes, load_spec
    from models.registry import find
    from models.yolo import Model

    find(block)
    content = {**yaml.safe_load(text), "yaml_file": str(options.output)}
    try:
        model = Model(content)
        spec = load_spec(content)
        layers = infer_shapes(spec)
        if not options.force:
            check_quadratic_attention(layers, changed_layers(result), "confirm with --force")
    except ModelError as error:
        raise ModelError(f"not written: {error}") from None
    return sum(parameter.numel() for parameter in model.parameters()), describe_rows(spec, layers)


def _show(options: argparse.Namespace) -> None:
    _load_plugins(options.plugin)
    from models.graph.shapes import format_graph, infer_shapes, load_spec

    spec = load_spec(options.yaml)
    print("\n".join([format_graph(spec, infer_shapes(spec)), *_alias_notes(options.yaml)]))


def _alias_notes(path: Path) -> list[str]:
    """Return a line for each row that names its block by an alias."""
    from models.registry import registered

    rows = read_content(path)[2]
    return [f"{row.where}: {note}" for row in rows for note in notes(row.block, row.args, registered())]


def _check(options: argparse.Namespace) -> int:
    """Print the mistakes in each yaml, one per line; return the exit code."""
    _load_plugins(options.plugin)
    from models.graph.lint import lint_yaml
    from models.graph.shapes import ShapeCache

    cache = ShapeCache()
    found: list[str] = []
    for path in options.yaml:
        try:
            found += map(str, lint_yaml(path, cache))
            for note in _alias_notes(path):
                print(note)
        except ModelError as error:
            found.append(str(error))
    print("\n".join(found) or f"{len(options.yaml)} yaml{'s' * (len(options.yaml) > 1)}: no mistakes found")
    return int(bool(found))


def _write(options: argparse.Namespace) -> int:
    if not options.check:
        check_costs()
    changed = find_stale() if options.check else write_yamls()
    print("\n".join(str(path.relative_to(ROOT)) for path in changed) or "every yaml is up to date")
    return int(bool(changed) and options.check)


def _document(options: argparse.Namespace) -> int:
    """Print the pages that changed and the phrases without a translation; return the exit code."""
    from models.zoo.docs_tables import WORDS, document

    changed, missing = document(check=options.check)
    print("\n".join(str(path.relative_to(ROOT)) for path in changed) or "every page is up to date")
    if missing:
        print("\n  ".join((f"docs/{WORDS} has no Chinese for:", *missing)))
    return int(options.check and bool(changed or missing))


def _list(options: argparse.Namespace) -> None:
    print(list_variants())


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "list": _list,
    "write": _write,
    "document": _document,
    "insert": _edit,
    "replace": _edit,
    "show": _show,
    "check": _check,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 1 for stale files or a mistake in a yaml, 2 for a user error."""
    options = build_parser().parse_args(argv)
    codes: list[int] = []
    return run_guarded(lambda: codes.append(COMMANDS[options.command](options) or 0)) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
