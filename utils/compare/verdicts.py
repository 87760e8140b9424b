"""From runs to summaries and differences: scores and matches by seed, handed to utils/statistics."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from utils.compare.results import PARAMETER_MATCHED, VARIANT, Run, Scores, Summary, VariantResult
from utils.statistics import MatchedDetections, compare_variants

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
PRIMARY = "mAP50-95"
_RESAMPLING_SEED = 0


def with_statistics(variants: Sequence[VariantResult], names: Sequence[str]) -> tuple[VariantResult, ...]:
    """Return the variants with summaries and, except for the baseline, differences by metric.

    Args:
        variants: The results of the runs, the baseline first.
        names: Class names.

    Returns:
        The variants in the same order.
    """
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


def compare_with_parameter_matched(variants: Sequence[VariantResult], names: Sequence[str]) -> list[str]:
    """Return the verdicts on mAP50-95 of the variants compared with the parameter-matched baseline.

    They tell whether a variant beats a network that is merely larger.

    Args:
        variants: The results of the runs.
        names: Class names.

    Returns:
        One sentence per variant, none without a parameter-matched baseline.
    """
    matched = next((each for each in variants if each.role == PARAMETER_MATCHED and matches_by_seed(each)), None)
    if matched is None:
        return []
    differences = compare_variants(
        matches_by_seed(matched),
        {each.name: matches_by_seed(each) for each in variants if each.role == VARIANT},
        names,
        np.random.default_rng(_RESAMPLING_SEED),
        baseline_name="the parameter-matched baseline",
    )
    return [by_metric[PRIMARY].sentence for by_metric in differences.values()]


def matches_by_seed(variant: VariantResult) -> Mapping[int, MatchedDetections]:
    """Return the matched detections of the runs that are done, by seed."""
    return {run.seed: run.matches for run in variant.runs if run.status == "done" and run.matches is not None}


def summaries_of(runs: Sequence[Run]) -> dict[str, Summary]:
    """Return mean, standard deviation and values by seed of each metric over the runs that are done."""
    by_seed = {run.seed: scores_by_metric(run.scores) for run in runs if run.status == "done" and run.scores}
    metrics = dict.fromkeys(metric for scores in by_seed.values() for metric in scores)
    return {
        metric: summarize({seed: scores[metric] for seed, scores in by_seed.items() if metric in scores})
        for metric in metrics
    }


def scores_by_metric(scores: Scores) -> dict[str, float]:
    """Return a run's scores by the report's names of metrics."""
    metrics = {PRIMARY: scores.map, "mAP50": scores.map50, "AP75": scores.ap75}
    metrics |= {metric: scores.size[size] for metric, size in SIZES.items() if size in scores.size}
    metrics |= {f"class/{name}": value for name, value in scores.per_class.items()}
    return metrics | {f"error/{kind}": cost for kind, cost in scores.errors.items()}


def summarize(values: dict[int, float]) -> Summary:
    """Return mean and sample standard deviation (nan for one value) of a metric's values by seed."""
    numbers = np.array(list(values.values()))
    return Summary(values, float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan"))
