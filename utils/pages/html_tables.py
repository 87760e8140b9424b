"""Tables of a page: columns and rows of cells, and their HTML, which sorts by script and is whole without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from utils.language import translated
from utils.pages.document import series_variable


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is shown.
        value: What it is sorted by; None goes last.
        reason: Why there is no figure.
        tone: "better", "worse", "unclear", "failed", "dim", or a key of the page's tags, for cells that are marked so.
        series: Index of the variant's color.
    """

    text: str
    value: float | str | None = None
    reason: str = ""
    tone: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: Its name.
        unit: Unit of every figure in it, "" for text.
        figures: Whether it is aligned as numbers are.
    """

    title: str
    unit: str = ""
    figures: bool = True

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Table:
    """One table of the report.

    Attributes:
        key: Its name in files and links.
        title: Its heading.
        columns: Its columns.
        rows: One cell per column; the first names the row.
        caption: Text above or below it.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.key!r}: a row of {len(row)} cells under {len(self.columns)} columns")

    @property
    def reasons(self) -> dict[str, str]:
        """The footnote letters of missing figures by reason: a, b, ..., z, aa, ..."""
        distinct = dict.fromkeys(cell.reason for row in self.rows for cell in row if cell.reason)
        return {reason: letter(index) for index, reason in enumerate(distinct)}


def letter(index: int) -> str:
    """Return a for 0, b for 1, ..., aa for 26."""
    return (letter(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def html_table(table: Table, tags: Mapping[str, str], plain: bool = False) -> str:
    """Return a table in a box that scrolls sideways; its headings are buttons that sort, except for lists of facts.

    Args:
        table: The table.
        tags: By tone of a row's first cell, what is written behind its name.
        plain: Whether it is a list of facts.

    Returns:
        HTML in the current language.
    """
    headings = "".join(_heading(column, plain) for column in table.columns)
    rows = "".join(_row(row, table, tags) for row in table.rows)
    legend = "".join(
        f'<li id="{table.key}-{mark}">{mark}: {escape(translated(reason))}</li>'
        for reason, mark in table.reasons.items()
    )
    caption = f'<p class="caption">{escape(translated(table.caption))}</p>' if table.caption else ""
    notes = f'<ul class="legend">{legend}</ul>' if legend else ""
    label = escape(translated(f"{translated(table.title)}, table"), quote=True)
    return (
        f'{caption}<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table id="table-{table.key}" class="{"facts" if plain else "sortable"}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )


def _heading(column: Column, plain: bool) -> str:
    name = escape(translated(column.title), quote=True)
    if plain:
        return f'<th scope="col"><span class="unseen">{name}</span></th>'
    unit = f'<span class="unit">{escape(translated(column.unit))}</span>' if column.unit else ""
    return (
        f'<th scope="col" aria-sort="none" data-name="{name}"{_class(column)}><button type="button">'
        f'<span class="title">{name}</span>{unit}</button></th>'
    )


def _class(column: Column) -> str:
    return ' class="figures"' if column.figures else ' class="words"'


def _row(row: Sequence[Cell], table: Table, tags: Mapping[str, str]) -> str:
    first, *rest = row
    baseline = ' class="baseline"' if first.tone == "baseline" else ""
    content = "".join(
        f"<td{_class(column)}{_sorted_by(cell)}>{_content(cell, table)}</td>"
        for cell, column in zip(rest, table.columns[1:], strict=True)
    )
    return f'<tr{baseline}><th scope="row"{_sorted_by(first)}>{_name(first, tags)}</th>{content}</tr>'


def _sorted_by(cell: Cell) -> str:
    if cell.value is None:
        return ""
    if isinstance(cell.value, str):
        return f' data-value="{escape(cell.value, quote=True)}"'
    return f' data-kind="number" data-value="{float(cell.value)!r}"'


def _name(cell: Cell, tags: Mapping[str, str]) -> str:
    tag = f' <span class="tag">{escape(translated(tags[cell.tone]))}</span>' if cell.tone in tags else ""
    return f"{with_dot(escape(cell.text), cell.series)}{tag}"


def with_dot(text: str, series: int | None) -> str:
    """Return HTML text after a dot in the color of a series.

    Args:
        text: Escaped text.
        series: Index of the color; None for no dot.

    Returns:
        The text.
    """
    return (
        text
        if series is None
        else f'<span class="named" style="--dot:{series_variable(series)}"><span>{text}</span></span>'
    )


def _typeset(figure: str) -> str:
    """Return a figure with real minus signs, and with spaces at which it is not broken."""
    return figure.replace("-", "−").replace(" ± ", "\u00a0±\u00a0").replace("< ", "<\u00a0")


def _content(cell: Cell, table: Table) -> str:
    is_word = cell.tone or not isinstance(cell.value, str)  # not a name or a value of the reader's own
    shown = translated(cell.text) if is_word else cell.text
    text = escape(shown if isinstance(cell.value, str) else _typeset(shown))
    if cell.tone in ("better", "worse", "unclear"):
        text = f'<span class="badge {cell.tone}">{text}</span>'
    elif cell.tone == "failed":
        text = f'<span class="failed">{text}</span>'
    elif cell.tone == "baseline":
        text = f'<span class="dim">{text}</span>'
    if not cell.reason:
        return text
    mark, reason = table.reasons[cell.reason], escape(translated(cell.reason), quote=True)
    return f'{text}<sup><a href="#{table.key}-{mark}" title="{reason}" aria-label="{reason}">{mark}</a></sup>'
