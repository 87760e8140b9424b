"""A page: one HTML file that holds everything, makes no network request, and can be read without scripts.

report.css and report.js beside this module are embedded in it; sorting and themes are theirs.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from utils.language import HTML_NAMES, current_language, translated
from utils.plots.study_figures import FAINT, GRID, INK, PAPER, SERIES

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LIGHT = {
    "ground": "#fafaf8",
    "raised": "#ffffff",
    "ink": INK,
    "faint": FAINT,
    "grid": GRID,
    "edge": "#ccd2d9",
    "hover": "#f3f5f7",
    "base": "#eef1f4",
    "link": "#1a5fb4",
    "better": "#0d7044",
    "worse": "#ad1f35",
    "warn": "#fff7e2",
    "warn-edge": "#e3c878",
}
_DARK = {
    "ground": "#131619",
    "raised": "#1a1e22",
    "ink": "#e7eaed",
    "faint": "#a3adb7",
    "grid": "#2b3137",
    "edge": "#414a54",
    "hover": "#21262b",
    "base": "#232930",
    "link": "#86b8ff",
    "better": "#5fd39a",
    "worse": "#ff8f98",
    "warn": "#2b2615",
    "warn-edge": "#6b5a22",
}
_DARK_SERIES = ("#b4bdc7", "#6fabff", "#f39a55", "#4fc792", "#c994ee", "#dcbb4a", "#f47fa4", "#48c3d5", "#c0ad97")
_EMBEDDED_BYTES, _EMBEDDED_WIDTH = 1_500_000, 2400  # a larger image is embedded as a smaller copy; the file stays


def document(title: str, body: Sequence[str]) -> str:
    """Return a page in the current language.

    Args:
        title: Its title, as text.
        body: The parts of its body, as HTML.

    Returns:
        The HTML.
    """
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_styles()}</style>",
    ]
    ascending, descending = (
        escape(translated(f"Sorted by {{column}}, {order}"), quote=True) for order in ("ascending", "descending")
    )
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="{HTML_NAMES[current_language()]}">',
            "<head>",
            *head,
            "</head>",
            '<body><div class="page">',
            *body,
            '<p id="announcement" class="unseen" role="status" aria-live="polite" '
            f'data-ascending="{ascending}" data-descending="{descending}"></p>',
            "</div>",
            f"<script>\n{_asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def page_header(title: str, facts: str) -> str:
    """Return the heading of a page with the button that changes its theme.

    Args:
        title: The heading, as text.
        facts: A line below it, as text.

    Returns:
        HTML.
    """
    light, dark = (escape(translated(name), quote=True) for name in ("Light theme", "Dark theme"))
    return (
        f'<header><div><h1>{escape(title)}</h1><p class="faint">{escape(facts)}</p></div>'
        f'<button id="theme" type="button" data-light="{light}" data-dark="{dark}" hidden>{dark}</button></header>'
    )


def navigation(sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the links to the sections of a page, each a (key, title, content) as `section` takes it."""
    links = "".join(f'<a href="#{key}">{escape(translated(title))}</a>' for key, title, _ in sections)
    return f'<nav aria-label="{escape(translated("Contents"), quote=True)}">{links}</nav>'


def section(key: str, title: str, content: str) -> str:
    """Return a section of a page.

    Args:
        key: Its name in links.
        title: Its heading in English.
        content: HTML.

    Returns:
        HTML, with the heading in the current language.
    """
    heading = f'<h2 id="{key}-title">{escape(translated(title))}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{content}</section>'


def embedded_image(
    file: Path, description: str, most_bytes: int = _EMBEDDED_BYTES, widest: int = _EMBEDDED_WIDTH
) -> str:
    """Return an image inside the page, in a box that scrolls sideways.

    Args:
        file: The image.
        description: What it shows, in English.
        most_bytes: A larger file is embedded as a smaller JPEG of it.
        widest: Width of that JPEG in pixels.

    Returns:
        HTML.
    """
    kind, content = _embedded(file, most_bytes, widest)
    text = escape(translated(description), quote=True)
    label = escape(translated(f"{translated(description)}, figure"), quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<img alt="{text}" src="data:image/{kind};base64,{content}"></div>'
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _styles() -> str:
    """Return the colors and report.css; dark if the system or the reader chose so; printed pages are light."""
    light, dark = _variables(_LIGHT, SERIES), _variables(_DARK, _DARK_SERIES)
    rules = [
        f":root {{ {light} }}",
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}',
        f':root[data-theme="dark"] {{ {dark} }}',
        f"@media print {{ :root:root:root:root {{ {light} }} }}",
    ]
    return "\n".join(rules) + "\n" + _asset("report.css")


def _variables(tokens: dict[str, str], series: Sequence[str]) -> str:
    colors = tokens | {f"s{index}": color for index, color in enumerate(series)}
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def series_variable(index: int) -> str:
    """Return the color of a series as a value of CSS; 0 is the baseline's."""
    return f"var(--s{index if index == 0 else 1 + (index - 1) % (len(SERIES) - 1)})"


def themed(svg: str) -> str:
    """Return an svg in the colors of the page, so that it follows the theme."""
    tokens = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "raised"}
    tokens |= {color: f"s{index}" for index, color in enumerate(SERIES)}
    for color, name in tokens.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg


def _embedded(file: Path, most_bytes: int, widest: int) -> tuple[str, str]:
    """Return (kind, base64) of an image: the file itself if it is small enough, else a smaller JPEG of it."""
    from PIL import Image

    content, kind = file.read_bytes(), file.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    if len(content) > most_bytes or kind not in ("png", "jpeg", "webp"):
        stream, kind = io.BytesIO(), "jpeg"
        with Image.open(io.BytesIO(content)) as image:
            copy = image.convert("RGB")
            copy.thumbnail((widest, 4 * widest))
            copy.save(stream, "JPEG", quality=85, optimize=True)
        content = stream.getvalue()
    return kind, base64.b64encode(content).decode("ascii")
