"""check.html: the results of a check as one page with its plots and sheets, in English or another language."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from utils.datasets.check.findings import KINDS, LEVELS, Finding
from utils.errors import cut
from utils.language import ENGLISH, speaking, translated
from utils.pages.document import document, embedded_image, navigation, page_header, section
from utils.pages.html_tables import Cell, Column, Table, html_table

_TONES = {"fault": "worse", "warning": "unclear", "note": "dim"}
_MOST_LISTED = 300  # rows of the list of findings; findings.csv has all
_IMAGE_BYTES, _IMAGE_WIDTH = 300_000, 1200  # a larger plot or sheet is embedded as a smaller copy


def check_page(content: Mapping[str, Any], findings: tuple[Finding, ...], folder: Path, language: str = ENGLISH) -> str:
    """Return the page of a check, with the images of its folder inside.

    Args:
        content: What check.json holds.
        findings: All findings, sorted.
        folder: The run folder, whose images are already written.
        language: Of the page; what was found in a file is described in English.

    Returns:
        The HTML.
    """
    with speaking(language):
        title = Path(content["data"]).name
        levels = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in content["levels"].items())
        sections = [each for each in _sections(content, findings, folder) if each[2]]
        body = [
            page_header(f"{translated('Dataset check')}: {title}", translated(levels)),
            navigation(sections),
            "<main>",
            *(section(*each) for each in sections),
            "</main>",
            f'<footer class="faint">{escape(translated(_FOOTER))}</footer>',
        ]
        return document(title, body)


_FOOTER = (
    "All findings are in findings.csv beside this page, all figures in check.json; docs/check.md of the project "
    "explains each kind."
)


def _sections(content: Mapping[str, Any], findings: tuple[Finding, ...], folder: Path) -> list[tuple[str, str, str]]:
    kinds = _kinds(content)
    clean = f"<p>{escape(translated('Nothing was found.'))}</p>"
    sheets = "".join(
        f"<h3>{escape(split)}</h3>" + _figure(folder / f"sheet_{split}.jpg", f"Images of {split} with their labels")
        for split in content["splits"]
    )
    return [
        ("kinds", "What was found", html_table(kinds, {}) if kinds.rows else clean),
        ("splits", "Splits", html_table(_splits(content), {})),
        ("classes", "Objects per class", html_table(_classes(content), {})),
        ("plots", "Plots", _figure(folder / "check.png", "Plots of classes, boxes, image sizes and findings")),
        ("samples", "Samples", sheets),
        ("pairs", "Images that look alike", _figure(folder / "duplicates.jpg", "Pairs of images that look alike")),
        ("list", "Each finding", html_table(_each(findings), {}) if findings else ""),
    ]


def _figure(file: Path, description: str) -> str:
    return f"<figure>{embedded_image(file, description, _IMAGE_BYTES, _IMAGE_WIDTH)}</figure>" if file.is_file() else ""


def _level(level: str) -> Cell:
    return Cell(level, float(LEVELS.index(level)), tone=_TONES[level])


def _kinds(content: Mapping[str, Any]) -> Table:
    entries = sorted(content["findings"].items(), key=lambda entry: LEVELS.index(entry[1]["level"]))
    rows = [
        (
            Cell(kind, kind),
            _level(entry["level"]),
            Cell(f"{entry['count']:,}", entry["count"]),
            Cell(entry["fix"], tone="done"),
            Cell(_example(entry["examples"][0]), _example(entry["examples"][0])),
        )
        for kind, entry in entries
    ]
    columns = (
        Column("kind", figures=False),
        Column("level", figures=False),
        Column("count"),
        Column("what to do", figures=False),
        Column("first example", figures=False),
    )
    return Table("kinds", "What was found", columns, tuple(rows))


def _example(example: Mapping[str, Any]) -> str:
    place = f"{Path(example['file']).name}{':' + str(example['line']) if example['line'] else ''}: "
    return cut(f"{place if example['file'] else ''}{example['what']}")


def _splits(content: Mapping[str, Any]) -> Table:
    columns = (
        Column("split", figures=False),
        *(Column(name) for name in ("images", "usable", "without label file", "empty label file", "objects")),
        Column("boxes that are tiny", "%"),
        Column("boxes without anchor", "%"),
    )
    counts = ("pictures", "usable", "without_label_file", "empty_label_file", "objects")
    rows = [
        (
            Cell(name, name),
            *(Cell(f"{figures[count]:,}", figures[count]) for count in counts),
            *(_share(figures["boxes"][key]) for key in ("tiny_share", "no_anchor_share")),
        )
        for name, figures in content["splits"].items()
    ]
    return Table("splits", "Splits", columns, tuple(rows))


def _share(value: float | None) -> Cell:
    return Cell("–", None, "there are no boxes to compare") if value is None else Cell(f"{100 * value:.1f}", value)


def _classes(content: Mapping[str, Any]) -> Table:
    splits = content["splits"]
    rows = [
        (
            Cell(name, name),
            *(
                Cell(f"{each['objects_of_class'][index]:,}", each["objects_of_class"][index])
                for each in splits.values()
            ),
        )
        for index, name in enumerate(content["classes"])
    ]
    return Table("classes", "Objects per class", (Column("class", figures=False), *map(Column, splits)), tuple(rows))


def _each(findings: tuple[Finding, ...]) -> Table:
    shown = sorted(findings, key=lambda one: LEVELS.index(one.level))[:_MOST_LISTED]
    rows = [
        (
            Cell(cut(Path(one.file).name), one.file),
            Cell(str(one.line or ""), float(one.line)),
            Cell(one.split, one.split),
            _level(one.level),
            Cell(one.kind, one.kind),
            Cell(cut(one.what), one.what),
            Cell(cut(one.fix or KINDS[one.kind].fix), tone="done"),
        )
        for one in shown
    ]
    columns = (
        Column("file", figures=False),
        Column("line"),
        *(Column(name, figures=False) for name in ("split", "level", "kind", "found", "what to do")),
    )
    more = len(findings) - len(shown)
    caption = f"The first {len(shown)} of {len(findings)} findings; findings.csv has all." if more else ""
    return Table("list", "Each finding", columns, tuple(rows), caption)
