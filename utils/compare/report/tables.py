"""The tables of a study's report: overview, accuracy, differences, classes, kinds of error, cost, runs, conditions.

Everything is taken from the records; what is said here besides is why a figure is not there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from utils.compare.report import cells
from utils.compare.report.cells import Cell, Column, Table
from utils.compare.results import Cost, Difference, Run, Study, Summary, VariantResult

PRIMARY = "mAP50-95"
CLASS, ERROR = "class/", "error/"
_ORDER = (PRIMARY, "mAP50", "AP75", "APs", "APm", "APl")
_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
_NAME = Column("variant", figures=False)
Part = TypeVar("Part", Cell, Column)


def metrics_of(study: Study, prefix: str = "") -> list[str]:
    """Return the metrics that the study holds, the known ones first; those below `prefix` alone where one is given."""
    found = dict.fromkeys(name for variant in study.variants for name in [*variant.summaries, *variant.differences])
    if prefix:
        named = [prefix + name for name in study.names] if prefix == CLASS else []
        below = [name for name in found if name.startswith(prefix)]
        return [name for name in named if name in found] + [name for name in below if name not in named]
    plain = [name for name in found if not name.startswith((CLASS, ERROR))]
    return [name for name in _ORDER if name in plain] + [name for name in plain if name not in _ORDER]


def short(metric: str) -> str:
    return metric.split("/", 1)[1] if metric.startswith((CLASS, ERROR)) else metric


def why_no_score(study: Study, variant: VariantResult, metric: str) -> str:
    """Return why a variant has no figure in a metric."""
    if not any(run.status == "done" for run in variant.runs):
        return "no run of it finished"
    if metric in _SIZES:
        return f"no {_SIZES[metric]} objects among the labels that were evaluated"
    if metric.startswith(CLASS):
        return "no labels of this class among those evaluated"
    return "not evaluated"


def why_no_difference(study: Study, variant: VariantResult, metric: str) -> str:
    if variant.role == "baseline":
        return "the baseline is what the others are compared with"
    done = {run.seed for run in variant.runs if run.status == "done"}
    theirs = {run.seed for run in study.baseline.runs if run.status == "done"}
    if not done & theirs:
        return "no seed finished both here and in the baseline"
    if metric in variant.summaries and not cells.is_figure(variant.summaries[metric].mean):
        return why_no_score(study, variant, metric)
    return "not tested"


def name_of(study: Study, variant: VariantResult) -> Cell:
    return cells.name_cell(variant.name, variant.role, series_of(study, variant))


def series_of(study: Study, variant: VariantResult) -> int:
    """Return the number of a variant's colour: 0 for the baseline, the others from 1 on in the study's order."""
    others = [other.name for other in study.variants if other.role != "baseline"]
    return 0 if variant.role == "baseline" else 1 + others.index(variant.name)


def score(study: Study, variant: VariantResult, metric: str) -> Cell:
    summary = variant.summaries.get(metric)
    reason = why_no_score(study, variant, metric)
    return cells.mean_and_sd(summary.mean, summary.sd, reason) if summary else cells.missing(reason)


def difference_cells(study: Study, variant: VariantResult, metric: str) -> list[Cell]:
    """Return difference, interval, p, corrected p and verdict; the baseline's say that it is one."""
    if variant.role == "baseline":
        return [Cell("baseline", None, tone="baseline")] + [
            cells.missing(why_no_difference(study, variant, metric))
        ] * 4
    found = variant.differences.get(metric)
    reason = why_no_difference(study, variant, metric)
    if found is None:
        return [cells.missing(reason)] * 5
    there = cells.is_figure(found.difference)
    untested, endless = ("it could not be tested", "too few images for an interval") if there else (reason, reason)
    return [
        cells.signed(found.difference, reason),
        cells.interval(*found.interval, endless),
        cells.probability(found.p, untested),
        cells.probability(found.p_holm, untested),
        cells.verdict_cell(found.verdict),
    ]


_DIFFERENCE = (
    Column("difference", "points"),
    Column("95 % interval", "points"),
    Column("p"),
    Column("p, Holm"),
    Column("verdict", figures=False),
)


_ABOUT = {
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
    """Return what the cost's notes say of a figure; all of them where none is about it."""
    if cost is None:
        return "cost was not measured"
    about = [note for note in cost.notes if field in _ABOUT and note.startswith(_ABOUT[field])]
    return "; ".join(about or cost.notes) or "could not be measured"


def cost_cell(cost: Cost | None, field: str, decimals: int, scale: float = 1.0) -> Cell:
    if cost is None:
        return cells.missing("cost was not measured")
    value, reason = getattr(cost, field), why_no_cost(cost, field)
    return (
        cells.duration(value, reason) if field == "training_seconds" else cells.number(value, decimals, reason, scale)
    )


def overview(study: Study) -> Table:
    """A row a variant: the main metric, its difference and verdict, and what it costs."""
    rows = [
        (
            name_of(study, variant),
            score(study, variant, PRIMARY),
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


def _without_raw_p(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The uncorrected p stands in the table of differences alone."""
    return (*parts[:2], *parts[3:])


def accuracy(study: Study) -> Table:
    """A row a variant, a column a metric."""
    metrics = metrics_of(study)
    rows = [
        (name_of(study, variant), *(score(study, variant, metric) for metric in metrics)) for variant in study.variants
    ]
    caption = "Mean ± standard deviation over the seeds."
    if any(metric in _SIZES for metric in metrics):
        caption += " APs, APm and APl are pycocotools' figures for small, medium and large objects."
    return Table(
        "accuracy", "Accuracy", (_NAME, *(Column(metric, "points") for metric in metrics)), tuple(rows), caption
    )


def differences(study: Study) -> Table:
    """A row a variant and metric: what the tests say of metrics other than the classes'."""
    tested = [
        metric for metric in metrics_of(study) if any(metric in variant.differences for variant in study.variants)
    ]
    rows = [
        (name_of(study, variant), cells.text_cell(metric), *difference_cells(study, variant, metric))
        for metric in tested
        for variant in study.variants
        if variant.role != "baseline"
    ]
    untested = [metric for metric in metrics_of(study) if metric not in tested]
    caption = (
        f"Variant minus {study.baseline.name}, paired by seed. p, Holm: corrected for the number of variants compared."
        + (f" Not tested: {cells.listed(untested)}." if untested else "")
    )
    columns = (_NAME, Column("metric", figures=False), *_DIFFERENCE)
    return Table("differences", "Differences to the baseline", columns, tuple(rows), caption)


def classes(study: Study) -> Table | None:
    """A row a class, a column a variant; and beside each variant its difference where that was computed."""
    metrics = metrics_of(study, CLASS)
    columns, rows = [Column("class", figures=False)], [[cells.text_cell(short(metric))] for metric in metrics]
    for variant in study.variants:
        columns.append(Column(variant.name, "points"))
        compared = any(metric in variant.differences for metric in metrics)
        columns += [Column(f"{variant.name}, difference", "points")] if compared else []
        for row, metric in zip(rows, metrics):
            row.append(score(study, variant, metric))
            row += [_difference_with_interval(study, variant, metric)] if compared else []
    table = Table(
        "classes",
        f"{PRIMARY} by class",
        tuple(columns),
        tuple(map(tuple, rows)),
        "Mean ± standard deviation over the seeds. Differences to the baseline with their 95 % intervals; better (▲) "
        "and worse (▼) are the verdicts, for which p is corrected over classes and variants.",
    )
    return table if metrics else None


def _difference_with_interval(study: Study, variant: VariantResult, metric: str) -> Cell:
    found, reason = variant.differences.get(metric), why_no_difference(study, variant, metric)
    if found is None or not cells.is_figure(found.difference):
        return cells.missing(reason)
    text, ends = cells.sign_text(found.difference), cells.interval(*found.interval, "too few images for an interval")
    tone = found.verdict if found.verdict in ("better", "worse") else ""
    return Cell(text if ends.reason else f"{text} ({ends.text})", 100 * found.difference, ends.reason, tone)


def errors(study: Study) -> Table | None:
    """A row a variant, a column a kind of error ("error/<kind>" among the summaries)."""
    kinds = metrics_of(study, ERROR)
    rows = [(name_of(study, variant), *(score(study, variant, kind) for kind in kinds)) for variant in study.variants]
    table = Table(
        "errors",
        "Kinds of error",
        (_NAME, *(Column(short(kind), "points") for kind in kinds)),
        tuple(rows),
        "What each kind of error costs: the points of mAP50 that repairing all of its errors would add (after TIDE). Costs overlap, so they do not add up.",
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
    """A row a variant: parameters, operations, time and memory."""
    rows = [
        (name_of(study, variant), *(cost_cell(variant.cost, field, decimals) for field, _, _, decimals in _COSTS))
        for variant in study.variants
    ]
    measured = [variant.cost for variant in study.variants if variant.cost]
    columns, rows = _with_ratios(study, [_NAME, *(Column(title, unit) for _, title, unit, _ in _COSTS)], rows)
    places = "; ".join(dict.fromkeys(f"{cost.imgsz} pixels on {cost.device}" for cost in measured))
    caption = (
        "GFLOPs: counted as the operations are dispatched, attention's matrix products included; by thop: as in YOLOv5's "
        "tables. Latency: batch 1, its ratio to the baseline taken round by round; throughput: batch 16; memory: the peak."
        + (f" Measured at {places}." if places else "")
    )
    return Table("costs", "Cost", tuple(columns), tuple(rows), caption)


def _with_ratios(
    study: Study,
    columns: list[Column],
    rows: list[tuple[Cell, ...]],
) -> tuple[list[Column], list[tuple[Cell, ...]]]:
    """Return the cost's columns and rows with the ratio of latencies behind the latency, where it was measured."""
    if not any(variant.cost and "latency_ms" in variant.cost.ratios for variant in study.variants):
        return columns, rows
    place = 1 + next(number for number, (field, *_) in enumerate(_COSTS) if field == "latency_p95_ms")
    measured = [
        (variant.cost.ratios.get("latency_ms") if variant.cost else None, variant.cost) for variant in study.variants
    ]
    ratios = [cells.number(ratio, 3, why_no_cost(cost, "latency_ms")) for ratio, cost in measured]
    return (
        [*columns[:place], Column("latency, ratio", "×"), *columns[place:]],
        [(*row[:place], ratio, *row[place:]) for row, ratio in zip(rows, ratios)],
    )


def runs(study: Study) -> Table:
    """A row a run: how it ended, what it scored, how long it took."""
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
    caption = "A row is one variant trained with one seed, or one checkpoint evaluated."
    return Table("runs", "Every run", columns, tuple(rows), caption)


def _run_row(study: Study, variant: VariantResult, run: Run, metrics: Sequence[str]) -> tuple[Cell, ...]:
    return (
        name_of(study, variant),
        cells.number(run.seed, 0),
        Cell(run.status, run.status, tone=_tone(run)),
        *(_of_seed(study, variant, run, metric) for metric in metrics),
        cells.duration(run.seconds, "its time was not recorded"),
        _remark(run),
    )


def _runs_have(variant: VariantResult, metric: str) -> bool:
    return metric in variant.summaries and bool(variant.summaries[metric].values)


def _tone(run: Run) -> str:
    return "failed" if run.status != "done" else ""


def _remark(run: Run) -> Cell:
    return cells.text_cell(run.error or ("none" if run.status == "done" else ""), "its log holds no reason")


def _of_seed(study: Study, variant: VariantResult, run: Run, metric: str) -> Cell:
    reason = f"the run is {run.status}" if run.status != "done" else why_no_score(study, variant, metric)
    values = variant.summaries[metric].values if metric in variant.summaries else {}
    return cells.points(values.get(run.seed), reason)


def facts(key: str, title: str, entries: Mapping[str, Any]) -> Table:
    """A row an entry of settings, versions or data; what is nested is named by its path."""
    rows = tuple((cells.text_cell(name), cells.text_cell(_shown(value), "empty")) for name, value in _flat(entries))
    return Table(key, title, (Column("name", figures=False), Column("value", figures=False)), rows)


def _flat(entries: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return ", ".join(_shown(part) for part in value) or "none"
    return str(value)


def conditions(study: Study) -> list[Table]:
    """Settings, data and versions, each where there are any."""
    found = (
        facts("data", "Data", study.data),
        facts("settings", "Settings", study.settings),
        facts("versions", "Versions", study.versions),
    )
    return [table for table in found if table.rows]


def all_tables(study: Study) -> list[Table]:
    """Return every table that has something to show, in the order of the report."""
    candidates: Sequence[Table | None] = (
        overview(study),
        accuracy(study),
        differences(study),
        classes(study),
        errors(study),
        costs(study),
        runs(study),
        *conditions(study),
    )
    return [table for table in candidates if table is not None and table.rows and len(table.columns) > 1]


def asked(study: Study) -> str:
    """Return the question in one sentence."""
    others = [variant.name for variant in study.variants if variant.role == "variant"]
    control = [variant.name for variant in study.variants if variant.role == "control"]
    subject = cells.listed(others + [f"the widened baseline {name}" for name in control]) or "another model"
    verb = "do" if len(others) + len(control) > 1 else "does"
    data = study.data.get("name") or study.data.get("file")
    where = f" on {data}" if data else ""
    return f"By how much, and at what cost, {verb} {subject} differ in {PRIMARY} from the baseline {study.baseline.name}{where}?"


def found(study: Study) -> list[tuple[VariantResult, Difference | None, str]]:
    """Return what was found of each variant in the main metric: (variant, its difference if any, the sentence)."""
    answers = []
    for variant in study.variants:
        if variant.role != "baseline":
            answer = variant.differences.get(PRIMARY)
            sentence = answer.sentence if answer else f"{variant.name}: {why_no_difference(study, variant, PRIMARY)}."
            answers.append((variant, answer, sentence))
    return answers


def tally(study: Study) -> str:
    """Return how many runs there are and how they ended."""
    every = [run for variant in study.variants for run in variant.runs]
    ends = dict.fromkeys(run.status for run in every)
    counts = ", ".join(f"{sum(run.status == end for run in every)} {end}" for end in ends)
    seeds = (
        f"{len(study.seeds)} seeds ({', '.join(map(str, study.seeds))})"
        if len(study.seeds) > 1
        else "one seed: how much seeds matter was not tested"
    )
    return f"{len(study.variants)} variants, {seeds}; {len(every)} runs: {counts}"


def spread(summary: Summary | None) -> tuple[float, ...]:
    """Return a metric's values by rising seed."""
    return tuple(value for _, value in sorted(summary.values.items())) if summary else ()
