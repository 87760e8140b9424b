"""Creation and saving of all matplotlib figures: drawn off screen, without pyplot's global state."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.plots.fonts import cjk_font

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def saved_figure(file: Path | str, width: float, height: float, dpi: int = 150) -> "Iterator[Figure]":
    """Yield an empty figure, which is saved when the block ends without an error.

    Args:
        file: The image to write.
        width: Inches.
        height: Inches.
        dpi: Pixels per inch.

    Yields:
        A matplotlib Figure.
    """
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
    """DejaVu Sans, followed by the system's CJK font if there is one."""
    families = ["DejaVu Sans"]
    file = cjk_font()
    if file is not None:
        from matplotlib import font_manager

        font_manager.fontManager.addfont(file)
        families.append(font_manager.FontProperties(fname=str(file)).get_name())
    return families


def unit_color(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return an RGB color of 0..255 as 0..1, which matplotlib expects."""
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255
