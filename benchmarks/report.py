"""Time the intervals and permutation tests of a study's report, on drawn detections.

    python benchmarks/report.py --images 5000 --variants 2 --seeds 2 --resamples 200 --permutations 40

Prints the seconds of the bootstrap and of the permutation test, per run and 1,000 draws, and what 66 variants x 5 seeds
with the draws of a report take at that rate. `--check` compares the counting of detections with products of dense
matrices.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.statistics.comparison import PERMUTATIONS, RESAMPLES  # noqa: E402
from utils.statistics.precision import _by_class  # noqa: E402
from utils.statistics.resampling import exchange_p_values, image_covariances  # noqa: E402
from utils.statistics.types import MatchedDetections  # noqa: E402

STUDY_VARIANTS, STUDY_SEEDS = 66, 5


def drawn_run(labels: np.ndarray, per_image: int, rng: np.random.Generator) -> MatchedDetections:
    """Return the matched detections of a drawn run.

    Args:
        labels: (images, nc) number of labels.
        per_image: Detections per image.
        rng: Decides them.

    Returns:
        By falling confidence; most labels are found, at thresholds up to a drawn one.
    """
    images, nc = labels.shape
    image, cls = (axis.astype(np.int32) for axis in np.nonzero(labels))
    image, cls = (np.repeat(axis, labels[image, cls]) for axis in (image, cls))
    wrong = max(0, images * per_image - len(image))
    upto = np.concatenate((rng.integers(0, 11, len(image)), np.zeros(wrong, int)))
    conf = np.concatenate((rng.beta(4, 2, len(image)), rng.beta(1, 6, wrong))).astype(np.float32)
    image = np.concatenate((image, rng.integers(0, images, wrong))).astype(np.int32)
    cls = np.concatenate((cls, rng.integers(0, nc, wrong))).astype(np.int32)
    rank = (-conf).argsort(kind="stable")
    return MatchedDetections(image[rank], conf[rank], cls[rank], (np.arange(10) < upto[:, None])[rank], labels)


def dense_detections(ranked, weights: np.ndarray) -> np.ndarray:
    """Return the detections (P + 1, R) up to each correct one by a product with a matrix of (P + 1, images).

    Args:
        ranked: One class's detections.
        weights: (images, R) how often each image is drawn.
    """
    images, rows = len(weights), len(ranked.image) + 1
    counts = np.bincount(ranked.between * images + ranked.of_image, minlength=rows * images).reshape(rows, images)
    return (counts.astype(weights.dtype) @ weights).cumsum(0)


def check(labels: np.ndarray, per_image: int, rng: np.random.Generator) -> None:
    """Print the ratio of the dense product's seconds to those of the sum over detections, and whether they are equal.

    Args:
        labels: (images, nc) number of labels.
        per_image: Detections per image.
        rng: Decides detections and weights.
    """
    weights = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), 256).T.astype(np.float32)
    ranked = next(iter(_by_class(drawn_run(labels, per_image, rng))))
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        slow = dense_detections(ranked, weights)
        middle = time.perf_counter()
        fast = ranked.detections(weights)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    print(f"dense product / sum over detections: {sorted(ratios)[1]:.1f} x, equal: {np.array_equal(slow, fast)}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"images": 5000, "classes": 3, "variants": 2, "seeds": 2, "detections": 20, "resamples": 200}
    for name, default in (*sizes.items(), ("permutations", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--labels", type=float, default=7.0, help="labels per image")
    parser.add_argument("--check", action="store_true", help="compare with products of dense matrices, and stop")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = rng.poisson(options.labels / options.classes, (options.images, options.classes)).astype(np.int32)
    if options.check:
        check(labels, options.detections, rng)
        return
    baseline, *variants = (
        {seed: drawn_run(labels, options.detections, rng) for seed in range(options.seeds)}
        for _ in range(options.variants + 1)
    )
    named = {f"variant {index}": runs for index, runs in enumerate(variants)}
    total = 0.0
    for name, work, draws, of_report, runs, of_study in (
        ("bootstrap", image_covariances, options.resamples, RESAMPLES, options.variants + 1, STUDY_VARIANTS + 1),
        ("permutations", exchange_p_values, options.permutations, PERMUTATIONS, options.variants, STUDY_VARIANTS),
    ):
        start = time.perf_counter()
        work(baseline, named, draws, rng)
        seconds = time.perf_counter() - start
        rate = seconds / (runs * options.seeds * draws)
        total += rate * of_study * STUDY_SEEDS * of_report
        print(f"{name:12s} {seconds:8.2f} s, {1000 * rate:8.3f} s per run and 1,000 draws")
    print(f"{STUDY_VARIANTS} variants x {STUDY_SEEDS} seeds with a report's draws, at this rate: {total / 60:.1f} min")


if __name__ == "__main__":
    main()
