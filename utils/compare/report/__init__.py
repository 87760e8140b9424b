"""The report of a comparison: report.html, compare.md, .tex, .csv and .json, and the figures as png.

All of it is layout: scores, intervals and verdicts are the records'.
"""

from pathlib import Path

from utils.compare.report.data_files import as_csv, as_json
from utils.compare.report.page import html_page
from utils.compare.report.plain_text import console_table, latex, markdown
from utils.compare.report.report_figures import draw_figures
from utils.compare.results import Study
from utils.files import write_text_atomically
from utils.language import ENGLISH

__all__ = ["console_table", "write_report"]


def write_report(study: Study, language: str = ENGLISH) -> list[Path]:
    """Write the report to the study's folder: report.html in a language, the other files in English.

    A figure without data is left out: no learning curves if nothing was trained, no figure by class without classes.

    Args:
        study: The study.
        language: Of the page, one of utils.language.LANGUAGES.

    Returns:
        The files, the page first.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(study)
    shown = {figure.file.name: (figure.title, figure.caption) for figure in figures}
    grid = study.sample_grid
    if grid is not None and grid.is_file() and grid.is_relative_to(study.folder):
        caption = "Rows: the labels and the models; the boxes are each model's detections."
        shown[grid.relative_to(study.folder).as_posix()] = ("Qualitative results", caption)
    contents = {
        "report.html": html_page(study, figures, language),
        "compare.md": markdown(study, shown),
        "compare.tex": latex(study),
        "compare.csv": as_csv(study),
        "compare.json": as_json(study),
    }
    files = [write_text_atomically(study.folder / name, content) for name, content in contents.items()]
    return files + [figure.file for figure in figures]
