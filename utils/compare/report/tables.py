"""The tables of a study's report: overview, accuracy, differences, classes, errors, cost, deployment, runs, conditions.

Everything is taken from the records; only the reasons of missing figures are added here.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from utils.compare.report import cells
from utils.compare.report.cells import Cell, Column, Table
from utils.compare.results import (
    BASELINE,
    PARAMETER_MATCHED,
    VARIANT,
    Cost,
    Deployment,
    Difference,
    Run,
    Study,
    Summary,
    VariantResult,
)

PRIMARY = "mAP50-95"
CLASS, ERROR = "class/", "error/"
_ORDER = (PRIMARY, "mAP50", "AP75", "APs", "APm", "APl")
_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
_NAME = Column("variant", figures=False)
CellOrColumn = TypeVar("CellOrColumn")


def metrics_of(study: Study, prefix: str = "") -> list[str]:
    """Return the metrics of a study, the well-known ones first.

    Args:
        study: The study.
        prefix: CLASS or ERROR for those metrics alone, "" for all others.

    Returns:
        Keys of summaries and differences.
    """
    found = dict.fromkeys(name for variant in study.variants for name in [*variant.summaries, *variant.differences])
    if prefix:
        named = [prefix + name for name in study.names] if prefix == CLASS else []
        below = [name for name in found if name.startswith(prefix)]
        return [name for name in named if name in found] + [name for name in below if name not in named]
    plain = [name for name in found if not name.startswith((CLASS, ERROR))]
    return [name for name in _ORDER if name in plain] + [name for name in plain if name not in _ORDER]


def short_name(metric: str) -> str:
    """Return a metric without its prefix."""
    return metric.split("/", 1)[1] if metric.startswith((CLASS, ERROR)) else metric


def why_no_score(study: Study, variant: VariantResult, metric: str) -> str:
    """Return why a variant has no score in a metric.

    Args:
        study: The study.
        variant: One of its variants.
        metric: The metric.

    Returns:
        The reason.
    """
    if not any(run.status == "done" for run in variant.runs):
        return "no run of it finished"
    if metric in _SIZES:
        return f"no {_SIZES[metric]} objects among the labels that were evaluated"
    if metric.startswith(CLASS):
        return "no labels of this class among those evaluated"
    return "not evaluated"


def why_no_difference(study: Study, variant: VariantResult, metric: str) -> str:
    """Return why a variant has no difference to the baseline in a metric.

    Args:
        study: The study.
        variant: One of its variants.
        metric: The metric.

    Returns:
        The reason.
    """
    if variant.role == BASELINE:
        return "the baseline is what the others are compared with"
    done = {run.seed for run in variant.runs if run.status == "done"}
    theirs = {run.seed for run in study.baseline.runs if run.status == "done"}
    if not done & theirs:
        return "no seed finished both here and in the baseline"
    if metric in variant.summaries and not cells.is_figure(variant.summaries[metric].mean):
        return why_no_score(study, variant, metric)
    return "not tested"


def name_cell(study: Study, variant: VariantResult) -> Cell:
    """Return the cell of a variant's name.

    Args:
        study: The study.
        variant: One of its variants.

    Returns:
        The cell.
    """
    return cells.name_cell(variant.name, variant.role, series_index(study, variant))


def series_index(study: Study, variant: VariantResult) -> int:
    """Return the index of a variant's color.

    Args:
        study: The study.
        variant: One of its variants.

    Returns:
        0 for the baseline; the others count from 1 in the study's order.
    """
    others = [other.name for other in study.variants if other.role != BASELINE]
    return 0 if variant.role == BASELINE else 1 + others.index(variant.name)


def score_cell(study: Study, variant: VariantResult, metric: str) -> Cell:
    """Return the cell of a score.

    Args:
        study: The study.
        variant: One of its variants.
        metric: The metric.

    Returns:
        Mean and standard deviation over the seeds, or a dash with the reason.
    """
    summary = variant.summaries.get(metric)
    reason = why_no_score(study, variant, metric)
    return cells.mean_and_sd(summary.mean, summary.sd, reason) if summary else cells.missing(reason)


def difference_cells(study: Study, variant: VariantResult, metric: str) -> list[Cell]:
    """Return the cells of a difference to the baseline.

    Args:
        study: The study.
        variant: One of its variants.
        metric: The metric.

    Returns:
        Difference, interval, p, corrected p and verdict; the baseline's first cell says that it is the baseline.
    """
    reason = why_no_difference(study, variant, metric)
    if variant.role == BASELINE:
        return [Cell("baseline", None, tone=BASELINE), *[cells.missing(reason)] * 4]
    difference = variant.differences.get(metric)
    if difference is None:
        return [cells.missing(reason)] * 5
    known = cells.is_figure(difference.difference)
    untested, no_interval = ("it could not be tested", "too few images for an interval") if known else (reason, reason)
    return [
        cells.signed(difference.difference, reason),
        cells.interval(*difference.interval, no_interval),
        cells.probability(difference.p, untested),
        cells.probability(difference.p_holm, untested),
        cells.verdict_cell(difference.verdict),
    ]


_DIFFERENCE = (
    Column("difference", "points"),
    Column("95 % interval", "points"),
    Column("p"),
    Column("p, Holm"),
    Column("verdict", figures=False),
)


_NOTES_ABOUT = {  # how the notes about a figure begin; they are in costs.json
    "gflops": "operations:",
    "gflops_thop": "operations by thop:",
    "latency_ms": "time of a batch of 1:",
    "latency_p95_ms": "time of a batch of 1:",
    "throughput": "time of a batch of",
    "inference_mib": "memory of inference",
    "training_mib": "memory of training",
    "training_seconds": "training time:",
}


def why_no_cost(cost: Cost | None, field: str) -> str:
    """Return why a figure of a cost is missing.

    Args:
        cost: The cost, None if it was not measured.
        field: Name of the figure.

    Returns:
        The notes about this figure, or all notes if none is about it.
    """
    if cost is None:
        return "cost was not measured"
    about = [note for note in cost.notes if field in _NOTES_ABOUT and note.startswith(_NOTES_ABOUT[field])]
    return "; ".join(about or cost.notes) or "could not be measured"


def cost_cell(cost: Cost | None, field: str, decimals: int, scale: float = 1.0) -> Cell:
    """Return the cell of one figure of a cost.

    Args:
        cost: The cost, None if it was not measured.
        field: Name of the figure.
        decimals: Decimals to show.
        scale: Factor to the unit of the column.

    Returns:
        The figure, or a dash with the reason.
    """
    if cost is None:
        return cells.missing("cost was not measured")
    value, reason = cost.figures()[field], why_no_cost(cost, field)
    if field == "training_seconds":
        return cells.duration(value, reason)
    return cells.number(value, decimals, reason, scale)


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
        _NAME,
        Column(PRIMARY, "points"),
        *_without_raw_p(_DIFFERENCE),
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
    if any(metric in _SIZES for metric in metrics):
        caption += " APs, APm and APl are COCO's figures for small, medium and large objects."
    return Table(
        "accuracy", "Accuracy", (_NAME, *(Column(metric, "points") for metric in metrics)), tuple(rows), caption
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
    columns = (_NAME, Column("metric", figures=False), *_DIFFERENCE)
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
        (_NAME, *(Column(short_name(kind), "points") for kind in kinds)),
        tuple(rows),
        "What each kind of error costs: the points of mAP50 that repairing all of its errors would add (after TIDE). "
        "Costs overlap, so they do not add up.",
    )
    return table if kinds else None


_COSTS = (
    ("parameters", "parameters", "", 0),
    ("gflops", "GFLOPs", "", 2),
    ("gflops_thop", "GFLOPs by thop", "", 2),
    ("latency_ms", "latency, median", "ms", 2),
    ("latency_p95_ms", "latency, p95", "ms", 2),
    ("throughput", "throughput", "images/s", 1),
    ("inference_mib", "memory, inference", "MiB", 0),
    ("training_mib", "memory, training", "MiB", 0),
    ("training_seconds", "training time", "h:mm:ss", 0),
)


def costs(study: Study) -> Table:
    """Return one row per variant: parameters, operations, time and memory."""
    rows = [
        (name_cell(study, variant), *(cost_cell(variant.cost, field, decimals) for field, _, _, decimals in _COSTS))
        for variant in study.variants
    ]
    measured = [variant.cost for variant in study.variants if variant.cost]
    columns, rows = _with_ratios(study, [_NAME, *(Column(title, unit) for _, title, unit, _ in _COSTS)], rows)
    conditions = "; ".join(dict.fromkeys(f"{cost.imgsz} pixels on {cost.device}" for cost in measured))
    caption = (
        "GFLOPs: counted as the operations are dispatched, attention's matrix products included; by thop: as in "
        "YOLOv5's tables. Latency: batch 1, its ratio to the baseline measured within each round; throughput: batch "
        "16; memory: the peak." + (f" Measured at {conditions}." if conditions else "")
    )
    return Table("costs", "Cost", tuple(columns), tuple(rows), caption)


def _with_ratios(
    study: Study,
    columns: list[Column],
    rows: list[tuple[Cell, ...]],
) -> tuple[list[Column], list[tuple[Cell, ...]]]:
    """Return the columns and rows of the cost, with the ratio of latencies if it was measured."""
    if not any(variant.cost and "latency_ms" in variant.cost.ratios for variant in study.variants):
        return columns, rows
    after = 1 + next(index for index, (field, *_) in enumerate(_COSTS) if field == "latency_p95_ms")
    measured = [
        (variant.cost.ratios.get("latency_ms") if variant.cost else None, variant.cost) for variant in study.variants
    ]
    ratios = [cells.number(ratio, 3, why_no_cost(cost, "latency_ms")) for ratio, cost in measured]
    return (
        [*columns[:after], Column("latency, ratio", "×"), *columns[after:]],
        [(*row[:after], ratio, *row[after:]) for row, ratio in zip(rows, ratios, strict=True)],
    )


def deployment(study: Study) -> Table | None:
    """Return one row per variant and runtime: what a file keeps of torch's mAP, and its latency, memory and size."""
    by_name = {variant.name: variant for variant in study.variants}
    rows = [
        (name_cell(study, by_name[each.variant]), cells.text_cell(each.runtime), *_deployment_cells(each))
        for each in study.deployments
    ]
    columns = (
        _NAME,
        Column("runtime", figures=False),
        Column("precision", figures=False),
        Column(PRIMARY, "points"),
        Column("minus torch's", "points"),
        Column("mAP50", "points"),
        Column("latency, median", "ms"),
        Column("latency, p95", "ms"),
        Column("latency, ratio", "×"),
        Column("memory", "MiB"),
        Column("file", "MB"),
        Column("unmatched", figures=False),
    )
    seeds = list(dict.fromkeys(each.seed for each in study.deployments))
    programs = {each.runtime: each.program for each in study.deployments if each.program}
    split = study.data.get("split", "the study's")
    caption = (
        f"The best.pt of {_seeds_text(seeds)} of each variant as torch and its exported files run it. mAP: on the "
        f"{split} split, by the same code on the same image shapes, so that a difference to torch is the runtime's or "
        "that of 8 bits. Latency: one image without suppression, all rows in interleaved rounds; its ratio to torch's "
        "of the same variant is measured within each round. Memory: by how much the resident memory of a fresh "
        "process, whose libraries are loaded, rises at most while the file is opened and run on some images. File: "
        "torch's checkpoint holds half precision. Unmatched: no faster row is as accurate up to 0.1 points; one seed "
        "does not show that variants differ. "
        f"Measured with {'; '.join(f'{name}: {program}' for name, program in programs.items()) or 'nothing'}."
    )
    return Table("deployment", "Deployment", columns, tuple(rows), caption) if rows else None


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}, the first," if len(seeds) == 1 else "the first seed that is done"


def _deployment_cells(each: Deployment) -> list[Cell]:
    """Return the cells after the runtime; those of a file that cannot be used have its reason."""
    precision = cells.text_cell(each.precision)
    if each.error:
        return [precision, *[cells.missing(each.error)] * 9]
    accuracy, unknown = cells.points(each.map, "not evaluated"), "the system does not tell it"
    accuracy = dataclasses.replace(accuracy, reason=accuracy.reason or each.remark)
    lost = each.map - each.torch_map if each.map is not None and each.torch_map is not None else None
    is_torch = "torch is what the others are compared with"
    return [
        precision,
        accuracy,
        cells.signed(lost, is_torch),
        cells.points(each.map50, "not evaluated"),
        cells.number(each.latency_ms, 2, each.no_latency),
        cells.number(each.latency_p95_ms, 2, each.no_latency),
        cells.number(each.latency_ratio, 3, each.no_latency or "torch's latency is not known"),
        cells.number(each.memory_mib, 0, unknown),
        cells.number(each.file_bytes, 2, unknown, 1e-6),
        _unmatched_cell(each),
    ]


def _unmatched_cell(each: Deployment) -> Cell:
    if each.unmatched is None:
        return cells.missing(each.no_latency)
    return Cell("unmatched", "unmatched", tone="better") if each.unmatched else Cell("no", "no")


def runs(study: Study) -> Table:
    """Return one row per run: its status, scores and duration."""
    metrics = [metric for metric in metrics_of(study) if any(_runs_have(variant, metric) for variant in study.variants)]
    rows = [_run_row(study, variant, run, metrics) for variant in study.variants for run in variant.runs]
    columns = (
        _NAME,
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
    return "failed" if run.status != "done" else ""


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
