"""XML from outside, read without expanding entities, without fetching anything, and one element at a time."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from utils.errors import DataError

_DEEPEST = 50
_BLOCK = 1 << 16
_ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass
class XmlElement:
    """An element: its tag, attributes, text, children and the line that it begins in."""

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list["XmlElement"] = field(default_factory=list)

    def all(self, tag: str) -> Iterator["XmlElement"]:
        """Yield the direct children with a tag: a VOC object's parts have boxes of their own."""
        return (child for child in self.children if child.tag == tag)

    def child(self, tag: str) -> "XmlElement | None":
        """Return the first direct child with a tag, or None."""
        return next(self.all(tag), None)

    def value(self, *tags: str) -> str:
        """Return the stripped text at a path of tags below the element, "" if there is none."""
        element: XmlElement | None = self
        for tag in tags:
            element = element.child(tag) if element else None
        return element.text.strip() if element else ""


def read_root(path: Path) -> XmlElement:
    """Return the root element of an XML file without its children. Raises DataError."""
    return next(iter_elements(path))


def iter_elements(path: Path) -> Iterator[XmlElement]:
    """Yield the root element, without children, and then each child of it as soon as it is complete.

    Raises DataError that names file and line: not well formed, not text, nested too deeply, with entity declarations.
    """
    reader = _Reader(path)
    try:
        with open(path, encoding=_encoding(path), newline="") as stream:
            while block := stream.read(_BLOCK):
                reader.feed(block)
                yield from reader.ready()
        reader.finish()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise DataError(f"{path}: is not text in the encoding that it declares; save it as UTF-8") from None
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, "damaged")
        raise DataError(f"{path}: line {error.lineno}: not well-formed XML: {reason}") from None


def _encoding(path: Path) -> str:
    """The encoding that a file begins with or declares; expat itself knows only few."""
    with open(path, "rb") as stream:
        start = stream.read(256)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    found = _ENCODING.match(start.removeprefix(codecs.BOM_UTF8))
    try:
        name = codecs.lookup(found.group(1).decode()).name if found else "utf-8"
    except LookupError:
        raise DataError(f"{path}: declares an unknown encoding; save it as UTF-8") from None
    return "utf-8-sig" if name.startswith("utf-") else name


class _Reader:
    """The elements of a file while it is being read. Expat is told of UTF-8, whatever the file declares."""

    def __init__(self, path: Path):
        self.path = path
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._refuse
        self._open: list[XmlElement] = []
        self._complete: list[XmlElement] = []

    def feed(self, block: str) -> None:
        self.parser.Parse(block.encode("utf-8", "replace"), False)

    def finish(self) -> None:
        self.parser.Parse(b"", True)

    def ready(self) -> list[XmlElement]:
        """Return the elements that were completed since the last call."""
        complete, self._complete = self._complete, []
        return complete

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = XmlElement(tag, attributes, self.parser.CurrentLineNumber)
        if len(self._open) >= _DEEPEST:
            raise DataError(f"{self.path}: line {element.line}: elements are nested too deeply for annotations")
        if not self._open:
            self._complete.append(XmlElement(tag, attributes, element.line))
        elif len(self._open) > 1:
            self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, tag: str) -> None:
        element = self._open.pop()
        if len(self._open) == 1:
            self._complete.append(element)

    def _text(self, text: str) -> None:
        self._open[-1].text += text

    def _refuse(self, name: str, *_: object) -> None:
        line = self.parser.CurrentLineNumber
        raise DataError(f"{self.path}: line {line}: declares an entity, which annotations do not need; it is refused")
