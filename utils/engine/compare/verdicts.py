"""From runs to summaries and differences: the metrics that a study reports, taken from scores and matches."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from utils.engine.compare.records import Run, Scores, Summary, Variant

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}


def with_statistics(variants: Sequence[Variant], seeds: Sequence[int], names: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants with their summaries by metric."""
    return tuple(dataclasses.replace(variant, summaries=summaries_of(variant.runs)) for variant in variants)


def summaries_of(runs: Sequence[Run]) -> dict[str, Summary]:
    """Return mean, standard deviation and values by seed of each metric over the runs that are done."""
    by_seed = {run.seed: figures_of(run.scores) for run in runs if run.status == "done"}
    metrics = dict.fromkeys(metric for figures in by_seed.values() for metric in figures)
    return {metric: summary({seed: figures[metric] for seed, figures in by_seed.items() if metric in figures}) for metric in metrics}


def figures_of(scores: Scores) -> dict[str, float]:
    """Return a run's figures by the report's names of metrics."""
    figures = {"mAP50-95": scores.map, "mAP50": scores.map50, "AP75": scores.ap75}
    figures |= {metric: scores.size[size] for metric, size in SIZES.items() if size in scores.size}
    return figures | {f"class/{name}": value for name, value in scores.per_class.items()}


def summary(values: dict[int, float]) -> Summary:
    """Return mean and sample standard deviation (nan for one value) of a metric's values by seed."""
    numbers = np.array(list(values.values()))
    return Summary(values, float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan"))
