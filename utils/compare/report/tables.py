"""The tables of a study's report: overview, accuracy, differences, classes, errors, cost, deployment, runs, conditions.

Everything is taken from the records; only the reasons of missing figures are added here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from utils.compare.report import cells
from utils.compare.report.cells import Cell, Column, Table
from utils.compare.report.cost_tables import costs, deployment
from utils.compare.report.study_cells import (
    CLASS,
    DIFFERENCE_COLUMNS,
    ERROR,
    NAME,
    PRIMARY,
    SIZES,
    cost_cell,
    difference_cells,
    metrics_of,
    name_cell,
    score_cell,
    short_name,
    why_no_difference,
    why_no_score,
)
from utils.compare.results import (
    BASELINE,
    PARAMETER_MATCHED,
    VARIANT,
    Difference,
    Run,
    Study,
    Summary,
    VariantResult,
)

CellOrColumn = TypeVar("CellOrColumn")


def overview(study: Study) -> Table:
    """Return one row per variant: the main metric, its difference and verdict, and the cost."""
    rows = [
        (
            name_cell(study, variant),
            score_cell(study, variant, PRIMARY),
            *_without_raw_p(difference_cells(study, variant, PRIMARY)),
            cost_cell(variant.cost, "parameters", 2, 1e-6),
            cost_cell(variant.cost, "gflops", 2),
            cost_cell(variant.cost, "latency_ms", 2),
        )
        for variant in study.variants
    ]
    columns = (
        NAME,
        Column(PRIMARY, "points"),
        *_without_raw_p(DIFFERENCE_COLUMNS),
        Column("parameters", "M"),
        Column("GFLOPs"),
        Column("latency", "ms"),
    )
    return Table(
        "overview",
        "At a glance",
        columns,
        tuple(rows),
        f"{PRIMARY}: mean ± standard deviation over the seeds. Difference: to the baseline, paired by seed. p, Holm: "
        "corrected for the number of variants compared. Latency: median of one image at a time.",
    )


def _without_raw_p(items: Sequence[CellOrColumn]) -> tuple[CellOrColumn, ...]:
    """Leave out the uncorrected p, which only the table of differences shows."""
    return (*items[:2], *items[3:])


def accuracy(study: Study) -> Table:
    """Return one row per variant, one column per metric."""
    metrics = metrics_of(study)
    rows = [
        (name_cell(study, variant), *(score_cell(study, variant, metric) for metric in metrics))
        for variant in study.variants
    ]
    caption = "Mean ± standard deviation over the seeds."
    if any(metric in SIZES for metric in metrics):
        caption += " APs, APm and APl are COCO's figures for small, medium and large objects."
    return Table(
        "accuracy", "Accuracy", (NAME, *(Column(metric, "points") for metric in metrics)), tuple(rows), caption
    )


def differences(study: Study) -> Table:
    """Return one row per variant and metric, single classes left out: the differences with their tests."""
    tested = [
        metric for metric in metrics_of(study) if any(metric in variant.differences for variant in study.variants)
    ]
    rows = [
        (name_cell(study, variant), cells.text_cell(metric), *difference_cells(study, variant, metric))
        for metric in tested
        for variant in study.variants
        if variant.role != BASELINE
    ]
    untested = [metric for metric in metrics_of(study) if metric not in tested]
    caption = (
        f"Variant minus {study.baseline.name}, paired by seed. p, Holm: corrected for the number of variants compared."
        + (f" Not tested: {cells.join_words(untested)}." if untested else "")
    )
    columns = (NAME, Column("metric", figures=False), *DIFFERENCE_COLUMNS)
    return Table("differences", "Differences to the baseline", columns, tuple(rows), caption)


def classes(study: Study) -> Table | None:
    """Return one row per class, one column per variant, and another for its difference if that was computed."""
    metrics = metrics_of(study, CLASS)
    columns, rows = [Column("class", figures=False)], [[cells.text_cell(short_name(metric))] for metric in metrics]
    for variant in study.variants:
        columns.append(Column(variant.name, "points"))
        compared = any(metric in variant.differences for metric in metrics)
        columns += [Column(f"{variant.name}, difference", "points")] if compared else []
        for row, metric in zip(rows, metrics, strict=True):
            row.append(score_cell(study, variant, metric))
            row += [_difference_with_interval(study, variant, metric)] if compared else []
    table = Table(
        "classes",
        f"{PRIMARY} per class",
        tuple(columns),
        tuple(map(tuple, rows)),
        "Mean ± standard deviation over the seeds. Differences to the baseline with their 95 % intervals; better (▲) "
        "and worse (▼) are the verdicts, for which p is corrected over classes and variants.",
    )
    return table if metrics else None


def _difference_with_interval(study: Study, variant: VariantResult, metric: str) -> Cell:
    found = variant.differences.get(metric)
    if found is None or not cells.is_figure(found.difference):
        return cells.missing(why_no_difference(study, variant, metric))
    text, ends = cells.signed_text(found.difference), cells.interval(*found.interval, "too few images for an interval")
    tone = found.verdict if found.verdict in ("better", "worse") else ""
    return Cell(text if ends.reason else f"{text} ({ends.text})", 100 * found.difference, ends.reason, tone)


def errors(study: Study) -> Table | None:
    """Return one row per variant, one column per kind of error ("error/<kind>" among the summaries)."""
    kinds = metrics_of(study, ERROR)
    rows = [
        (name_cell(study, variant), *(score_cell(study, variant, kind) for kind in kinds)) for variant in study.variants
    ]
    table = Table(
        "errors",
        "Kinds of error",
        (NAME, *(Column(short_name(kind), "points") for kind in kinds)),
        tuple(rows),
        "What each kind of error costs: the points of mAP50 that repairing all of its errors would add (after TIDE). "
        "Costs overlap, so they do not add up.",
    )
    return table if kinds else None


def runs(study: Study) -> Table:
    """Return one row per run: its status, scores and duration."""
    metrics = [metric for metric in metrics_of(study) if any(_runs_have(variant, metric) for variant in study.variants)]
    rows = [_run_row(study, variant, run, metrics) for variant in study.variants for run in variant.runs]
    columns = (
        NAME,
        Column("seed"),
        Column("status", figures=False),
        *(Column(metric, "points") for metric in metrics),
        Column("time", "h:mm:ss"),
        Column("remark", figures=False),
    )
    caption = "One row per run: one variant trained with one seed, or one checkpoint evaluated."
    return Table("runs", "Every run", columns, tuple(rows), caption)


def _run_row(study: Study, variant: VariantResult, run: Run, metrics: Sequence[str]) -> tuple[Cell, ...]:
    return (
        name_cell(study, variant),
        cells.number(run.seed, 0),
        Cell(run.status, run.status, tone=_tone(run)),
        *(_seed_cell(study, variant, run, metric) for metric in metrics),
        cells.duration(run.seconds, "its time was not recorded"),
        _remark(run),
    )


def _runs_have(variant: VariantResult, metric: str) -> bool:
    return metric in variant.summaries and bool(variant.summaries[metric].values)


def _tone(run: Run) -> str:
    return "failed" if run.status != "done" else "done"


def _remark(run: Run) -> Cell:
    return cells.text_cell(run.error or ("none" if run.status == "done" else ""), "its log has no reason")


def _seed_cell(study: Study, variant: VariantResult, run: Run, metric: str) -> Cell:
    reason = f"the run is {run.status}" if run.status != "done" else why_no_score(study, variant, metric)
    values = variant.summaries[metric].values if metric in variant.summaries else {}
    return cells.points(values.get(run.seed), reason)


def facts(key: str, title: str, entries: Mapping[str, Any]) -> Table:
    """Return one row per entry of settings, versions or data.

    Args:
        key: Key of the table.
        title: Heading of the table.
        entries: Values by name; nested ones are named by their path, such as "hyp.lr0".

    Returns:
        The table.
    """
    rows = tuple(
        (cells.text_cell(name), cells.text_cell(_value_text(value), "empty")) for name, value in _flatten(entries)
    )
    return Table(key, title, (Column("name", figures=False), Column("value", figures=False)), rows)


def _flatten(entries: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return ", ".join(_value_text(each) for each in value) or "none"
    return str(value)


def conditions(study: Study) -> list[Table]:
    """Return the tables of data, settings and versions that have rows."""
    every = (
        facts("data", "Data", study.data),
        facts("settings", "Settings", study.settings),
        facts("versions", "Versions", study.versions),
    )
    return [table for table in every if table.rows]


def all_tables(study: Study) -> list[Table]:
    """Return every table that has rows, in the order of the report."""
    candidates: Sequence[Table | None] = (
        overview(study),
        accuracy(study),
        differences(study),
        classes(study),
        errors(study),
        costs(study),
        deployment(study),
        runs(study),
        *conditions(study),
    )
    return [table for table in candidates if table is not None and table.rows and len(table.columns) > 1]


def question(study: Study) -> str:
    """Return the question of the study in one sentence."""
    others = [variant.name for variant in study.variants if variant.role == VARIANT]
    matched = [variant.name for variant in study.variants if variant.role == PARAMETER_MATCHED]
    names = others + [f"the parameter-matched baseline {name}" for name in matched]
    subject = f"{'do' if len(names) > 1 else 'does'} {cells.join_words(names) or 'another model'}"
    data = study.data.get("name") or study.data.get("file")
    baseline = f"the baseline {study.baseline.name}{f' on {data}' if data else ''}"
    return f"By how much, and at what cost, {subject} differ in {PRIMARY} from {baseline}?"


def findings(study: Study) -> list[tuple[VariantResult, Difference | None, str]]:
    """Return the finding for each variant in the main metric: (variant, its difference if any, the sentence)."""
    answers = []
    for variant in study.variants:
        if variant.role != BASELINE:
            answer = variant.differences.get(PRIMARY)
            sentence = answer.sentence if answer else f"{variant.name}: {why_no_difference(study, variant, PRIMARY)}."
            answers.append((variant, answer, sentence))
    return answers


def run_counts(study: Study) -> str:
    """Return how many variants, seeds and runs there are, and how the runs ended."""
    every = [run for variant in study.variants for run in variant.runs]
    ends = dict.fromkeys(run.status for run in every)
    counts = ", ".join(f"{sum(run.status == end for run in every)} {end}" for end in ends)
    seeds = (
        f"{len(study.seeds)} seeds ({', '.join(map(str, study.seeds))})"
        if len(study.seeds) > 1
        else "one seed: how much seeds matter was not tested"
    )
    return f"{len(study.variants)} variants, {seeds}; {len(every)} runs: {counts}"


def values_by_seed(summary: Summary | None) -> tuple[float, ...]:
    """Return a metric's values by rising seed."""
    return tuple(value for _, value in sorted(summary.values.items())) if summary else ()
