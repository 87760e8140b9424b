"""Quality losses, targets and weights equal their equations; gradients equal difference quotients."""

import itertools
import math
import types

import numpy as np
import pytest
import torch
from small_data import drawn_yaml

import train
from utils.assignment import decode
from utils.box_losses import BoxLoss
from utils.boxes import paired_iou
from utils.checkpoint import read_checkpoint
from utils.config import Hyperparameters, TrainConfig, from_options
from utils.dynamic_assignment import ASSIGNERS
from utils.engine.trainer import Hook
from utils.engine.training import train as run_training
from utils.loss import DetectionLoss
from utils.quality_losses import LearnedBalance, LogitCost, LossKinds, aligned_quality, balanced_weights, class_weights
from utils.types import HeadGeometry

PLAIN = dict(box=0.05, obj=1.0, cls=0.5, cls_pw=1.5, obj_pw=0.7, anchor_t=4.0, fl_gamma=0.0, label_smoothing=0.1)
SHAPES = ((6, 8), (3, 4), (2, 2))
BALANCE = (4.0, 1.0, 0.4)
WEIGHTS = torch.tensor([0.5, 1.0, 2.5])
KINDS = ("bce", "qfl", "vfl")
EVERYTHING = dict(obj_target="both", obj_loss="qfl", cls_loss="vfl", balance="learned")


def hyperparameters(**changes):
    return types.SimpleNamespace(**{**PLAIN, **changes})


def head(nc=3, levels=3):
    strides = torch.tensor([8.0, 16, 32])[:levels]
    anchors = torch.tensor(((10, 13, 16, 30), (30, 61, 62, 45), (116, 90, 156, 198))[:levels])
    return HeadGeometry(anchors.view(levels, 2, 2) / strides.view(-1, 1, 1), strides, nc)


def random_targets(count=25, nc=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randint(limit, (count, 1), generator=generator).float() for limit in (2, nc)]
    size = torch.rand(count, 2, generator=generator) * 0.5 + 0.05
    return torch.cat((*draw, torch.rand(count, 2, generator=generator), size), 1)


def random_maps(nc=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 2, *shape, 5 + nc, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [raw_map.to(dtype).requires_grad_() for raw_map in maps]


# costs of logits -------------------------------------------------------------------------------------


def literal_cost(kind, logit, target, weight, gamma, positive=None):
    """The cost of one logit; works on numbers of torch, so that it has a gradient."""
    p = 1 / (1 + torch.exp(-logit))
    entropy = -(weight * target * torch.log(p) + (1 - target) * torch.log(1 - p))
    power = gamma or 2
    if kind == "qfl":
        return abs(target - p) ** power * entropy
    if kind == "vfl":
        is_positive = target > 0 if positive is None else positive
        return (target if is_positive else 0.75 * p**power) * entropy
    if not gamma:
        return entropy
    p_t = target * p + (1 - target) * (1 - p)
    return (0.25 * target + 0.75 * (1 - target)) * (1 - p_t) ** gamma * entropy


@pytest.mark.parametrize("kind, gamma", list(itertools.product(KINDS, (0.0, 0.5, 1.5))))
def test_costs_equal_their_equations_and_gradients_difference_quotients(kind, gamma):
    logits = torch.linspace(-4, 5, 19, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 0.31, 0.77, 1, 0], dtype=torch.float64).repeat(4)[:19]
    cost = LogitCost(kind, 1.3, gamma)
    expected = [literal_cost(kind, logit, target, 1.3, gamma) for logit, target in zip(logits, targets, strict=True)]
    torch.testing.assert_close(cost(logits, targets), torch.stack(expected), rtol=1e-6, atol=0)  # 1.3 is a float32
    assert torch.autograd.gradcheck(lambda x: cost(x, targets), logits, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_figures_by_hand():
    """p = 0.5 everywhere: ln 2 = 0.693147 is the cross-entropy of any target."""
    logits, target = torch.zeros(3), torch.tensor([0.0, 0.3, 1.0])
    figures = {kind: LogitCost(kind, 1, 0)(logits, target).tolist() for kind in KINDS}
    assert figures["bce"] == pytest.approx([0.693147] * 3, rel=1e-5)
    assert figures["qfl"] == pytest.approx([0.173287, 0.0277259, 0.173287], rel=1e-5)  # (y - 0.5)^2
    assert figures["vfl"] == pytest.approx([0.129965, 0.207944, 0.693147], rel=1e-5)  # 0.75 * 0.5^2, then y
    assert LogitCost("qfl", 1, 1.0)(logits, target).tolist() == pytest.approx([0.346574, 0.138629, 0.346574], rel=1e-5)


@pytest.mark.parametrize("kind, gamma", list(itertools.product(("qfl", "vfl"), (0.0, 0.5))))
def test_extreme_logits_have_finite_costs_and_gradients(kind, gamma):
    logits = torch.tensor([-1e4, -200, 0, 200, 1e4]).repeat(3).requires_grad_()
    targets = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(5)
    cost = LogitCost(kind, 1, gamma)(logits, targets)
    cost.sum().backward()
    assert torch.isfinite(cost).all() and torch.isfinite(logits.grad).all()
    assert cost[0] == 0 and cost[14] < 1e-10  # certain and right


# quality ---------------------------------------------------------------------------------------------


def literal_quality(score, overlap, label):
    found = []
    for s, u, own in zip(score, overlap, label, strict=True):
        rows = [row for row in range(len(label)) if label[row] == own]
        best = max(score[row] * overlap[row] ** 6 for row in rows)
        found.append(s * u**6 / best * max(overlap[row] for row in rows) if best else 0.0)
    return found


def test_quality_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    score, overlap = torch.rand(2, 60, generator=generator)
    label = torch.randint(9, (60,), generator=generator)
    label[label == 4] = 5  # an object without a row
    overlap[label == 7] = 0  # none overlaps
    quality = aligned_quality(score, overlap, label, 9)
    expected = literal_quality(score.double().tolist(), overlap.double().tolist(), label.tolist())
    np.testing.assert_allclose(quality, expected, rtol=1e-5, atol=1e-12)
    for each in (0, 1, 2, 3, 5, 6, 8):
        assert quality[label == each].max().item() == pytest.approx(overlap[label == each].max().item(), rel=1e-6)
    assert not quality[label == 7].any()
    assert aligned_quality(score[:0], overlap[:0], label[:0], 0).shape == (0,)


@pytest.mark.parametrize("rule", ASSIGNERS)
def test_every_rule_says_whose_a_row_is(rule):
    targets, geometry, positives = random_targets(), head(), 0
    for level, (rows, valid) in enumerate(ASSIGNERS[rule](random_maps(), targets, geometry.anchors, 4.0)):
        of_row, (height, width) = targets[rows.label], SHAPES[level]
        assert torch.equal(of_row[:, 0].long(), rows.image) and torch.equal(of_row[:, 1].long(), rows.cls)
        center = rows.xywh[:, :2] + torch.stack((rows.column, rows.row), 1)
        expected = of_row[:, 2:4] * torch.tensor([width, height])
        torch.testing.assert_close(center[valid], expected[valid], rtol=1e-5, atol=1e-5)
        positives += int(valid.sum())
    assert positives > 20


# the whole loss --------------------------------------------------------------------------------------


def literal_terms(geometry, hyp, maps, targets, weights):
    """Box, objectness by level and class terms, before gains: one positive at a time."""
    found = [each.compact().rows for each in ASSIGNERS[hyp.assign](maps, targets, geometry.anchors, hyp.anchor_t)]
    rows = []
    for level, (raw_map, own) in enumerate(zip(maps, found, strict=True)):
        for k in range(len(own.cls)):
            cell = tuple(int(index[k]) for index in (own.image, own.anchor, own.row, own.column))
            raw, label = raw_map[cell], int(own.label[k])
            box = decode(raw[None, :4], own.anchor_wh[k : k + 1].to(raw))
            ciou, iou = (paired_iou(box, own.xywh[k : k + 1].to(raw), kind)[0] for kind in ("CIoU", "IoU"))
            chance = raw.detach().sigmoid()
            score = float(chance[4] * chance[5 + int(own.cls[k])]) if geometry.nc > 1 else float(chance[4])
            rows.append((level, cell, raw, int(own.cls[k]), label, ciou, iou.item(), score))
    quality = literal_quality([row[7] for row in rows], [row[6] for row in rows], [row[4] for row in rows])
    obj_targets = [torch.zeros(raw_map.shape[:4], dtype=torch.float64) for raw_map in maps]
    box, cls, smooth = [[], [], []], [[], [], []], hyp.label_smoothing / 2
    for (level, cell, raw, own, _, ciou, iou, _), t in zip(rows, quality, strict=True):
        overlap = max(ciou.item(), 0)
        obj_targets[level][cell] = {"iou": overlap, "quality": t, "both": math.sqrt(overlap * t)}[hyp.obj_target]
        box[level].append((1 - ciou) * weights[own])
        y = [1 - smooth if c == own else smooth for c in range(geometry.nc)]
        if hyp.cls_loss != "bce":
            y[own] = smooth + iou * (1 - 2 * smooth)
        for c in range(geometry.nc) if geometry.nc > 1 else ():
            is_positive = c == own and iou > 0
            cost = literal_cost(hyp.cls_loss, raw[5 + c], y[c], hyp.cls_pw, hyp.fl_gamma, is_positive)
            cls[level].append(cost * weights[own])
    obj = []
    for raw_map, target in zip(maps, obj_targets, strict=True):
        logits = zip(raw_map[..., 4].flatten(), target.flatten(), strict=True)
        costs = [literal_cost(hyp.obj_loss, logit, y, hyp.obj_pw, hyp.fl_gamma) for logit, y in logits]
        obj.append(torch.stack(costs).mean())
    box, cls = ([torch.stack(costs).mean() for costs in levels if costs] for levels in (box, cls))
    return sum(box), torch.stack(obj), sum(cls)


@pytest.fixture
def double_precision(monkeypatch):
    """The loss brings maps of every type to float32; here to float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize(
    "obj_target, obj_loss, cls_loss, assign, fl_gamma, nc",
    [
        ("quality", "bce", "bce", "v5", 0.0, 3),
        ("both", "bce", "bce", "v5", 0.0, 3),
        ("iou", "qfl", "bce", "v5", 0.0, 3),
        ("iou", "vfl", "qfl", "v5", 1.5, 3),
        ("iou", "bce", "vfl", "v5", 1.5, 3),
        ("quality", "qfl", "qfl", "tal", 0.0, 3),
        ("both", "vfl", "vfl", "simota", 0.0, 3),
        ("both", "vfl", "vfl", "v5", 0.0, 1),
    ],
)
@pytest.mark.usefixtures("double_precision")
def test_the_loss_and_its_gradients_equal_the_literal_ones(obj_target, obj_loss, cls_loss, assign, fl_gamma, nc):
    geometry, maps, targets = head(nc), random_maps(nc, dtype=torch.float64), random_targets(nc=nc)
    hyp = hyperparameters(obj_target=obj_target, obj_loss=obj_loss, cls_loss=cls_loss, assign=assign, fl_gamma=fl_gamma)
    weights = WEIGHTS[:nc]
    total, parts = DetectionLoss(geometry, hyp, "cpu", class_weights=weights)(maps, targets)
    box, obj, cls = literal_terms(geometry, hyp, maps, targets, weights.tolist())
    obj = (obj * torch.tensor(BALANCE)).sum()
    terms = box * hyp.box, obj * hyp.obj, cls * hyp.cls
    assert parts.row() == pytest.approx([float(term) for term in terms], rel=1e-5)
    for got, wanted in zip(
        torch.autograd.grad(total, maps), torch.autograd.grad(sum(terms) * 2, maps, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("obj_loss, cls_loss", [("qfl", "vfl"), ("vfl", "qfl")])
@pytest.mark.usefixtures("double_precision")
def test_gradients_of_both_terms_equal_difference_quotients(obj_loss, cls_loss):
    """Along directions of objectness and class logits, of which the targets, IoUs here, do not depend."""
    loss = DetectionLoss(head(), hyperparameters(obj_loss=obj_loss, cls_loss=cls_loss), "cpu", class_weights=WEIGHTS)
    maps, targets, generator = random_maps(dtype=torch.float64), random_targets(), torch.Generator().manual_seed(1)
    gradients = torch.autograd.grad(loss(maps, targets)[0], maps)
    for columns in (slice(4, 5), slice(5, 8)):
        steps = [torch.zeros_like(raw_map) for raw_map in maps]
        for step in steps:
            step[..., columns] = torch.randn(step[..., columns].shape, generator=generator, dtype=torch.float64)
        slope = sum((gradient * step).sum() for gradient, step in zip(gradients, steps, strict=True))
        ends = [
            loss([raw_map + sign * 1e-5 * step for raw_map, step in zip(maps, steps, strict=True)], targets)[0]
            for sign in (1, -1)
        ]
        assert float(ends[0] - ends[1]) / 2e-5 == pytest.approx(float(slope), rel=1e-6)
        assert abs(float(slope)) > 1e-3


def test_words_of_v61_change_no_bit():
    maps, targets = random_maps(), random_targets()
    words = LossKinds()._asdict()
    losses = [DetectionLoss(head(), hyp, "cpu") for hyp in (hyperparameters(), hyperparameters(**words))]
    totals = [loss(maps, targets)[0] for loss in losses]
    assert torch.equal(*totals) and losses[1].state_dict() == {}
    assert LossKinds.of(Hyperparameters()) == LossKinds.of(object()) == LossKinds("iou", "bce", "bce", "fixed")


def test_each_key_changes_the_loss():
    maps, targets = random_maps(), random_targets()
    changes = [{}, *({key: value} for key in ("obj_loss", "cls_loss") for value in ("qfl", "vfl"))]
    changes += [{"obj_target": "quality"}, {"obj_target": "both"}]
    totals = [float(DetectionLoss(head(), hyperparameters(**each), "cpu")(maps, targets)[0]) for each in changes]
    totals.append(float(DetectionLoss(head(), hyperparameters(), "cpu", class_weights=WEIGHTS)(maps, targets)[0]))
    assert len({round(total, 4) for total in totals}) == 8


@pytest.mark.parametrize("assign", ("v5", "tal"))
def test_the_form_for_accelerators_gives_the_same_figures(monkeypatch, assign):
    maps, targets = random_maps(), random_targets()
    losses = [
        DetectionLoss(head(), hyperparameters(**EVERYTHING, assign=assign), "cpu", class_weights=WEIGHTS)
        for _ in range(2)
    ]
    expected, _ = losses[0](maps, targets)
    monkeypatch.setattr("utils.assignment.MaskedAssignment.compact", lambda candidates: candidates)
    total, _ = losses[1](maps, targets)
    torch.testing.assert_close(total, expected)
    for got, wanted in zip(torch.autograd.grad(total, maps), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(losses[0].state_dict(), losses[1].state_dict())


@pytest.mark.parametrize("kind", ("qfl", "vfl"))
def test_nothing_waits_for_an_accelerator(kind):
    """Tensors on "meta" have no values: whatever asks for one raises."""
    words = {**EVERYTHING, "obj_loss": kind, "cls_loss": kind}
    loss = DetectionLoss(head(), hyperparameters(**words), "meta", class_weights=torch.ones(3))
    maps = [torch.randn(2, 2, side, side, 8, device="meta", requires_grad=True) for side in (8, 4, 2)]
    total, _ = loss(maps, torch.empty(30, 6, device="meta"))
    total.backward()
    assert maps[0].grad.shape == maps[0].shape and loss.learned_balance.weights.device.type == "meta"


def test_batches_without_objects():
    loss = DetectionLoss(head(), hyperparameters(**EVERYTHING), "cpu", class_weights=WEIGHTS)
    maps = random_maps()
    total, parts = loss(maps, torch.zeros(0, 6))
    total.backward()
    assert parts.row()[0] == parts.row()[2] == 0 < parts.row()[1]
    assert torch.isfinite(loss.learned_balance.weights).all() and maps[0].grad[..., 4].any()


# balance of the levels -------------------------------------------------------------------------------


def test_the_balance_follows_its_rule():
    maps, targets, hyp = random_maps(), random_targets(), hyperparameters(balance="learned")
    loss, weights = DetectionLoss(head(), hyp, "cpu"), list(BALANCE)
    _, fixed, _ = literal_terms(
        head(), types.SimpleNamespace(**{**vars(hyp), **LossKinds()._asdict()}, assign="v5"), maps, targets, [1, 1, 1]
    )
    terms = fixed.tolist()
    for _ in range(3):
        _, parts = loss(maps, targets)
        assert parts.row()[1] == pytest.approx(sum(b * o for b, o in zip(weights, terms, strict=True)), rel=1e-5)
        weights = [0.99 * b + 0.01 * terms[1] / o for b, o in zip(weights, terms, strict=True)]
        assert loss.learned_balance.weights.tolist() == pytest.approx(weights, rel=1e-5)
    before = loss.learned_balance.weights
    loss([raw_map.detach() for raw_map in maps], targets)  # validation
    assert loss.learned_balance.weights is before and before[1] == 1


def test_autobalance_is_a_mean_of_ratios_whose_rate_depends_on_the_loss():
    weights, obj = [4.0, 1.0, 0.4], [0.004, 0.01, 0.03]
    raw = [0.9999 * b + 0.0001 / o for b, o in zip(weights, obj, strict=True)]
    autobalance = [b / raw[1] for b in raw]
    rate = 1 / (1 + 9999 * obj[1])
    assert rate == pytest.approx(0.0099, abs=1e-5)
    assert autobalance == pytest.approx([b + rate * (obj[1] / o - b) for b, o in zip(weights, obj, strict=True)])


def test_the_level_of_stride_16_keeps_its_weight_and_no_ratio_is_infinite():
    strides = torch.tensor([4.0, 8, 16, 32])
    balance = LearnedBalance((4.0, 1.0, 0.25, 0.06, 0.02), strides)
    balance.update(torch.tensor([0.02, 0.0, 0.01, 10.0]))
    expected = [0.99 * 4 + 0.01 * 0.25 * 0.5, 0.99 + 0.01 * 0.25 * 100, 0.25, 0.99 * 0.06 + 0.01 * 0.25 * 0.01]
    assert balance.weights.tolist() == pytest.approx(expected)
    balance.update(torch.zeros(4))
    assert torch.isfinite(balance.weights).all()


def test_a_resumed_balance_is_the_same():
    maps, targets, hyp = random_maps(), random_targets(), hyperparameters(**EVERYTHING)
    whole, first, second = (DetectionLoss(head(), hyp, "cpu") for _ in range(3))
    whole(maps, targets), first(maps, targets)
    second.load_state_dict(first.state_dict())
    assert list(first.state_dict()) == ["balance.weights"]
    totals = [loss(maps, targets)[0] for loss in (whole, second)]
    assert torch.equal(*totals) and torch.equal(whole.learned_balance.weights, second.learned_balance.weights)
    second.load_state_dict({})  # of a file from before
    assert torch.equal(whole.learned_balance.weights, second.learned_balance.weights)


# weights of the classes ------------------------------------------------------------------------------


def test_class_weights_equal_their_definition():
    counts = np.array([900, 90, 0, 10])
    for power in (0.0, 0.5, 1.0):
        weights = class_weights(counts, power)
        raw = [max(n, 1) ** -power for n in counts]
        mean = sum(n * w for n, w in zip(counts, raw, strict=True)) / 1000
        np.testing.assert_allclose(weights, [w / mean for w in raw])
        assert (weights * counts).sum() / 1000 == pytest.approx(1)
    assert class_weights(counts, 1.0)[:2] == pytest.approx([1000 / 3 / 900, 1000 / 3 / 90])
    assert (class_weights(counts, 0.0) == 1).all() and (class_weights(np.zeros(3, int), 0.5) == 1).all()


def test_weights_of_a_training_are_logged(caplog):
    caplog.set_level("INFO", "yolo")
    assert balanced_weights(np.array([30, 10]), 0.0) is None and balanced_weights(np.array([30]), 1.0) is None
    assert not caplog.messages
    assert balanced_weights(np.array([30, 10]), 1.0).tolist() == pytest.approx([2 / 3, 2])
    assert caplog.messages == ["class balance: positives weigh 0.67 to 2.00 by their class"]


def test_wise_iou_s_mean_is_not_weighted():
    maps, targets = random_maps(), random_targets()
    losses = [
        DetectionLoss(head(), hyperparameters(), "cpu", BoxLoss("WIoUv3"), class_weights=weights)
        for weights in (None, WEIGHTS)
    ]
    parts = [loss(maps, targets)[1] for loss in losses]
    assert torch.equal(losses[0].box_loss.mean, losses[1].box_loss.mean) and parts[0].box != parts[1].box


# in a real training ----------------------------------------------------------------------------------


class StopBefore(Hook):
    """Interrupts a training before an epoch, as Ctrl-C would."""

    def before_epoch(self, trainer, epoch):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_resumed_run_equals_a_whole_one(tmp_path):
    (tmp_path / "my.yaml").write_text("".join(f"{k}: {v}\n" for k, v in (EVERYTHING | {"class_balance": 0.5}).items()))
    data = drawn_yaml(tmp_path, train=8, val=4, test=1)

    def start(name, *hooks):
        config = from_options(
            TrainConfig,
            cfg="models/yolov5n.yaml",
            imgsz=64,
            epochs=2,
            batch_size=4,
            workers=0,
            device="cpu",
            noautoanchor=True,
            data=str(data),
            hyp=str(tmp_path / "my.yaml"),
            project=str(tmp_path),
            name=name,
        )
        return run_training(config, hooks=list(hooks)).save_dir

    whole = start("whole")
    with pytest.raises(KeyboardInterrupt):
        start("parts", StopBefore())
    resumed = train.run(resume=str(tmp_path / "parts" / "weights" / "last.pt"), device="cpu").save_dir
    left, right = (read_checkpoint(folder / "weights" / "last.pt").training for folder in (whole, resumed))
    weights = left["loss"]["balance.weights"]
    assert torch.equal(weights, right["loss"]["balance.weights"]) and weights[1] == 1
    assert 0 < (weights - torch.tensor(BALANCE)).abs().max() < 5
    assert all(torch.equal(value, right["model_state"][name]) for name, value in left["model_state"].items())
    assert (whole / "results.csv").read_text() == (resumed / "results.csv").read_text()
