"""Boxes: conversions are each other's inverse, overlaps equal the reference and literal oracles."""

import math

import numpy as np
import pytest
import torch

from utils import boxes

XYXY = np.array([[10, 20, 110, 60], [0, 0, 1, 1], [-5, 3, 7.5, 9]], np.float32)


def both(array):
    return [array, torch.from_numpy(array)]


def random_xywh(count, seed):
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 2, generator=generator) * 10
    return torch.cat((center, torch.rand(count, 2, generator=generator) * 6 + 0.05), 1)


@pytest.mark.parametrize("given", both(XYXY), ids=["numpy", "torch"])
def test_conversions_have_known_values_and_inverses(given):
    before = np.asarray(given).copy()
    xywh = boxes.xyxy_to_xywh(given)
    assert type(xywh) is type(given) and xywh.dtype == given.dtype
    np.testing.assert_array_equal(np.asarray(xywh)[0], [60, 40, 100, 40])
    np.testing.assert_allclose(np.asarray(boxes.xywh_to_xyxy(xywh)), before)
    xywhn = boxes.xyxy_to_xywhn(given, 200, 100)
    np.testing.assert_allclose(np.asarray(xywhn)[0], [0.3, 0.4, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(boxes.xywhn_to_xyxy(xywhn, 200, 100)), before, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(boxes.xywhn_to_xyxy(xywhn, 200, 100, pad=(3, 7))), before + [3, 7, 3, 7], atol=1e-4
    )
    np.testing.assert_array_equal(np.asarray(given), before)


@pytest.mark.parametrize("given", both(XYXY), ids=["numpy", "torch"])
def test_clip_stays_inside_and_copies(given):
    clipped = np.asarray(boxes.clip(given, (50, 100)))
    np.testing.assert_array_equal(clipped, [[10, 20, 100, 50], [0, 0, 1, 1], [0, 3, 7.5, 9]])
    assert float(given[2, 0]) == -5


def test_no_boxes():
    for empty in both(np.zeros((0, 4), np.float32)):
        for convert in (boxes.xyxy_to_xywh, boxes.xywh_to_xyxy):
            assert convert(empty).shape == (0, 4)
        assert boxes.clip(empty, (5, 5)).shape == (0, 4)
        assert boxes.iou_matrix(empty, empty).shape == (0, 0)
    assert boxes.paired_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def plain_iou(a, b):
    """IoU of two xyxy boxes, from the definition."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def plain_overlap(a, b, kind):
    """The four overlaps of two xywh boxes, from their papers, in double precision."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b)]
    iou = plain_iou(*corners)
    hull_width = max(corners[0][2], corners[1][2]) - min(corners[0][0], corners[1][0])
    hull_height = max(corners[0][3], corners[1][3]) - min(corners[0][1], corners[1][1])
    distance = math.hypot(a[0] - b[0], a[1] - b[1]) ** 2 / (hull_width**2 + hull_height**2)
    v = 4 / math.pi**2 * (math.atan(a[2] / a[3]) - math.atan(b[2] / b[3])) ** 2
    overlap = iou * (a[2] * a[3] + b[2] * b[3]) / (1 + iou)
    hull = hull_width * hull_height
    union = a[2] * a[3] + b[2] * b[3] - overlap
    return {
        "IoU": iou,
        "GIoU": iou - (hull - union) / hull,
        "DIoU": iou - distance,
        "CIoU": iou - distance - v * v / (1 - iou + v),
    }[kind]


def test_iou_matrix_equals_the_definition():
    a, b = (boxes.xywh_to_xyxy(random_xywh(count, seed)) for count, seed in ((40, 1), (25, 2)))
    expected = np.array([[plain_iou(one, other) for other in b.tolist()] for one in a.tolist()])
    assert (expected > 0).sum() > 50
    np.testing.assert_allclose(boxes.iou_matrix(a, b).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(boxes.iou_matrix(a.numpy(), b.numpy()), expected, atol=1e-6)
    assert boxes.iou_matrix(a.half(), b.half()).dtype == torch.float32
    assert boxes.iou_matrix(a.double(), b.double()).dtype == torch.float64
    integers = np.array([[0, 0, 60000, 60000]])
    assert boxes.iou_matrix(integers, integers)[0, 0] == 1


def test_iou_matrix_of_points_is_zero():
    points = np.zeros((2, 4), np.float32)
    for given in both(points):
        assert (np.asarray(boxes.iou_matrix(given, given)) == 0).all()


@pytest.mark.parametrize("kind", boxes.IOU_KINDS)
def test_paired_iou_equals_the_papers(kind):
    a, b = random_xywh(200, 3).double(), random_xywh(200, 4).double()
    expected = [plain_overlap(one, other, kind) for one, other in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(boxes.paired_iou(a, b, kind).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("kind", boxes.IOU_KINDS)
def test_paired_iou_equals_the_reference(golden, kind):
    figures = golden("iou.npz")
    a, b = torch.from_numpy(figures["a_xywh"]).double(), torch.from_numpy(figures["b_xywh"]).double()
    # 8 roundings of 1: the figures are float32
    np.testing.assert_allclose(boxes.paired_iou(a, b, kind).numpy(), figures[kind], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", boxes.IOU_KINDS)
def test_degenerate_boxes_have_finite_values_and_gradients(kind):
    a = torch.tensor(
        [[1.0, 1, 0, 0], [1, 1, 2, 0], [1, 1, 0, 2], [0, 0, 1e-20, 1e-20], [1, 1, 2, 2]], requires_grad=True
    )
    b = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 2], [5, 5, 1, 1], [0, 0, 1e4, 1e4], [1, 1, 2, 2]])
    values = boxes.paired_iou(a, b, kind)
    values.sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(a.grad).all()
    assert values[-1].item() == pytest.approx(1, abs=1e-6)


def test_half_boxes_are_compared_in_float32():
    a, b = random_xywh(50, 5).half() * 60, random_xywh(50, 6).half() * 60
    assert (a[:, 2].double() * a[:, 3].double()).max() > torch.finfo(torch.float16).max
    values = boxes.paired_iou(a, b)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, boxes.paired_iou(a.double(), b.double()).float(), atol=1e-4, rtol=0)


def test_unknown_kind_names_the_choices():
    with pytest.raises(ValueError, match="IoU, GIoU, DIoU, CIoU.*'XIoU'"):
        boxes.paired_iou(torch.zeros(1, 4), torch.zeros(1, 4), "XIoU")
