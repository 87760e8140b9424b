"""report.html: the sections of a study's page, in English or another language."""

import re
from collections.abc import Sequence
from html import escape, unescape

from utils.compare.report import study_cells, tables
from utils.compare.report.cells import ROLE_TAGS
from utils.compare.report.report_figures import ReportFigure
from utils.compare.results import Study
from utils.language import ENGLISH, speaking, translated
from utils.pages.document import document, embedded_image, navigation, page_header, section, themed
from utils.pages.html_tables import html_table, with_dot

_FACTS = ("settings", "versions", "data")
_PIXELS_PER_POINT = 1.5  # largest size of a figure: its text is then as large as the page's

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


def html_page(study: Study, figures: Sequence[ReportFigure], language: str = ENGLISH) -> str:
    """Return the whole report as one page.

    Args:
        study: The study.
        figures: Its figures, as `draw_figures` returns them.
        language: Of the page; the records are English.

    Returns:
        The HTML.
    """
    with speaking(language):
        sections = _sections(study, figures)
        body = [
            page_header(study.title, f"{study.date} · {translated(tables.run_counts(study))}"),
            navigation(sections),
            "<main>",
            _findings(study),
            _notes(study),
            *(section(*each) for each in sections),
            "</main>",
            _footer(),
        ]
        return document(study.title, body)


# ---- the top ----


def _findings(study: Study) -> str:
    """Return the question, and per variant the verdict and its sentence."""
    answers = []
    for variant, answer, sentence in tables.findings(study):
        verdict = answer.verdict if answer else "not tested"
        tone = verdict if verdict in ("better", "worse") else "unclear"
        text = translated(sentence)
        text = text if variant.name in text else f"{variant.name}: {text}"
        text = with_dot(escape(text), study_cells.series_index(study, variant))
        answers.append(f'<li><span class="badge {tone}">{escape(translated(verdict))}</span><span>{text}</span></li>')
    content = (
        f'<ul class="answers">{"".join(answers)}</ul>'
        if answers
        else f"<p>{escape(translated('There is nothing to compare with the baseline.'))}</p>"
    )
    question = escape(translated(tables.question(study)))
    return section("answers", "Question and findings", f'<p class="asked">{question}</p>{content}')


def _notes(study: Study) -> str:
    items = "".join(f"<li>{escape(translated(note))}</li>" for note in study.notes)
    title = escape(translated("Notes"), quote=True)
    return f'<aside class="notes" aria-label="{title}"><h3>{title}</h3><ul>{items}</ul></aside>' if items else ""


# ---- sections ----


def _sections(study: Study, figures: Sequence[ReportFigure]) -> list[tuple[str, str, str]]:
    """Return (key, title, content) of each section that has content."""
    drawn = {figure.key: figure for figure in figures}
    shown = {table.key: html_table(table, ROLE_TAGS, table.key in _FACTS) for table in tables.all_tables(study)}
    tradeoffs = "".join(
        _figure(drawn[key], alone=False) for key in ("accuracy_latency", "accuracy_parameters") if key in drawn
    )
    reading = "".join(
        f"<dt>{escape(translated(term))}</dt><dd>{escape(translated(meaning))}</dd>" for term, meaning in _READING
    )
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
    return [each for each in sections if each[2]]


def _subsection(title: str, content: str) -> str:
    return f"<h3>{escape(translated(title))}</h3>{content}" if content else ""


def _conditions(study: Study, shown: dict[str, str]) -> str:
    label = escape(translated("Command"), quote=True)
    command = (
        f'<pre tabindex="0" role="region" aria-label="{label}">{escape(study.command)}</pre>' if study.command else ""
    )
    repeat = _subsection("How to repeat it", command)
    facts = "".join(
        f"<section><h3>{escape(translated(title))}</h3>{shown[key]}</section>"
        for key, title in (("data", "Data"), ("versions", "Versions"), ("settings", "Settings"))
        if key in shown
    )
    return repeat + f'<div class="columns">{facts}</div>'


def _footer() -> str:
    text = (
        "The figures of this page are in compare.csv and compare.json beside it, its tables in compare.md and "
        "compare.tex; how they are computed is described in the project's docs/compare.md."
    )
    return f'<footer class="faint">{escape(translated(text))}</footer>'


# ---- figures ----


def _figure(figure: ReportFigure, alone: bool = True) -> str:
    """Return a figure with its description for screen readers. alone: the section's heading is its heading."""
    name = translated(figure.title)
    title, style = ("", ' class="one"') if alone else (f"<h3>{escape(name)}</h3>", "")
    label = escape(f"{name}: {translated(figure.description)}", quote=True)
    region = escape(translated(f"{name}, figure"), quote=True)
    wide = _PIXELS_PER_POINT * float(figure.svg.split('viewBox="', 1)[1].split()[2])
    svg = _in_current_language(themed(figure.svg)).replace(
        "<svg ", f'<svg role="img" aria-label="{label}" style="--wide:{wide:.0f}px" ', 1
    )
    return (
        f'<figure id="figure-{figure.key}"{style}>{title}<div class="scroll" tabindex="0" '
        f'role="region" aria-label="{region}">{svg}</div>'
        f"<figcaption>{escape(translated(figure.caption))}</figcaption></figure>"
    )


def _sample_grid(study: Study) -> str:
    """Return the sample grid as an image inside the page."""
    if study.sample_grid is None or not study.sample_grid.is_file():
        return ""
    names = ", ".join(variant.name for variant in study.variants)
    image = embedded_image(study.sample_grid, f"The same images with the detections of {names}")
    caption = translated("The same images as labeled and as each model detects them.")
    return f'<figure id="figure-samples">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _in_current_language(svg: str) -> str:
    """Return an svg with its words translated; its text is text, which the reader's fonts write."""
    return re.sub(r">([^<>\n]+)</text>", lambda found: f">{escape(translated(unescape(found[1])))}</text>", svg)
