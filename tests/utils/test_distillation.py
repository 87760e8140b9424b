"""The terms of distillation against literal loops, and what they leave alone."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from utils.distillation import (
    ChannelDistillation,
    HeadMatch,
    HeadOutputs,
    SoftTargets,
    channel_divergence,
    match_heads,
    ramp_up,
)
from utils.types import HeadGeometry

HYP = SimpleNamespace(
    box=0.05, obj=0.7, cls=0.3, cls_pw=1.0, obj_pw=1.0, anchor_t=4.0, fl_gamma=0.0, label_smoothing=0.0
)
BALANCE = (4.0, 0.4)
ANCHORS = torch.tensor([[[1.0, 1.5], [2.0, 2.5]], [[1.0, 3.0], [4.0, 2.0]]])
STRIDES = torch.tensor([8.0, 16.0])


def geometry(nc, scale=1.0, strides=STRIDES):
    return HeadGeometry(ANCHORS.double().float() * scale, strides, nc)


def maps(nc, seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 2, side, side + 1, 5 + nc, generator=generator) * 2 for side in (3, 2)]


def head(nc, names, **changes):
    return HeadOutputs(geometry(nc, **changes), names)


def terms_of(student, teacher):
    match = match_heads(student, teacher)
    return SoftTargets(match, student.geometry, teacher.geometry, HYP, BALANCE)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def entropy(logit, target):
    return -(target * math.log(sigmoid(logit)) + (1 - target) * math.log(1 - sigmoid(logit)))


def literal_box(values, anchor):
    x, y, w, h = (sigmoid(value) for value in values)
    return 2 * x - 0.5, 2 * y - 0.5, (2 * w) ** 2 * anchor[0], (2 * h) ** 2 * anchor[1]


def literal_ciou(a, b):
    """arXiv 1911.08287."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    wide = max(0, min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2))
    high = max(0, min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2))
    iou = wide * high / (aw * ah + bw * bh - wide * high)
    hull_w = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull_h = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    alpha = v / (1 - iou + v) if v else 0
    return iou - ((ax - bx) ** 2 + (ay - by) ** 2) / (hull_w**2 + hull_h**2) - alpha * v


def literal_value(raw_maps, taught_maps, student, teacher, classes, levels=((0, 0), (1, 1))):
    """The prediction term, one cell at a time."""
    total = 0.0
    nc, partial = student.geometry.nc, len(classes) < student.geometry.nc
    for ours, theirs in levels:
        own, taught = raw_maps[ours].double(), taught_maps[theirs].double()
        box = cls = weights = 0.0
        obj = []
        for image, anchor, row, column in torch.cartesian_prod(*map(torch.arange, own.shape[:4])).tolist():
            s, t = own[image, anchor, row, column].tolist(), taught[image, anchor, row, column].tolist()
            known = sum(sigmoid(t[5 + theirs_id]) for _, theirs_id in classes)
            w = sigmoid(t[4]) * known / sum(map(sigmoid, t[5:]))
            weights += w
            boxes = (
                literal_box(s[:4], student.geometry.anchors[ours, anchor].tolist()),
                literal_box(t[:4], teacher.geometry.anchors[theirs, anchor].tolist()),
            )
            box += w * (1 - literal_ciou(*boxes))
            obj.append(entropy(s[4], w) * (w if partial else 1))
            pairs = [entropy(s[5 + i], sigmoid(t[5 + j])) for i, j in classes]
            cls += w * sum(pairs) / len(pairs) if nc > 1 else 0
        divisor = max(weights, 1)
        total += HYP.box * box / divisor + HYP.cls * cls / divisor + HYP.obj * BALANCE[ours] * sum(obj) / len(obj)
    return total


@pytest.mark.parametrize(
    ("names", "teacher_names", "scale"),
    [
        (["a", "b"], ["a", "b"], 1.0),
        (["a", "b"], ["b", "c", "a"], 1.5),  # other order, more classes, other anchors
        (["a", "b"], ["x", "b"], 1.0),  # one class unknown to the teacher
        (["a"], ["a"], 1.0),
    ],
)
def test_the_prediction_term_is_the_literal_one(names, teacher_names, scale):
    student, teacher = head(len(names), names), head(len(teacher_names), teacher_names, scale=scale)
    raw, taught = maps(len(names), 1), maps(len(teacher_names), 2)
    classes = [(names.index(name), teacher_names.index(name)) for name in names if name in teacher_names]
    value = terms_of(student, teacher)(raw, taught, 1.0)
    assert float(value) == pytest.approx(literal_value(raw, taught, student, teacher, classes), rel=2e-5)


def test_a_teacher_equal_to_the_student_asks_for_no_change():
    student = head(2, ["a", "b"])
    raw = [each.requires_grad_() for each in maps(2, 1)]
    terms_of(student, student)(raw, [each.detach() for each in raw], 1.0).backward()
    largest = max(float(each.grad.abs().max()) for each in raw)
    assert largest < 1e-5
    others = [each.detach().requires_grad_() for each in raw]
    terms_of(student, student)(others, maps(2, 2), 1.0).backward()
    assert max(float(each.grad.abs().max()) for each in others) > 1e-3


def test_a_batch_without_objects_has_small_weights():
    """A teacher that sees nothing leaves boxes and classes alone; the sum of weights is at least 1."""
    student, raw, taught = head(2, ["a", "b"]), maps(2, 1), maps(2, 2)
    for each in taught:
        each[..., 4] = -20.0
    raw = [each.requires_grad_() for each in raw]
    terms_of(student, student)(raw, taught, 1.0).backward()
    assert max(float(each.grad[..., :4].abs().max()) for each in raw) < 1e-8
    assert float(raw[0].grad[..., 4].min()) > 0  # objectness is pushed down


def test_images_that_stand_in_count_for_nothing():
    student, raw, taught = head(2, ["a", "b"]), maps(2, 1), maps(2, 2)
    assert float(terms_of(student, student)(raw, taught, torch.tensor(0.0))) == 0


def test_heads_are_matched_by_stride_anchor_and_name():
    student = head(2, ["a", "b"])
    assert match_heads(student, student) == HeadMatch(((0, 0), (1, 1)), ((0, 0), (1, 1)))
    shifted = match_heads(student, head(3, ["c", "b", "a"], strides=torch.tensor([16.0, 32.0])))
    assert shifted.levels == ((1, 0),) and shifted.classes == ((0, 2), (1, 1))
    assert shifted.problems[0] == "it has 1 of the student's 2 strides"
    assert not match_heads(student, head(2, ["x", "y"]))
    large = match_heads(student, head(2, ["a", "b"], scale=2.1))
    assert large.levels == () and "2 of 2 strides" in large.problems[0]
    assert match_heads(student, head(2, ["a", "b"], scale=1.9)).levels == ((0, 0), (1, 1))


def test_the_feature_term_is_the_literal_one():
    generator = torch.Generator().manual_seed(3)
    own, taught = (torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for temperature in (1.0, 4.0):
        total = 0.0
        for image in range(2):
            for channel in range(3):
                s, t = (each[image, channel].flatten() / temperature for each in (own, taught))
                p_s, p_t = ([math.exp(v) / sum(map(math.exp, each.tolist())) for v in each.tolist()] for each in (s, t))
                total += temperature**2 / 3 * sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True)) / 2
        assert float(channel_divergence(own, taught, temperature)) == pytest.approx(total, rel=1e-5)
    assert float(channel_divergence(own, own)) == pytest.approx(0, abs=1e-7)


def test_the_feature_term_reaches_student_and_adapters_and_is_decided_by_the_seed():
    term = ChannelDistillation([(3, 5), (4, 6)], seed=7)
    own = [torch.randn(2, width, 3, 3, requires_grad=True) for width in (3, 4)]
    taught = [torch.randn(2, width, 3, 3) for width in (5, 6)]
    value = term(own, taught)
    expected = sum(
        float(channel_divergence(F.conv2d(maps, adapter.weight), target).detach()) / 2
        for adapter, maps, target in zip(term.adapters, own, taught, strict=True)
    )
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert all(float(each.grad.abs().sum()) > 0 for each in [*own, *term.parameters()])
    state = torch.get_rng_state()
    again = ChannelDistillation([(3, 5), (4, 6)], seed=7)
    assert all(torch.equal(a, b) for a, b in zip(term.parameters(), again.parameters(), strict=True))
    spread = float(ChannelDistillation([(400, 50)], seed=1).adapters[0].weight.detach().std())
    assert spread == pytest.approx(1 / 20, rel=0.05)
    assert len(list(term.parameters())) == 2  # no bias
    assert not torch.equal(term.adapters[0].weight, ChannelDistillation([(3, 5)], seed=8).adapters[0].weight)
    assert torch.equal(state, torch.get_rng_state())  # of the training


def test_the_ramp_rises_to_one_over_the_warm_up():
    assert ramp_up(0, 100) == pytest.approx(math.exp(-5))
    assert ramp_up(50, 100) == pytest.approx(math.exp(-1.25))
    assert ramp_up(100, 100) == ramp_up(1000, 100) == ramp_up(0, 0) == 1
