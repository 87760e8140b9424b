"""The commands of the pages: shell blocks read as a shell does, and what they need if a test cannot run them.

Above a block, `<!-- needs: GPU -->` says what a reader must have for it; its commands are parsed all the same.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.files import ROOT

_BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^>]+?) -->\n+)?^```(?:bash|sh|console)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
_ENDS = re.compile(r"^(&&|\|\||\||;|&|>|>>|<|2>|2>&1)$")


@dataclass(frozen=True)
class PageCommand:
    """A command of a page.

    Attributes:
        page: The file, from the project's folder.
        words: What the shell would run, without variables before it.
        needs: What its block is marked with, "" for nothing.
        line: As it stands on the page.
    """

    page: str
    words: tuple[str, ...]
    needs: str
    line: str


def pages() -> list[Path]:
    """Return the pages that have commands for readers."""
    return [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> list[PageCommand]:
    """Return the commands of a page in their order; of a block of the console, those behind a `$`."""
    found = []
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        for line in _lines(block["text"]):
            for words in _commands(line):
                found.append(PageCommand(page.relative_to(ROOT).as_posix(), words, block["needs"] or "", line))
    return found


def _lines(text: str) -> Iterator[str]:
    lines = text.replace("\\\n", " ").splitlines()
    shows_output = any(line.startswith("$ ") for line in lines)
    for line in lines:
        if line.startswith("$ ") or not shows_output:
            yield line.removeprefix("$ ").strip()


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line: between `&&` and pipes, without redirections and variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if word in (">", ">>", "<"):
            redirected = True
        elif _ENDS.match(word):
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield tuple(words)
            words, redirected = [], False
        elif not redirected:
            words.append(word)
