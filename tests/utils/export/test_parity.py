"""Parity: differences as they are, shapes and infinities found, images of the shapes a file takes."""

import numpy as np
import pytest
import torch
from exported_files import spread_model

from utils.export.exporting import CHECK_IMAGES
from utils.export.graph_network import GraphNetwork
from utils.export.parity import (
    EIGHT_BIT,
    EXACT,
    HALF,
    HALF_SUPPRESSED,
    OutputDifference,
    check_batches,
    compare_file,
    compare_outputs,
    compare_suppressed,
)
from utils.nms import non_max_suppression


def predictions(count=300, nc=3, seed=0):
    rng = np.random.default_rng(seed)
    sides = rng.uniform(40, 200, (1, count, 2))
    rows = np.concatenate((rng.uniform(0, 640, (1, count, 2)), sides, rng.uniform(0, 1, (1, count, 1 + nc))), 2)
    return rows.astype(np.float32)


def test_the_largest_differences_are_found():
    expected = predictions()
    expected[0, 7, 2:4] = (100, 50)
    found = expected.copy()
    found[0, 7, 3] += 2.0
    found[0, 9, 6] -= 0.125
    difference = compare_outputs(found, expected, EXACT)
    assert (difference.pixels, difference.box) == pytest.approx((2.0, 0.02), rel=1e-4)
    assert difference.score == pytest.approx(0.125, rel=1e-5)
    assert not difference.within(EXACT) and not difference.within(HALF), "0.125 in a score is too much for either"
    assert compare_outputs(expected, expected, EXACT) == OutputDifference(0.0, 0.0, 0.0)


def test_small_boxes_are_compared_as_if_they_had_32_pixels():
    expected = predictions()
    expected[0, 0, 2:4] = (3, 4)
    found = expected.copy()
    found[0, 0, 0] += 0.32
    assert compare_outputs(found, expected, EXACT).box == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_a_difference(value):
    expected = predictions()
    found = expected.copy()
    found[0, 3, 1] = value
    difference = compare_outputs(found, expected, EXACT)
    assert not difference.finite
    assert not any(difference.within(each) for each in (EXACT, HALF, EIGHT_BIT))


def test_another_shape_is_a_difference():
    assert not compare_outputs(predictions(299), predictions(300), HALF).finite


def test_lower_precision_is_compared_on_confident_predictions():
    expected = predictions()
    expected[0, :150, 4] = 1e-4
    found = expected.copy()
    found[0, 3, 0] += 50  # not confident
    assert compare_outputs(found, expected, HALF).pixels == 0
    found[0, 200, 0] += 50
    assert compare_outputs(found, expected, HALF).pixels == pytest.approx(50, rel=1e-4)


def test_agreement_is_the_share_of_detections_with_a_partner():
    expected = np.zeros((1, 200, 8), np.float32)
    expected[0, :, 0] = np.arange(200) * 100
    expected[0, :, 1:4] = 50
    expected[0, :4, 4:6] = 0.9  # four detections of class 0, far from each other
    found = expected.copy()
    found[0, 0, 0] += 70  # away from its partner
    found[0, 1, 5:7] = (0, 0.9)  # another class
    assert compare_outputs(found, expected, EIGHT_BIT).agreement == pytest.approx(0.5)
    assert compare_outputs(expected, expected, EIGHT_BIT).agreement == 1.0


def test_a_runtime_is_compared_on_images():
    model = spread_model()
    network = GraphNetwork(model)
    (images, _) = check_batches(CHECK_IMAGES, (64, 96), 32)

    def run(pixels, error=0.0):
        with torch.no_grad():
            output = model(torch.from_numpy(pixels))[0].numpy()
        output[0, 5, 0] += error
        return output

    assert compare_file(run, network, images, EXACT).within(EXACT)
    wrong = compare_file(lambda pixels: run(pixels, 1.0), network, images, EXACT)
    assert wrong.pixels == pytest.approx(1.0, abs=1e-3) and not wrong.within(EXACT)


def test_suppressed_outputs_are_compared_by_class_and_place():
    model = spread_model()
    network = GraphNetwork(model)
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    options = {"conf_thres": 0.25, "iou_thres": 0.45, "agnostic": False}
    with torch.no_grad():
        (expected,) = non_max_suppression(network(images), **options, max_det=20)
    assert len(expected) > 3
    boxes, scores, classes = np.zeros((1, 20, 4)), np.zeros((1, 20)), np.zeros((1, 20), int)
    boxes[0, : len(expected)], scores[0, : len(expected)] = expected.xyxy, expected.conf
    classes[0, : len(expected)] = expected.cls

    def compared(missing=0):
        outputs = boxes, scores, classes, np.array([len(expected) - missing])
        return compare_suppressed(lambda _: outputs, network, images, options, 20)

    assert compared().within(EXACT)
    fewer = compared(missing=1)
    assert not fewer.within(EXACT) and fewer.within(HALF_SUPPRESSED)
    assert fewer.agreement == pytest.approx((2 * len(expected) - 2) / (2 * len(expected) - 1), abs=0.03)
    assert "% of the detections agree" in fewer.describe(EXACT)
    boxes[0, 0, 2] += 3
    assert compared().pixels == pytest.approx(3, abs=1e-3)


def test_images_have_the_shapes_that_a_file_takes():
    assert [tuple(each.shape) for each in check_batches(CHECK_IMAGES, (320, 640), 32)] == [(1, 3, 320, 640)] * 2
    assert [tuple(each.shape) for each in check_batches(CHECK_IMAGES, (64, 64), 32, batch=3)] == [(3, 3, 64, 64)] * 2
    dynamic = check_batches(CHECK_IMAGES, (640, 640), 32, dynamic=True)
    assert [tuple(each.shape) for each in dynamic] == [(1, 3, 640, 640), (2, 3, 384, 512)]
    assert all(each.min() >= 0 and 0.5 < each.max() <= 1 for each in dynamic)
