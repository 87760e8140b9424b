"""Where every matplotlib figure of ours begins and ends: drawn off screen, without pyplot's global state."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.plots.fonts import cjk_font


@contextlib.contextmanager
def canvas(file: Path | str, width: float, height: float, dpi: int = 150) -> Iterator[Any]:
    """Yield an empty matplotlib Figure of width × height inches; when the block ends without an error it goes to `file`."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": _families(), "axes.unicode_minus": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(file, dpi=dpi)


def _families() -> list[str]:
    """DejaVu Sans, and behind it the system's CJK font where there is one."""
    families = ["DejaVu Sans"]
    if cjk_font() is not None:
        from matplotlib import font_manager

        font_manager.fontManager.addfont(cjk_font())
        families.append(font_manager.FontProperties(fname=str(cjk_font())).get_name())
    return families


def unit_color(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return an 0..255 colour in the 0..1 that matplotlib expects."""
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255
