"""Differences of variants to a baseline: intervals, p-values and verdicts. docs/compare.md explains each formula."""

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
    """Return the difference of each variant to the baseline in each metric.

    Args:
        baseline: Matched detections by seed; all runs are of the same images and labels.
        variants: By name; a variant that shares no seed with the baseline is left out.
        names: Of the classes.
        rng: Decides every draw.
        baseline_name: For the sentences.
        resamples: Number of bootstrap draws of the images.
        permutations: Number of permutations of the test.

    Returns:
        By variant and metric: "mAP50-95", "mAP50", "AP75", "class/<name>". Classes without labels have no entry.

    Raises:
        ValueError: The evaluations are not of the same labels, or there is no baseline run.

    Example:
        >>> def run(correct):  # 40 images with one label and one detection each
        ...     hits = np.repeat(np.arange(40)[:, None] < correct, 10, axis=1)
        ...     images, conf = np.arange(40, dtype=np.int32), np.linspace(0.9, 0.1, 40, dtype=np.float32)
        ...     return MatchedDetections(images, conf, np.zeros(40, np.int32), hits, np.ones((40, 1), np.int32))
        >>> found = compare_variants({0: run(20)}, {"CBAM": {0: run(40)}}, ["cell"], np.random.default_rng(0))
        >>> found["CBAM"]["mAP50"].verdict
        'better'
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
    half_widths = _half_widths(differences, covariances, images)
    corrected = _holm_by_family(p_values, metrics)
    found = {}
    for name, values in differences.items():
        seeds = common_seeds(baseline, variants[name])
        drafts = [
            _draft(name, metric, seeds, values[:, k], half_widths[name][k], p_values[name][k], corrected[name][k])
            for k, metric in enumerate(metrics)
        ]
        details = _Details(baseline_name, len(variants), len(seeds), len(labels))
        found[name] = {draft.metric: replace(draft, sentence=_sentence(draft, details)) for draft in drafts}
    return found


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values after Holm's step-down correction (Holm 1979).

    The k-th smallest of m p-values is multiplied by m - k + 1; the results never fall and are at most 1.
    """
    given = np.asarray(p_values, float)
    order = given.argsort(kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def interval_half_width(seed_variance: float | None, freedom: float, covariance: np.ndarray, images: int) -> float:
    """Return half the width of a difference's 95 % interval, over images and seeds as two random samples.

    After Obuchowski and Rockette (1995) and Hillis (2007), with trainings for readers and images for cases.

    Args:
        seed_variance: Variance of the differences over seeds, None for one seed.
        freedom: Its degrees of freedom.
        covariance: (S, S) of the seeds' differences over resampled images.
        images: Number of images in the dataset, or of those that contain a class.

    Returns:
        In the unit of the differences; inf for fewer than two images.
    """
    if images < 2:
        return float("inf")
    seeds = len(covariance)
    covariance = covariance * images / (images - 1)
    of_images = max(0.0, covariance.mean())  # if all draws are equal, rounding may leave less than 0
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
class _Details:
    """The sizes and names that a sentence contains."""

    baseline: str
    variants: int
    seeds: int
    images: int


def _differences(baseline: Seeds, variant: Seeds) -> np.ndarray:
    """Variant minus baseline (S, 3 + nc) of each common seed."""
    return np.stack([_scores(variant[seed]) - _scores(baseline[seed]) for seed in common_seeds(baseline, variant)])


def _scores(matches: MatchedDetections) -> np.ndarray:
    """The metrics (3 + nc,) of one run in the order of `metric_names`."""
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
    """Half widths of each metric, by variant; images (K,) are the numbers of images that each metric depends on."""
    variances = seed_variances(differences)
    freedom = pooled_freedom([len(values) for values in differences.values()])
    half_widths = {}
    for name, values in differences.items():
        own = variances.get(name, [None] * values.shape[1])
        half_widths[name] = [
            interval_half_width(variance, freedom, covariance, count)
            for variance, covariance, count in zip(own, covariances[name], images.tolist(), strict=True)
        ]
    return half_widths


def pooled_freedom(seeds: Sequence[int]) -> float:
    """Return the degrees of freedom of the variance pooled over variants with so many seeds each.

    Two variants' differences share the baseline's scatter, so they correlate by 1/2 and their variances by 1/4.
    """
    several = [count - 1 for count in seeds if count > 1]
    return sum(several) / (1 + (len(several) - 1) / 4) if several else 0.0


def _holm_by_family(p_values: Mapping[str, np.ndarray], metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Correct each overall metric over the variants, single classes over variants and classes together."""
    table = np.stack(list(p_values.values()))
    corrected = np.empty_like(table)
    overall = [[k] for k, metric in enumerate(metrics) if metric in OVERALL]
    for columns in (*overall, [k for k, metric in enumerate(metrics) if metric not in OVERALL]):
        corrected[:, columns] = holm(table[:, columns].ravel()).reshape(len(table), -1)
    return dict(zip(p_values, corrected, strict=True))


def _draft(
    name: str, metric: str, seeds: Sequence[int], values: np.ndarray, half: float, p: float, p_holm: float
) -> Difference:
    """A difference without its sentence."""
    mean = float(values.mean())
    # no difference of two figures between 0 and 1 is larger than 1
    low, high = (max(mean - half, -1.0), min(mean + half, 1.0)) if np.isfinite(half) else (float("nan"), float("nan"))
    verdict = NO_DIFFERENCE
    if p_holm <= LEVEL and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return Difference(
        name,
        metric,
        mean,
        dict(zip(seeds, values.tolist(), strict=True)),
        (low, high),
        float(p),
        float(p_holm),
        verdict,
        "",
    )


def _sentence(draft: Difference, details: _Details) -> str:
    """The verdict in words, with its figures in points (hundredths)."""
    what = (
        f"AP50-95 of class {draft.metric.removeprefix('class/')}" if draft.metric.startswith("class/") else draft.metric
    )
    low, high = draft.interval
    correction = "" if draft.p == draft.p_holm else ", corrected for several comparisons"
    chance = f"p = {_probability(draft.p_holm)}{correction}"
    span = f"95 % interval {_points(low)} to {_points(high)}" if np.isfinite(low) else "no interval: too few images"
    tested = f"{details.seeds} seed{'s' * (details.seeds > 1)}, {details.images} image{'s' * (details.images > 1)}"
    figures = f"{_points(draft.difference)} points ({span}; {chance}; {tested})"
    if draft.verdict == NO_DIFFERENCE:
        text = f"{what}: no difference shown between {draft.variant} and {details.baseline}, {figures}."
    else:
        text = f"{what}: {draft.variant} is {draft.verdict} than {details.baseline}, {figures}."
    if details.seeds == 1:
        text += " Seeds were not tested: this compares two trained networks, and another seed may reverse it."
    return text


def _points(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f}"  # no minus sign if it rounds to zero


def _probability(p: float) -> str:
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
