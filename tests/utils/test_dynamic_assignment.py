"""ATSS, SimOTA and task alignment equal their definitions in plain loops, and assign only what the head can predict."""

import math
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from utils.config import Hyperparameters
from utils.dynamic_assignment import ASSIGNERS
from utils.loss import DetectionLoss
from utils.types import HeadGeometry

RULES = ("atss", "simota", "tal")
ANCHORS = torch.tensor([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]])
STRIDES = torch.tensor([8.0, 16, 32])
SHAPES = ((20, 28), (10, 14), (5, 7))
PIXELS = torch.tensor([224.0, 160.0])


def anchors_in_cells():
    return ANCHORS.view(3, 3, 2) / STRIDES.view(-1, 1, 1)


def random_targets(count, images=2, nc=3, seed=0, sides=(0.02, 0.6)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(images, (count, 1), generator=generator).float()
    cls = torch.randint(nc, (count, 1), generator=generator).float()
    size = sides[0] * (sides[1] / sides[0]) ** torch.rand(count, 2, generator=generator)
    return torch.cat((image, cls, torch.rand(count, 2, generator=generator), size), 1)


def random_maps(nc=3, images=2, seed=0, shapes=SHAPES, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 3, *shape, 5 + nc, generator=generator) * spread for shape in shapes]


def found_by(rule, maps, targets, anchor_t=4.0):
    """{(level, image, anchor, row, column): index of the object}; the index travels as the class, so nc is 1."""
    numbered = targets.clone()
    numbered[:, 1] = torch.arange(len(targets)) if maps[0].shape[-1] == 6 else targets[:, 1]
    found = {}
    for level, masked in enumerate(ASSIGNERS[rule](maps, numbered, anchors_in_cells(), anchor_t)):
        rows = masked.compact().rows
        assert masked.rows.row.max() < SHAPES[level][0] and masked.rows.column.max() < SHAPES[level][1]
        for row in zip(rows.image, rows.anchor, rows.row, rows.column, rows.cls, rows.xywh, strict=True):
            *key, cls, xywh = row
            key = (level, *(int(part) for part in key))
            assert key not in found
            found[key] = (int(cls), xywh)
    return found


@dataclass
class Pair:
    """An object and an anchor of a cell that the head can bring to it in position."""

    key: tuple
    x: float
    y: float
    w: float
    h: float
    anchor: tuple
    raw: list
    fits: bool = False
    merit: float = 0.0
    chosen: bool = False

    @property
    def closeness(self):
        a, b = self.anchor
        return min(self.w / a, a / self.w, self.h / b, b / self.h)

    @property
    def decodable(self):
        return self.w < 4 * self.anchor[0] and self.h < 4 * self.anchor[1]

    @property
    def inside(self):
        return abs(self.x - 0.5) < self.w / 2 and abs(self.y - 0.5) < self.h / 2

    def overlap(self, x, y, w, h):
        across = min(x + w / 2, self.x + self.w / 2) - max(x - w / 2, self.x - self.w / 2)
        along = min(y + h / 2, self.y + self.h / 2) - max(y - h / 2, self.y - self.h / 2)
        shared = max(across, 0) * max(along, 0)
        return shared / (w * h + self.w * self.h - shared)

    def predicted_overlap(self):
        x, y, w, h = (1 / (1 + math.exp(-value)) for value in self.raw[:4])
        return self.overlap(2 * x - 0.5, 2 * y - 0.5, (2 * w) ** 2 * self.anchor[0], (2 * h) ** 2 * self.anchor[1])


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def literal_pairs(maps, targets, anchor_t):
    """Per object its pairs, over all cells of all maps."""
    objects = []
    for image, _, x, y, w, h in targets.tolist():
        pairs = []
        for level, raw_map in enumerate(maps):
            height, width = raw_map.shape[2:4]
            for row in range(height):
                for column in range(width):
                    offset = x * width - column, y * height - row
                    if not all(-0.5 < part < 1.5 for part in offset):
                        continue
                    for number, anchor in enumerate(anchors_in_cells()[level].tolist()):
                        key = (level, int(image), number, row, column)
                        raw = raw_map[int(image), number, row, column].tolist()
                        pairs.append(Pair(key, *offset, w * width, h * height, anchor, raw))
        fitting = [pair for pair in pairs if pair.decodable and pair.closeness > 1 / anchor_t]
        if not fitting:
            able = [pair for pair in pairs if pair.decodable]
            fitting = [p for p in able if p.closeness > max(pair.closeness for pair in able) - 1e-6]
        for pair in fitting:
            pair.fits = True
        objects.append(pairs)
    return objects


def literal_atss(pairs, cls):
    near = []
    for level in range(3):
        of_level = [pair for pair in pairs if pair.key[0] == level]
        of_level.sort(key=lambda pair: (pair.x - 0.5) ** 2 + (pair.y - 0.5) ** 2)
        near += of_level[:9]
    for pair in near:
        pair.merit = pair.overlap(0.5, 0.5, *pair.anchor)
    overlaps = np.array([pair.merit for pair in near])
    for pair in near:
        pair.chosen = pair.fits and pair.inside and pair.merit >= overlaps.mean() + overlaps.std(ddof=1)


def literal_simota(pairs, cls):
    fitting = [pair for pair in pairs if pair.fits]
    for pair in fitting:
        loss = 0.0
        scores = [sigmoid(value) for value in pair.raw[5:]] if len(pair.raw) > 6 else [1.0]
        for index, score in enumerate(scores):
            chance = math.sqrt(score * sigmoid(pair.raw[4]))
            loss -= math.log(chance if index == cls or len(scores) == 1 else 1 - chance)
        pair.merit = -(loss - 3 * math.log(pair.predicted_overlap() + 1e-8))
    count = int(sum(sorted((pair.predicted_overlap() for pair in fitting), reverse=True)[:10]))
    for pair in sorted(fitting, key=lambda pair: -pair.merit)[: max(count, 1)]:
        pair.chosen = True


def literal_tal(pairs, cls):
    candidates = [pair for pair in pairs if pair.fits and pair.inside]
    alignments = {}
    for pair in candidates:
        pair.merit = pair.predicted_overlap()
        score = sigmoid(pair.raw[4]) * (sigmoid(pair.raw[5 + cls]) if len(pair.raw) > 6 else 1)
        alignments[id(pair)] = score * pair.merit**6
    for pair in sorted(candidates, key=lambda pair: -alignments[id(pair)])[:13]:
        pair.chosen = True


def without_sharing(objects):
    """{key: object} of the chosen pairs, each to the object of the largest merit."""
    owner = {}
    for index, pairs in enumerate(objects):
        for pair in pairs:
            if pair.chosen and (pair.key not in owner or pair.merit > owner[pair.key][1]):
                owner[pair.key] = index, pair.merit
    return {key: index for key, (index, _) in owner.items()}


def literal(rule, maps, targets, anchor_t=4.0):
    objects = literal_pairs(maps, targets, anchor_t)
    for pairs, cls in zip(objects, targets[:, 1].long().tolist(), strict=True):
        {"atss": literal_atss, "simota": literal_simota, "tal": literal_tal}[rule](pairs, cls)
    owner = without_sharing(objects)
    rescued = []
    for index, pairs in enumerate(objects):
        for pair in pairs:
            pair.chosen = False
        free = [pair for pair in pairs if pair.fits and pair.key not in owner]
        if index not in owner.values() and free:
            nearest = next(p for p in free if p.closeness > max(pair.closeness for pair in free) - 1e-6)
            own = [p for p in free if p.key[:3] == nearest.key[:3] and abs(p.closeness - nearest.closeness) < 1e-6]
            # the cell with the center first, then the one aside, then above or below
            best = min(own, key=lambda p: (not 0 <= p.y < 1, not 0 <= p.x < 1))
            best.chosen, best.merit = True, best.closeness
            rescued.append(index)
    return owner | without_sharing(objects), rescued


@pytest.mark.parametrize("nc", (1, 3))
@pytest.mark.parametrize("rule", RULES)
def test_the_rules_equal_their_definitions(rule, nc):
    """Objects of many sizes, some beyond every anchor, some on the border, some on one another."""
    edges = torch.tensor([[0, 0, 0.001, 0.999, 0.2, 0.2], [1, 0, 1, 1, 0.2, 0.3], [0, 0, 0.5, 0.01, 0.004, 0.006]])
    shift = torch.tensor([0, 0, 0.0007, 0.0006, 0.0011, 0.0013])
    crowd = torch.tensor([[1, 0, 0.613, 0.431, 0.2, 0.2]]) + torch.outer(torch.arange(6), shift)
    targets = torch.cat((random_targets(40, nc=nc), edges, crowd))
    maps = random_maps(nc=nc)
    expected, rescued = literal(rule, maps, targets)
    assert rescued and len(expected) > 60
    found = found_by(rule, maps, targets)
    assert found.keys() == expected.keys()
    for key, (cls, xywh) in found.items():
        index = expected[key]
        assert cls == (index if nc == 1 else targets[index, 1])
        _, _, _, row, column = key
        height, width = SHAPES[key[0]]
        scaled = targets[index, 2:] * torch.tensor([width, height, width, height])
        torch.testing.assert_close(xywh + torch.tensor([column, row, 0, 0]), scaled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_every_positive_can_be_decoded(rule):
    """Also if anchor_t would allow sides that the head cannot reach."""
    targets = random_targets(150, sides=(0.01, 1.0), seed=3)
    number = 0
    for masked in ASSIGNERS[rule](random_maps(nc=1), targets, anchors_in_cells(), 8.0):
        rows = masked.compact().rows
        offset, ratio = rows.xywh[:, :2], rows.xywh[:, 2:] / rows.anchor_wh
        assert ((offset > -0.5) & (offset < 1.5)).all() and (ratio < 4).all()
        number += len(ratio)
    assert number > 150


def test_v5_takes_shapes_that_cannot_be_decoded():
    targets = random_targets(150, sides=(0.01, 1.0), seed=3)
    found = [masked.compact().rows for masked in ASSIGNERS["v5"](random_maps(nc=1), targets, anchors_in_cells(), 8.0)]
    assert any((rows.xywh[:, 2:] / rows.anchor_wh > 4).any() for rows in found)


@pytest.mark.parametrize("rule", RULES)
def test_every_object_gets_a_pair_if_one_can_be_decoded(rule):
    """24 objects in 24 images: alone, so none can be taken; one is wider than 4 anchors and gets none."""
    targets = random_targets(24, images=1, sides=(0.005, 0.9))
    targets[:, 0] = torch.arange(24)
    targets[0, 4:] = 0.001  # far below a fourth of every anchor
    maps = random_maps(nc=1, images=24)
    owners = [owner for owner, _ in found_by(rule, maps, targets).values()]
    assert set(owners) == set(range(24)) and owners.count(0) == 1
    targets[1, 4:] = torch.tensor([0.9, 0.9])
    wide = [raw_map[:, :, :, :3] for raw_map in maps]
    anchors = anchors_in_cells() / 20
    beyond = [masked.valid.view(24, -1)[1].any() for masked in ASSIGNERS[rule](wide, targets, anchors, 4.0)]
    assert not any(beyond)


@pytest.mark.parametrize("rule", RULES)
def test_objects_on_one_another_share_no_pair_but_each_gets_one(rule):
    targets = torch.tensor([[0, 0, 0.512, 0.487, 0.3, 0.3]]).repeat(2, 1)
    found = found_by(rule, random_maps(nc=1, images=1), targets)
    assert {owner for owner, _ in found.values()} == {0, 1}


@pytest.mark.parametrize("rule", ("simota", "tal"))
def test_predictions_decide(rule):
    """A perfect box in the cell across the corner, that v5 never takes, is taken; nothing else is as good."""
    targets = torch.tensor([[0, 1, 10.2 / 28, 8.3 / 20, 20 / 224, 28 / 160]])
    maps = [raw_map * 0 - 4 for raw_map in random_maps(images=1)]
    offset, ratio = torch.tensor([1.2, 1.3]), torch.tensor([20 / 10, 28 / 13]) ** 0.5 / 2
    exact = torch.logit(torch.cat(((offset + 0.5) / 2, ratio)))
    maps[0][0, 0, 7, 9] = torch.cat((exact, torch.tensor([4.0, -4, 4, -4])))
    found = found_by(rule, maps, targets)
    assert (0, 0, 0, 7, 9) in found
    assert len(found) == 1 if rule == "simota" else len(found) > 1
    assert (0, 0, 0, 7, 9) not in found_by("v5", maps, targets)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_waits_for_an_accelerator(rule):
    """Tensors on "meta" have no values: whatever asks for one raises."""
    hyp = Hyperparameters(assign=rule)
    maps = [torch.randn(2, 3, *shape, 8, device="meta", requires_grad=True) for shape in SHAPES]
    geometry = HeadGeometry(anchors_in_cells(), STRIDES, 3)
    total, _ = DetectionLoss(geometry, hyp, "meta")(maps, torch.empty(30, 6, device="meta"))
    total.backward()
    assert total.device.type == "meta" and maps[0].grad.shape == maps[0].shape


@pytest.mark.parametrize("rule", RULES)
def test_the_loss_is_that_of_the_rules_positives(rule, monkeypatch):
    """Masked and dropped rows give the same; half maps are read as float32; without objects there are no positives."""
    geometry, hyp = HeadGeometry(anchors_in_cells(), STRIDES, 3), Hyperparameters(assign=rule)
    maps = [raw_map.bfloat16().requires_grad_() for raw_map in random_maps()]
    targets, loss = random_targets(30), DetectionLoss(geometry, hyp, "cpu")
    half, parts = loss(maps, targets)
    whole, _ = loss([raw_map.float() for raw_map in maps], targets)
    assert half.item() == whole.item()  # a half is a float32 number: the same kernels on the same numbers
    assert half.item() != DetectionLoss(geometry, Hyperparameters(), "cpu")(maps, targets)[0].item()
    gradients = torch.autograd.grad(half, maps)
    monkeypatch.setattr("utils.assignment.MaskedAssignment.compact", lambda masked: masked)
    masked, _ = loss(maps, targets)
    torch.testing.assert_close(masked, half)
    for got, wanted in zip(torch.autograd.grad(masked, maps), gradients, strict=True):
        torch.testing.assert_close(got, wanted)
    _, empty = loss(maps, torch.zeros(0, 6))
    assert float(empty.box) == float(empty.cls) == 0 and float(parts.box) > 0


@pytest.mark.parametrize("rule", RULES)
def test_extreme_maps_and_objects_without_size(rule):
    maps = [raw_map * 1000 for raw_map in random_maps(nc=3)]
    empty = torch.tensor([[0, 0, 0.5, 0.5, 0, 0.1], [0, 0, 0.5, 0.5, 0, 0]])
    found = [
        masked.valid.view(42, -1)
        for masked in ASSIGNERS[rule](maps, torch.cat((random_targets(40), empty)), anchors_in_cells(), 4.0)
    ]
    per_object = sum(valid.sum(1) for valid in found)
    assert (per_object[:40] > 0).all() and per_object[40:].tolist() == [0, 0]


def test_the_hyperparameter_names_the_rules():
    words = Hyperparameters.__dataclass_fields__["assign"].metadata["words"]
    assert tuple(ASSIGNERS) == words
    plain = types.SimpleNamespace(cls_pw=1, obj_pw=1, label_smoothing=0, fl_gamma=0)
    geometry = HeadGeometry(anchors_in_cells(), STRIDES, 3)
    assert DetectionLoss(geometry, plain, "cpu").assigner is ASSIGNERS["v5"]
