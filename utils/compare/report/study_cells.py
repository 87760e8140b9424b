"""The cells that several tables of a study share: names, scores, differences and costs, and why one is missing."""

from utils.compare.report import cells
from utils.compare.report.cells import Cell, Column
from utils.compare.results import BASELINE, Cost, Study, VariantResult

PRIMARY = "mAP50-95"
CLASS, ERROR = "class/", "error/"
_ORDER = (PRIMARY, "mAP50", "AP75", "APs", "APm", "APl")
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
NAME = Column("variant", figures=False)


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
    if metric in SIZES:
        return f"no {SIZES[metric]} objects among the labels that were evaluated"
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


DIFFERENCE_COLUMNS = (
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
