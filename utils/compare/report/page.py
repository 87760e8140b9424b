"""report.html: one file that holds everything, makes no network request, and can be read without scripts.

report.css and report.js beside this module are embedded in it; sorting and themes are theirs.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from utils.compare.report import study_cells, tables
from utils.compare.report.cells import ROLE_TAGS, Cell, Column, Table
from utils.compare.report.report_figures import ReportFigure
from utils.compare.results import BASELINE, Study
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
_PIXELS_PER_POINT = 1.5  # largest size of a figure: its text is then as large as the page's
_GRID_BYTES, _GRID_WIDTH = 1_500_000, 2400  # a larger sample grid is embedded as a smaller copy; the file stays

_READING = (
    ("points", "Percentage points of average precision, 0 to 100. A difference is the variant minus the baseline."),
    ("±", "The standard deviation of the seeds' figures (n − 1 in its denominator)."),
    (
        "95 % interval",
        "Over images and seeds, paired: both models are evaluated on the same images and seeds. With one seed, over "
        "images alone. docs/compare.md has the formula.",
    ),
    ("p", "Paired permutation test. Holm: corrected for the number of comparisons."),
    (
        "verdict",
        "“No difference shown” does not say that there is none. No variant is called better or worse if its interval "
        "contains zero.",
    ),
    ("–", "The figure is missing; the small letter links to the reason."),
)


def html_page(study: Study, figures: Sequence[ReportFigure]) -> str:
    """Return the whole report as one page.

    Args:
        study: The study.
        figures: Its figures, as `draw_figures` returns them.

    Returns:
        The HTML.
    """
    sections = _sections(study, figures)
    body = [
        _header(study),
        _navigation(sections),
        "<main>",
        _findings(study),
        _notes(study),
        *(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'
            for key, title, content in sections
        ),
        "</main>",
        _footer(study),
        '<p id="announcement" class="unseen" role="status" aria-live="polite"></p>',
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(study.title)}</title>",
        f"<style>\n{_styles()}</style>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            *head,
            "</head>",
            '<body><div class="page">',
            *body,
            "</div>",
            f"<script>\n{_asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# ---- colors ----


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


def _series_variable(index: int) -> str:
    return f"var(--s{index if index == 0 else 1 + (index - 1) % (len(SERIES) - 1)})"


def themed(svg: str) -> str:
    """Return an svg in the colors of the page, so that it follows the theme."""
    tokens = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "raised"}
    tokens |= {color: f"s{index}" for index, color in enumerate(SERIES)}
    for color, name in tokens.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg


# ---- the top ----


def _header(study: Study) -> str:
    facts = escape(f"{study.date} · {tables.run_counts(study)}")
    return (
        f'<header><div><h1>{escape(study.title)}</h1><p class="faint">{facts}</p></div>'
        '<button id="theme" type="button" hidden>Dark theme</button></header>'
    )


def _navigation(sections: Sequence[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    return f'<nav aria-label="Contents">{links}</nav>'


def _findings(study: Study) -> str:
    """Return the question, and per variant the verdict and its sentence."""
    answers = []
    for variant, answer, sentence in tables.findings(study):
        verdict = answer.verdict if answer else "not tested"
        tone = verdict if verdict in ("better", "worse") else "unclear"
        text = sentence if variant.name in sentence else f"{variant.name}: {sentence}"
        text = _with_dot(escape(text), study_cells.series_index(study, variant))
        answers.append(f'<li><span class="badge {tone}">{escape(verdict)}</span><span>{text}</span></li>')
    content = (
        f'<ul class="answers">{"".join(answers)}</ul>'
        if answers
        else "<p>There is nothing to compare with the baseline.</p>"
    )
    return (
        '<section id="answers" aria-labelledby="answers-title"><h2 id="answers-title">Question and findings</h2>'
        f'<p class="asked">{escape(tables.question(study))}</p>{content}</section>'
    )


def _notes(study: Study) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in study.notes)
    return f'<aside class="notes" aria-label="Notes"><h3>Notes</h3><ul>{items}</ul></aside>' if items else ""


# ---- sections ----


def _sections(study: Study, figures: Sequence[ReportFigure]) -> list[tuple[str, str, str]]:
    """Return (key, title, content) of each section that has content."""
    drawn = {figure.key: figure for figure in figures}
    shown = {table.key: _table(table) for table in tables.all_tables(study)}
    tradeoffs = "".join(
        _figure(drawn[key], alone=False) for key in ("accuracy_latency", "accuracy_parameters") if key in drawn
    )
    reading = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in _READING)
    gaps, curves = (_figure(drawn[key]) if key in drawn else "" for key in ("class_differences", "learning_curves"))
    sections = [
        ("overview", "At a glance", shown.get("overview", "")),
        ("tradeoff", "Accuracy against cost", f'<div class="figure-row">{tradeoffs}</div>' if tradeoffs else ""),
        (
            "accuracy",
            "Accuracy",
            shown.get("accuracy", "") + _subsection("Differences to the baseline", shown.get("differences", "")),
        ),
        ("classes", "Per class", gaps + _subsection("The figures", shown.get("classes", ""))),
        ("errors", "Kinds of error", shown.get("errors", "")),
        ("costs", "Cost", shown.get("costs", "")),
        ("deployment", "Deployment", shown.get("deployment", "")),
        ("curves", "Learning curves", curves),
        ("samples", "Qualitative results", _sample_grid(study)),
        ("runs", "Every run", shown.get("runs", "")),
        ("conditions", "Conditions", _conditions(study, shown)),
        ("reading", "How to read it", f"<dl>{reading}</dl>"),
    ]
    return [section for section in sections if section[2]]


def _subsection(title: str, content: str) -> str:
    return f"<h3>{escape(title)}</h3>{content}" if content else ""


def _conditions(study: Study, shown: dict[str, str]) -> str:
    command = (
        f'<pre tabindex="0" role="region" aria-label="Command">{escape(study.command)}</pre>' if study.command else ""
    )
    repeat = _subsection("How to repeat it", command)
    facts = "".join(
        f"<section><h3>{title}</h3>{shown[key]}</section>"
        for key, title in (("data", "Data"), ("versions", "Versions"), ("settings", "Settings"))
        if key in shown
    )
    return repeat + f'<div class="columns">{facts}</div>'


def _footer(study: Study) -> str:
    return (
        '<footer class="faint">The figures of this page are in compare.csv and compare.json beside it, its tables in '
        "compare.md and compare.tex; how they are computed is described in the project's docs/compare.md.</footer>"
    )


# ---- tables ----


def _table(table: Table) -> str:
    """Return a table in a box that scrolls sideways; its headings are buttons that sort, except for lists of facts."""
    plain = table.key in ("settings", "versions", "data")
    headings = "".join(_heading(column, plain) for column in table.columns)
    rows = "".join(_row(row, table) for row in table.rows)
    legend = "".join(
        f'<li id="{table.key}-{mark}">{mark}: {escape(reason)}</li>' for reason, mark in table.reasons.items()
    )
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    notes = f'<ul class="legend">{legend}</ul>' if legend else ""
    label = escape(table.title, quote=True)
    return (
        f'{caption}<div class="scroll" tabindex="0" role="region" aria-label="{label}, table">'
        f'<table id="table-{table.key}" class="{"facts" if plain else "sortable"}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )


def _heading(column: Column, plain: bool) -> str:
    name = escape(column.title, quote=True)
    if plain:
        return f'<th scope="col"><span class="unseen">{name}</span></th>'
    unit = f'<span class="unit">{escape(column.unit)}</span>' if column.unit else ""
    return (
        f'<th scope="col" aria-sort="none" data-name="{name}"{_class(column)}><button type="button">'
        f'<span class="title">{name}</span>{unit}</button></th>'
    )


def _class(column: Column) -> str:
    return ' class="figures"' if column.figures else ' class="words"'


def _row(row: Sequence[Cell], table: Table) -> str:
    first, *rest = row
    baseline = ' class="baseline"' if first.tone == BASELINE else ""
    content = "".join(
        f"<td{_class(column)}{_sorted_by(cell)}>{_content(cell, table)}</td>"
        for cell, column in zip(rest, table.columns[1:], strict=True)
    )
    return f'<tr{baseline}><th scope="row"{_sorted_by(first)}>{_name(first)}</th>{content}</tr>'


def _sorted_by(cell: Cell) -> str:
    if cell.value is None:
        return ""
    if isinstance(cell.value, str):
        return f' data-value="{escape(cell.value, quote=True)}"'
    return f' data-kind="number" data-value="{float(cell.value)!r}"'


def _name(cell: Cell) -> str:
    tag = f' <span class="tag">{ROLE_TAGS[cell.tone]}</span>' if cell.tone in ROLE_TAGS else ""
    return f"{_with_dot(escape(cell.text), cell.series)}{tag}"


def _with_dot(text: str, series: int | None) -> str:
    """Return text after a dot in its variant's color."""
    return (
        text
        if series is None
        else f'<span class="named" style="--dot:{_series_variable(series)}"><span>{text}</span></span>'
    )


def _typeset(figure: str) -> str:
    """Return a figure with real minus signs, and with spaces at which it is not broken."""
    return figure.replace("-", "−").replace(" ± ", "\u00a0±\u00a0").replace("< ", "<\u00a0")


def _content(cell: Cell, table: Table) -> str:
    text = escape(cell.text if isinstance(cell.value, str) else _typeset(cell.text))
    if cell.tone in ("better", "worse", "unclear"):
        text = f'<span class="badge {cell.tone}">{text}</span>'
    elif cell.tone == "failed":
        text = f'<span class="failed">{text}</span>'
    elif cell.tone == BASELINE:
        text = f'<span class="dim">{text}</span>'
    if not cell.reason:
        return text
    mark, reason = table.reasons[cell.reason], escape(cell.reason, quote=True)
    return f'{text}<sup><a href="#{table.key}-{mark}" title="{reason}" aria-label="{reason}">{mark}</a></sup>'


# ---- figures ----


def _figure(figure: ReportFigure, alone: bool = True) -> str:
    """Return a figure with its description for screen readers. alone: the section's heading is its heading."""
    title, style = ("", ' class="one"') if alone else (f"<h3>{escape(figure.title)}</h3>", "")
    label = escape(f"{figure.title}: {figure.description}", quote=True)
    wide = _PIXELS_PER_POINT * float(figure.svg.split('viewBox="', 1)[1].split()[2])
    svg = themed(figure.svg).replace("<svg ", f'<svg role="img" aria-label="{label}" style="--wide:{wide:.0f}px" ', 1)
    return (
        f'<figure id="figure-{figure.key}"{style}>{title}<div class="scroll" tabindex="0" '
        f'role="region" aria-label="{escape(figure.title, quote=True)}, figure">{svg}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _sample_grid(study: Study) -> str:
    """Return the sample grid as an image inside the page."""
    if study.sample_grid is None or not study.sample_grid.is_file():
        return ""
    kind, content = _embedded(study.sample_grid)
    names = escape(", ".join(variant.name for variant in study.variants), quote=True)
    return (
        '<figure id="figure-samples"><div class="scroll" tabindex="0" role="region" aria-label="Detections, figure">'
        f'<img alt="The same images with the detections of {names}" src="data:image/{kind};base64,{content}"></div>'
        "<figcaption>The same images as labeled and as each model detects them.</figcaption></figure>"
    )


def _embedded(file: Path) -> tuple[str, str]:
    """Return (kind, base64) of an image: the file itself if it is small enough, else a smaller JPEG of it."""
    from PIL import Image

    content, kind = file.read_bytes(), file.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    if len(content) > _GRID_BYTES or kind not in ("png", "jpeg", "webp"):
        stream, kind = io.BytesIO(), "jpeg"
        with Image.open(io.BytesIO(content)) as image:
            copy = image.convert("RGB")
            copy.thumbnail((_GRID_WIDTH, 4 * _GRID_WIDTH))
            copy.save(stream, "JPEG", quality=85, optimize=True)
        content = stream.getvalue()
    return kind, base64.b64encode(content).decode("ascii")
