"""The fonts of this computer: their folders, their files in order of preference, and the characters that each has.

Nothing is downloaded and no font comes with the program but matplotlib's DejaVu Sans.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from utils.files import walk_files

_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_PREFERRED = (  # beginnings of file names, best first: plain text faces, and for Han characters the simplified forms
    *("notosanscjk-regular", "notosanssc", "notosanscjk", "sourcehansans", "msyh.", "simhei", "simsun", "pingfang"),
    *("hiragino sans gb", "stheiti", "wqy-microhei", "wqy-zenhei", "droidsansfallback", "notosansjp", "notosanskr"),
    *("malgun.", "msgothic", "arial unicode", "arialuni", "segoeui.", "arial.", "notosans", "notoserif", "notoemoji"),
    *("seguisym", "nirmala", "freesans"),
)
_UNUSUAL = ("bold", "black", "heavy", "italic", "oblique", "thin", "light", "condensed", "mono")
_WITHOUT_SHAPES = ("lastresort", "adobeblank", "adobenotdef")  # they have every character, as a box or as nothing
_TRIED_AT = 16  # pixels


def own_folder() -> Path:
    """Return the folder into which a user puts fonts without an administrator's rights."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "Microsoft/Windows/Fonts"
    if sys.platform == "darwin":
        return Path.home() / "Library/Fonts"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "fonts"


def font_folders() -> list[Path]:
    """Return the folders of fonts that there are: the user's, then the environment's (conda), then the system's."""
    home = Path.home()
    folders = [own_folder(), home / ".fonts", home / ".local/share/fonts"]
    for prefix in (os.environ.get("CONDA_PREFIX"), sys.prefix):
        folders += [Path(prefix) / "fonts", Path(prefix) / "share/fonts"] if prefix else []
    if sys.platform == "win32":
        folders.append(Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts")
    elif sys.platform == "darwin":
        folders += [Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
        folders += [Path(folder) / "fonts" for folder in shared if folder]
        folders += [Path("/usr/share/fonts"), Path("/mnt/c/Windows/Fonts")]  # the latter: Windows around a WSL
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def font_files() -> list[Path]:
    """Return all font files of the folders: known text faces first, unusual styles last."""
    files = (
        Path(file)
        for folder in font_folders()
        for file in walk_files(folder)
        if file.lower().endswith(_SUFFIXES) and not Path(file).name.lower().startswith(_WITHOUT_SHAPES)
    )
    return sorted(dict.fromkeys(files), key=lambda file: _preference(file.name.lower()))


def _preference(name: str) -> tuple[bool, int, str]:
    known = (rank for rank, start in enumerate(_PREFERRED) if name.startswith(start))
    return any(style in name for style in _UNUSUAL), next(known, len(_PREFERRED)), name


@functools.lru_cache(maxsize=1)
def latin_font() -> Path | None:
    """Return the DejaVu Sans file that matplotlib ships (without importing matplotlib), or None."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return file
    return None


def covered(file: Path, characters: Iterable[str]) -> frozenset[str]:
    """Return those of some characters that a font has.

    Args:
        file: The font; of a collection the first face counts.
        characters: Single characters.

    Returns:
        The characters; none for a file that is no font, or has no outlines and cannot be drawn at any size.
    """
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(str(file))
        found = frozenset(character for character in characters if face.get_char_index(ord(character)))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return found if found and is_font(file) else frozenset()


def is_font(file: Path) -> bool:
    """Return whether text can be drawn with a file at any size."""
    from PIL import ImageFont

    try:
        ImageFont.truetype(str(file), _TRIED_AT)
    except (OSError, ValueError):
        return False
    return True
