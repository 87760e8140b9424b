"""Writes docs/errors.md and its Chinese edition: every error of the user that the source raises, with remedy and place.

    python tools/error_index.py            writes the tables of the two pages anew
    python tools/error_index.py --bare     lists the messages that name no remedy

The words above the table are written by hand; a test says if the table is not that of the source. Messages are English,
as they are printed; what to do about them is translated by docs/errors.zh-CN.yaml as far as it goes.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from source_texts import template

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
CHINESE_PAGE = ROOT / "docs" / "errors.zh-CN.md"
CHINESE_WORDS = ROOT / "docs" / "errors.zh-CN.yaml"
MARKERS = ("<!-- made by `python tools/error_index.py`: errors -->", "<!-- end: errors -->")
SCRIPTS = ("train", "val", "detect", "compare", "export", "heatmap", "demo", "hubconf")
KINDS = {
    "ConfigError": "Flags, hyperparameters, data yamls",
    "DataError": "Images and labels",
    "ModelError": "Model yamls and blocks",
    "CheckpointError": "Weights and exported files",
    "MemoryShortageError": "Memory",
    "NonFiniteError": "Losses that are not finite",
    "ParityError": "Exported files that differ",
    "PartialError": "Runs of which a part failed",
    "UserError": "Other",
}
_ADVICE = re.compile(
    r"; |\(did you mean|: (?=use |give |choose |write |train |put |name |make |see |expected )|, (?=use |give |choose )"
    r"|\buse --|\bgive --|--download|pip install|expected|must be|needs|did_you_mean|\{hint\}|\{nearest\}|\{advice\}"
    r"|\{remedy\}|\{fix\}|\bat least\b|\bat most\b|\bone of\b|has to|only "
)

# What to do about messages that say what is wrong and leave the rest to this page: the first that fits.
COMMON = (
    (
        r"damaged|cannot be decoded|not valid JSON|not well-formed|no frame of this video",
        "the file is broken: get it again, or write it again where it was made",
    ),
    (r"refused", "the file is not what such files are: do not use it; ask who made it for another"),
    (r"cannot be written|cannot create", "make room, check who may write there, or choose another folder"),
    (r"cannot be read|is empty|cannot be opened", "check that the file is there, is whole, and may be read"),
    (r"no such|does not exist|is no Python file|name must end", "correct the path or the name"),
    (
        r"different classes|classes differ|same classes",
        "take weights that were trained on the same classes in the same order",
    ),
    (
        r"could be (read|drawn)|inputs failed|can be used|has a usable label|no image or video",
        "see the reason; correct --source, or the files that it names",
    ),
    (r"no camera or stream|no frame arrives", "check the address and the network, or the camera's number"),
    (r"the weights know|knows \{names\} classes|no class", "name a class that the weights have"),
    (
        r"the model.* has layers|the network has|there are layers|names a layer twice",
        "give a layer that is there: python -m models.zoo show lists them",
    ),
    (
        r"a row is \[|the (third|fourth) entry|a source is|a model ends|must hold the keys"
        r"|lists of args|unknown key|neither insert",
        "correct the row or the key of the yaml, which the message names",
    ),
    (
        r"no YOLOv5 detection model|has no model description|is no checkpoint|not a checkpoint|no labelme|no detector",
        "give a file of the kind that is read: a detection checkpoint, or annotations of that tool",
    ),
    (
        r"YOLOv5|its norms add|model description|its strides|its weights lack|copies differ",
        "this model cannot be carried over as it is; use it here, or change the layer that is named",
    ),
    (r"widened|--control", "leave out --control, or compare with a model that can be widened"),
    (
        r"cannot convert|gave no model|cannot read the ONNX|does not run on",
        "export another format, such as onnx, or report the model's yaml",
    ),
    (r"out of memory", "lower --batch-size or --imgsz; --batch-size -1 picks what fits"),
    (
        r"--(launch-options|query|one-based|freeze|host|logger|method|names|output|cache|seeds|image-weights|include|layer|classes)",
        "change or leave out the flag as the message says; --help explains it",
    ),
    (r"", "the message says what is wrong; change what it names"),
)


@dataclass(frozen=True)
class ErrorEntry:
    """A message that the source raises.

    Attributes:
        kind: The class of the error.
        message: Its template; fields are names in braces.
        module: The file that raises it, from the project's folder.
        line: In that file.
    """

    kind: str
    message: str
    module: str
    line: int

    @property
    def parts(self) -> tuple[str, str]:
        """What is wrong, and what to do: what stands behind the message's first semicolon, or what is common."""
        what, _, remedy = self.message.partition("; ")
        if not remedy and without_remedy(self):
            remedy = next(advice for pattern, advice in COMMON if re.search(pattern, what))
        return what, remedy or "as the message says"


def entries() -> list[ErrorEntry]:
    """Return every message that is written where it is raised, or in the function that makes the error."""
    files = [path for top in ("models", "utils") for path in sorted((ROOT / top).rglob("*.py"))]
    files += [path for name in SCRIPTS if (path := ROOT / f"{name}.py").is_file()]
    found = [entry for path in files for entry in _entries_of(path)]
    return sorted(found, key=lambda entry: (list(KINDS).index(entry.kind), entry.module, entry.line))


def _entries_of(path: Path) -> Iterator[ErrorEntry]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        kind = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        text = template(node.args[0]) if kind in KINDS else None
        if text is not None and re.search(r"[a-z]{2}", re.sub(r"\{[^}]*\}", "", text)):
            yield ErrorEntry(kind, " ".join(text.split()), path.relative_to(ROOT).as_posix(), node.lineno)


def without_remedy(entry: ErrorEntry) -> bool:
    """Return whether a message says neither what to do nor what was expected."""
    return not _ADVICE.search(entry.message)


def chinese() -> dict[str, str]:
    """Return the Chinese of what to do, of kinds and of columns, by the English."""
    return yaml.safe_load(CHINESE_WORDS.read_text(encoding="utf-8"))


def table(words: Mapping[str, str]) -> str:
    """Return the table of all messages, one part per kind of error; `words` replaces English by another language."""
    parts = []
    every = entries()
    for kind, title in KINDS.items():
        own = [entry for entry in every if entry.kind == kind]
        if own:
            columns = (words.get(column, column) for column in ("message", "what to do", "raised in"))
            said = ((what, words.get(remedy, remedy), entry.module) for entry in own for what, remedy in [entry.parts])
            rows = {(_cell(what), _cell(remedy), module): None for what, remedy, module in said}
            parts += [f"### {words.get(title, title)}\n", f"| {' | '.join(columns)} |", "| --- | --- | --- |"]
            parts += [f"| {what} | {remedy} | `{module}` |" for what, remedy, module in rows]
            parts.append("")
    return "\n".join(parts).rstrip()


def _cell(text: str) -> str:
    """A template as Markdown: fields in angle brackets, nothing that a table or a page reads as its own."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
    text = re.sub(r"([*_`\[\]#~$])", r"\\\1", text)
    return re.sub(r"\{([^{}]*)\}", r"&lt;*\1*&gt;", text)


def with_table(page: str, words: Mapping[str, str] | None = None) -> str:
    """Return the page with the table as the source is now, in English or in the words given."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    return f"{before}{MARKERS[0]}\n\n{table(words or {})}\n\n{MARKERS[1]}{after}"


def main(arguments: list[str]) -> None:
    """Write the page, or with --bare list the messages without a remedy."""
    if "--bare" in arguments:
        print("\n".join(f"{each.module}:{each.line}: {each.message}" for each in entries() if without_remedy(each)))
        return
    for page, words in ((PAGE, {}), (CHINESE_PAGE, chinese())):
        page.write_text(with_table(page.read_text(encoding="utf-8"), words), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
