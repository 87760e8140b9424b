"""A model with blocks that YOLOv5 does not have, as a zip for YOLOv5's tree: yaml, source of the blocks, state dict.

The folder in the zip is a package that needs torch and nothing of this program: the blocks' files and what they import,
flat, with relative imports. Module names are unique in this tree, so they are in the folder.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from models.graph.architecture import render_yaml
from utils.checkpoint.record import Checkpoint
from utils.checkpoint.yolov5_rows import GATED, ResolvedModel
from utils.errors import CheckpointError
from utils.files import ROOT, read_text, write_atomically

FOLDER = "attention_blocks"
IMPORT_LINE = f"from {FOLDER} import *"
BRANCH = ("        elif m in BLOCKS:", "            c2, *args = args")
EDITS = (
    f"copy the folder {FOLDER} of the zip into YOLOv5's folder, beside models",
    f"models/yolo.py, below `from models.experimental import *`: {IMPORT_LINE}",
    f"models/yolo.py, parse_model, above `elif m is nn.BatchNorm2d:`: {BRANCH[0].strip()} {BRANCH[1].strip()}",
)
_TEXTS = Path(__file__).resolve().parent / "yolov5_tree"
_REGISTRY = "models.registry"
_OURS = ("models", "utils")
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same model is the same file
_GATED_CLASS = f'''

class {GATED}:
    """A block behind its zero-initialized gate, or one that gates what is inside it."""

    def __new__(cls, channels, block, *args):
        """Return the layer for that number of channels: block(*args), gated."""
        return apply_identity_start(block(*args), channels, channels)
'''
_NORMS = """
# YOLOv5 sets the epsilon of nn.BatchNorm2d itself, and not of a class that is derived from it.
BatchNorm.__init__ = partialmethod(BatchNorm.__init__, eps=1e-3, momentum=0.03)
"""


def write_yolov5_package(checkpoint: Checkpoint, resolved: ResolvedModel, path: Path) -> Path:
    """Write a model with its blocks' source and its weights as a zip for YOLOv5's tree.

    Args:
        checkpoint: Its weights and names, written in the precision that they have.
        resolved: Its rows for YOLOv5.
        path: The file; its folder exists.

    Returns:
        `path`.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    weights = io.BytesIO()
    torch.save(dict(checkpoint.state), weights)
    title = path.stem
    sources = package_sources(resolved.blocks, resolved.gated)
    content: dict[str, str | bytes] = {
        "README.md": _readme(title, resolved),
        **{f"{FOLDER}/{name}": text for name, text in sources.items()},
        f"{FOLDER}/assemble.py": read_text(_TEXTS / "assemble.txt"),
        f"{FOLDER}/model.yaml": render_yaml(resolved.architecture, [f"{title}, for YOLOv5 with {FOLDER}"]),
        f"{FOLDER}/names.json": json.dumps(checkpoint.names),
        f"{FOLDER}/weights.pt": weights.getvalue(),
    }
    try:
        return write_atomically(path, lambda stream: _write_zip(stream, content))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def _write_zip(stream: BinaryIO, content: dict[str, str | bytes]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)


def package_sources(blocks: Iterable[type[nn.Module]], gated: bool = False) -> dict[str, str]:
    """Return the Python files of a package with blocks: file name -> text.

    Args:
        blocks: Classes of blocks of this program.
        gated: Whether it also has the class of gated rows.

    Returns:
        The files, `__init__.py` first; it gives the blocks and the set `BLOCKS` of them.
    """
    blocks = sorted(blocks, key=lambda block: block.__name__)
    sources: dict[str, str] = {}
    waiting = [block.__module__ for block in blocks] + ["models.identity_start"] * gated
    while waiting:
        module = waiting.pop()
        if module in sources:
            continue
        text = read_text(_TEXTS / "registry.txt") if module == _REGISTRY else read_text(_path_of(module))
        sources[module], imported = _with_relative_imports(text)
        waiting += imported
    names = [block.__name__ for block in blocks] + [GATED] * gated
    lines = [f'"""Blocks of a model that was trained elsewhere, for YOLOv5: {", ".join(names)}."""', ""]
    has_norms = "models.norms" in sources
    lines += ["from functools import partialmethod", ""] if has_norms else []
    imports = sorted((_last(block.__module__), block.__name__) for block in blocks)
    imports += [("identity_start", "apply_identity_start")] * gated + [("norms", "BatchNorm")] * has_norms
    lines += [f"from .{module} import {name}" for module, name in sorted(imports)]
    text = "\n".join(lines) + "\n" + (_NORMS if has_norms else "") + (_GATED_CLASS if gated else "")
    text += f"\n\nBLOCKS = {{{', '.join(names)}}}\n" if gated else f"\nBLOCKS = {{{', '.join(names)}}}\n"
    text += f"__all__ = {json.dumps(['BLOCKS', *names])}\n"
    return {"__init__.py": text, **{f"{_last(module)}.py": sources[module] for module in sorted(sources)}}


def _path_of(module: str) -> Path:
    """Return the file of a module of ours; that of a package is its __init__.py."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _with_relative_imports(text: str) -> tuple[str, list[str]]:
    """Return a module's source with imports from its own folder, and the modules of ours that it imports."""
    lines = text.splitlines()
    imported = []
    for node in _imports(ast.parse(text)):
        given = node.module or ""
        inner = [f"{given}.{alias.name}" for alias in node.names]
        modules = [name for name in inner if _path_of(name).is_file()]
        target = "." if modules else f".{_last(given)}"
        index = node.lineno - 1
        lines[index] = re.sub(rf"\bfrom {re.escape(given)} import\b", f"from {target} import", lines[index])
        imported += modules or [given]
    return "\n".join(lines) + "\n", imported


def _imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    """Yield the statements that import from this program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _OURS:
            yield node


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def _readme(title: str, resolved: ResolvedModel) -> str:
    names = [f"`{block.__name__}`" for block in resolved.blocks]
    return read_text(_TEXTS / "README.txt").format(
        title=title,
        blocks=", ".join(names),
        import_line=IMPORT_LINE,
        branch="\n".join(f"       {line}" for line in BRANCH),
        license=_license(),
    )


def _license() -> str:
    """Return the license of this program as its pyproject.toml gives it."""
    found = re.search(r'^license = "(.+)"', read_text(ROOT / "pyproject.toml"), re.MULTILINE)
    return found[1] if found else "of that program"
