"""The loss equals the reference with its gradients; the assignment equals its definition, cell by cell."""

import json
import types

import numpy as np
import pytest
import torch

from utils.assignment import assign, decode
from utils.boxes import paired_iou
from utils.loss import DetectionLoss
from utils.types import HeadGeometry

CASES = ("default", "focal", "four_levels", "no_targets", "one_class", "smoothing", "weights")
ANCHORS_PX = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))
PLAIN = dict(box=0.05, obj=1.0, cls=0.5, cls_pw=1.0, obj_pw=1.0, anchor_t=4.0, fl_gamma=0.0, label_smoothing=0.0)


def hyperparameters(**changes):
    return types.SimpleNamespace(**{**PLAIN, **changes})


def head(nc=3, levels=3):
    strides = torch.tensor([8.0, 16, 32])[:levels]
    anchors = torch.tensor(ANCHORS_PX[:levels]).view(levels, 3, 2) / strides.view(-1, 1, 1)
    return HeadGeometry(anchors, strides, nc)


def random_targets(count, images, nc, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(images, (count, 1), generator=generator).float()
    cls = torch.randint(nc, (count, 1), generator=generator).float()
    size = torch.rand(count, 2, generator=generator) * 0.5 + 0.01
    return torch.cat((image, cls, torch.rand(count, 2, generator=generator), size), 1)


def random_maps(geometry, shapes, images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (images, geometry.anchors_per_level)
    return [torch.randn(*size, *shape, 5 + geometry.nc, generator=generator).requires_grad_() for shape in shapes]


def reference_loss(figures, dtype):
    """Total, parts and gradients of a reference case, computed in `dtype`."""
    geometry = HeadGeometry(
        torch.from_numpy(figures["anchors"]), torch.from_numpy(figures["stride"]), int(figures["nc"])
    )
    hyp = types.SimpleNamespace(**{"label_smoothing": 0.0, **json.loads(str(figures["hyp"]))})
    maps = [torch.from_numpy(figures[f"pred{level}"]).to(dtype).requires_grad_() for level in range(geometry.levels)]
    targets = torch.from_numpy(figures["targets"])
    before = targets.clone()
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64:  # the loss brings maps of every type to float32
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        total, parts = DetectionLoss(geometry, hyp, "cpu")(maps, targets)
    total.backward()
    assert total.shape == () and total.dtype == dtype and not parts.box.requires_grad
    assert torch.equal(targets, before)
    return total.item(), parts.row(), [raw_map.grad.numpy() for raw_map in maps]


def assert_roundings_apart(ours, wanted, roundings):
    """Losses by their own size, gradients by a map's largest."""
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(ours[0], wanted[0], rtol=roundings * eps)
    np.testing.assert_allclose(ours[1], wanted[1], rtol=roundings * eps)
    for got, expected in zip(ours[2], wanted[2], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=roundings * eps * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_reference(golden, case):
    """In double precision, so that only the rounding of the float32 figures is left (measured: 2.2 at most)."""
    figures = golden(f"loss_{case}.npz")
    exact = reference_loss(figures, torch.float64)
    grads = [figures[f"grad{level}"] for level in range(len(exact[2]))]
    assert_roundings_apart(exact, (float(figures["loss"][0]), figures["items"], grads), 4)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_double_precision_rounded(golden, case):
    """Sums of 2,000 terms, in whatever order."""
    figures = golden(f"loss_{case}.npz")
    assert_roundings_apart(reference_loss(figures, torch.float32), reference_loss(figures, torch.float64), 16)


def literal_assignment(targets, shape, anchors, anchor_t):
    """(image, anchor, row, column, x, y, w, h, class) of every positive, by loops over neighbors, anchors, targets."""
    height, width = shape
    found = []
    for step_x, step_y in ((0, 0), (-0.5, 0), (0, -0.5), (0.5, 0), (0, 0.5)):
        for anchor, (anchor_width, anchor_height) in enumerate(anchors.tolist()):
            for image, cls, x, y, w, h in targets.tolist():
                sides = zip((x, y, w, h), (width, height, width, height), strict=True)
                x, y, w, h = (float(np.float32(value) * np.float32(side)) for value, side in sides)
                if max(w / anchor_width, anchor_width / w, h / anchor_height, anchor_height / h) >= anchor_t:
                    continue
                to_right, to_bottom = (
                    float(np.float32(width) - np.float32(x)),
                    float(np.float32(height) - np.float32(y)),
                )
                borders = ((step_x < 0, x), (step_y < 0, y), (step_x > 0, to_right), (step_y > 0, to_bottom))
                if any(taken and not (distance % 1 < 0.5 and distance > 1) for taken, distance in borders):
                    continue
                column = min(max(int(x + step_x), 0), width - 1)
                row = min(max(int(y + step_y), 0), height - 1)
                found.append((int(image), anchor, row, column, x - column, y - row, w, h, int(cls)))
    return found


@pytest.mark.parametrize("shapes", [((8, 8), (4, 4), (2, 2)), ((6, 11), (3, 5), (1, 2))])
def test_assignment_equals_its_definition(shapes):
    geometry = head()
    edges = torch.tensor(
        [[0, 1, 0.5, 0.5, 0.1, 0.1], [1, 2, 0, 0, 0.2, 0.2], [1, 0, 1, 1, 0.2, 0.2], [0, 0, 0.25, 0.75, 0.3, 0.1]]
    )
    targets = torch.cat((random_targets(60, 2, 3), edges))
    total = 0
    for assignment, shape, anchors in zip(
        assign(targets, shapes, geometry, 4.0), shapes, geometry.anchors, strict=True
    ):
        expected = literal_assignment(targets, shape, anchors, 4.0)
        cells = (assignment.image, assignment.anchor, assignment.row, assignment.column)
        got = torch.stack([column.double() for column in (*cells, *assignment.xywh.unbind(1), assignment.cls)], 1)
        assert got.shape == (len(expected), 9)
        np.testing.assert_allclose(got.numpy(), np.array(expected).reshape(-1, 9), atol=1e-5)
        assert torch.equal(assignment.anchor_wh, anchors[assignment.anchor])  # copied
        total += len(expected)
    assert total > 150


def literal_loss(geometry, hyp, maps, targets):
    """Total loss from the literal assignment: one prediction at a time, cells overwritten in order."""
    box = obj = cls = 0.0
    balance = (4.0, 1.0, 0.4) if geometry.levels == 3 else (4.0, 1.0, 0.25, 0.06, 0.02)
    for raw_map, anchors, weight in zip(maps, geometry.anchors, balance, strict=False):
        matches = literal_assignment(targets, raw_map.shape[2:4], anchors, hyp.anchor_t)
        obj_target = torch.zeros(raw_map.shape[:4])
        box_costs, cls_costs = [], []
        for image, anchor, row, column, x, y, w, h, label in matches:
            raw = raw_map[image, anchor, row, column]
            overlap = paired_iou(decode(raw[None, :4], anchors[None, anchor]), torch.tensor([[x, y, w, h]]))[0]
            box_costs.append(1 - overlap)
            obj_target[image, anchor, row, column] = overlap.detach().clamp(min=0)
            target = torch.full((geometry.nc,), 0.5 * hyp.label_smoothing)
            target[label] = 1 - 0.5 * hyp.label_smoothing
            chance = raw[5:].sigmoid()
            cls_costs.append(-(hyp.cls_pw * target * chance.log() + (1 - target) * (1 - chance).log()).mean())
        chance = raw_map[..., 4].sigmoid()
        obj = obj - weight * (hyp.obj_pw * obj_target * chance.log() + (1 - obj_target) * (1 - chance).log()).mean()
        if matches:
            box, cls = box + torch.stack(box_costs).mean(), cls + torch.stack(cls_costs).mean()
    return (box * hyp.box + obj * hyp.obj + cls * hyp.cls) * len(maps[0])


@pytest.mark.parametrize("levels", (2, 3))
def test_loss_equals_the_literal_one_if_cells_are_assigned_twice(levels):
    geometry, hyp = head(levels=levels), hyperparameters(label_smoothing=0.1, cls_pw=1.5, obj_pw=0.7)
    shapes = ((6, 5), (3, 3), (2, 2))[:levels]
    maps, targets = random_maps(geometry, shapes), random_targets(40, 2, 3, seed=1)
    assigned = [torch.stack((a.image, a.anchor, a.row, a.column), 1) for a in assign(targets, shapes, geometry, 4.0)]
    assert all(len(cells.unique(dim=0)) < len(cells) for cells in assigned[:2])
    total, _ = DetectionLoss(geometry, hyp, "cpu")(maps, targets)
    expected = literal_loss(geometry, hyp, maps, targets)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, wanted in zip(torch.autograd.grad(total, maps), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_the_form_for_accelerators_gives_the_same_figures(monkeypatch):
    geometry, hyp = head(), hyperparameters(fl_gamma=1.5)
    maps, targets = random_maps(geometry, ((8, 8), (4, 4), (2, 2))), random_targets(30, 2, 3)
    loss = DetectionLoss(geometry, hyp, "cpu")
    expected, _ = loss(maps, targets)
    expected_gradients = torch.autograd.grad(expected, maps)
    monkeypatch.setattr("utils.assignment.MaskedAssignment.compact", lambda candidates: candidates)
    total, _ = loss(maps, targets)
    torch.testing.assert_close(total, expected)
    for got, wanted in zip(torch.autograd.grad(total, maps), expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted)


def test_nothing_waits_for_an_accelerator():
    """Tensors on "meta" have no values: whatever asks for one raises."""
    geometry = head()
    maps = [torch.randn(2, 3, side, side, 8, device="meta", requires_grad=True) for side in (8, 4, 2)]
    loss = DetectionLoss(geometry, hyperparameters(fl_gamma=1.5), "meta")
    total, parts = loss(maps, torch.empty(30, 6, device="meta"))
    total.backward()
    assert total.device.type == "meta" and maps[0].grad.shape == maps[0].shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        parts.row()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_maps_are_computed_in_float32(dtype):
    geometry, hyp = head(), hyperparameters()
    maps = [raw_map.detach().to(dtype).requires_grad_() for raw_map in random_maps(geometry, ((8, 8), (4, 4), (2, 2)))]
    targets = random_targets(20, 2, 3)
    loss = DetectionLoss(geometry, hyp, "cpu")
    expected, _ = loss([raw_map.float() for raw_map in maps], targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(maps, targets)
    total.backward()
    # a half is a float32 number: the same kernels on the same numbers
    assert total.dtype == torch.float32 and total.item() == expected.item()
    assert all(torch.isfinite(raw_map.grad).all() for raw_map in maps)


def test_extreme_maps_stay_finite():
    geometry = head()
    maps = [raw_map.detach() * 1000 for raw_map in random_maps(geometry, ((8, 8), (4, 4), (2, 2)))]
    for raw_map in maps:
        raw_map.requires_grad_()
    total, _ = DetectionLoss(geometry, hyperparameters(), "cpu")(maps, random_targets(30, 2, 3))
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(raw_map.grad).all() for raw_map in maps)


def test_objects_without_size_match_nothing():
    geometry = head()
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0, 0.1], [0, 0, 0.5, 0.5, 0, 0]])
    assert [len(a.cls) for a in assign(targets, ((8, 8), (4, 4), (2, 2)), geometry)] == [0, 0, 0]


def test_maps_of_another_head_are_named():
    geometry = head()
    maps = random_maps(head(nc=4), ((8, 8), (4, 4), (2, 2)))
    with pytest.raises(ValueError, match=r"expected 3 maps \(B, 3, H, W, 8\), got 3 with one of \(2, 3, 8, 8, 9\)"):
        DetectionLoss(geometry, hyperparameters(), "cpu")(maps, torch.zeros(0, 6))
