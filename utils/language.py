"""The language of reports and of the console's summary: English, or what a table says instead of each English text.

`utils/languages/<language>.yaml` maps English texts to their translation. A text is a template: `{name}` stands for
what differs, and may be anywhere in the translation. The source says everything in English, and where it comes out, at
the console and in a page, `translated` looks it up; what no template fits stays English.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

ENGLISH = "en"
LANGUAGES = (ENGLISH, "zh")
HTML_NAMES = {ENGLISH: "en", "zh": "zh-CN"}
LANG_HELP = "language of the summary at the console, and of reports: en, or zh for Chinese"
_FIELD = re.compile(r"\{(\w+)\}")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)][.?]) (?=\S)")
_ANY, _NUMBER = rf"(?:(?!{_SENTENCE_END.pattern}).)+?", r"[-+\u2212\d.,]+"
_CURRENT: ContextVar[str] = ContextVar("language", default=ENGLISH)


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Translate into a language within this block, one of LANGUAGES."""
    token = _CURRENT.set(language)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_language() -> str:
    """Return the language of the block that runs."""
    return _CURRENT.get()


def translated(text: str) -> str:
    """Return a text in the current language; if the whole is unknown, each of its sentences or lines is looked up."""
    language = _CURRENT.get()
    return text if language == ENGLISH or not text.strip() else dictionary(language).translate(text)


@functools.lru_cache(maxsize=len(LANGUAGES))
def dictionary(language: str) -> "Dictionary":
    """Return the table of a language other than English."""
    import yaml

    file = Path(__file__).with_name("languages") / f"{language}.yaml"
    return Dictionary(yaml.safe_load(file.read_text(encoding="utf-8")))


class Dictionary:
    """English templates with their translations.

    Args:
        texts: English template -> translation; both have the same fields.
    """

    def __init__(self, texts: Mapping[str, str]):
        self.texts = dict(texts)
        longest_first = sorted((text for text in texts if _FIELD.search(text)), key=_literal_length, reverse=True)
        self._patterns = [(_pattern(text), text) for text in longest_first]

    def translate(self, text: str) -> str:
        """Return the translation of a text, of its sentences, or of its lines; what is unknown stays as it is."""
        found = self._whole(text)
        if found is not None:
            return found
        for separator, joint in ((re.compile("\n"), "\n"), (_SENTENCE_END, " ")):
            parts = separator.split(text)
            if len(parts) > 1:
                return self._joined([self.translate(part) for part in parts], joint)
        return text

    def _whole(self, text: str) -> str | None:
        bare = text.strip()
        if bare in self.texts:
            return text.replace(bare, self.texts[bare])
        for pattern, template in self._patterns:
            match = pattern.fullmatch(bare)
            if match:
                fields = {name: self._whole(value) or value for name, value in match.groupdict().items()}
                return text.replace(bare, _FIELD.sub(lambda field: fields[field[1]], self.texts[template]))  # noqa: B023
        return None

    @staticmethod
    def _joined(parts: list[str], joint: str) -> str:
        text = parts[0]
        for part in parts[1:]:
            text += ("" if joint == " " and text.endswith(("。", "？", "；")) else joint) + part
        return text


def _literal_length(template: str) -> int:
    return len(_FIELD.sub("", template))


def _pattern(template: str) -> "re.Pattern[str]":
    """What fits a template: a field is not empty and part of one sentence, and a number if its name ends so."""
    seen: set[str] = set()
    parts = []
    for index, part in enumerate(_FIELD.split(template)):
        if index % 2 == 0:
            parts.append(re.escape(part))
        else:
            content = _NUMBER if part.endswith("number") else _ANY
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>{content})")
            seen.add(part)
    return re.compile("".join(parts))
