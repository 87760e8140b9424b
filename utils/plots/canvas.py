"""Creation and saving of all matplotlib figures: drawn off screen, without pyplot's global state."""

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import NAME_LIMIT, cut
from utils.files import replacing
from utils.plots.fonts import class_labels, current_fonts, plots_shape
from utils.plots.legible_canvas import font_families, legible_canvas

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_PNG_LEVEL = 3  # of zlib: half the time of the usual 6 and files a little larger


@contextlib.contextmanager
def saved_figure(
    file: Path | str, width: float, height: float, dpi: int = 150, names: Sequence[str] = ()
) -> "Iterator[Figure]":
    """Yield an empty figure, which is saved when the block ends without an error.

    Args:
        file: The image to write.
        width: Inches.
        height: Inches.
        dpi: Pixels per inch.
        names: Class names: a text that is one which cannot be written shows the class's number instead, while an svg
            that is made of the figure keeps the name.

    Yields:
        A matplotlib Figure.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    kind = Path(file).suffix[1:]
    labels = class_labels(names, Path(file).parent, in_plot=True)
    numbers = {name: label for name, label in zip(names, labels, strict=True) if name != label}
    with matplotlib.rc_context({"axes.unicode_minus": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = legible_canvas(figure, functools.partial(_drawn_text, numbers))
        matplotlib.rcParams["font.family"] = font_families()
        yield figure
        texts = figure.findobj(Text)
        _read_no_mathematics(figure, texts)
        _use_found_fonts(texts)
        with replacing(file) as temporary:  # whole or not at all: that a figure is there says that it is done
            write_figure(canvas, temporary, kind, dpi)


def write_figure(canvas: "FigureCanvasAgg", file: Path, kind: str, dpi: int) -> None:
    """Write a figure as `savefig` does, but draw pixels once: that one draws them a first time only to lay them out.

    Args:
        canvas: The figure's.
        file: The image to write.
        kind: Its format: "png", "jpg", or another that matplotlib knows.
        dpi: Pixels per inch.
    """
    figure, before = canvas.figure, canvas.figure.dpi
    if kind not in ("png", "jpg"):
        figure.savefig(file, dpi=dpi, format=kind)
        return
    figure.dpi = dpi
    try:
        if kind == "jpg":
            canvas.print_jpg(file)
        else:
            canvas.print_png(file, pil_kwargs={"compress_level": _PNG_LEVEL})
    finally:
        figure.dpi = before


def _read_no_mathematics(figure: "Figure", texts: "Sequence[Text]") -> None:
    """Let dollar signs in names be dollar signs; powers of ten on logarithmic axes are mathematics."""
    from matplotlib.text import Text

    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis) if axis.get_scale() == "log"]
    powers = {id(text) for axis in axes for text in axis.findobj(Text)}
    for text in texts:
        if id(text) not in powers:
            text.set_parse_math(False)


def _use_found_fonts(texts: "Sequence[Text]") -> None:
    """Let texts whose letters were not known when the figure was made, such as titles, use the fonts that have them."""
    before = font_families()
    for text in texts:
        current_fonts().can_write(text.get_text(), shaped=True)
    if font_families() != before:
        for text in texts:
            text.set_fontfamily(font_families())


def _drawn_text(numbers: Mapping[str, str], text: str) -> str:
    """What is drawn for a text: numbers for names that cannot be written, question marks for other letters."""
    return numbers.get(text) or current_fonts().legible(text, plots_shape())


def axis_label(name: str) -> str:
    """Return a class name as matplotlib shows it: one line, no longer than a name is, dollar signs no mathematics."""
    return cut(name, NAME_LIMIT).replace("$", r"\$")


def unit_color(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return an RGB color of 0..255 as 0..1, which matplotlib expects."""
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255
