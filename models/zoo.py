"""The table of attention variants (zoo.yaml) and the writer of their yamls.

    python -m models.zoo list                              the variants, their blocks and sizes
    python -m models.zoo write [--check]                   render every variant at every scale
    python -m models.zoo insert BLOCK --after 8 --into yolov5s.yaml --output my.yaml [--args "[1024]"] [--plugin my.py]
    python -m models.zoo replace C3 --at 2 4 6 8 --with CBAM --into yolov5s.yaml --output my.yaml

The last two work on any yaml of the v6.1 format: see models/rows.py for how layers are renumbered. What comes
out is built once before it is written. torch is imported by them and by `list` alone."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace as with_fields
from pathlib import Path
from typing import Any

import yaml

from models.rows import Architecture, insert_block, parse, read_yaml, render, replace_block
from utils.config import yaml_files
from utils.errors import ModelError, UserError, nearest
from utils.files import ROOT, read_text, write_atomically

MODELS = ROOT / "models"
TABLE = MODELS / "zoo.yaml"
MADE_BY = "Made by `python -m models.zoo write` from models/zoo.yaml; edit the table, not this file."
SCALES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}  # depth, width
VERBS = {"insert", "after", "args", "replace", "at", "with", "base", "place", "paper"}


@dataclass(frozen=True)
class Variant:
    """One line of the table: `verbs` holds insert/after/args, replace/at/with and base as written."""

    name: str
    place: str
    paper: str
    verbs: dict[str, Any]

    @property
    def block(self) -> str:
        """The block that the variant brings in."""
        return self.verbs.get("insert") or self.verbs["with"]

    def file_names(self) -> dict[str, str]:
        """Return file name -> scale; the name without a letter is the l scale."""
        return {f"yolov5_{self.name}.yaml": "l", **{f"yolov5{scale}_{self.name}.yaml": scale for scale in SCALES}}

    def architecture(self, folder: Path = MODELS) -> Architecture:
        """Return the base yaml of `folder` with the verbs applied."""
        base = read_yaml(folder / self.verbs.get("base", "yolov5l.yaml"))
        verbs, result = self.verbs, base
        if "replace" in verbs:
            result = replace_block(result, verbs["replace"], verbs["at"], verbs["with"], verbs.get("args"))
        if "insert" in verbs:
            result = insert_block(result, verbs["insert"], verbs["after"], verbs.get("args", []))
        return result


def load_table(path: Path = TABLE) -> dict[str, Variant]:
    """Return the variants of a table by name. Raises ModelError naming file, variant and the fix, and ConfigError
    when the file is no yaml."""
    return {name: _variant(path, name, line) for name, line in yaml_files.read_yaml(path).items()}


def _variant(path: Path, name: str, line: Any) -> Variant:
    where = f"{path}: variant {name}"
    if not isinstance(line, dict):
        raise ModelError(f"{where}: expected {{insert: BLOCK, after: [layers]}} or {{replace: OLD, at: [layers], with: BLOCK}}")
    for key in line:
        if key not in VERBS:
            raise ModelError(f"{where}: unknown word {key!r}{nearest(str(key), VERBS)}")
    for verb, companions in (("insert", ("after",)), ("replace", ("at", "with"))):
        for companion in companions:
            if verb in line and companion not in line:
                raise ModelError(f"{where}: {verb!r} needs {companion!r}")
    if not {"insert", "replace"} & set(line):
        raise ModelError(f"{where}: says neither insert nor replace")
    for key in ("place", "paper"):
        if not isinstance(line.get(key), str):
            raise ModelError(f"{where}: needs {key!r} as text")
    verbs = {key: value for key, value in line.items() if key not in ("place", "paper")}
    return Variant(str(name), line["place"], line["paper"], verbs)


def rendered_files(variant: Variant, folder: Path = MODELS) -> dict[str, str]:
    """Return file name -> yaml text of a variant at every scale."""
    architecture = variant.architecture(folder)
    return {name: _render_scale(variant, architecture, name, scale) for name, scale in variant.file_names().items()}


def _render_scale(variant: Variant, architecture: Architecture, name: str, scale: str) -> str:
    depth, width = SCALES[scale]
    settings = {**architecture.settings, "depth_multiple": depth, "width_multiple": width}
    header = (
        f"{name}: the layers of {architecture.file} at scale {scale} with {variant.block} {variant.place}",
        f"Paper: {variant.paper}",
        MADE_BY,
    )
    return render(with_fields(architecture, settings=settings), header)


def write(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Render every variant into `folder`; return the files whose content changed."""
    changed = []
    for path, text in _expected(folder, table).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            changed.append(write_atomically(path, lambda stream, text=text: stream.write(text.encode())))
    return changed


def stale(folder: Path = MODELS, table: Path = TABLE) -> list[Path]:
    """Return the files of `folder` that are missing, differ from the table, or were rendered for a variant that has
    left it. Yamls that this module did not write are nobody's business."""
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
    """Return the table as text: variant, block, place, paper, and parameters at the n and l scales with 80 classes.
    The first line is that of the models without attention."""
    base = [_parameters(MODELS / f"yolov5{scale}.yaml") for scale in ("n", "l")]
    rows = [("variant", "block", "place", "n params", "l params", "paper"), ("base", "-", "-", *base, "YOLOv5 6.1")]
    for variant in load_table().values():
        files = rendered_files(variant)
        sizes = [_parameters(yaml.safe_load(files[f"yolov5{scale}_{variant.name}.yaml"])) for scale in ("n", "l")]
        rows.append((variant.name, variant.block, variant.place, *sizes, variant.paper))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _parameters(cfg: Path | dict[str, Any]) -> str:
    from torch.overrides import TorchFunctionMode  # torch is needed for this command alone

    from models.yolo import Model

    class KeepWeights(TorchFunctionMode):
        """Leaves out the drawing of random weights, which takes most of the time and is not looked at."""

        def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            kwargs = kwargs or {}
            if getattr(function, "__module__", None) == "torch.nn.init":
                return kwargs.get("tensor", args[0] if args else None)
            return function(*args, **kwargs)

    with KeepWeights():
        return f"{sum(parameter.numel() for parameter in Model(cfg).parameters()):,}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m models.zoo`."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo", description="Attention variants as v6.1-format yamls.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the variants, their blocks, places, papers and sizes")
    writing = commands.add_parser("write", help="render every variant of models/zoo.yaml at every scale")
    writing.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs from the table")
    inserting = commands.add_parser("insert", help="put a block behind layers of any v6.1-format yaml")
    inserting.add_argument("block", help="the block's name, such as CBAM")
    inserting.add_argument("--after", nargs="+", type=int, required=True, metavar="LAYER", help="layer numbers of the yaml")
    replacing = commands.add_parser("replace", help="put a block in the place of layers of any v6.1-format yaml")
    replacing.add_argument("block", metavar="OLD", help="the block that stands there now, such as C3")
    replacing.add_argument("--at", nargs="+", type=int, required=True, metavar="LAYER", help="layer numbers of the yaml")
    replacing.add_argument("--with", dest="new", required=True, metavar="BLOCK", help="the new block's name")
    for command in (inserting, replacing):
        command.add_argument("--args", metavar="LIST", help='the block\'s yaml arguments, such as "[1024, 16]"')
        command.add_argument("--into", required=True, type=Path, metavar="YAML",
                             help="the yaml to read: a path, or a name in models/ or models/hub/")
        command.add_argument("--output", required=True, type=Path, metavar="YAML", help="the yaml to write")
        command.add_argument("--plugin", action="append", default=[], metavar="FILE",
                             help="Python file that registers blocks of your own")
    return parser


def _edit(options: argparse.Namespace) -> None:
    """Run insert or replace."""
    _check_output(options.output)
    source = read_yaml(options.into)
    args = None if options.args is None else parse("--args", options.args)
    if options.command == "insert":
        result = insert_block(source, options.block, options.after, args or [])
        words, block = f"insert {options.block} --after {' '.join(map(str, options.after))}", options.block
    else:
        result = replace_block(source, options.block, options.at, options.new, args)
        words, block = f"replace {options.block} --at {' '.join(map(str, options.at))} --with {options.new}", options.new
    words += f' --args "{options.args}"' if options.args else ""
    words += "".join(f" --plugin {Path(plugin).name}" for plugin in options.plugin)
    header = (f"Made by `python -m models.zoo {words} --into {options.into.name} --output {options.output.name}`",)
    text = render(result, header)
    parameters = _verify(text, block, options)
    write_atomically(options.output, lambda stream: stream.write(text.encode()))
    print(f"{options.output}: {len(result.rows)} layers, {len(result.rows) - len(source.rows)} more than {options.into}; "
          f"{parameters:,} parameters")


def _check_output(output: Path) -> None:
    if output.suffix not in (".yaml", ".yml"):
        raise ModelError(f"--output {output}: the name must end in .yaml")
    if not output.parent.is_dir():
        raise ModelError(f"--output {output}: the folder {output.parent} does not exist")


def _verify(text: str, block: str, options: argparse.Namespace) -> int:
    """Build the model yaml `text` once and return its parameters. Raises ModelError when `block` is unknown, or
    with the row that fails."""
    from models.registry import find, load_plugin  # torch, for insert and replace
    from models.yolo import Model

    for plugin in options.plugin:
        load_plugin(plugin)
    find(block)
    try:
        model = Model({**yaml.safe_load(text), "yaml_file": str(options.output)})
    except ModelError as error:
        raise ModelError(f"not written: {error}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (1: --check found stale files, 2: an error of the user's)."""
    options = build_parser().parse_args(argv)
    try:
        if options.command == "list":
            print(list_variants())
        elif options.command == "write":
            wrong = stale() if options.check else write()
            print("\n".join(str(path.relative_to(ROOT)) for path in wrong) or "every yaml is up to date")
            return int(bool(wrong) and options.check)
        else:
            _edit(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
