"""A matplotlib canvas that draws no box in place of a letter: what fonts cannot write is replaced as it is drawn.

The texts of the figure stay as they are, so that an svg of it, which a browser writes with its own fonts, has them all.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.plots.font_files import latin_font
from utils.plots.fonts import current_fonts

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

_LATIN_FAMILY = "DejaVu Sans"


def legible_canvas(figure: "Figure", replace: Callable[[str], str]) -> "FigureCanvasAgg":
    """Give a figure a canvas on which its texts are drawn and measured after a replacement; mathematics is not.

    Args:
        figure: The figure.
        replace: Returns what is drawn for a text.

    Returns:
        The canvas.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

    class LegibleRenderer(RendererAgg):  # in here, since importing this module must not import matplotlib
        def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
            super().draw_text(gc, x, y, s if ismath else replace(s), prop, angle, ismath, mtext)

        def get_text_width_height_descent(self, s, prop, ismath):
            return super().get_text_width_height_descent(s if ismath else replace(s), prop, ismath)

    class LegibleCanvas(FigureCanvasAgg):
        def get_renderer(self):
            renderer = super().get_renderer()
            if not isinstance(renderer, LegibleRenderer):
                self.renderer = LegibleRenderer(renderer.width, renderer.height, renderer.dpi)
            return self.renderer

    return LegibleCanvas(figure)


def font_families() -> list[str]:
    """Return the names under which matplotlib knows the fonts that texts are drawn with, in order of preference."""
    return [_family(file) for file in current_fonts().files] or [_LATIN_FAMILY]


@functools.lru_cache
def _family(file: Path) -> str:
    """Make a font known to matplotlib under a name that no other font of its family has, and return the name."""
    if file == latin_font():
        return _LATIN_FAMILY
    from matplotlib import font_manager

    name = f"{font_manager.FontProperties(fname=str(file)).get_name()} ({file.name})"
    font_manager.fontManager.ttflist.append(font_manager.FontEntry(fname=str(file), name=name))
    return name
