"""Measure error rate, power and interval coverage of `compare_variants` on synthetic studies (tests/synthetic.py).

    python benchmarks/study_calibration.py [--studies 500] [--resamples 200] [--workers 2] [--only TEXT ...]

The true differences of these studies are known. The table has one row per case:

    false   studies in which at least one equal variant is called better or worse (mAP50-95)
    class   the same for single classes
    p       equal variants with p <= 0.05 before correction
    covers  intervals that contain the true difference
    naive   the same for a percentile interval over images and seeds drawn with replacement (first variant)
    half    mean half width of the intervals in points
    found   studies that call the first variant better, if it is better
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.synthetic import World  # noqa: E402
from utils.statistics import average_precision, compare_variants  # noqa: E402
from utils.statistics.precision import metrics_of, resampled_ap  # noqa: E402

METRIC = "mAP50-95"
CASES = {  # name: world, skills (baseline first), number of seeds, standard deviation between seeds per variant
    "1 variant, 3 seeds": (World(), (0, 0), 3, None),
    "4 variants, 3 seeds": (World(), (0,) * 5, 3, None),
    "2 variants, 2 seeds": (World(), (0,) * 3, 2, None),
    "2 variants, 5 seeds": (World(), (0,) * 3, 5, None),
    "4 variants, 3 seeds, seeds scatter little": (World(seed_sd=0.005), (0,) * 5, 3, None),
    "4 variants, 3 seeds, seeds scatter 3 times as much": (World(seed_sd=0.15), (0,) * 5, 3, None),
    "4 variants, 3 seeds, variants like different images": (World(liking_sd=0.3), (0,) * 5, 3, None),
    "4 variants, 3 seeds, the first scatters 3 times as much": (World(), (0,) * 5, 3, (0.05, 0.15, 0.05, 0.05, 0.05)),
    "3 variants, 3 seeds, a fourth far worse": (World(), (0, 0, 0, 0, -1.5), 3, None),
    "1 variant, 3 seeds, 300 images, seeds scatter 3 times as much": (World(images=300, seed_sd=0.15), (0, 0), 3, None),
    "1 variant, 1 seed, seeds without scatter": (World(seed_sd=0), (0, 0), 1, None),
    "4 variants, 1 seed, seeds without scatter": (World(seed_sd=0), (0,) * 5, 1, None),
    "4 variants, 1 seed, seeds scatter": (World(), (0,) * 5, 1, None),
    "true difference 0.1, 1 variant, 3 seeds": (World(images=87), (0, 0.1), 3, None),
    "true difference 0.2, 1 variant, 3 seeds": (World(images=87), (0, 0.2), 3, None),
    "true difference 0.4, 1 variant, 3 seeds": (World(images=87), (0, 0.4), 3, None),
    "true difference 0.1, 4 variants, 3 seeds": (World(images=87), (0, 0.1, 0, 0, 0), 3, None),
    "true difference 0.2, 4 variants, 3 seeds": (World(images=87), (0, 0.2, 0, 0, 0), 3, None),
    "true difference 0.4, 4 variants, 3 seeds": (World(images=87), (0, 0.4, 0, 0, 0), 3, None),
    "true difference 0.2, 4 variants, 5 seeds": (World(images=87), (0, 0.2, 0, 0, 0), 5, None),
    "true difference 0.2, 1 variant, 1 seed": (World(images=87), (0, 0.2), 1, None),
}


def main() -> None:
    """Print one table row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, help="synthetic studies per case")
    parser.add_argument("--resamples", type=int, default=200, help="resamples and permutations per study")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names contain one of these texts")
    options = parser.parse_args()
    print(
        "| case | true difference, points | false | class | p | covers | naive | half | found |\n" + "| --- " * 9 + "|"
    )
    with ProcessPoolExecutor(options.workers) as pool:
        for name, case in CASES.items():
            if not any(part in name for part in options.only):
                continue
            truth = _truth(case, pool)
            rows = list(pool.map(partial(_study, case, truth, options.resamples), range(options.studies), chunksize=8))
            false, of_class, p, covers, naive, half, found = np.mean(rows, 0)
            shown = [
                "–" if np.isnan(value) else f"{100 * value:.1f} %" for value in (false, of_class, p, covers, naive)
            ]
            print(
                f"| {name} | {100 * truth[0]:.2f} | {' | '.join(shown)} | {100 * half:.2f} | "
                f"{'–' if np.isnan(found) else f'{100 * found:.0f} %'} |",
                flush=True,
            )


def _truth(case, pool) -> np.ndarray:
    """Return the true difference of each variant to the baseline: the mean over many datasets and trainings."""
    world, skills, _, seed_sds = case
    if len(set(skills)) == 1 and seed_sds is None:
        return np.zeros(len(skills) - 1)
    values = np.mean(list(pool.map(partial(_one_training, world, skills, seed_sds), range(3000), chunksize=50)), 0)
    equal = np.array(skills[1:]) == skills[0]
    return np.where(equal & (seed_sds is None), 0, values[1:] - values[0])


def _one_training(world: World, skills, seed_sds, index: int) -> list[float]:
    """Return the mAP of each model in training number `index`."""
    study = world.study(np.random.default_rng([1, index]), skills, 1, seed_sds)
    return [average_precision(runs[0]).map for runs in study]


def _study(case, truth: np.ndarray, resamples: int, index: int) -> tuple[float, ...]:
    """Return the row of one study: false, class, p, covers, naive, half, found."""
    world, skills, seeds, seed_sds = case
    rng = np.random.default_rng([2, index])
    baseline, *others = world.study(rng, skills, seeds, seed_sds)
    variants = {str(variant): runs for variant, runs in enumerate(others)}
    names = [str(c) for c in range(world.nc)]
    compared = compare_variants(baseline, variants, names, rng, resamples=resamples, permutations=resamples)
    equal = [name for name, skill in zip(variants, skills[1:], strict=True) if skill == skills[0]]
    found = {name: compared[name][METRIC] for name in variants}
    errors = (
        [
            any(found[name].verdict != "no difference shown" for name in equal),
            any(
                difference.verdict != "no difference shown"
                for name in equal
                for metric, difference in compared[name].items()
                if metric.startswith("class/")
            ),
            np.mean([found[name].p <= 0.05 for name in equal]),
        ]
        if equal
        else [np.nan] * 3
    )
    intervals = [difference.interval for difference in found.values()]
    covers = np.mean([low <= true <= high for (low, high), true in zip(intervals, truth, strict=True)])
    naive_low, naive_high = _naive_interval(baseline, variants["0"], rng, resamples)
    half = np.mean([(high - low) / 2 for low, high in intervals])
    better = found["0"].verdict == "better" if skills[1] > skills[0] else np.nan
    return (*map(float, errors), float(covers), float(naive_low <= truth[0] <= naive_high), float(half), float(better))


def _naive_interval(baseline, variant, rng, resamples: int) -> tuple[float, float]:
    """Return the percentile interval that is not used: images and seeds drawn with replacement."""
    images, seeds = baseline[0].images, len(baseline)
    weights = rng.multinomial(images, np.full(images, 1 / images), resamples)
    scores = [
        np.stack([metrics_of(resampled_ap(runs[s], weights))[:, 0] for s in range(seeds)])
        for runs in (baseline, variant)
    ]
    differences = scores[1] - scores[0]
    drawn = rng.integers(0, seeds, (seeds, resamples))
    low, high = np.percentile(np.take_along_axis(differences, drawn, 0).mean(0), (2.5, 97.5))
    return low, high


if __name__ == "__main__":
    main()
