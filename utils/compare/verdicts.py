"""From runs to summaries and differences: scores and matches by seed, handed to utils/statistics."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from utils.compare.results import Run, Scores, Summary, VariantResult
from utils.statistics import MatchedDetections, compare_variants

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
DECIDING = "mAP50-95"
_RESAMPLING_SEED = 0


def with_statistics(variants: Sequence[VariantResult], names: Sequence[str]) -> tuple[VariantResult, ...]:
    """Return the variants, the baseline first, with summaries and, but for the baseline, differences by metric."""
    baseline, *others = variants
    differences = {}
    if matches_by_seed(baseline):
        differences = compare_variants(
            matches_by_seed(baseline),
            {other.name: matches_by_seed(other) for other in others},
            names,
            np.random.default_rng(_RESAMPLING_SEED),
            baseline_name=baseline.name,
        )
    return tuple(
        dataclasses.replace(each, summaries=summaries_of(each.runs), differences=dict(differences.get(each.name, {})))
        for each in variants
    )


def against_control(variants: Sequence[VariantResult], names: Sequence[str]) -> list[str]:
    """Return the verdicts on mAP50-95 of the variants against the control: whether they beat a mere bigger network."""
    control = next((variant for variant in variants if variant.role == "control" and matches_by_seed(variant)), None)
    if control is None:
        return []
    others = {each.name: matches_by_seed(each) for each in variants if each.role == "variant"}
    found = compare_variants(
        matches_by_seed(control), others, names, np.random.default_rng(_RESAMPLING_SEED), baseline_name="the control"
    )
    return [differences[DECIDING].sentence for differences in found.values()]


def matches_by_seed(variant: VariantResult) -> Mapping[int, MatchedDetections]:
    return {run.seed: run.matches for run in variant.runs if run.status == "done"}


def summaries_of(runs: Sequence[Run]) -> dict[str, Summary]:
    """Return mean, standard deviation and values by seed of each metric over the runs that are done."""
    by_seed = {run.seed: figures_of(run.scores) for run in runs if run.status == "done"}
    metrics = dict.fromkeys(metric for figures in by_seed.values() for metric in figures)
    return {
        metric: summary({seed: figures[metric] for seed, figures in by_seed.items() if metric in figures})
        for metric in metrics
    }


def figures_of(scores: Scores) -> dict[str, float]:
    """Return a run's figures by the report's names of metrics."""
    figures = {DECIDING: scores.map, "mAP50": scores.map50, "AP75": scores.ap75}
    figures |= {metric: scores.size[size] for metric, size in SIZES.items() if size in scores.size}
    figures |= {f"class/{name}": value for name, value in scores.per_class.items()}
    return figures | {f"error/{kind}": cost for kind, cost in scores.errors.items()}


def summary(values: dict[int, float]) -> Summary:
    """Return mean and sample standard deviation (nan for one value) of a metric's values by seed."""
    numbers = np.array(list(values.values()))
    return Summary(values, float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan"))
