"""Box losses: each equals a literal one in Python's floats, with its gradients; the default is v6.1's; WIoU's mean
moves in training only and survives a resumed run."""

import math
import types

import numpy as np
import pytest
import torch
import yaml
from small_data import drawn_yaml

import train
from utils.box_losses import BOX_LOSSES, WIOU_MOMENTUM, BoxLoss
from utils.boxes import paired_iou
from utils.checkpoint import read_checkpoint, write_checkpoint
from utils.config import Hyperparameters, TrainConfig, from_options
from utils.config import hyperparameters as settings
from utils.engine.build import box_loss
from utils.engine.trainer import Hook
from utils.engine.training import train as run_training
from utils.engine.tuner import evolve
from utils.errors import ConfigError
from utils.files import ROOT
from utils.loss import DetectionLoss
from utils.types import HeadGeometry

SIZE = (20, 24)  # height, width of the input in the boxes' unit
FORMS = [(1.0, 0.0), (0.7, 0.0), (1.25, 0.0), (1.0, 0.5), (0.8, 0.5)]  # inner, focal


# the literal losses ----------------------------------------------------------------------------------


def corners(box, ratio=1.0):
    x, y, w, h = box
    return x - w * ratio / 2, y - h * ratio / 2, x + w * ratio / 2, y + h * ratio / 2


def plain_iou(a, b, ratio=1.0):
    left, right = corners(a, ratio), corners(b, ratio)
    width = max(0.0, min(left[2], right[2]) - max(left[0], right[0]))
    height = max(0.0, min(left[3], right[3]) - max(left[1], right[1]))
    return width * height / (ratio**2 * (a[2] * a[3] + b[2] * b[3]) - width * height)


def hull(a, b):
    left, right = corners(a), corners(b)
    return max(left[2], right[2]) - min(left[0], right[0]), max(left[3], right[3]) - min(left[1], right[1])


def aspect(a, b):
    return 4 / math.pi**2 * (math.atan(a[2] / a[3]) - math.atan(b[2] / b[3])) ** 2


def siou_penalty(a, b):
    """The paper's own steps, with the arcsin, between boxes whose centers differ."""
    width, height = hull(a, b)
    sigma = math.hypot(a[0] - b[0], a[1] - b[1])
    angle = 1 - 2 * math.sin(math.asin(abs(a[1] - b[1]) / sigma) - math.pi / 4) ** 2
    distance = sum(
        1 - math.exp(-(2 - angle) * ((a[axis] - b[axis]) / side) ** 2) for axis, side in ((0, width), (1, height))
    )
    shape = sum((1 - math.exp(-abs(a[side] - b[side]) / max(a[side], b[side]))) ** 4 for side in (2, 3))
    return (distance + shape) / 2


def shape_penalty(a, b):
    """Shape-IoU with scale 1: ww and hh are twice the label's sides over their sum."""
    ww, hh = 2 * b[2] / (b[2] + b[3]), 2 * b[3] / (b[2] + b[3])
    width, height = hull(a, b)
    distance = (hh * (a[0] - b[0]) ** 2 + ww * (a[1] - b[1]) ** 2) / (width**2 + height**2)
    omegas = hh * abs(a[2] - b[2]) / max(a[2], b[2]), ww * abs(a[3] - b[3]) / max(a[3], b[3])
    return distance + 0.5 * sum((1 - math.exp(-omega)) ** 4 for omega in omegas)


def literal_cost(kind, a, b, inner=1.0, focal=0.0, mean=1.0, held=None):
    """The loss of a for b, two xywh boxes; factors without gradient are computed with `held` instead of a."""
    held = held or a
    iou, width, height = plain_iou(a, b), *hull(a, b)
    way = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    iou_loss = 1 - plain_iou(a, b, inner)
    if kind.startswith("WIoU"):
        held_width, held_height = hull(held, b)
        beta = (1 - plain_iou(held, b, inner)) / mean
        gain = {"WIoUv1": 1, "WIoUv2": beta**0.5, "WIoUv3": beta / (3 * 1.9 ** (beta - 3))}[kind]
        cost = gain * math.exp(way / (held_width**2 + held_height**2)) * iou_loss
    else:
        diou = way / (width**2 + height**2)
        union = a[2] * a[3] + b[2] * b[3] - iou * (a[2] * a[3] + b[2] * b[3]) / (1 + iou)
        alpha = aspect(held, b) / (1 - plain_iou(held, b) + aspect(held, b))
        apart = sum((left - right) ** 2 for left, right in zip(corners(a), corners(b), strict=True))
        cost = (
            iou_loss
            + {
                "IoU": lambda: 0.0,
                "GIoU": lambda: 1 - union / (width * height),
                "DIoU": lambda: diou,
                "CIoU": lambda: diou + alpha * aspect(a, b),
                "SIoU": lambda: siou_penalty(a, b),
                "ShapeIoU": lambda: shape_penalty(a, b),
                "EIoU": lambda: diou + (a[2] - b[2]) ** 2 / width**2 + (a[3] - b[3]) ** 2 / height**2,
                "MPDIoU": lambda: apart / (SIZE[0] ** 2 + SIZE[1] ** 2),
            }[kind]()
        )
    return cost * plain_iou(held, b) ** focal if focal else cost


def random_boxes(count, seed):
    """Pairs (count, 4) of which most overlap, some lie inside one another and some apart; float64."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.cat(
        (torch.rand(count, 2, generator=generator) * 10 + 5, torch.rand(count, 2, generator=generator) * 6 + 1), 1
    )
    shift = torch.randn(count, 2, generator=generator) * torch.rand(count, 1, generator=generator) * 4
    a = torch.cat((b[:, :2] + shift, b[:, 2:] * torch.exp(torch.randn(count, 2, generator=generator) * 0.5)), 1)
    return a.double(), b.double()


def made(kind, inner=1.0, focal=0.0, mean=0.6):
    loss = BoxLoss(kind, inner, focal)
    loss.load_state_dict({"mean": torch.tensor(mean)})
    return loss


@pytest.mark.parametrize("inner, focal", FORMS)
@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_costs_equal_the_papers(kind, inner, focal):
    a, b = random_boxes(150, 1)
    mean = float(torch.tensor(0.6))
    expected = [literal_cost(kind, *pair, inner, focal, mean) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    for dtype, tolerance in ((torch.float64, 2e-6), (torch.float32, 2e-5)):
        costs = made(kind, inner, focal)(a.to(dtype), b.to(dtype), SIZE)
        assert costs.cost.dtype == dtype
        np.testing.assert_allclose(costs.cost.numpy(), expected, atol=tolerance)
        expected_iou_loss = [1 - plain_iou(*pair, inner) for pair in zip(a.tolist(), b.tolist(), strict=True)]
        np.testing.assert_allclose(costs.iou_loss, expected_iou_loss, atol=tolerance)
    ious = np.array([plain_iou(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)])
    assert (ious == 0).sum() > 10 and (ious > 0.5).sum() > 10


@pytest.mark.parametrize("inner, focal", [(1.0, 0.0), (0.8, 0.5)])
@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_gradients_equal_differences_with_the_weights_held(kind, inner, focal):
    a, b = random_boxes(25, 2)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(made(kind, inner, focal)(a, b, SIZE).cost.sum(), a)
    mean, step = float(torch.tensor(0.6)), 1e-6
    for box, label, got in zip(a.tolist(), b.tolist(), gradient.tolist(), strict=True):
        for column in range(4):
            sides = []
            for sign in (1, -1):
                moved = box[:column] + [box[column] + sign * step] + box[column + 1 :]
                sides.append(literal_cost(kind, moved, label, inner, focal, mean, held=box))
            assert got[column] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=2e-6)


@pytest.mark.parametrize("kind", sorted(set(BOX_LOSSES) - {"CIoU", "WIoUv1", "WIoUv2", "WIoUv3"}))
def test_gradcheck_where_nothing_is_held(kind):
    a, b = random_boxes(12, 3)
    assert torch.autograd.gradcheck(lambda boxes: BoxLoss(kind, 0.9)(boxes, b, SIZE).cost, (a.requires_grad_(),))


# boxes that are hard on arithmetic ---------------------------------------------------------------------

HARD = {
    "coincident": ([5, 5, 2, 3], [5, 5, 2, 3]),
    "concentric": ([5, 5, 2, 3], [5, 5, 4, 4]),
    "same size": ([5, 5, 2, 3], [6, 6, 2, 3]),
    "touching": ([5, 5, 2, 2], [7, 5, 2, 2]),
    "corner to corner": ([5, 5, 2, 2], [7, 7, 2, 2]),
    "nested": ([5, 5, 1, 1], [5.5, 5, 8, 8]),
    "far apart": ([0, 0, 1, 1], [1e6, 1e6, 1, 1]),
    "beside": ([0, 0, 1, 1], [1e6, 0, 1, 1]),
    "no size": ([5, 5, 0, 0], [5, 5, 0, 0]),
    "no size, apart": ([5, 5, 0, 0], [6, 7, 0, 0]),
    "no width": ([5, 5, 0, 2], [5, 5, 2, 2]),
    "no height": ([5, 5, 2, 0], [5, 5, 0, 2]),
    "label without size": ([5, 5, 2, 2], [5, 5, 0, 0]),
    "tiny": ([1e-6, 0, 1e-6, 1e-6], [0, 0, 1e-6, 2e-6]),
    "tinier": ([1e-20, 0, 1e-20, 1e-20], [0, 0, 1e-20, 1e-19]),
    "tiny and huge": ([0, 0, 1e-12, 1e-12], [0, 0, 1e8, 1e8]),
    "huge": ([0, 0, 1e8, 1e8], [1e7, 0, 1e8, 2e8]),
    "narrow": ([5, 5, 1e-9, 1e4], [5, 5, 1e4, 1e-9]),
    "a hair off": ([5 + 1e-6, 5, 2, 2], [5, 5, 2, 2]),
}


@pytest.mark.parametrize("inner, focal", FORMS)
@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_hard_boxes_have_finite_costs_and_gradients(kind, inner, focal):
    a = torch.tensor([pair[0] for pair in HARD.values()], dtype=torch.float32, requires_grad=True)
    b = torch.tensor([pair[1] for pair in HARD.values()], dtype=torch.float32)
    for mean in (1.0, 1e-3):
        costs = made(kind, inner, focal, mean)(a, b, SIZE)
        (gradient,) = torch.autograd.grad(costs.cost.sum(), a)
        wrong = [
            name
            for name, *values in zip(HARD, costs.cost, costs.obj_target, costs.iou_loss, gradient, strict=True)
            if not all(torch.isfinite(value).all() for value in values)
        ]
        assert wrong == []
        # autograd's sum over rows hides nothing here: there is one loss per row, and that of the pair that fits is 0
        assert costs.cost[0].abs() < 1e-5 and gradient[0].abs().max() < 1.5
        assert ((costs.obj_target >= 0) & (costs.obj_target <= 1)).all()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_half_precision_and_autocast_are_computed_in_float32(kind):
    a, b = (boxes.half() for boxes in random_boxes(40, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = made(kind, 0.8, 0.5)(a, b, SIZE).cost
    assert cost.dtype == torch.float32
    torch.testing.assert_close(
        cost, made(kind, 0.8, 0.5)(a.double(), b.double(), SIZE).cost.float(), atol=2e-5, rtol=1e-4
    )


def test_a_focal_weight_is_a_constant():
    """With a gradient in the weight IoU^0.5, a box of IoU 0.2 would cost less the worse it fits."""
    a, b = torch.tensor([[2.0, 0, 3, 3]], requires_grad=True), torch.tensor([[0.0, 0, 3, 3]])
    cost = BoxLoss("IoU", focal=0.5)(a, b, SIZE).cost
    assert paired_iou(a, b, "IoU").item() == pytest.approx(0.2)
    assert torch.autograd.grad(cost.sum(), a)[0][0, 0] > 0.01  # a move to the label, at smaller x, costs less


# in the detection loss -------------------------------------------------------------------------------

PLAIN = types.SimpleNamespace(
    box=0.05, obj=1.0, cls=0.5, cls_pw=1.0, obj_pw=1.0, anchor_t=4.0, fl_gamma=0.0, label_smoothing=0.0
)
ANCHORS = torch.tensor([[[1.25, 1.6], [2, 3.75], [4.1, 2.9]], [[1.9, 3.8], [3.9, 2.8], [3.7, 7.4]]])
GEOMETRY = HeadGeometry(ANCHORS, torch.tensor([8.0, 16.0]), nc=3)


def maps_and_targets(seed=0, count=30):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 3, *shape, 8, generator=generator).requires_grad_() for shape in ((8, 10), (4, 5))]
    draw = [torch.randint(limit, (count, 1), generator=generator).float() for limit in (2, 3)]
    size = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
    return maps, torch.cat((*draw, torch.rand(count, 2, generator=generator), size), 1)


def loss_of(kind="CIoU", inner=1.0, focal=0.0):
    return DetectionLoss(GEOMETRY, PLAIN, "cpu", BoxLoss(kind, inner, focal))


def test_the_default_is_the_ciou_of_v61_bit_for_bit():
    a, b = (boxes.float() for boxes in random_boxes(200, 5))
    a.requires_grad_()
    costs, overlap = BoxLoss()(a, b, SIZE), paired_iou(a, b)
    # here and below: the same element-wise steps on the same numbers, and sums of one order in one process
    assert torch.equal(costs.cost, 1 - overlap) and torch.equal(costs.obj_target, overlap.detach().clamp(min=0))
    got, expected = (torch.autograd.grad(value.sum(), a)[0] for value in (costs.cost, 1 - overlap))
    assert torch.equal(got, expected)
    maps, targets = maps_and_targets()
    totals = [loss(maps, targets)[0] for loss in (DetectionLoss(GEOMETRY, PLAIN, "cpu"), loss_of())]
    assert torch.equal(*totals) and loss_of().state_dict() == {}


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_the_target_of_objectness_is_plain_iou_unless_the_kind_is_ciou(kind):
    a, b = (boxes.float() for boxes in random_boxes(60, 6))
    expected = paired_iou(a, b, "CIoU" if kind == "CIoU" else "IoU").clamp(min=0)
    for inner, focal in FORMS:  # the same element-wise steps on the same numbers
        assert torch.equal(made(kind, inner, focal)(a, b, SIZE).obj_target, expected)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_each_kind_trains_a_step(kind):
    (maps, targets), reference = maps_and_targets(), None
    for inner, focal in ((1.0, 0.0), (0.8, 0.5)):
        total, parts = loss_of(kind, inner, focal)(maps, targets)
        gradients = torch.autograd.grad(total, maps)
        assert all(torch.isfinite(gradient).all() and gradient[..., :4].abs().max() > 0 for gradient in gradients)
        assert parts.box != reference  # the second form really differs from the first
        reference = parts.box
        with torch.no_grad():
            stepped = [raw_map - 3 * gradient for raw_map, gradient in zip(maps, gradients, strict=True)]
            assert loss_of(kind, inner, focal)(stepped, targets)[0] < total


def test_mpdiou_is_given_the_size_of_the_map():
    maps, targets = maps_and_targets()
    seen, loss = [], loss_of("MPDIoU")
    inside = loss.box_loss
    loss.box_loss = type(
        "Spy",
        (),
        {
            "__call__": lambda self, a, b, size: seen.append(size) or inside(a, b, size),
            "update_mean": inside.update_mean,
        },
    )()
    loss(maps, targets)
    assert seen == [(8, 10), (4, 5)]


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_nothing_waits_for_an_accelerator(kind):
    """Tensors on "meta" have no values: whatever asks for one raises."""
    maps = [torch.randn(2, 3, side, side, 8, device="meta", requires_grad=True) for side in (8, 4)]
    loss = DetectionLoss(GEOMETRY, PLAIN, "meta", BoxLoss(kind, 0.8, 0.5, device="meta"))
    total, _ = loss(maps, torch.empty(30, 6, device="meta"))
    total.backward()
    assert maps[0].grad.shape == maps[0].shape


@pytest.mark.parametrize("kind", ("EIoU", "WIoUv3"))
def test_the_form_for_accelerators_gives_the_same_figures(monkeypatch, kind):
    maps, targets = maps_and_targets(seed=3)
    first, second = loss_of(kind, 0.8, 0.5), loss_of(kind, 0.8, 0.5)
    expected, _ = first(maps, targets)
    monkeypatch.setattr("utils.assignment.MaskedAssignment.compact", lambda candidates: candidates)
    total, _ = second(maps, targets)
    torch.testing.assert_close(total, expected)
    for got, wanted in zip(torch.autograd.grad(total, maps), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(first.state_dict(), second.state_dict())


# WIoU's mean -----------------------------------------------------------------------------------------


def test_the_mean_follows_all_matches_of_a_batch():
    maps, targets = maps_and_targets(seed=1)
    losses = []
    loss = loss_of("WIoUv3")
    inside = loss.box_loss
    loss.box_loss = type(
        "Spy",
        (),
        {
            "__call__": lambda self, *given: losses.append(inside(*given).iou_loss) or inside(*given),
            "update_mean": inside.update_mean,
        },
    )()
    loss(maps, targets)
    assert min(map(len, losses)) > 20
    expected = 1 + WIOU_MOMENTUM * (torch.cat(losses).double().mean().item() - 1)
    assert inside.mean.item() == pytest.approx(expected, abs=1e-7) and inside.mean < 1
    assert pytest.approx(0.05) == (1 - WIOU_MOMENTUM) ** 7000


@pytest.mark.parametrize("kind, moves", [("WIoUv2", True), ("WIoUv3", True), ("WIoUv1", False), ("CIoU", False)])
def test_the_mean_moves_in_training_and_not_in_validation(kind, moves):
    maps, targets = maps_and_targets()
    loss, other = loss_of(kind), loss_of(kind)
    with torch.no_grad():
        loss(maps, targets)
    loss([raw_map.detach() for raw_map in maps], targets)
    loss(maps, targets[:0])  # a batch without objects changes nothing
    untouched = loss.state_dict()
    assert untouched == ({"box_loss.mean": torch.ones(())} if moves else {})
    loss(maps, targets)
    assert (loss.state_dict() != untouched) == moves
    assert other.state_dict() == untouched  # another loss has a mean of its own
    other.load_state_dict(loss.state_dict())
    assert other.state_dict() == loss.state_dict()
    other.load_state_dict({})
    assert other.state_dict() == loss.state_dict()


@pytest.mark.parametrize("kind", ("WIoUv2", "WIoUv3"))
def test_the_gain_is_relative_to_the_mean(kind):
    a, b = torch.tensor([[1.0, 0, 3, 3]]), torch.tensor([[0.0, 0, 3, 3]])
    means = (0.1, 0.5, 1.0)
    costs = [made(kind, mean=mean)(a, b, SIZE).cost.item() for mean in means]
    base = BoxLoss("WIoUv1")(a, b, SIZE).cost.item()
    betas = [0.5 / mean for mean in means]  # IoU of 3 x 3 boxes one apart: 0.5
    gains = [beta**0.5 if kind == "WIoUv2" else beta / (3 * 1.9 ** (beta - 3)) for beta in betas]
    np.testing.assert_allclose(np.array(costs) / base, gains, rtol=1e-5)


# the hyperparameters ---------------------------------------------------------------------------------


def test_the_two_lists_of_names_are_one():
    assert settings.BOX_LOSSES == BOX_LOSSES


def test_the_page_on_losses_has_one_row_per_kind():
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert all(f"| `{kind}` |" in page for kind in BOX_LOSSES)


@pytest.mark.parametrize(
    "given, name",
    [
        ("siou", "SIoU"),
        ("WIoU", "WIoUv3"),
        ("wiou_V2", "WIoUv2"),
        ("Shape-IoU", "ShapeIoU"),
        ("CIOU", "CIoU"),
        ("mpdiou", "MPDIoU"),
    ],
)
def test_names_are_read_in_any_case(given, name):
    assert Hyperparameters.load({"iou": given}).iou == name


@pytest.mark.parametrize(
    "values, words",
    [
        ({"iou": "SIuO"}, ("iou", "'SIuO'", "did you mean", "SIoU")),
        ({"iou": "alpha"}, ("there are IoU, GIoU",)),
        ({"iou": 0.5}, ("0.5",)),
        ({"iou": None}, ("iou", "None")),
        ({"iou": True}, ("True",)),
        ({"inner": 9}, ("inner 9", "0.1 to 3")),
        ({"inner": -1}, ("inner -1",)),
        ({"focal": -0.5}, ("focal -0.5", "0 to 10")),
        ({"focal": "much"}, ("focal", "a number")),
        ({"iuo": "SIoU"}, ("did you mean iou",)),
    ],
)
def test_a_mistake_is_one_line(values, words):
    with pytest.raises(ConfigError) as error:
        Hyperparameters.load(values)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_only_what_was_chosen_is_written(tmp_path, caplog):
    caplog.set_level("INFO", "yolo")
    assert not {"iou", "inner", "focal"} & set(Hyperparameters().as_dict())
    assert (
        Hyperparameters.load({**Hyperparameters().as_dict(), "inner": None, "focal": 0, "iou": "ciou"})
        == Hyperparameters()
    )
    chosen = Hyperparameters.load({**Hyperparameters().as_dict(), "iou": "wiou", "inner": "0.7", "focal": 0.5})
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump(chosen.as_dict()))
    assert Hyperparameters.load(tmp_path / "hyp.yaml") == chosen and caplog.text == ""
    assert {key: chosen.as_dict()[key] for key in ("iou", "inner", "focal")} == {
        "iou": "WIoUv3",
        "inner": 0.7,
        "focal": 0.5,
    }
    scaled = chosen.scaled(3, 80, 640)
    assert (scaled.iou, scaled.inner, scaled.focal) == ("WIoUv3", 0.7, 0.5)


def test_a_choice_is_logged_and_the_default_is_not(caplog):
    caplog.set_level("INFO", "yolo")
    box_loss(Hyperparameters(), torch.device("cpu"))
    assert caplog.text == ""
    made_of = box_loss(Hyperparameters(iou="eiou", inner=0.8, focal=0.5), torch.device("cpu"))
    assert (made_of.kind, made_of.inner, made_of.focal) == ("EIoU", 0.8, 0.5)
    assert caplog.messages == ["box loss: EIoU, of boxes 0.8 times as large, weighted by IoU^0.5"]


@pytest.mark.parametrize("wrong", [dict(kind="XIoU"), dict(inner=0), dict(focal=-1), dict(inner=math.nan)])
def test_a_loss_that_cannot_be_says_so(wrong):
    with pytest.raises(ValueError, match="BoxLoss: "):
        BoxLoss(**wrong)


@pytest.mark.usefixtures("blank_figures")
def test_evolution_keeps_the_box_loss(tmp_path):
    base = Hyperparameters(iou="SIoU", inner=0.7, focal=0.5).as_dict()
    seen = []

    def train_once(values):
        seen.append(Hyperparameters.load(values))
        return (0.1, 0.1, 0.1, 0.1 * len(seen), 1, 1, 1)

    best = evolve(train_once, base, 3, tmp_path, np.random.default_rng(0))
    assert {(one.iou, one.inner, one.focal) for one in seen} == {("SIoU", 0.7, 0.5)} and len(
        {one.lr0 for one in seen}
    ) == 3
    assert Hyperparameters.load(tmp_path / "hyp_evolve.yaml").as_dict() == best and best["iou"] == "SIoU"
    with pytest.raises(ConfigError, match="SIoU.*use another --name"):
        evolve(train_once, {**base, "iou": "EIoU"}, 1, tmp_path, np.random.default_rng(0))


# in a real training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of 8 + 4 drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=8, val=4, test=1)


def options(data, folder, **changes):
    given = dict(
        cfg="models/yolov5n.yaml",
        imgsz=64,
        epochs=2,
        batch_size=4,
        workers=0,
        device="cpu",
        noautoanchor=True,
        data=str(data),
        project=str(folder),
        name="run",
    )
    return from_options(TrainConfig, **{**given, **changes})


class StopBefore(Hook):
    """Interrupts a training before an epoch, as Ctrl-C would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_epoch(self, trainer, epoch):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class Watch(Hook):
    """Keeps the mean at the end of each epoch's batches and after its validation."""

    def __init__(self):
        self.trained, self.validated = [], []

    def after_batch(self, trainer, batch, progress):
        if progress.done == progress.batches:
            self.trained.append(trainer.components.loss.box_loss.mean.item())

    def after_epoch(self, trainer, report):
        assert report.evaluation.losses.box > 0
        self.validated.append(trainer.components.loss.box_loss.mean.item())


@pytest.mark.usefixtures("blank_figures")
def test_the_mean_is_saved_and_a_resumed_run_equals_a_whole_one(data, tmp_path, caplog):
    caplog.set_level("INFO", "yolo")
    (tmp_path / "my.yaml").write_text("iou: wiou\ninner: 0.8\n")
    watch = Watch()
    whole = run_training(options(data, tmp_path / "whole", hyp=str(tmp_path / "my.yaml")), hooks=[watch]).save_dir
    assert "box loss: WIoUv3, of boxes 0.8 times as large" in caplog.messages
    assert watch.trained == watch.validated and 1 > watch.trained[0] > watch.trained[1] > 0.99
    with pytest.raises(KeyboardInterrupt):
        run_training(options(data, tmp_path / "parts", hyp=str(tmp_path / "my.yaml")), hooks=[StopBefore(1)])
    halfway = tmp_path / "parts" / "run" / "weights" / "last.pt"
    assert read_checkpoint(halfway).training["loss"] == {"box_loss.mean": torch.tensor(watch.trained[0])}
    resumed = train.run(resume=str(halfway), device="cpu").save_dir
    # one process, one number of threads, the same kernels on the same shapes: every sum has one order
    left, right = (read_checkpoint(folder / "weights" / "last.pt") for folder in (whole, resumed))
    assert left.training["loss"] == right.training["loss"] == {"box_loss.mean": torch.tensor(watch.trained[1])}
    assert all(
        torch.equal(value, right.training["model_state"][name]) for name, value in left.training["model_state"].items()
    )
    assert (whole / "results.csv").read_text() == (resumed / "results.csv").read_text()
    assert Hyperparameters.load(whole / "hyp.yaml").iou == "WIoUv3"


@pytest.mark.usefixtures("blank_figures")
def test_a_file_of_before_the_loss_had_a_state_is_resumed(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_training(options(data, tmp_path), hooks=[StopBefore(1)])
    last = tmp_path / "run" / "weights" / "last.pt"
    checkpoint = read_checkpoint(last)
    assert checkpoint.training.pop("loss") == {}
    write_checkpoint(checkpoint, last)
    assert train.run(resume=str(last), device="cpu").state.epoch == 2
    assert "iou" not in yaml.safe_load((tmp_path / "run" / "hyp.yaml").read_text())
