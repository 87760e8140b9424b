"""Non-maximum suppression: the reference figures, a literal oracle, and its promises."""

import json

import numpy as np
import pytest
import torch

import utils.nms
from utils.nms import MAX_SIDE, non_max_suppression


def literal_nms(
    prediction, conf_thres=0.25, iou_thres=0.45, classes=None, agnostic=False, multi_label=False, max_det=300
):
    """One image, box by box: rows of xyxy, conf, cls as the definition has them."""
    candidates = []
    for row in prediction.double().tolist():
        (x, y, w, h, objectness), scores = row[:5], row[5:]
        if objectness <= conf_thres or min(w, h) < 2 or max(w, h) > 7680:
            continue
        picked = range(len(scores)) if multi_label else [int(np.argmax(scores))]
        for cls in picked:
            if objectness * scores[cls] > conf_thres and (classes is None or cls in classes):
                candidates.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2, objectness * scores[cls], cls))
    kept = []
    for candidate in sorted(candidates, key=lambda row: -row[4]):
        rivals = [other for other in kept if agnostic or other[5] == candidate[5]]
        if all(literal_iou(candidate, other) <= iou_thres for other in rivals):
            kept.append(candidate)
    return torch.tensor(kept[:max_det], dtype=torch.float64).view(-1, 6)


def literal_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def random_prediction(images=2, boxes=150, nc=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.rand(images, boxes, 5 + nc, generator=generator)
    prediction[..., :2] *= 200
    prediction[..., 2:4] = prediction[..., 2:4] * 60 + 0.5
    return prediction


# Which boxes stay holds on every processor: products, differences and quotients, each rounded once, and no sum of
# many. The nearest overlap of the reference figures lies 1.5e-6 from its threshold.


def test_equals_the_reference_figures(golden):
    arrays = golden("nms.npz")
    prediction = torch.from_numpy(arrays["prediction"])
    options = json.loads(str(arrays["options"]))
    assert len(options) == 5
    for case, arguments in options.items():
        for image, found in enumerate(non_max_suppression(prediction, **arguments)):
            expected = arrays[f"{case}.{image}"]
            assert found.rows().shape == expected.shape, case
            np.testing.assert_allclose(found.rows().numpy(), expected, atol=1e-4, rtol=0, err_msg=case)
            assert found.cls.dtype == torch.int64


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conf_thres": 0.05, "multi_label": True},
        {"agnostic": True},
        {"classes": [1, 3], "iou_thres": 0.2},
        {"conf_thres": 0.0, "iou_thres": 0.7, "max_det": 11},
        {"multi_label": True, "agnostic": True, "conf_thres": 0.1},
    ],
)
def test_equals_a_literal_oracle(options):
    prediction = random_prediction()
    for rows, found in zip(prediction, non_max_suppression(prediction, **options), strict=True):
        expected = literal_nms(rows, **options)
        assert len(expected) > 5
        torch.testing.assert_close(found.rows().double(), expected, atol=1e-4, rtol=0)


def crowded_prediction():
    """Boxes in heaps, and confidences with ties: much is suppressed, and ties stand on both sides of a part."""
    generator = torch.Generator().manual_seed(3)
    prediction = torch.rand(3, 400, 9, generator=generator)
    heap = torch.randint(0, 40, (3, 400, 2), generator=generator)
    prediction[..., :2] = heap * 25.0 + prediction[..., :2] * 6
    prediction[..., 2:4] = prediction[..., 2:4] * 4 + 20
    prediction[..., 4:] = (prediction[..., 4:] * 8).round() / 8
    return prediction


@pytest.mark.parametrize("at_once", [1, 7, 64, 512])
@pytest.mark.parametrize("max_det", [1, 30, 300, 5000])
def test_parts_find_what_one_call_over_all_candidates_finds(monkeypatch, at_once, max_det):
    options = {"conf_thres": 0.01, "iou_thres": 0.6, "multi_label": True, "max_det": max_det}
    monkeypatch.setattr("utils.nms.SUPPRESSED_AT_ONCE", at_once)
    found = non_max_suppression(crowded_prediction(), **options)
    monkeypatch.setattr("utils.nms.SUPPRESSED_AT_ONCE", 100_000)
    whole = non_max_suppression(crowded_prediction(), **options)
    assert len(whole[0]) == min(max_det, len(whole[0])) and len(whole[0]) >= min(max_det, 100)
    for one, other in zip(found, whole, strict=True):
        assert torch.equal(one.rows(), other.rows())


def test_candidates_after_enough_detections_are_not_looked_at(monkeypatch):
    sizes = []
    nms = utils.nms.nms
    monkeypatch.setattr(utils.nms, "nms", lambda xyxy, *args: sizes.append(len(xyxy)) or nms(xyxy, *args))
    monkeypatch.setattr(utils.nms, "SUPPRESSED_AT_ONCE", 50)
    apart = torch.tensor([[100.0 * k + 50, 50, 20, 20, 0.9, 0.9, 0.9] for k in range(70)])[None]
    (found,) = non_max_suppression(apart, 0.1, multi_label=True, max_det=60)
    assert len(found) == 60 and sizes == [50, 50 + 50]  # of 140 candidates; the kept ones join the second part


def test_leaves_its_input_alone():
    prediction = random_prediction()
    labels = [torch.tensor([[1.0, 50, 50, 20, 20]]), torch.zeros(0, 5)]
    before, labels_before = prediction.clone(), labels[0].clone()
    non_max_suppression(prediction, 0.01, multi_label=True, labels=labels)
    assert torch.equal(prediction, before) and torch.equal(labels[0], labels_before)


def test_labels_join_as_certain_candidates():
    prediction = torch.tensor([[[100.0, 100, 40, 40, 0.9, 0.1, 0.8]]]).repeat(2, 1, 1)
    labels = [torch.tensor([[1.0, 101, 100, 40, 40], [0.0, 300, 300, 10, 20]]), torch.zeros(0, 5)]
    first, second = non_max_suppression(prediction, labels=labels)
    assert first.rows().tolist() == [[81, 80, 121, 120, 1, 1], [295, 290, 305, 310, 1, 0]]
    assert len(second) == 1 and second.conf.item() == pytest.approx(0.72)


def test_ties_keep_the_order_of_the_predictions():
    rows = torch.tensor([[x * 100.0 + 50, 50, 40, 40, 0.5, 0.5, 0.5] for x in range(8)])[None]
    (found,) = non_max_suppression(rows, 0.1)
    assert found.xyxy[:, 0].tolist() == [x * 100.0 + 30 for x in range(8)]
    assert found.cls.tolist() == [0] * 8


def test_half_precision_input_is_computed_in_float32():
    prediction = random_prediction().half()
    for half, single in zip(non_max_suppression(prediction), non_max_suppression(prediction.float()), strict=True):
        # a half is a float32 number: the same steps on the same numbers
        assert half.xyxy.dtype == torch.float32 and torch.equal(half.rows(), single.rows())


def test_one_class_multiplies_objectness_and_score_and_takes_no_multi_label():
    rows = torch.tensor([[[50.0, 50, 20, 20, 0.8, 0.5], [150, 50, 20, 20, 0.4, 0.5]]])
    (found,) = non_max_suppression(rows, 0.25, multi_label=True)
    assert found.conf.tolist() == pytest.approx([0.4])


def test_sides_out_of_range_and_non_finite_boxes_are_no_candidates():
    row = torch.tensor([50.0, 50, 20, 20, 0.9, 0.9, 0.1])
    rows = row.repeat(5, 1)
    rows[0, 2], rows[1, 3], rows[2, 2], rows[3, 2] = 1.9, MAX_SIDE + 1, float("nan"), float("inf")
    (found,) = non_max_suppression(rows[None])
    assert found.rows().tolist() == [[40, 40, 60, 60, pytest.approx(0.81), 0]]


def test_nothing_found_is_an_empty_record():
    for prediction in (torch.zeros(2, 0, 8), torch.zeros(2, 10, 8)):
        found = non_max_suppression(prediction, multi_label=True)
        assert [len(one) for one in found] == [0, 0] and found[0].rows().shape == (0, 6)


def test_the_most_confident_candidates_enter(monkeypatch):
    monkeypatch.setattr("utils.nms.MAX_CANDIDATES", 20)
    prediction = random_prediction(images=1)
    everything = literal_nms(prediction[0], 0.1, 1.0, multi_label=True, max_det=9999)
    (found,) = non_max_suppression(prediction, 0.1, 1.0, multi_label=True, max_det=9999)
    torch.testing.assert_close(found.conf.double(), everything[:20, 4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("arguments", [{"conf_thres": 1.5}, {"iou_thres": -0.1}, {"labels": [torch.zeros(0, 5)]}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="conf_thres|iou_thres|labels"):
        non_max_suppression(torch.zeros(2, 3, 7), **arguments)
