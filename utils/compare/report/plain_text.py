"""A study as plain text: the console's table, compare.md and compare.tex."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from utils.compare.report import cost_tables, tables
from utils.compare.report.cells import ROLE_TAGS, Cell, Table
from utils.compare.results import BASELINE, Study

_BACKSLASH = "\\textbackslash{}"
_TEX = {
    "\\": _BACKSLASH,
    "&": "\\&",
    "%": "\\%",
    "$": "\\$",
    "#": "\\#",
    "_": "\\_",
    "{": "\\{",
    "}": "\\}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    '"': "\\textquotedbl{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "–": "--",
    "−": "$-$",
    "²": "$^2$",
    "·": "$\\cdot$",
    "×": "$\\times$",
}
_IN_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def console_table(study: Study) -> str:
    """Return the overview, the exported files if any, the verdicts and the notes as text for a terminal."""
    overview = tables.overview(study)
    lines = [study.title, tables.run_counts(study), "", *aligned(overview), *_legend(overview), ""]
    deployment = cost_tables.deployment(study)
    if deployment:
        lines += [*aligned(deployment), *_legend(deployment), ""]
    lines += [sentence for _, _, sentence in tables.findings(study)]
    lines += [f"note: {note}" for note in study.notes]
    return "\n".join(lines)


def aligned(table: Table) -> list[str]:
    """Return a table's lines with its columns aligned, figures to the right."""
    grid = [[column.heading for column in table.columns]]
    grid += [
        [_marked(cell, table) if index else _with_role(cell) for index, cell in enumerate(row)] for row in table.rows
    ]
    widths = [max(map(_width, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join(
            _padded(text, width, column.figures) for text, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in grid
    ]
    return [lines[0], "-" * max(map(_width, lines)), *lines[1:]]


def _width(text: str) -> int:
    """Return how many columns `text` takes on a terminal; ideographs take two."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _with_role(cell: Cell) -> str:
    return f"{cell.text} ({ROLE_TAGS[cell.tone]})" if cell.tone in ROLE_TAGS else cell.text


def _marked(cell: Cell, table: Table) -> str:
    return f"{cell.text} ({table.reasons[cell.reason]})" if cell.reason else cell.text


def _legend(table: Table) -> list[str]:
    return [f"({mark}) {reason}" for reason, mark in table.reasons.items()]


# ---- Markdown ----


def markdown(study: Study, figures: Mapping[str, tuple[str, str]]) -> str:
    """Return the report as GitHub's Markdown.

    Args:
        study: The study.
        figures: (title, caption) by file name, in the order in which they are shown.

    Returns:
        The content of compare.md.
    """
    parts = [
        f"# {markdown_text(study.title)}",
        markdown_text(f"{study.date}. {tables.run_counts(study)}."),
        f"**Question.** {markdown_text(tables.question(study))}",
        "**Findings.**",
        "\n".join(f"- {markdown_text(sentence)}" for _, _, sentence in tables.findings(study))
        or "- nothing to compare",
    ]
    if study.notes:
        parts += ["**Notes.**", "\n".join(f"- {markdown_text(note)}" for note in study.notes)]
    every = tables.all_tables(study)
    parts += _markdown_table(every[0])
    parts += [
        f"![{markdown_text(title)}]({name})\n\n{markdown_text(f'{title}. {caption}')}"
        for name, (title, caption) in figures.items()
    ]
    parts += [part for table in every[1:] for part in _markdown_table(table)]
    parts += [
        "## How to repeat it",
        _fenced(study.command),
        "All accuracies are percentage points (0 to 100). The methods are those of docs/compare.md.",
    ]
    return "\n\n".join(parts) + "\n"


def _fenced(command: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}"


def _markdown_table(table: Table) -> list[str]:
    lines = [
        _markdown_row([markdown_text(column.heading) for column in table.columns]),
        _markdown_row(["---:" if column.figures else "---" for column in table.columns]),
    ]
    for first, *rest in table.rows:
        name = markdown_text(_with_role(first))
        name = f"**{name}**" if first.tone == BASELINE else name
        lines.append(_markdown_row([name, *(_markdown_cell(cell, table) for cell in rest)]))
    parts = [
        f"## {markdown_text(table.title)}",
        "\n".join(lines),
        markdown_text(table.caption),
        "<br>".join(markdown_text(line) for line in _legend(table)),
    ]
    return [part for part in parts if part]


def _markdown_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_cell(cell: Cell, table: Table) -> str:
    text = markdown_text(_marked(cell, table))
    return f"**{text}**" if cell.tone in ("better", "worse", "failed") else text


def markdown_text(text: str) -> str:
    """Return text escaped for Markdown, on one line."""
    return _IN_MARKDOWN.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


# ---- LaTeX ----


def latex(study: Study) -> str:
    r"""Return the overview, the cost and the exported files, if any, as booktabs tables, for \input in a paper."""
    chinese = any(ord(sign) > 0x2E7F for variant in study.variants for sign in variant.name)
    head = [
        "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"
        + ("; the names need XeLaTeX or LuaLaTeX with a font for them" if chinese else "")
        + ".",
        f"% {' '.join(study.title.split())}, {study.date}. Accuracies in percentage points.",
    ]
    deployment = cost_tables.deployment(study)
    parts = [*head, *_latex_table(tables.overview(study)), "", *_latex_table(cost_tables.costs(study))]
    return "\n".join([*parts, "", *_latex_table(deployment)] if deployment else parts) + "\n"


def _latex_table(table: Table) -> list[str]:
    layout = "".join("r" if column.figures else "l" for column in table.columns)
    rows = [
        " & ".join([latex_text(_with_role(first)), *(_latex_cell(cell, table) for cell in rest)]) + " \\\\"
        for first, *rest in table.rows
    ]
    legend = "; ".join(_legend(table))
    caption = latex_text(" ".join(filter(None, [table.caption, f"{legend}." if legend else ""])))
    heading = " & ".join(latex_text(column.heading) for column in table.columns)
    head = [
        "\\begin{table}",
        "\\centering",
        "\\footnotesize",
        "\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{caption}}}",
        f"\\label{{tab:compare-{table.key}}}",
        f"\\begin{{tabular}}{{{layout}}}",
        "\\toprule",
        f"{heading} \\\\",
        "\\midrule",
    ]
    return [*head, *rows, "\\bottomrule", "\\end{tabular}", "\\end{table}"]


def _latex_cell(cell: Cell, table: Table) -> str:
    text = re.sub(r"(?<![\w.])-(?=\d)", "\0", _marked(cell, table))
    text = latex_text(text).replace("\0", "$-$")
    return f"\\textbf{{{text}}}" if cell.tone in ("better", "worse") else text


def latex_text(text: str) -> str:
    """Return text escaped for LaTeX, on one line."""
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))
