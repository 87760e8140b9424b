"""Which fonts write a text, and what stands in its place if none can: never boxes instead of letters.

A class name that no font of this computer can write is replaced by the class's number, and classes.txt beside the image
says which class that is; other text gets a question mark per letter. `drawing_fonts` gives a script's `--font` to all
that is drawn within it, and says at its end, once, how to get a font.
"""

import functools
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from utils.errors import ConfigError, cut
from utils.files import write_text_atomically
from utils.log import LOGGER, warn_once
from utils.plots.font_files import covered, font_files, is_font, latin_font, own_folder

FONT_VARIABLE = "YOLO_FONT"
LEGEND_FILE = "classes.txt"
_INVISIBLE = frozenset(
    "\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff"
)  # joiners and selectors: no font needs to have them
_SHAPED = (  # first and last letters of scripts whose letters change form or order with their neighbors
    *((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1700, 0x18AF), (0x1900, 0x1AAF), (0x1B00, 0x1CFF)),
    *((0xA800, 0xA82F), (0xA840, 0xA95F), (0xA980, 0xA9DF), (0xAA00, 0xAADF), (0xABC0, 0xABFF), (0x11000, 0x11FFF)),
)
_NOTO = {"CJK": "SC", "HIRAGANA": "JP", "KATAKANA": "JP", "HANGUL": "KR"}  # Noto's fonts by a letter's Unicode name
_SHOWN_TEXTS = 3


def needs_shaping(text: str) -> bool:
    """Return whether a text runs from right to left, or has letters that join or change places."""
    return not text.isascii() and any(
        unicodedata.bidirectional(letter) in ("R", "AL") or any(low <= ord(letter) <= high for low, high in _SHAPED)
        for letter in text
    )


@functools.lru_cache(maxsize=1)
def images_shape() -> bool:
    """Return whether the text on images is shaped: Pillow needs Raqm and FriBiDi for it."""
    from PIL import features

    return bool(features.check("raqm"))


@functools.lru_cache(maxsize=1)
def plots_shape() -> bool:
    """Return whether the text of plots is shaped, which matplotlib does from 3.11 on."""
    import matplotlib

    return matplotlib.__version_info__[:2] >= (3, 11)


class FontBook:
    """The fonts that text is drawn with, and the class names that they cannot write.

    Args:
        own: A font file that comes before all others, or None.
    """

    def __init__(self, own: Path | None = None):
        self.found: list[Path] = []  # fonts of this computer that some text needed
        self._first = [file for file in (own, latin_font()) if file]
        self._font_of: dict[str, Path | None] = {}
        self._has: dict[tuple[Path, str], bool] = {}
        self._numbered: dict[str, None] = {}  # class names that a number stands for
        self._marked: dict[str, None] = {}  # other texts, with question marks in them
        self._legends: dict[Path, tuple[str, ...]] = {}

    @property
    def files(self) -> list[Path]:
        """The fonts in the order of preference: the user's, DejaVu Sans, those that were found."""
        return [*self._first, *self.found]

    def can_write(self, text: str, shaped: bool) -> bool:
        """Return whether a text can be drawn without a letter missing or misplaced.

        Args:
            text: One line.
            shaped: Whether letters that need shaping get it.

        Returns:
            Whether fonts have all letters, and scripts that need shaping get it.
        """
        if text.isascii():
            return True
        self._look_up(text)
        return (shaped or not needs_shaping(text)) and all(
            letter in _INVISIBLE or self._font_of[letter] is not None for letter in text
        )

    def legible(self, text: str, shaped: bool) -> str:
        """Return a text with a question mark for each letter that cannot be drawn.

        Args:
            text: One line.
            shaped: Whether letters that need shaping get it.

        Returns:
            A text that can be drawn.
        """
        if self.can_write(text, shaped):
            return text if shaped else "".join(letter for letter in text if letter not in _INVISIBLE)
        self._marked[text] = None
        letters = (letter for letter in text if letter not in _INVISIBLE)
        return "".join(letter if self.can_write(letter, shaped) else "?" for letter in letters)

    def runs(self, text: str) -> tuple[tuple[str, Path | None], ...]:
        """Return a text that can be drawn as (part, font file) pairs; None is Pillow's built-in font."""
        parts: list[tuple[str, Path | None]] = []
        self._look_up(text)
        for letter in text:
            last = parts[-1][1] if parts else None
            font = self._font_of[letter] if letter not in _INVISIBLE else last
            if parts and (font == last or letter.isspace() or self._is_in(last, letter)):
                parts[-1] = (parts[-1][0] + letter, last)
            else:
                parts.append((letter, font))
        return tuple(parts)

    def labels(self, names: Sequence[str], folder: Path | str, shaped: bool) -> tuple[str, ...]:
        """Return what stands for each class: its name, or its number if the name cannot be written.

        Args:
            names: Class names.
            folder: The folder of the image; classes.txt is written to it if there is a number.
            shaped: Whether letters that need shaping get it.

        Returns:
            One text per class.
        """
        if all(name.isascii() for name in names):
            return tuple(names)
        self._look_up("".join(names))  # at once, so that one font is found for all
        labels = tuple(name if self.can_write(name, shaped) else str(index) for index, name in enumerate(names))
        if labels != tuple(names):
            self._numbered.update(
                dict.fromkeys(name for name, label in zip(names, labels, strict=True) if name != label)
            )
            self._write_legend(Path(folder), tuple(names))
        return labels

    def advice(self) -> str:
        """Return how to see the class names and other texts that were replaced, or "" if none was."""
        if not (self._numbered or self._marked):
            return ""
        parts = []
        if self._numbered:
            parts.append(f"numbers for the classes {_some(self._numbered)}, listed in {LEGEND_FILE} beside them")
        if self._marked:
            parts.append(f"question marks in {_some(self._marked)}")
        what = f"images and plots show {' and '.join(parts)}"
        texts = (*self._numbered, *self._marked)
        lacking = [letter for text in texts for letter in text if not self.can_write(letter, shaped=True)]
        if not lacking:
            return f"{what}: their script needs a Pillow with Raqm and FriBiDi, and matplotlib 3.11"
        return (
            f"{what}: no font here has these letters. Without an administrator: put a font file such as "
            f"{_noto_font(lacking[0])} (fonts.google.com/noto) into {own_folder()}, or name one with --font FILE "
            f"or {FONT_VARIABLE}=FILE"
        )

    def _write_legend(self, folder: Path, names: tuple[str, ...]) -> None:
        if self._legends.get(folder) != names:
            write_text_atomically(
                folder / LEGEND_FILE, "".join(f"{index}: {name}\n" for index, name in enumerate(names))
            )
            self._legends[folder] = names

    def _is_in(self, file: Path | None, letter: str) -> bool:
        if file is None:
            return False
        if (file, letter) not in self._has:
            self._has[file, letter] = bool(covered(file, letter))
        return self._has[file, letter]

    def _look_up(self, text: str) -> None:
        """Learn which font has each letter of a text; this computer's are searched if the first ones lack some."""
        missing = {letter for letter in text if letter not in self._font_of}
        if all(letter.isascii() for letter in missing) and self._first in ([], [latin_font()]):
            self._font_of.update(dict.fromkeys(missing, latin_font()))  # without opening a font
            return
        for file in self.files:
            have = covered(file, missing)
            self._font_of.update(dict.fromkeys(have, file))
            missing -= have
        wanted = {letter for letter in missing if letter.isprintable()} - _INVISIBLE
        while wanted and (best := _best_font(wanted)):
            self.found.append(best[0])
            self._font_of.update(dict.fromkeys(best[1], best[0]))
            wanted -= best[1]
            missing -= best[1]
        self._font_of.update(dict.fromkeys(missing, None))


def _best_font(letters: set[str]) -> tuple[Path, frozenset[str]] | None:
    """The first font of this computer that has all letters, or the one that has most; None if none has any."""
    best = None
    for file in font_files():
        have = covered(file, letters)
        if len(have) > (len(best[1]) if best else 0):
            best = file, have
        if len(have) == len(letters):
            break
    return best


def _some(texts: Collection[str]) -> str:
    more = f" and {len(texts) - _SHOWN_TEXTS} more" if len(texts) > _SHOWN_TEXTS else ""
    return ", ".join(cut(text, 40) for text in list(texts)[:_SHOWN_TEXTS]) + more


def _noto_font(letter: str) -> str:
    """The name of a free font that has a letter."""
    script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    if unicodedata.category(letter).startswith("S") or not script:
        return "Noto Emoji"
    return f"Noto Sans {_NOTO.get(script, script.capitalize())}"


_CURRENT: ContextVar[FontBook | None] = ContextVar("fonts", default=None)


@contextmanager
def drawing_fonts(font: str = "") -> Iterator[FontBook]:
    """Draw all text in this block with the user's font before others; at its end, log what could not be written.

    Within another such block its fonts stay, and that one speaks at its end.

    Args:
        font: A font file; '' takes the one that the variable YOLO_FONT names, if it does.

    Yields:
        The fonts.

    Raises:
        ConfigError: The file is missing or no font.
    """
    outer = _CURRENT.get()
    if outer:
        yield outer
        return
    book = FontBook(_own_font(font))
    token = _CURRENT.set(book)
    try:
        yield book
    finally:
        _CURRENT.reset(token)
    if book.advice():
        LOGGER.warning(f"WARNING: {book.advice()}")


def _own_font(font: str) -> Path | None:
    """The file that the flag or the variable names, checked."""
    given = "--font" if font else FONT_VARIABLE
    font = font or os.environ.get(FONT_VARIABLE, "")
    if not font:
        return None
    file = Path(font).expanduser()
    if not file.is_file():
        raise ConfigError(f"{given} {cut(font)}: no such file; name a .ttf, .otf or .ttc file")
    if not is_font(file):
        raise ConfigError(f"{given} {cut(font)}: not a font that can be drawn; name a .ttf, .otf or .ttc file")
    return file.resolve()


@functools.lru_cache(maxsize=1)
def _fonts_outside_scripts() -> FontBook:
    return FontBook(_own_font(""))


def current_fonts() -> FontBook:
    """Return the fonts of the block that is being drawn, or those of this computer."""
    return _CURRENT.get() or _fonts_outside_scripts()


def class_labels(names: Sequence[str], folder: Path | str, in_plot: bool = False) -> tuple[str, ...]:
    """Return what stands for each class in an image or plot: its name, or its number if it cannot be written.

    Args:
        names: Class names.
        folder: The folder of the image; classes.txt is written to it if there is a number.
        in_plot: Matplotlib writes the text, not Pillow.

    Returns:
        One text per class.
    """
    book = current_fonts()
    labels = book.labels(names, folder, plots_shape() if in_plot else images_shape())
    if labels != tuple(names) and _CURRENT.get() is None:
        warn_once(book.advice())
    return labels
