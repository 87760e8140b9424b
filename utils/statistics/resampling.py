"""Resampling of images: the bootstrap, and the permutation test, which exchanges them between two models.

Every model and every seed of a study gets the same draw. A study is the baseline's `MatchedDetections` by seed and each
variant's by seed; a variant is paired with the baseline over the seeds that both have.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from utils.statistics.precision import MAX_VALUES, interleave, metrics_of, resampled_ap
from utils.statistics.types import MatchedDetections

Seeds = Mapping[int, MatchedDetections]
NOISE = 1e-9  # a standard error below this is rounding
ROUNDING = 1e-5  # relative; two statistics closer than this count as equal


def common_seeds(baseline: Seeds, variant: Seeds) -> list[int]:
    """Return the seeds that both have, rising.

    Args:
        baseline: Matched detections by seed.
        variant: Likewise.

    Returns:
        The seeds.
    """
    return sorted(set(baseline) & set(variant))


def image_covariances(
    baseline: Seeds, variants: Mapping[str, Seeds], resamples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the bootstrap covariances, over images, of the seeds' differences.

    Images are drawn with replacement (Efron 1979); draws without any label of a class are left out for that class.

    Args:
        baseline: Matched detections by seed.
        variants: By name.
        resamples: Number of draws.
        rng: Decides every draw.

    Returns:
        By variant (K, S, S), for K metrics and S common seeds.
    """
    images = _images(baseline)
    sums: dict[str, tuple[np.ndarray, ...]] = {}
    for count in _blocks(resamples, next(iter(baseline.values()))):
        weights = rng.multinomial(images, np.full(images, 1 / images), count)
        scores = {seed: _metrics(matches, weights) for seed, matches in baseline.items()}
        for name, runs in variants.items():
            differences = np.stack(
                [_metrics(runs[seed], weights) - scores[seed] for seed in common_seeds(baseline, runs)]
            )
            new = _moments(differences)
            sums[name] = tuple(held + more for held, more in zip(sums[name], new, strict=True)) if name in sums else new
    return {name: _covariance(*moments) for name, moments in sums.items()}


def exchange_p_values(
    baseline: Seeds, variants: Mapping[str, Seeds], permutations: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return two-sided p-values: how often `permutation_statistics` is as large with images exchanged.

    In each permutation a fair coin for every image decides whether baseline and variant exchange their detections in
    it, in all seeds alike. p = (1 + as large) / (1 + permutations) is never 0 (Phipson and Smyth 2010).

    Args:
        baseline: Matched detections by seed.
        variants: By name.
        permutations: Number of permutations.
        rng: Decides every coin.

    Returns:
        By variant (K,), one p per metric.
    """
    pairs = {
        name: [interleave(baseline[seed], runs[seed]) for seed in common_seeds(baseline, runs)]
        for name, runs in variants.items()
    }
    images = _images(baseline)
    observed = permutation_statistics(_exchanged(pairs, np.zeros((1, images), np.int8)))
    larger = {name: np.zeros(values.shape[1]) for name, values in observed.items()}
    for count in _blocks(permutations, next(iter(pairs.values()))[0]):
        drawn = permutation_statistics(_exchanged(pairs, rng.integers(0, 2, (count, images), np.int8)))
        for name, values in drawn.items():
            larger[name] += (values >= observed[name] * (1 - ROUNDING)).sum(0)
    return {name: (1 + counted) / (1 + permutations) for name, counted in larger.items()}


def permutation_statistics(differences: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the test statistics (n, K) of each variant from its differences (S, n, K) by seed.

    Over several seeds |mean| / (s / sqrt(S)) with s^2 of `seed_variances`; with one seed |difference|.
    """
    variances = seed_variances(differences)
    means = {name: np.abs(values.mean(0)) for name, values in differences.items()}
    return {
        name: means[name] / np.maximum(np.sqrt(variances[name] / len(values)), NOISE)
        if name in variances
        else means[name]
        for name, values in differences.items()
    }


def seed_variances(differences: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variance over seeds of each variant's differences (S, ...), if it has two seeds or more.

    It is the mean over all such variants, weighted by their degrees of freedom, or the variant's own if that is larger.
    """
    several = {name: values for name, values in differences.items() if len(values) > 1}
    if not several:
        return {}
    pooled = sum(len(values) * values.var(0) for values in several.values()) / sum(
        len(values) - 1 for values in several.values()
    )
    return {name: np.maximum(pooled, values.var(0, ddof=1)) for name, values in several.items()}


def _exchanged(pairs: Mapping[str, list[MatchedDetections]], taken: np.ndarray) -> dict[str, np.ndarray]:
    """Differences (S, n, K) after exchanging the images with taken (n, images) = 1."""
    mixtures = np.block([[1 - taken, taken], [taken, 1 - taken]])  # for the baseline, then for the variant
    count = len(taken)
    differences = {}
    for name, merged in pairs.items():
        scores = np.stack([_metrics(matches, mixtures) for matches in merged])
        differences[name] = scores[:, count:] - scores[:, :count]
    return differences


def _metrics(matches: MatchedDetections, weights: np.ndarray) -> np.ndarray:
    return metrics_of(resampled_ap(matches, weights)).astype(np.float64)


def _images(baseline: Seeds) -> int:
    return next(iter(baseline.values())).images


def _blocks(total: int, matches: MatchedDetections) -> Iterator[int]:
    """Sizes of blocks of draws, together `total`, each small enough for memory."""
    size = max(1, MAX_VALUES // max(matches.images, 10 * matches.nc))
    for start in range(0, total, size):
        yield min(size, total - start)


def _moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count (K,), sums (S, K) and products (K, S, S) over the draws of (S, n, K) that have labels."""
    there = ~np.isnan(differences)
    known = np.where(there, differences, 0)
    return there[0].sum(0), known.sum(1), np.einsum("snk,tnk->kst", known, known)


def _covariance(count: np.ndarray, sums: np.ndarray, products: np.ndarray) -> np.ndarray:
    count = np.maximum(count, 1)
    means = (sums / count).T
    return products / count[:, None, None] - means[:, :, None] * means[:, None, :]
