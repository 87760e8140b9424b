"""The figures of a report, drawn from the records and the results.csv of each training."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.compare.report import study_cells, tables
from utils.compare.report.cells import is_figure
from utils.compare.report.study_cells import PRIMARY
from utils.compare.results import BASELINE, Study, VariantResult
from utils.errors import DataError
from utils.plots.curves import read_results
from utils.plots.study_figures import (
    ClassDifferences,
    LearningCurves,
    Mark,
    plot_class_differences,
    plot_learning_curves,
    plot_tradeoff,
)

SHOWN = ("better", "worse")
LOGGER = logging.getLogger("yolo")
_ACCURACY = "metrics/mAP_0.5:0.95"
_LOSSES = ("val/box_loss", "val/obj_loss", "val/cls_loss")
_MARKERS = "Hollow: no difference shown."
_INTERVALS = (
    "Bars: 95 % interval of the difference to the baseline, drawn around it (the dashed line): a bar that crosses the "
    f"line contains zero. {_MARKERS} Dashes: single seeds."
)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        key: Its name in links.
        title: Its heading.
        caption: Text below it.
        file: Its png in the study's folder.
        svg: The same as an element of a page.
        description: What is drawn, in words, for screen readers.
    """

    key: str
    title: str
    caption: str
    file: Path
    svg: str
    description: str


def draw_figures(study: Study) -> list[ReportFigure]:
    """Write the figures that the study has data for and return them in the order of the report."""
    figures = (
        _tradeoff(study, "latency", "latency_ms", "latency, one image at a time (ms)", 1.0),
        _tradeoff(study, "parameters", "parameters", "parameters (millions)", 1e-6),
        _courses(study),
        _class_gaps(study),
    )
    return [figure for figure in figures if figure is not None]


def _tradeoff(study: Study, what: str, field: str, label: str, scale: float) -> ReportFigure | None:
    marks = [mark for variant in study.variants if (mark := _mark(study, variant, field, scale))]
    if not marks:
        return None
    file = study.folder / f"accuracy_{what}.png"
    svg = plot_tradeoff(marks, file, label, f"{PRIMARY} (points)")
    absent = [variant.name for variant in study.variants if variant.name not in {mark.name for mark in marks}]
    caption = _INTERVALS + (f" Not shown, since {what} or accuracy is missing: {', '.join(absent)}." if absent else "")
    description = "; ".join(f"{mark.name} at {mark.x:.3g} and {mark.y:.2f} points" for mark in marks)
    return ReportFigure(f"accuracy_{what}", f"Accuracy against {what}", caption, file, svg, description)


def _mark(study: Study, variant: VariantResult, field: str, scale: float) -> Mark | None:
    """Return the mark of a variant, None if its accuracy or cost is missing.

    The baseline is drawn at its mean; the others at that plus their paired difference, so that figure and verdict
    agree if a seed is missing on one side.
    """
    summary, base = variant.summaries.get(PRIMARY), study.baseline.summaries.get(PRIMARY)
    cost = variant.cost.figures()[field] if variant.cost else None
    if summary is None or not is_figure(summary.mean) or not is_figure(cost):
        return None
    ends, height = (math.nan, math.nan), summary.mean
    answer = variant.differences.get(PRIMARY)
    if answer and base and is_figure(base.mean) and is_figure(answer.difference):
        height = base.mean + answer.difference
        low, high = answer.interval
        ends = 100 * (base.mean + low), 100 * (base.mean + high)
    seeds = tuple(100 * value for value in tables.values_by_seed(summary) if is_figure(value))
    shown = variant.role == BASELINE or answer is not None and answer.verdict in SHOWN
    return Mark(
        variant.name,
        study_cells.series_index(study, variant),
        cost * scale,
        100 * height,
        *ends,
        seeds=seeds if len(seeds) > 1 else (),
        filled=shown,
    )


def _courses(study: Study) -> ReportFigure | None:
    courses = [
        course for variant in study.variants if (course := _course(variant, study_cells.series_index(study, variant)))
    ]
    if not courses:
        return None
    file = study.folder / "learning_curves.png"
    caption = (
        "Means over the seeds, up to the epoch in which the first of a variant's trainings ended; bands from lowest to "
        "highest seed. These are the figures of training; the tables have those of the evaluation after it."
    )
    description = "; ".join(f"{each.name}: {len(next(iter(each.values.values())))} trainings" for each in courses)
    return ReportFigure(
        "learning_curves", "Learning curves", caption, file, plot_learning_curves(courses, file), description
    )


def _course(variant: VariantResult, series: int) -> LearningCurves | None:
    tables_read = [
        table for run in variant.runs if run.status == "done" and run.results and (table := _read(run.results))
    ]
    panels: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
        f"{PRIMARY} (points)": lambda table: 100 * table[_ACCURACY],
        "validation loss, box + obj + cls": lambda table: np.add.reduce([table[name] for name in _LOSSES]),
    }
    needed = {_ACCURACY, *_LOSSES}
    whole = [table for table in tables_read if needed <= set(table)]
    if not whole:
        return None
    return LearningCurves(
        variant.name, series, {name: _stacked([of(table) for table in whole]) for name, of in panels.items()}
    )


def _read(file: Path) -> dict[str, np.ndarray] | None:
    try:
        return read_results(file)
    except (OSError, DataError) as error:
        LOGGER.warning("learning curves without %s: %s", file, error)
        return None


def _stacked(courses: Sequence[np.ndarray]) -> np.ndarray:
    """Return courses of different lengths as (seeds, epochs), nan past their ends."""
    values = np.full((len(courses), max(map(len, courses))), np.nan)
    for row, course in zip(values, courses, strict=True):
        row[: len(course)] = course
    return values


def _class_gaps(study: Study) -> ReportFigure | None:
    metrics = study_cells.metrics_of(study, study_cells.CLASS)
    gaps = [
        ClassDifferences(
            variant.name,
            study_cells.series_index(study, variant),
            tuple(_gap(variant, metric) for metric in metrics),
            tuple(metric in variant.differences and variant.differences[metric].verdict in SHOWN for metric in metrics),
        )
        for variant in study.variants
        if any(metric in variant.differences for metric in metrics)
    ]
    if not gaps:
        return None
    file = study.folder / "class_differences.png"
    label = f"{PRIMARY}, difference to {study.baseline.name} (points)"
    svg = plot_class_differences(gaps, [study_cells.short_name(metric) for metric in metrics], file, label)
    caption = (
        "Difference to the baseline (the dashed line) with its 95 % interval, per class; right of the line is "
        f"better. {_MARKERS} An arrow: the interval continues. The intervals are not corrected for the number of "
        "classes, the verdicts are."
    )
    description = "the figures are in the table per class"
    return ReportFigure("class_differences", "Differences per class", caption, file, svg, description)


def _gap(variant: VariantResult, metric: str) -> tuple[float, float, float]:
    found = variant.differences.get(metric)
    if found is None or not is_figure(found.difference):
        return math.nan, math.nan, math.nan
    return 100 * found.difference, 100 * found.interval[0], 100 * found.interval[1]
