"""AP of resampled images, intervals and tests against slow literal ones; verdicts on studies whose truth is known."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from literal_metrics import accumulated, random_images, reference_images
from synthetic import World

from utils.metrics.average_precision import ImageResult
from utils.statistics import MatchedDetections, average_precision, compare_variants, matches_of
from utils.statistics.comparison import holm, interval_half_width, pooled_freedom
from utils.statistics.precision import interleave, metrics_of, resampled_ap
from utils.statistics.resampling import exchange_p_values, image_covariances
from utils.statistics.student import student_quantile

OVERALL = ("mAP50-95", "mAP50", "AP75")


def as_results(images):
    return [ImageResult(index, f"{index}.jpg", (480, 640), *image) for index, image in enumerate(images)]


def compare(study, rng, **options):
    """The first of `study` is the baseline; the rest are named A, B, ..."""
    names = [f"class {c}" for c in range(next(iter(study[0].values())).nc)]
    options = {"resamples": 200, "permutations": 200, **options}
    return compare_variants(study[0], dict(zip("ABCDE", study[1:], strict=False)), names, rng, **options)


# ---- average precision ----


def test_average_precision_of_the_reference_detections_is_the_accumulators(golden):
    arrays = golden("metrics.npz")
    expected = accumulated(reference_images(arrays), 5).compute()
    found = average_precision(matches_of(as_results(reference_images(arrays)), 5))
    np.testing.assert_allclose(found.ap, expected.ap, rtol=0, atol=1e-12)
    assert found.map == pytest.approx(expected.map, abs=1e-12)
    assert found.map50 == pytest.approx(float(arrays["yolov5_map50"]), abs=1e-6)
    assert found.ap75 == pytest.approx(expected.ap[:4, 5].mean(), abs=1e-12)
    assert found.labels.tolist() == expected.labels.tolist() and np.isnan(found.per_class).tolist() == [False] * 4 + [
        True
    ]


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_random_detections_is_the_accumulators(seed):
    images = random_images(40, 4, seed)
    expected = accumulated(images, 5).compute()
    found = average_precision(matches_of(as_results(images), 5))
    np.testing.assert_allclose(found.ap, expected.ap, rtol=0, atol=1e-12)
    assert found.map == pytest.approx(expected.map, abs=1e-12) and 0.05 < found.map < 0.9


def test_weights_are_repeated_images():
    images, rng = random_images(25, 4, 2), np.random.default_rng(0)
    matches = matches_of(as_results(images), 4)
    for _ in range(30):
        weights = rng.multinomial(25, np.full(25, 1 / 25))
        repeated = accumulated(
            [image for image, count in zip(images, weights, strict=True) for _ in range(count)], 4
        ).compute()
        found = average_precision(matches, weights)
        np.testing.assert_allclose(found.ap, repeated.ap, rtol=0, atol=1e-12)
        assert found.map == pytest.approx(repeated.map, abs=1e-12) and found.labels.tolist() == repeated.labels.tolist()


@pytest.mark.parametrize("labels", [1, 3, 7, 50, 100, 200, 300])
def test_recalls_that_fall_on_a_sample_count_as_the_accumulator_counts_them(labels):
    """Perfect detections of 1, 2, ... of N labels, a false positive after each: recall k/N meets i/100 for many k."""
    rng = np.random.default_rng(labels)
    for hits in {1, labels // 2 or 1, labels}:
        images = []
        for index in range(labels):
            box = np.array([[10.0, 10, 50, 50]])
            rows = np.concatenate((box, box + 200))[: 2 * (index < hits)]
            conf = np.sort(rng.uniform(0, 1, len(rows)))[::-1].copy()
            images.append((_detections(rows, conf), np.zeros(1, int), box))
        found = average_precision(matches_of(as_results(images), 1))
        np.testing.assert_allclose(found.ap, accumulated(images, 1).compute().ap, rtol=0, atol=1e-12)


def _detections(boxes, conf):
    import torch

    from utils.types import Detections

    return Detections(
        torch.from_numpy(boxes).view(-1, 4), torch.from_numpy(conf), torch.zeros(len(conf), dtype=torch.int64)
    )


def test_many_resamplings_at_once_equal_one_by_one():
    matches = World(images=30, nc=3, labels=0.4).study(np.random.default_rng(0), [0], 1)[0][0]
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), 1500)
    ap = resampled_ap(matches, weights)
    metrics = metrics_of(ap)
    for row in (0, 1, 1023, 1024, 1499):
        one = average_precision(matches, weights[row])
        np.testing.assert_allclose(np.nan_to_num(ap[row]), one.ap, atol=2e-6)
        np.testing.assert_allclose(metrics[row], [one.map, one.map50, one.ap75, *one.per_class], atol=2e-6)
    weights[0, matches.labels[:, 1] > 0] = 0
    assert np.isnan(metrics_of(resampled_ap(matches, weights[:1]))[0]).tolist() == [False] * 4 + [True, False]


def test_nothing_found_and_nothing_there():
    nothing = np.zeros(0, np.int32)
    empty = MatchedDetections(nothing, nothing.astype(np.float32), nothing, np.zeros((0, 10), bool), np.array([[2, 0]]))
    assert average_precision(empty).map == 0 and average_precision(empty).ap.shape == (2, 10)
    assert average_precision(dataclasses.replace(empty, labels=np.zeros((1, 2), int))).map == 0
    assert average_precision(matches_of([], 2)).map50 == 0


def test_matches_keep_in_a_file(tmp_path):
    matches = matches_of(as_results(random_images()), 4)
    matches.save(tmp_path / "matches.npz")
    read = MatchedDetections.load(tmp_path / "matches.npz")
    for field in dataclasses.fields(MatchedDetections):
        kept, found = getattr(matches, field.name), getattr(read, field.name)
        assert kept.dtype == found.dtype and np.array_equal(kept, found)
    assert (read.images, read.nc, read.correct.dtype, read.image.dtype, read.conf.dtype) == (
        12,
        4,
        bool,
        np.int32,
        np.float32,
    )


def test_what_is_wrong_is_reported():
    matches = matches_of(as_results(random_images()), 4)
    with pytest.raises(ValueError, match=r"expected weights \(R, 12\), got \(1, 5\)"):
        average_precision(matches, np.ones(5, int))
    with pytest.raises(ValueError, match=r"expected image, conf, cls \(\d+,\)"):
        dataclasses.replace(matches, conf=matches.conf[:-1])
    with pytest.raises(ValueError, match="label classes in 0..0"):
        matches_of(as_results(random_images()), 1)
    gap = matches.correct.copy()
    gap[0] = [True, False, True] + [False] * 7
    with pytest.raises(ValueError, match="gaps"):
        dataclasses.replace(matches, correct=gap)
    other = matches_of(as_results(random_images(seed=4)), 4)
    with pytest.raises(ValueError, match="seed 0 of A was evaluated on other labels"):
        compare_variants({0: matches}, {"A": {0: other}}, list("abcd"), np.random.default_rng())
    with pytest.raises(ValueError, match="4 classes but 1 names"):
        compare_variants({0: matches}, {"A": {0: matches}}, ["a"], np.random.default_rng())


@pytest.mark.parametrize("right", range(1, 11))
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_difference_that_is_the_same_on_every_image_has_an_interval(right, seeds):
    """Rounding may leave its variance a little below 0."""
    labels, correct = np.ones((13, 1), np.int32), np.zeros((13, 10), bool)
    correct[:, :right] = True
    index, conf = np.arange(13, dtype=np.int32), np.linspace(0.9, 0.5, 13).astype(np.float32)
    found = MatchedDetections(index, conf, np.zeros(13, np.int32), correct, labels)
    nothing = MatchedDetections(index[:0], conf[:0], index[:0], correct[:0], labels)
    compared = compare_variants(
        dict.fromkeys(range(seeds), nothing),
        {"A": dict.fromkeys(range(seeds), found)},
        ["a"],
        np.random.default_rng(0),
        resamples=997,
        permutations=200,
    )
    answer = compared["A"]["mAP50-95"]
    np.testing.assert_allclose(answer.interval, 0.0995 * right, atol=1e-6)
    assert answer.verdict == "better"


def test_one_image_is_one_image():
    found = matches_of(as_results(random_images()[:1]), 4)
    answer = compare_variants(
        {0: found}, {"A": {0: found}}, list("abcd"), np.random.default_rng(0), resamples=5, permutations=5
    )
    assert (
        "no interval: too few images" in answer["A"]["mAP50-95"].sentence
        and "1 seed, 1 image)" in answer["A"]["mAP50-95"].sentence
    )


# ---- pieces of the statistics ----


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [  # of tables: 97.5 %
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (8, 2.30600),
        (30, 2.04227),
        (120, 1.97993),
        (1e7, 1.95996),
    ],
)
def test_students_quantiles(freedom, quantile):
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=3e-6)


def test_students_quantile_between_whole_degrees():
    """Twice the integral of the density beyond it is 5 %."""
    for freedom in (1.5, 2.63, 4.57):
        quantile = student_quantile(0.975, freedom)
        x = np.linspace(-quantile, quantile, 200_001)
        density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        whole = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 200_003)[1:-1])  # x = tan(u), dx = (1 + x^2) du
        area = ((1 + whole**2 / freedom) ** (-(freedom + 1) / 2) * (1 + whole**2)).sum() * np.pi / 200_002
        inside = (density[:-1] + density[1:]).sum() / 2 * (x[1] - x[0])
        assert inside / area == pytest.approx(0.95, abs=2e-3 if freedom < 2 else 1e-4)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1] and holm([0.2]).tolist() == [0.2]


def test_exchanged_images_are_literally_exchanged():
    study = World(images=12).study(np.random.default_rng(3), [0, 0.5], 1)
    baseline, variant = study[0][0], study[1][0]
    taken = np.random.default_rng(0).integers(0, 2, 12)
    mixed = interleave(baseline, variant)
    from_variant = average_precision(mixed, np.concatenate((1 - taken, taken)))
    kept, got = taken[baseline.image] == 0, taken[variant.image] == 1
    parts = [
        np.concatenate((getattr(baseline, name)[kept], getattr(variant, name)[got]))
        for name in ("image", "conf", "cls", "correct")
    ]
    rank = (-parts[1]).argsort(kind="stable")
    literal = average_precision(MatchedDetections(*(part[rank] for part in parts), baseline.labels))
    np.testing.assert_allclose(from_variant.ap, literal.ap, atol=1e-12)
    np.testing.assert_allclose(
        average_precision(mixed, np.repeat((1, 0), 12)).ap, average_precision(baseline).ap, atol=1e-12
    )
    np.testing.assert_allclose(
        average_precision(mixed, np.repeat((0, 1), 12)).ap, average_precision(variant).ap, atol=1e-12
    )
    assert literal.map not in (average_precision(baseline).map, average_precision(variant).map)


def _mixed(taken, one, other):
    """mAP50-95 of `one` with the images of `taken` from `other`, by the literal way."""
    return average_precision(interleave(one, other), np.concatenate((1 - np.array(taken), taken))).map


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_permutation_test_nears_all_exchanges_counted_out(seeds):
    """Eight images: all 256 exchanges one by one, by the formulas of docs/compare.md."""
    study = World(images=8).study(np.random.default_rng(8), [0, 0.6, 0.2], seeds)
    counted = {"A": [], "B": []}
    for taken in itertools.product((0, 1), repeat=8):
        differences = {
            name: [_mixed(taken, runs[s], study[0][s]) - _mixed(taken, study[0][s], runs[s]) for s in range(seeds)]
            for name, runs in zip("AB", study[1:], strict=True)
        }
        if seeds == 1:
            values = {name: abs(d[0]) for name, d in differences.items()}
        else:
            own = {name: np.var(d, ddof=1) for name, d in differences.items()}
            pooled = np.mean(list(own.values()))
            values = {
                name: abs(np.mean(d)) / (max(pooled, own[name]) / seeds) ** 0.5 for name, d in differences.items()
            }
        for name, value in values.items():
            counted[name].append(value)
    drawn = exchange_p_values(study[0], dict(zip("AB", study[1:], strict=True)), 5000, np.random.default_rng(0))
    for name, values in counted.items():
        exact = np.mean(np.array(values) >= values[0] * (1 - 1e-5))
        assert drawn[name][0] == pytest.approx(exact, abs=0.025), name


def test_the_covariance_over_images_is_that_of_literal_resamples():
    study = World(images=10).study(np.random.default_rng(2), [0, 0.3], 2)
    found = image_covariances(study[0], {"A": study[1]}, 400, np.random.default_rng(5))["A"]
    weights = np.random.default_rng(5).multinomial(10, np.full(10, 0.1), 400)
    literal = [
        [average_precision(study[1][s], row).map - average_precision(study[0][s], row).map for s in range(2)]
        for row in weights
    ]
    np.testing.assert_allclose(found[0], np.cov(np.array(literal).T, ddof=0), rtol=1e-3)
    assert found.shape == (5, 2, 2)


def test_the_half_width_by_its_formula():
    covariance = np.array([[5.0, 1, 2], [1, 6, 3], [2, 3, 7]])
    scaled = covariance * 41 / 40
    shared, of_seeds = (1 + 2 + 3) / 3 * 41 / 40, 9 / 3
    freedom = (of_seeds + shared) ** 2 / (of_seeds**2 / 2 + shared**2 / 40)
    expected = student_quantile(0.975, freedom) * (of_seeds + shared) ** 0.5
    assert interval_half_width(9.0, 2, covariance, 41) == pytest.approx(expected)
    alone = student_quantile(0.975, 40) * scaled.mean() ** 0.5
    of_one_seed = student_quantile(0.975, 40) * (5 * 41 / 40) ** 0.5
    assert interval_half_width(None, 0, covariance[:1, :1], 41) == pytest.approx(of_one_seed)
    assert interval_half_width(1e-9, 2, covariance, 41) == pytest.approx(alone)  # seeds agree by chance: no narrower
    assert interval_half_width(9.0, 2, covariance, 1) == np.inf
    assert interval_half_width(0.0, 2, np.zeros((3, 3)), 41) == 0
    assert (
        pooled_freedom([3, 3, 3, 3]) == pytest.approx(8 / 1.75)
        and pooled_freedom([3]) == 2
        and pooled_freedom([1, 1]) == 0
    )
    assert pooled_freedom([3, 2, 1]) == pytest.approx(3 / 1.25)


# ---- verdicts ----


def test_a_model_does_not_differ_from_itself():
    study = World().study(np.random.default_rng(0), [0], 3)
    # a number less itself
    for one in compare([study[0], study[0]], np.random.default_rng(1))["A"].values():
        assert (one.difference, one.interval, one.p, one.p_holm, one.verdict) == (
            0,
            (0, 0),
            1,
            1,
            "no difference shown",
        )


def test_a_difference_that_is_there_and_its_sentence():
    study = World(images=87).study(np.random.default_rng(1), [0, 0.8, 0, -0.8], 3)
    compared = compare(study, np.random.default_rng(2), baseline_name="yolov5n")
    assert [compared[name]["mAP50-95"].verdict for name in "ABC"] == ["better", "no difference shown", "worse"]
    better = compared["A"]["mAP50-95"]
    for seed, value in better.per_seed.items():
        expected = average_precision(study[1][seed]).map - average_precision(study[0][seed]).map
        assert value == pytest.approx(expected, abs=1e-12)
    assert better.difference == pytest.approx(np.mean(list(better.per_seed.values()))) and list(better.per_seed) == [
        0,
        1,
        2,
    ]
    assert better.interval[0] > 0 and better.interval[0] + better.interval[1] == pytest.approx(2 * better.difference)
    figures = re.fullmatch(
        r"mAP50-95: A is better than yolov5n, \+(\d+\.\d\d) points "
        r"\(95 % interval \+(\d+\.\d\d) to \+(\d+\.\d\d); "
        r"p = 0.0\d+, corrected for several comparisons; 3 seeds, 87 images\)\.",
        better.sentence,
    )
    expected = [100 * better.difference, *(100 * end for end in better.interval)]
    assert [float(value) for value in figures.groups()] == pytest.approx(expected, abs=0.006)
    assert compared["B"]["mAP50-95"].sentence.startswith("mAP50-95: no difference shown between B and yolov5n, ")
    assert "C is worse than yolov5n, -" in compared["C"]["mAP50-95"].sentence
    assert "AP50-95 of class class 1" in compared["C"]["class/class 1"].sentence
    assert list(compared["A"]) == [*OVERALL, "class/class 0", "class/class 1"]


def test_one_seed_is_reported():
    study = World(images=60).study(np.random.default_rng(3), [0, 1.2], 1)
    one = compare(study, np.random.default_rng(0))["A"]["mAP50-95"]
    assert one.verdict == "better" and "1 seed, 60 images" in one.sentence
    assert one.sentence.endswith(
        "Seeds were not tested: this compares two trained networks, and another seed may reverse it."
    )
    assert one.p == one.p_holm == pytest.approx(1 / 201)


def test_three_seeds_that_scatter_more_than_they_differ_show_nothing_though_each_seed_alone_would():
    rng = np.random.default_rng(4)
    baseline, variant = World(images=200, seed_sd=0).study(rng, [0, 0], 3), {}
    for seed, skill in enumerate((0.9, 0.7, -0.4)):
        shifted = World(images=200, seed_sd=0).study(np.random.default_rng(100), [0, skill], 1)
        baseline[0][seed], variant[seed] = shifted[0][0], shifted[1][0]
    compared = compare([baseline[0], variant], np.random.default_rng(1))["A"]["mAP50-95"]
    assert compared.difference > 0.05 and compared.verdict == "no difference shown" and compared.interval[0] < 0
    alone = compare([{0: baseline[0][0]}, {0: variant[0]}], np.random.default_rng(1))["A"]["mAP50-95"]
    assert alone.verdict == "better"


def test_a_generator_decides_everything_and_runs_that_failed_are_left_out():
    study = World().study(np.random.default_rng(5), [0, 0.2, 0], 3)
    del study[1][1], study[2][0], study[2][1]
    # one process, one seed: the same steps on the same numbers
    first, again = (compare(study, np.random.default_rng(9)) for _ in range(2))
    assert first == again and first != compare(study, np.random.default_rng(10))
    assert list(first["A"]["mAP50"].per_seed) == [0, 2] and "2 seeds" in first["A"]["mAP50"].sentence
    assert list(first["B"]["mAP50"].per_seed) == [2] and "Seeds were not tested" in first["B"]["mAP50"].sentence
    study[2] = {7: study[0][0]}
    assert list(compare(study, np.random.default_rng(9))) == ["A"]


def test_a_class_in_one_image_has_no_interval_and_a_class_without_labels_no_entry():
    study = World(images=30, nc=3).study(np.random.default_rng(6), [0, 3], 2)
    labels = study[0][0].labels.copy()
    labels[:, 2] = 0
    labels[1:, 1] = 0
    labels[0, 1] = 2
    study = [{seed: dataclasses.replace(matches, labels=labels) for seed, matches in runs.items()} for runs in study]
    compared = compare(study, np.random.default_rng(0))["A"]
    assert list(compared) == [*OVERALL, "class/class 0", "class/class 1"]
    rare = compared["class/class 1"]
    assert np.isnan(rare.interval).all() and rare.verdict == "no difference shown"
    assert "no interval: too few images" in rare.sentence


def test_the_verdict_needs_both_the_interval_and_the_test():
    """Over many studies near the edge, better and worse stand exactly where both agree."""
    seen = set()
    for number in range(40):
        study = World(images=30).study(np.random.default_rng(number), [0, 0.25, 0, -0.5], 3)
        for compared in compare(study, np.random.default_rng(number), resamples=100, permutations=100).values():
            for one in compared.values():
                low, high = one.interval
                outside, tested = low > 0 or high < 0, one.p_holm <= 0.05
                seen.add((outside, tested))
                expected = ("better" if low > 0 else "worse") if outside and tested else "no difference shown"
                assert one.verdict == expected and one.p_holm >= one.p > 0
    assert len(seen) == 4


# ---- calibration: studies without a difference ----


def _false_positives(world, variants, seeds, studies=500):
    wrong = 0
    for number in range(studies):
        rng = np.random.default_rng([variants, seeds, number])
        compared = compare(world.study(rng, [0] * (variants + 1), seeds), rng, resamples=100, permutations=100)
        wrong += any(one["mAP50-95"].verdict != "no difference shown" for one in compared.values())
    return wrong / studies


@pytest.mark.slow
def test_false_positives_over_500_null_studies_of_three_seeds():
    """Two equal variants against a baseline; trainings scatter by about 1 point, images are drawn anew."""
    assert _false_positives(World(images=30, labels=1.0), 2, 3) <= 0.05


def test_false_positives_over_500_null_studies_of_one_seed():
    """Two networks that are equally good: without scatter of trainings, which one seed cannot see."""
    assert _false_positives(World(images=30, labels=1.0, seed_sd=0), 1, 1) <= 0.05
