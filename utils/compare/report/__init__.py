"""What a comparison leaves for its readers: report.html, compare.md, .tex, .csv and .json, and the figures as png.

All of it is layout: the figures, intervals and verdicts are the records'.
"""

from pathlib import Path

from utils.compare.report.data_files import as_csv, as_json
from utils.compare.report.page import html_page
from utils.compare.report.plain_text import console_table, latex, markdown
from utils.compare.report.report_figures import draw_figures
from utils.compare.results import Study
from utils.files import write_text_atomically

__all__ = ["console_table", "write_report"]


def write_report(study: Study) -> list[Path]:
    """Write the report into the study's folder and return its files, the page first.

    A figure without data is left out: no learning curves where nothing was trained, none by class without classes.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(study)
    shown = {picture.file.name: (picture.title, picture.caption) for picture in pictures}
    if study.strip is not None and study.strip.is_file() and study.strip.is_relative_to(study.folder):
        name = study.strip.relative_to(study.folder).as_posix()
        shown[name] = ("The same pictures", "Rows: the labels and the models; the boxes are what each detects.")
    written = {
        "report.html": html_page(study, pictures),
        "compare.md": markdown(study, shown),
        "compare.tex": latex(study),
        "compare.csv": as_csv(study),
        "compare.json": as_json(study),
    }
    files = [write_text_atomically(study.folder / name, content) for name, content in written.items()]
    return files + [picture.file for picture in pictures]
