"""Differences of variants to a baseline, with intervals, p-values and verdicts. docs/compare.md explains each formula."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.statistics.precision import OVERALL, average_precision, metric_names
from utils.statistics.resampling import Seeds, common_seeds, exchange_p_values, image_covariances, seed_variances
from utils.statistics.student import student_quantile
from utils.statistics.types import Difference, MatchedDetections

RESAMPLES = 10_000
PERMUTATIONS = 2_000
LEVEL = 0.05
NO_DIFFERENCE = "no difference shown"


def compare_variants(
    baseline: Seeds,
    variants: Mapping[str, Seeds],
    names: Sequence[str],
    rng: np.random.Generator,
    *,
    baseline_name: str = "the baseline",
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
) -> dict[str, dict[str, Difference]]:
    """Return by variant and metric ("mAP50-95", "mAP50", "AP75", "class/<name>") the difference to the baseline.

    baseline, and each of variants: `MatchedDetections` by seed, all of the same images and labels; names: of the classes. `rng`
    decides every draw. A variant that shares no seed with the baseline is left out. Classes without labels have no entry.
    ValueError: the evaluations are not of the same labels.
    """
    _check(baseline, variants, names)
    variants = {name: runs for name, runs in variants.items() if common_seeds(baseline, runs)}
    if not variants:
        return {}
    labels = next(iter(baseline.values())).labels
    kept = np.concatenate((np.full(len(OVERALL), labels.any()), labels.any(0)))
    metrics = np.array(metric_names(names))[kept].tolist()
    differences = {name: _differences(baseline, runs)[:, kept] for name, runs in variants.items()}
    covariances = {name: found[kept] for name, found in image_covariances(baseline, variants, resamples, rng).items()}
    p_values = {name: found[kept] for name, found in exchange_p_values(baseline, variants, permutations, rng).items()}
    images = np.concatenate((np.full(len(OVERALL), len(labels)), (labels > 0).sum(0)))[kept]
    halves = _half_widths(differences, covariances, images)
    corrected = _holm_by_family(p_values, metrics)
    found = {}
    for name, values in differences.items():
        seeds = common_seeds(baseline, variants[name])
        drafts = [
            _draft(name, metric, seeds, values[:, k], halves[name][k], p_values[name][k], corrected[name][k])
            for k, metric in enumerate(metrics)
        ]
        facts = _Facts(baseline_name, len(variants), len(seeds), len(labels))
        found[name] = {draft.metric: replace(draft, sentence=_sentence(draft, facts)) for draft in drafts}
    return found


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction (Holm 1979): the k-th smallest of m times m - k + 1, never falling, at most 1."""
    p_values = np.asarray(p_values, float)
    order = p_values.argsort(kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def interval_half_width(seed_variance: float | None, freedom: float, covariance: np.ndarray, images: int) -> float:
    """Half of a difference's 95 % interval, over images and seeds as two random samples.

    After Obuchowski and Rockette (1995) and Hillis (2007), with trainings for readers and images for cases.

    seed_variance: of the differences by seed, with its degrees of freedom; None: one seed. covariance: (S, S) of the seeds'
    differences over resampled images; images: how many the data set has (of a class: how many hold it), inf below 2.
    """
    if images < 2:
        return float("inf")
    seeds = len(covariance)
    covariance = covariance * images / (images - 1)
    of_images = max(0.0, covariance.mean())  # of draws that are all alike, rounding may leave less than nothing
    alone = student_quantile(1 - LEVEL / 2, images - 1) * of_images**0.5
    if seed_variance is None:
        return float(alone)
    of_seeds = seed_variance / seeds
    shared = max(0.0, (covariance.sum() - covariance.trace()) / (seeds * (seeds - 1)))
    if of_seeds + shared == 0:
        return float(alone)
    combined = (of_seeds + shared) ** 2 / (of_seeds**2 / freedom + shared**2 / (images - 1))
    return float(max(alone, student_quantile(1 - LEVEL / 2, combined) * (of_seeds + shared) ** 0.5))


@dataclass(frozen=True)
class _Facts:
    """What a sentence tells beside the figures."""

    baseline: str
    variants: int
    seeds: int
    images: int


def _differences(baseline: Seeds, variant: Seeds) -> np.ndarray:
    """(S, 3 + nc) variant less baseline of each common seed."""
    return np.stack([_scores(variant[seed]) - _scores(baseline[seed]) for seed in common_seeds(baseline, variant)])


def _scores(matches: MatchedDetections) -> np.ndarray:
    """(3 + nc,) the figures of one run in the order of `metric_names`."""
    found = average_precision(matches)
    return np.array([found.map, found.map50, found.ap75, *found.per_class])


def _check(baseline: Seeds, variants: Mapping[str, Seeds], names: Sequence[str]) -> None:
    if not baseline:
        raise ValueError("compare_variants: the baseline has no run")
    labels = next(iter(baseline.values())).labels
    if labels.shape[1] != len(names):
        raise ValueError(f"compare_variants: {labels.shape[1]} classes but {len(names)} names")
    for name, runs in (("the baseline", baseline), *variants.items()):
        for seed, matches in runs.items():
            if not np.array_equal(matches.labels, labels):
                raise ValueError(
                    f"compare_variants: seed {seed} of {name} was evaluated on other labels than the baseline"
                )


def _half_widths(
    differences: Mapping[str, np.ndarray], covariances: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, list[float]]:
    """Of each metric, by variant; images (K,): how many speak of a metric."""
    variances = seed_variances(differences)
    freedom = pooled_freedom([len(values) for values in differences.values()])
    halves = {}
    for name, values in differences.items():
        own = variances.get(name, [None] * values.shape[1])
        halves[name] = [
            interval_half_width(variance, freedom, covariance, count)
            for variance, covariance, count in zip(own, covariances[name], images.tolist())
        ]
    return halves


def pooled_freedom(seeds: Sequence[int]) -> float:
    """Degrees of freedom of the variance pooled over variants with so many seeds each.

    Two variants' differences share the baseline's scatter, so they correlate by 1/2 and their variances by 1/4.
    """
    several = [count - 1 for count in seeds if count > 1]
    return sum(several) / (1 + (len(several) - 1) / 4) if several else 0.0


def _holm_by_family(p_values: Mapping[str, np.ndarray], metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Corrected over the variants; single classes over variants and classes together."""
    table = np.stack(list(p_values.values()))
    corrected = np.empty_like(table)
    overall = [[k] for k, metric in enumerate(metrics) if metric in OVERALL]
    for columns in (*overall, [k for k, metric in enumerate(metrics) if metric not in OVERALL]):
        corrected[:, columns] = holm(table[:, columns].ravel()).reshape(len(table), -1)
    return dict(zip(p_values, corrected))


def _draft(
    name: str, metric: str, seeds: Sequence[int], values: np.ndarray, half: float, p: float, p_holm: float
) -> Difference:
    """A difference that lacks its sentence."""
    mean = float(values.mean())
    # no difference of two figures between 0 and 1 is larger than 1
    low, high = (max(mean - half, -1.0), min(mean + half, 1.0)) if np.isfinite(half) else (float("nan"), float("nan"))
    verdict = NO_DIFFERENCE
    if p_holm <= LEVEL and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return Difference(
        name, metric, mean, dict(zip(seeds, values.tolist())), (low, high), float(p), float(p_holm), verdict, ""
    )


def _sentence(draft: Difference, facts: _Facts) -> str:
    """The verdict in words, with its figures in points (hundredths)."""
    what = (
        f"AP50-95 of class {draft.metric.removeprefix('class/')}" if draft.metric.startswith("class/") else draft.metric
    )
    low, high = draft.interval
    correction = "" if draft.p == draft.p_holm else ", corrected for several comparisons"
    chance = f"p = {_probability(draft.p_holm)}{correction}"
    span = f"95 % interval {_points(low)} to {_points(high)}" if np.isfinite(low) else "no interval: too few images"
    tested = f"{facts.seeds} seed{'s' * (facts.seeds > 1)}, {facts.images} image{'s' * (facts.images > 1)}"
    figures = f"{_points(draft.difference)} points ({span}; {chance}; {tested})"
    if draft.verdict == NO_DIFFERENCE:
        text = f"{what}: no difference shown between {draft.variant} and {facts.baseline}, {figures}."
    else:
        text = f"{what}: {draft.variant} is {draft.verdict} than {facts.baseline}, {figures}."
    if facts.seeds == 1:
        text += " Seeds were not tested: this compares two trained networks, and another seed may turn it round."
    return text


def _points(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f}"  # what rounds to zero carries no minus


def _probability(p: float) -> str:
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
