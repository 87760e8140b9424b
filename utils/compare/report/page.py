"""report.html: one file that holds everything, asks nothing of a network, and is read without scripts too.

report.css and report.js beside this module are put into it; what is sorted and themed stands there.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from utils.compare.report import tables
from utils.compare.report.cells import Cell, Column, Table
from utils.compare.report.report_figures import Picture
from utils.compare.results import Study
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
_PIXELS_A_POINT = 1.5  # how large a figure may become: its text then stands beside the page's
_STRIP_BYTES, _STRIP_WIDTH = 1_500_000, 2400  # beyond these the page holds a smaller copy; the file stays as it is

_READING = (
    ("points", "Percentage points of average precision, 0 to 100. A difference is the variant minus the baseline."),
    ("±", "The standard deviation of the seeds' figures (n − 1 in its denominator)."),
    (
        "95 % interval",
        "Over images and seeds, paired: both models are judged on the same images and seeds. With one seed, over "
        "images alone. docs/compare.md has the formula.",
    ),
    ("p", "Paired permutation test. Holm: corrected for the number of comparisons."),
    (
        "verdict",
        "“No difference shown” is what it says: it does not say that there is none. No variant is called better or worse "
        "whose interval holds zero.",
    ),
    ("–", "There is no such figure; the small letter leads to the reason."),
)


def html_page(study: Study, pictures: Sequence[Picture]) -> str:
    """Return the whole report as one page."""
    sections = _sections(study, pictures)
    body = [
        _header(study),
        _navigation(sections),
        "<main>",
        _answers(study),
        _notes(study),
        *(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'
            for key, title, content in sections
        ),
        "</main>",
        _footer(study),
        '<p id="said" class="unseen" role="status" aria-live="polite"></p>',
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
            f"<script>\n{_beside('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# ---- colours ----


def _styles() -> str:
    """The colours, then report.css; dark by the system's wish or the reader's, and paper is always light."""
    light, dark = _variables(_LIGHT, SERIES), _variables(_DARK, _DARK_SERIES)
    rules = [
        f":root {{ {light} }}",
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}',
        f':root[data-theme="dark"] {{ {dark} }}',
        f"@media print {{ :root:root:root:root {{ {light} }} }}",
    ]
    return "\n".join(rules) + "\n" + _beside("report.css")


def _variables(tokens: dict[str, str], series: Sequence[str]) -> str:
    colours = tokens | {f"s{number}": colour for number, colour in enumerate(series)}
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _series_variable(number: int) -> str:
    return f"var(--s{number if number == 0 else 1 + (number - 1) % (len(SERIES) - 1)})"


def themed(svg: str) -> str:
    """Return a figure whose colours are the page's, so that it follows the theme."""
    tokens = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "raised"}
    tokens |= {colour: f"s{number}" for number, colour in enumerate(SERIES)}
    for colour, name in tokens.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


# ---- the top ----


def _header(study: Study) -> str:
    facts = escape(f"{study.date} · {tables.tally(study)}")
    return (
        f'<header><div><h1>{escape(study.title)}</h1><p class="faint">{facts}</p></div>'
        '<button id="theme" type="button" hidden>Dark theme</button></header>'
    )


def _navigation(sections: Sequence[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    return f'<nav aria-label="Contents">{links}</nav>'


def _answers(study: Study) -> str:
    """The question, and a card a variant: the verdict and its sentence."""
    answers = []
    for variant, answer, sentence in tables.found(study):
        verdict = answer.verdict if answer else "not tested"
        tone = verdict if verdict in ("better", "worse") else "unclear"
        said = sentence if variant.name in sentence else f"{variant.name}: {sentence}"
        said = _named(escape(said), tables.series_of(study, variant))
        answers.append(f'<li><span class="badge {tone}">{escape(verdict)}</span><span>{said}</span></li>')
    found = (
        f'<ul class="answers">{"".join(answers)}</ul>'
        if answers
        else "<p>There is nothing to compare with the baseline.</p>"
    )
    return (
        '<section id="answers" aria-labelledby="answers-title"><h2 id="answers-title">What was asked, and what was found</h2>'
        f'<p class="asked">{escape(tables.asked(study))}</p>{found}</section>'
    )


def _notes(study: Study) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in study.notes)
    return (
        f'<aside class="notes" aria-label="Notes"><h3>Read this with it</h3><ul>{items}</ul></aside>' if items else ""
    )


# ---- sections ----


def _sections(study: Study, pictures: Sequence[Picture]) -> list[tuple[str, str, str]]:
    """(key, title, content) of each section that has content."""
    made = {table.key: table for table in tables.all_tables(study)}
    drawn = {picture.key: picture for picture in pictures}
    show = {key: _table(table) for key, table in made.items()}
    tradeoffs = "".join(
        _figure(drawn[key], alone=False) for key in ("accuracy_latency", "accuracy_parameters") if key in drawn
    )
    reading = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in _READING)
    gaps, curves = (_figure(drawn[key]) if key in drawn else "" for key in ("class_differences", "learning_curves"))
    sections = [
        ("overview", "At a glance", show.get("overview", "")),
        ("tradeoff", "Accuracy against cost", f'<div class="figure-row">{tradeoffs}</div>' if tradeoffs else ""),
        (
            "accuracy",
            "Accuracy",
            show.get("accuracy", "") + _subsection("Differences to the baseline", show.get("differences", "")),
        ),
        ("classes", "By class", gaps + _subsection("The figures", show.get("classes", ""))),
        ("errors", "Kinds of error", show.get("errors", "")),
        ("costs", "Cost", show.get("costs", "")),
        ("curves", "Learning curves", curves),
        ("strip", "The same pictures", _strip(study)),
        ("runs", "Every run", show.get("runs", "")),
        ("conditions", "Conditions", _conditions(study, show)),
        ("reading", "How to read it", f"<dl>{reading}</dl>"),
    ]
    return [section for section in sections if section[2]]


def _subsection(title: str, content: str) -> str:
    return f"<h3>{escape(title)}</h3>{content}" if content else ""


def _conditions(study: Study, show: dict[str, str]) -> str:
    command = (
        f'<pre tabindex="0" role="region" aria-label="Command">{escape(study.command)}</pre>' if study.command else ""
    )
    again = _subsection("How to repeat it", command)
    listed = "".join(
        f"<section><h3>{title}</h3>{show[key]}</section>"
        for key, title in (("data", "Data"), ("versions", "Versions"), ("settings", "Settings"))
        if key in show
    )
    return again + f'<div class="columns">{listed}</div>'


def _footer(study: Study) -> str:
    return (
        '<footer class="faint">The figures of this page are in compare.csv and compare.json beside it, its tables in '
        "compare.md and compare.tex; how they are computed is in the project's docs/compare.md.</footer>"
    )


# ---- tables ----


def _table(table: Table) -> str:
    """A table in a box of its own that scrolls sideways, its headings buttons that sort; facts are left as they are."""
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
    baseline = ' class="baseline"' if first.tone == "baseline" else ""
    filled = "".join(
        f"<td{_class(column)}{_sorted_by(cell)}>{_content(cell, table)}</td>"
        for cell, column in zip(rest, table.columns[1:])
    )
    return f'<tr{baseline}><th scope="row"{_sorted_by(first)}>{_name(first)}</th>{filled}</tr>'


def _sorted_by(cell: Cell) -> str:
    if cell.value is None:
        return ""
    if isinstance(cell.value, str):
        return f' data-value="{escape(cell.value, quote=True)}"'
    return f' data-kind="number" data-value="{float(cell.value)!r}"'


def _name(cell: Cell) -> str:
    tag = f' <span class="tag">{cell.tone}</span>' if cell.tone in ("baseline", "control") else ""
    return f"{_named(escape(cell.text), cell.series)}{tag}"


def _named(text: str, series: int | None) -> str:
    """Text behind the dot of its variant's colour."""
    return (
        text
        if series is None
        else f'<span class="named" style="--dot:{_series_variable(series)}"><span>{text}</span></span>'
    )


def _typeset(figure: str) -> str:
    """A figure with real minus signs, and with spaces that keep on one line what belongs together."""
    return figure.replace("-", "−").replace(" ± ", "\u00a0±\u00a0").replace("< ", "<\u00a0")


def _content(cell: Cell, table: Table) -> str:
    text = escape(cell.text if isinstance(cell.value, str) else _typeset(cell.text))
    if cell.tone in ("better", "worse", "unclear"):
        text = f'<span class="badge {cell.tone}">{text}</span>'
    elif cell.tone == "failed":
        text = f'<span class="failed">{text}</span>'
    elif cell.tone == "baseline":
        text = f'<span class="dim">{text}</span>'
    if not cell.reason:
        return text
    mark, reason = table.reasons[cell.reason], escape(cell.reason, quote=True)
    return f'{text}<sup><a href="#{table.key}-{mark}" title="{reason}" aria-label="{reason}">{mark}</a></sup>'


# ---- figures ----


def _figure(picture: Picture, alone: bool = True) -> str:
    """A figure as drawn; its words for those who do not see it are its label. alone: its section's heading is its own."""
    title, style = ("", ' class="one"') if alone else (f"<h3>{escape(picture.title)}</h3>", "")
    label = escape(f"{picture.title}: {picture.drawn}", quote=True)
    wide = _PIXELS_A_POINT * float(picture.svg.split('viewBox="', 1)[1].split()[2])
    svg = themed(picture.svg).replace("<svg ", f'<svg role="img" aria-label="{label}" style="--wide:{wide:.0f}px" ', 1)
    return (
        f'<figure id="figure-{picture.key}"{style}>{title}<div class="scroll" tabindex="0" '
        f'role="region" aria-label="{escape(picture.title, quote=True)}, figure">{svg}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _strip(study: Study) -> str:
    """The drawn strip of pictures as an image inside the page."""
    if study.strip is None or not study.strip.is_file():
        return ""
    kind, content = _embedded(study.strip)
    names = escape(", ".join(variant.name for variant in study.variants), quote=True)
    return (
        '<figure id="figure-strip"><div class="scroll" tabindex="0" role="region" aria-label="Detections, figure">'
        f'<img alt="The same pictures with the boxes found by {names}" src="data:image/{kind};base64,{content}"></div>'
        "<figcaption>The same pictures as each model detects them.</figcaption></figure>"
    )


def _embedded(file: Path) -> tuple[str, str]:
    """Return (kind, base64) of a picture: the file as it is where that is small enough, else a smaller JPEG of it."""
    from PIL import Image

    content, kind = file.read_bytes(), file.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    if len(content) > _STRIP_BYTES or kind not in ("png", "jpeg", "webp"):
        stream, kind = io.BytesIO(), "jpeg"
        with Image.open(io.BytesIO(content)) as picture:
            copy = picture.convert("RGB")
            copy.thumbnail((_STRIP_WIDTH, 4 * _STRIP_WIDTH))
            copy.save(stream, "JPEG", quality=85, optimize=True)
        content = stream.getvalue()
    return kind, base64.b64encode(content).decode("ascii")
