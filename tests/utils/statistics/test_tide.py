"""Errors by kind: each kind in an image made for it, costs against a literal oracle, and data with nothing in it."""

import numpy as np
import pytest
import torch
from literal_metrics import accumulated, literal_ap, literal_match, random_images

from utils.boxes import iou_matrix
from utils.metrics.average_precision import ImageResult
from utils.statistics.tide import KINDS, error_kinds
from utils.types import Detections

BOX = [100.0, 100, 200, 200]


def shifted(iou):
    """BOX moved sideways until it overlaps BOX by `iou`."""
    move = 100 * (1 - iou) / (1 + iou)
    return [100 + move, 100, 200 + move, 200]


def image(labels, found, index=0) -> ImageResult:
    """labels: (class, box) each; found: (class, box, confidence) each, by falling confidence."""
    detections = Detections(
        torch.tensor([box for _, box, _ in found], dtype=torch.float64).view(-1, 4),
        torch.tensor([conf for *_, conf in found], dtype=torch.float64),
        torch.tensor([cls for cls, *_ in found], dtype=torch.int64),
    )
    return ImageResult(
        index,
        f"{index}.jpg",
        (480, 640),
        detections,
        np.array([cls for cls, _ in labels], int),
        np.array([box for _, box in labels], float).reshape(-1, 4),
    )


def as_results(images):
    return [
        ImageResult(index, f"{index}.jpg", (480, 640), found, cls, boxes)
        for index, (found, cls, boxes) in enumerate(images)
    ]


def literal_kinds(result):
    """One image's (kind, label) per detection, by loops; "correct" beside KINDS; and its missed labels."""
    cls, labels = result.detections.cls.tolist(), result.labels_cls.tolist()
    iou = iou_matrix(result.labels_xyxy, result.detections.xyxy.numpy())
    correct = literal_match(cls, labels, iou)[:, 0]
    kinds, covered = [], set()
    for d in range(len(cls)):
        own = max(((iou[g, d], -g) for g in range(len(labels)) if labels[g] == cls[d]), default=(-1, 0))
        other = max(((iou[g, d], -g) for g in range(len(labels)) if labels[g] != cls[d]), default=(-1, 0))
        if correct[d]:
            kinds.append(("correct", -own[1]))
        elif own[0] >= 0.5:
            kinds.append(("duplicate", None))
        elif other[0] >= 0.5:
            kinds.append(("classification", -other[1]))
        elif own[0] >= 0.1:
            kinds.append(("localisation", -own[1]))
        else:
            kinds.append(("both" if other[0] >= 0.1 else "background", None))
        if kinds[-1][1] is not None:
            covered.add(kinds[-1][1])
    return kinds, [g for g in range(len(labels)) if g not in covered]


def literal_costs(results, nc):
    """Counts and costs by kind, every repair done detection by detection."""
    matched = [literal_kinds(result) for result in results]
    counts = {kind: sum(k == kind for kinds, _ in matched for k, _ in kinds) for kind in KINDS[:-1]}
    counts["missed"] = sum(len(missed) for _, missed in matched)

    def score(repair):
        found, counted = {c: [] for c in range(nc)}, np.zeros(nc, int)
        for result, (kinds, missed) in zip(results, matched, strict=True):
            taken = set()
            for g, c in enumerate(result.labels_cls):
                counted[c] += not (repair == "missed" and g in missed)
            for (kind, g), c, conf in zip(
                kinds, result.detections.cls.tolist(), result.detections.conf.tolist(), strict=True
            ):
                if kind == repair and kind in ("duplicate", "both", "background"):
                    continue
                hit = kind == "correct" or kind == repair
                if hit and repair in ("classification", "localisation"):
                    if g in taken:
                        continue
                    taken.add(g)
                    c = int(result.labels_cls[g])
                found[c].append((conf, hit))
        there = [c for c in range(nc) if any(c in result.labels_cls for result in results)]
        return np.mean(
            [
                literal_ap([hit for _, hit in found[c]], [conf for conf, _ in found[c]], counted[c])
                if counted[c] and found[c]
                else float(not counted[c] and not found[c])
                for c in there
            ]
        )

    plain = score(None)
    return counts, {kind: score(kind) - plain for kind in KINDS}, plain


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([(0, shifted(0.9), 0.9), (0, shifted(0.8), 0.8)], "duplicate"),
        ([(0, shifted(0.9), 0.9), (1, shifted(0.8), 0.8)], "classification"),
        ([(0, shifted(0.9), 0.9), (0, shifted(0.49), 0.8)], "localisation"),
        ([(0, shifted(0.9), 0.9), (0, shifted(0.11), 0.8)], "localisation"),
        ([(0, shifted(0.9), 0.9), (1, shifted(0.49), 0.8)], "both"),
        ([(0, shifted(0.9), 0.9), (1, shifted(0.11), 0.8)], "both"),
        ([(0, shifted(0.9), 0.9), (0, shifted(0.09), 0.8)], "background"),
        ([(0, shifted(0.9), 0.9), (1, [300.0, 300, 350, 350], 0.8)], "background"),
        ([], "missed"),
    ],
)
def test_one_error_of_each_kind(found, kind):
    kinds = error_kinds([image([(0, BOX)], found)], 2)
    assert {name: count for name, count, _ in kinds.rows() if count} == {kind: 1}


def test_a_label_under_a_wrong_class_or_a_loose_box_is_not_missed_but_one_under_both_is():
    def missed(detection):
        return dict(row[:2] for row in error_kinds([image([(0, BOX)], [detection])], 2).rows())["missed"]

    assert missed((1, shifted(0.8), 0.8)) == missed((0, shifted(0.3), 0.8)) == 0
    assert missed((1, shifted(0.3), 0.8)) == missed((0, [300.0, 300, 350, 350], 0.8)) == 1


def test_costs_worked_out_by_hand():
    """A false positive, then the object: precision 1/2 up to recall 0.5 of two objects, where the line falls to 0.

    The samples: 50 at 0.5 (the first halved), then 51 from 0.5 down to 0."""
    far = [400.0, 300, 450, 350]
    line = sum(0.5 * (100 - i) / 50 for i in range(50, 101))
    before = 0.01 * (49.5 * 0.5 + line)
    kinds = error_kinds([image([(0, BOX), (0, far)], [(0, [300.0, 10, 350, 50], 0.9), (0, BOX, 0.8)])], 1)
    without = 0.01 * (49.5 + 2 * line)
    assert kinds.map50 == pytest.approx(before) and kinds.images == 1
    costs = {name: cost for name, _, cost in kinds.rows()}
    assert costs["background"] == pytest.approx(without - before) == kinds.false_positives
    counted_once = 0.01 * (0.5 * 99.5)  # of one object: precision 1/2 to recall 1, where the curve drops
    assert costs["missed"] == pytest.approx(counted_once - before) == kinds.false_negatives
    assert costs["classification"] == costs["localisation"] == costs["both"] == costs["duplicate"] == 0


def test_a_repaired_detection_that_is_more_confident_takes_the_label():
    """Both claim the one object once the class is right: the lower one goes, and nothing false is left."""
    kinds = error_kinds([image([(0, BOX), (1, [300.0, 10, 350, 50])], [(1, BOX, 0.9), (0, BOX, 0.8)])], 2)
    costs = {name: cost for name, _, cost in kinds.rows()}
    assert kinds.map50 == pytest.approx(0.5 * 0.995)  # class 0 perfect; of class 1 nothing is right
    assert costs["classification"] == pytest.approx(0)
    swapped = error_kinds([image([(0, BOX)], [(0, shifted(0.3), 0.9), (0, BOX, 0.8)])], 1)
    assert dict((name, cost) for name, _, cost in swapped.rows())["localisation"] == pytest.approx(0.5 * 0.995)


@pytest.mark.parametrize("seed", range(6))
def test_counts_and_costs_equal_a_literal_oracle(seed):
    images = random_images(30, 3, seed)
    rng = np.random.default_rng(seed)
    for found, _, _ in images:  # looser boxes than the metrics' tests have: every kind occurs
        found.xyxy[:] += torch.from_numpy(rng.normal(0, 15, found.xyxy.shape))
    results = as_results(images)
    kinds = error_kinds(results, 3)
    counts, costs, plain = literal_costs(results, 3)
    assert {name: count for name, count, _ in kinds.rows()} == counts and min(counts.values()) > 0
    assert kinds.map50 == pytest.approx(plain, abs=1e-12) == accumulated(images, 3).compute().map50
    for name, _, cost in kinds.rows():
        assert cost == pytest.approx(costs[name], abs=1e-12), name
    assert kinds.counts.shape == (6, 3) and max(costs.values()) > 0.01


def test_of_the_reference_detections_every_false_positive_has_one_kind(golden):
    arrays = golden("metrics.npz")
    truth, rows = arrays["ground_truth"], arrays["detections"]

    def results(apart):
        return [
            image(
                [(int(row[1]), row[2:6].tolist()) for row in truth[truth[:, 0] == i]],
                [
                    (int(row[1]), row[2:6].tolist(), row[6] - apart * rank)
                    for rank, row in enumerate(rows)
                    if row[0] == i
                ],
                i,
            )
            for i in range(60)
        ]

    assert error_kinds(results(0), 5).map50 == pytest.approx(float(arrays["yolov5_map50"]), abs=1e-6)
    untied = results(1e-12)  # two detections are equally confident, which the oracle ranks in its own way
    kinds, (counts, costs, _) = error_kinds(untied, 5), literal_costs(untied, 5)
    assert {name: count for name, count, _ in kinds.rows()} == counts
    assert [cost for *_, cost in kinds.rows()] == pytest.approx([costs[kind] for kind in KINDS], abs=1e-12)


def test_less_confident_detections_are_left_out():
    results = as_results(random_images(20, 3, 1))
    some, whole = error_kinds(results, 3, 0.5), error_kinds(results, 3)
    assert 0 < some.counts[:5].sum() < whole.counts[:5].sum() and some.counts[5].sum() > whole.counts[5].sum()
    assert some.confidence == 0.5


def test_nothing_there_and_nothing_found():
    for results in ([], [image([], [])], [image([], [(0, BOX, 0.5)])]):
        kinds = error_kinds(results, 2)
        assert (
            kinds.map50 == 0
            and not kinds.costs.any()
            and kinds.counts.sum() == (len(results) and len(results[0].detections))
        )
    lines = error_kinds([image([(0, BOX)], [])], 2).lines()
    assert len(lines) == 9 and lines[6].split() == ["missed", "1", "100.00"]
