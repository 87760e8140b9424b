"""Finding a font that can write a class name. Fonts are searched on this computer, never downloaded."""

import functools
import importlib.util
import os
import sys
from pathlib import Path

from utils.log import warn_once

_FIRST_CJK = 0x2E80  # from here on: CJK radicals, kana, ideographs, Hangul and full-width forms
_CJK_FILES = (  # file name patterns by preference, searched below the font folders
    "NotoSansCJK-Regular*",
    "NotoSansSC*",
    "NotoSansCJK*",
    "SourceHanSans*",
    "msyh.tt*",
    "simhei.ttf",
    "simsun.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti*",
    "wqy-microhei*",
    "wqy-zenhei*",
    "DroidSansFallback*",
    "uming*",
    "ukai*",
    "NotoSansJP*",
    "NotoSansKR*",
    "NotoSerifCJK*",
    "malgun.ttf",
    "msgothic.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "unifont*",
)


def font_folders() -> list[Path]:
    """Return this system's folders of fonts, the user's own first."""
    home = Path.home()
    if sys.platform == "win32":
        own, common = os.environ.get("LOCALAPPDATA", home), os.environ.get("WINDIR", "C:/Windows")
        folders = [Path(own) / "Microsoft/Windows/Fonts", Path(common) / "Fonts"]
    elif sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        folders = [
            home / ".fonts",
            home / ".local/share/fonts",
            Path("/usr/local/share/fonts"),
            Path("/usr/share/fonts"),
        ]
    return [folder for folder in folders if folder.is_dir()]


@functools.lru_cache(maxsize=1)
def latin_font() -> Path | None:
    """Return the DejaVu Sans file that matplotlib ships (without importing matplotlib), or None."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return file
    return None


@functools.lru_cache(maxsize=1)
def cjk_font() -> Path | None:
    """Return a font file of this system that has Chinese, Japanese or Korean glyphs, or None."""
    files = [file for folder in font_folders() for file in sorted(folder.rglob("*.[tToO][tT][fFcC]"))]
    for pattern in _CJK_FILES:
        for file in files:
            if file.match(pattern):
                return file
    return None


def has_cjk(text: str) -> bool:
    """Return whether `text` has characters that DejaVu Sans lacks."""
    return any(ord(character) >= _FIRST_CJK for character in text)


def font_file(text: str) -> Path | None:
    """Return the file of a font that can write `text`; None means Pillow's built-in font.

    If the system has no CJK font, such characters appear as boxes, and one warning says so.
    """
    if not has_cjk(text):
        return latin_font()
    found = cjk_font()
    if found is None:
        warn_once(
            "class names need a Chinese, Japanese or Korean font and this system has none; "
            "install one (such as fonts-noto-cjk) to see them in images"
        )
    return found or latin_font()
