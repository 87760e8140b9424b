"""P, R, F1 and AP: the reference figures, a literal oracle, and datasets with nothing in them."""

import numpy as np
import pytest
import torch
from literal_metrics import accumulated, literal_ap, literal_match, random_images, reference_images

from utils.metrics.average_precision import match, table_header, table_rows
from utils.types import DetectionMetrics, Detections


def test_equals_the_reference_figures(golden):
    arrays = golden("metrics.npz")
    metrics = accumulated(reference_images(arrays), 5).compute()
    assert metrics.present.tolist() == arrays["yolov5_classes"].tolist()
    assert metrics.map == pytest.approx(float(arrays["yolov5_map"]), abs=1e-6)
    assert metrics.map50 == pytest.approx(float(arrays["yolov5_map50"]), abs=1e-6)
    # the F1 that says where they are read is largest by 6e-7, and rounding in float64 is 1e-16
    np.testing.assert_allclose(metrics.precision[:4], arrays["yolov5_precision"], atol=1e-6)
    np.testing.assert_allclose(metrics.recall[:4], arrays["yolov5_recall"], atol=1e-6)
    assert metrics.images == 60 and metrics.labels.sum() == 269


def test_the_class_without_labels_holds_zeros_and_stays_out_of_the_means(golden):
    metrics = accumulated(reference_images(golden("metrics.npz")), 5).compute()
    assert metrics.labels[4] == 0 and not metrics.ap[4].any() and metrics.precision[4] == metrics.recall[4] == 0
    assert metrics.map50 == pytest.approx(metrics.ap[:4, 0].mean())


def test_matching_equals_a_literal_oracle():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        labels, found = rng.integers(0, 7), rng.integers(0, 14)
        classes = rng.integers(0, 2, labels), rng.integers(0, 2, found)
        iou = rng.uniform(0.3, 1, (labels, found))
        expected = literal_match(classes[1], classes[0], iou)
        hits += expected.sum()
        np.testing.assert_array_equal(match(classes[1], classes[0], iou), expected)  # comparisons, no arithmetic
    assert hits > 1000


def test_of_two_claimants_the_more_confident_is_correct_where_it_overlaps_enough():
    correct = match(np.array([0, 0, 1]), np.array([0]), np.array([[0.62, 0.91, 0.99]]))
    assert correct[0].tolist() == [True] * 3 + [False] * 7  # 0.50, 0.55, 0.60
    assert correct[1].tolist() == [False] * 3 + [True] * 6 + [False]  # its label is free from 0.65 to 0.90
    assert not correct[2].any()


def test_average_precision_equals_a_literal_oracle():
    images, nc = random_images(), 4
    metrics = accumulated(images, nc).compute()
    from utils.boxes import iou_matrix

    correct = np.concatenate(
        [literal_match(f.cls.numpy(), cls, iou_matrix(boxes, f.xyxy.numpy())) for f, cls, boxes in images]
    )
    conf = np.concatenate([f.conf.numpy() for f, _, _ in images])
    cls = np.concatenate([f.cls.numpy() for f, _, _ in images])
    for c in range(nc - 1):
        mine, labels = cls == c, sum((labels == c).sum() for _, labels, _ in images)
        expected = [literal_ap(correct[mine, t], conf[mine], labels) for t in range(10)]
        assert expected[0] > 0.05
        np.testing.assert_allclose(metrics.ap[c], expected, atol=1e-9)


def test_perfect_detections_reach_one_and_f1_peaks_between_their_confidences():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 50, 60.0]])
    found = Detections(torch.from_numpy(boxes), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    metrics = accumulated([(found, np.array([0, 1]), boxes)], 2).compute()
    assert metrics.map > 0.99 and metrics.row()[:2] == (1, 1) and metrics.f1.tolist() == [1, 1]
    assert metrics.confidence < 0.8


def test_curves_belong_to_the_figures():
    accumulator = accumulated(random_images(), 4)
    metrics, curves = accumulator.compute(), accumulator.curves()
    assert curves.classes.tolist() == [0, 1, 2]
    for values in (curves.precision, curves.recall, curves.f1, curves.pr_precision):
        assert values.shape == (3, 1000) and (values >= 0).all() and (values <= 1).all()
    at = np.flatnonzero(curves.px == metrics.confidence)[0]
    np.testing.assert_allclose(curves.f1[:, at], metrics.f1[:3])
    np.testing.assert_allclose(curves.ap50, metrics.ap[:3, 0])
    assert (np.diff(curves.pr_precision) <= 1e-12).all() and (np.diff(curves.recall) <= 1e-12).all()


NO_LABELS = (np.zeros(0, int), np.zeros((0, 4)))
ONE_LABEL = (np.array([1]), np.array([[0, 0, 9, 9.0]]))
ONE_FOUND = Detections(torch.tensor([[0, 0, 9, 9.0]]), torch.tensor([0.7]), torch.tensor([0]))


@pytest.mark.parametrize(
    "images",
    [
        [],
        [(Detections.none(), *NO_LABELS)],
        [(ONE_FOUND, *NO_LABELS)],
        [(Detections.none(), *ONE_LABEL)],
        [(ONE_FOUND, *ONE_LABEL)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_nothing_there_or_nothing_found_gives_zeros(images):
    accumulator = accumulated(images, 3)
    metrics = accumulator.compute()
    assert metrics.row() == (0, 0, 0, 0) and metrics.fitness == 0 and metrics.images == len(images)
    assert np.isfinite(metrics.ap).all() and np.isfinite(accumulator.curves().f1).all()
    assert metrics.class_map.tolist() == [0, 0, 0]


def test_a_label_outside_the_classes_is_an_error_and_a_detection_there_is_not():
    with pytest.raises(ValueError, match="0..2"):
        accumulated([(ONE_FOUND, np.array([3]), np.zeros((1, 4)))], 3)
    far = Detections(ONE_FOUND.xyxy, ONE_FOUND.conf, torch.tensor([70]))
    assert accumulated([(far, *ONE_LABEL)], 3).compute().map == 0


def test_the_table_is_v61s():
    metrics = DetectionMetrics(
        np.array([0.5, 0, 0.25]),
        np.array([1, 0, 0.5]),
        np.zeros(3),
        np.full((3, 10), 0.123456),
        np.array([7, 0, 3]),
        0.4,
        12,
    )
    assert (
        table_header() == f"{'Class':>20}{'Images':>11}{'Labels':>11}{'P':>11}{'R':>11}{'mAP@.5':>11}{'mAP@.5:.95':>11}"
    )
    rows = table_rows(metrics, ["a", "b", "c"], per_class=True)
    assert rows[0] == f"{'all':>20}{12:>11}{10:>11}{'0.375':>11}{'0.75':>11}{'0.123':>11}{'0.123':>11}"
    assert [row.split()[:3] for row in rows[1:]] == [["a", "12", "7"], ["c", "12", "3"]]
    assert len(table_rows(metrics, ["a", "b", "c"])) == 1
