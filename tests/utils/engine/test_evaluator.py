"""The validation loop on a network whose answers are known: geometry, order, losses, observers."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from utils.config import EvalOptions
from utils.engine.evaluator import Evaluation, evaluate
from utils.types import Batch, Letterbox, LossParts

CPU = torch.device("cpu")
NAMES = ("ball", "box", "cone")
NATIVE, SHAPE = (100, 200), (64, 128)  # height, width; scaled by 0.6 and padded to (64, 128)
LETTERBOX = Letterbox(NATIVE, (0.6, 0.6), (4.0, 2.0), SHAPE)


class Scene:
    """One image: its labels in native pixels and the answers of the network to it, (k, 8) decoded rows."""

    def __init__(self, index: int, rng: np.random.Generator, noise: float):
        self.index = index
        count = int(rng.integers(0, 4)) if index else 2
        corner = rng.uniform(5, 40, (count, 2))
        self.xyxy = np.concatenate((corner, corner + rng.uniform(15, 50, (count, 2))), 1).astype(np.float32)
        self.cls = rng.integers(0, 3, count)
        seen = LETTERBOX.from_native(self.xyxy + rng.normal(0, noise, (count, 4)).astype(np.float32))
        rows = np.zeros((6, 8), np.float32)
        rows[:count, :2], rows[:count, 2:4] = (seen[:, :2] + seen[:, 2:]) / 2, seen[:, 2:] - seen[:, :2]
        rows[:count, 4] = rng.uniform(0.3, 0.9, count)
        rows[np.arange(count), 5 + self.cls] = 1
        rows[count:] = [30, 30, 10, 10, 0.4, *rng.uniform(0, 0.1, 3)]  # a false alarm, several times
        self.answer = torch.from_numpy(rows)

    def target(self, number: int) -> np.ndarray:
        box = LETTERBOX.from_native(self.xyxy)
        xywh = np.concatenate(((box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]), 1) / np.float32(
            [128, 64, 128, 64]
        )
        return np.column_stack((np.full(len(box), number), self.cls, xywh)).astype(np.float32)


class Oracle(nn.Module):
    """A network that reads a image's number from its first pixel and knows the answer."""

    def __init__(self, scenes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.scenes = scenes

    def forward(self, images, augment=False):
        assert not self.training and not torch.is_grad_enabled()
        numbers = (images[:, 0, 0, 0] * 255).round().int().tolist()
        decoded = torch.stack([self.scenes[number].answer for number in numbers]) * self.scale
        return decoded, None if augment else [torch.tensor(numbers, dtype=torch.float32)]


class Batches:
    def __init__(self, scenes, groups):
        self.scenes, self.groups = scenes, groups

    def __len__(self):
        return len(self.groups)

    def epoch(self, epoch):
        for group in self.groups:
            images = torch.zeros(len(group), 3, *SHAPE, dtype=torch.uint8)
            images[:, 0, 0, 0] = torch.tensor(group, dtype=torch.uint8)
            targets = np.concatenate([self.scenes[index].target(number) for number, index in enumerate(group)])
            paths = tuple(f"{index}.jpg" for index in group)
            yield Batch(images, torch.from_numpy(targets), paths, (LETTERBOX,) * len(group), tuple(group))


def scenes(noise=2.0, count=12):
    rng = np.random.default_rng(5)
    return [Scene(index, rng, noise) for index in range(count)]


def evaluated(all_scenes, groups, names=NAMES, loss=None, observers=(), **options) -> Evaluation:
    batches = Batches(all_scenes, groups)
    return evaluate(Oracle(all_scenes), batches, names, EvalOptions(**options), loss=loss, observers=observers)


def loss_of_indices(raw_maps, targets):
    mean = raw_maps[0].mean()
    return mean, LossParts(mean, mean * 2, mean * 3)


def test_perfect_answers_reach_one_in_native_pixels():
    images = scenes(noise=0)
    evaluation = evaluated(images, [range(12)], coco=True)
    assert evaluation.metrics.map > 0.97 and evaluation.metrics.images == 12
    assert evaluation.coco.ap > 0.97
    for image, result in zip(images, evaluation.results, strict=True):
        assert result.native == NATIVE
        np.testing.assert_allclose(result.labels_xyxy, image.xyxy, atol=1e-3)
        certain = result.detections.xyxy[result.detections.conf >= 0.3].numpy()
        np.testing.assert_allclose(np.sort(certain, 0), np.sort(image.xyxy, 0), atol=1e-3)


def test_figures_do_not_depend_on_batches_or_their_order():
    images = scenes()
    reference = evaluated(images, [[index] for index in range(12)], coco=True, loss=loss_of_indices)
    assert 0.2 < reference.metrics.map < 0.9
    for groups in ([list(range(12))], [[7, 3, 11, 0, 2], [1], [10, 9, 8, 4], [6, 5]]):
        other = evaluated(images, groups, coco=True, loss=loss_of_indices)
        # exact: this network looks its answers up, suppression works on an image alone, images are put into order first
        assert other.metrics.row() == reference.metrics.row() and (other.metrics.ap == reference.metrics.ap).all()
        assert other.coco.ap == reference.coco.ap and (other.confusion.matrix == reference.confusion.matrix).all()
        assert [result.index for result in other.results] == list(range(12))
        assert other.losses.row() == pytest.approx(reference.losses.row())


def test_losses_are_means_over_images_and_only_where_asked():
    images = scenes()
    evaluation = evaluated(images, [[0, 1, 2], [9]], loss=loss_of_indices)
    assert evaluation.losses.row() == pytest.approx((3, 6, 9))
    assert evaluation.row()[4:] == pytest.approx((3, 6, 9))
    assert evaluated(images, [[0, 1]]).losses is None
    assert evaluated(images, [[0, 1]], augment=True, loss=loss_of_indices).row()[4:] == (0, 0, 0)


def test_observers_see_every_batch_in_order():
    images, seen = scenes(), []
    evaluated(images, [[4, 1], [0]], observers=[seen.append])
    assert [(one.index, one.batch.indices) for one in seen] == [(0, (4, 1)), (1, (0,))]
    first = seen[0]
    assert [result.index for result in first.results] == [4, 1]
    np.testing.assert_allclose(LETTERBOX.to_native(first.detections[0].xyxy), first.results[0].detections.xyxy)


def test_one_class_for_all():
    images = scenes(noise=0)
    for image in images:
        image.cls = image.cls * 0  # the data say item, the network still names its classes
    evaluation = evaluated(images, [range(12)], single_cls=True, names=("item",))
    assert evaluation.metrics.map > 0.97 and evaluation.confusion.matrix.shape == (2, 2)


def test_hybrid_detections_hold_the_labels():
    images = scenes(noise=4)
    evaluation = evaluated(images, [range(6), range(6, 12)], hybrid=True)
    assert evaluation.metrics.mean_recall == 1
    for image, result in zip(images, evaluation.results, strict=True):
        certain = result.detections.xyxy[result.detections.conf == 1].numpy()
        np.testing.assert_allclose(np.sort(certain, 0), np.sort(image.xyxy, 0), atol=1e-3)


def test_the_model_comes_back_as_it_was():
    images = scenes()
    model = Oracle(images).train()
    evaluate(model, Batches(images, [[0]]), NAMES)
    assert model.training
    evaluate(model.eval(), Batches(images, [[0]]), NAMES)
    assert not model.training and model.scale.requires_grad


def test_the_table_is_printed_and_the_two_evaluators_explained(caplog):
    with caplog.at_level(logging.INFO, "yolo"):
        evaluation = evaluated(scenes(noise=7), [range(12)], coco=True, verbose=True)
    text = caplog.text
    assert "mAP@.5:.95" in text and " all " in text and "COCO (computed here by COCOeval's rules): AP " in text
    assert all(f" {name} " in text for name in NAMES)
    assert ("by YOLOv5's rules" in text) == (abs(evaluation.metrics.map - evaluation.coco.ap) > 0.01)


def test_pictures_without_labels_are_warned_of_and_end_in_zeros(caplog):
    images = scenes()
    for image in images:
        image.xyxy, image.cls = image.xyxy[:0], image.cls[:0]
    with caplog.at_level(logging.WARNING, "yolo"):
        evaluation = evaluated(images, [range(12)], coco=True)
    assert evaluation.metrics.row() == (0, 0, 0, 0) and "label" in caplog.text
    assert evaluation.confusion.matrix[:3, 3].sum() == evaluation.confusion.matrix.sum() > 0


def test_an_empty_loader_ends_in_zeros():
    evaluation = evaluated(scenes(), [], coco=True)
    assert evaluation.metrics.images == 0 and evaluation.speeds.row() == (0, 0, 0)


def test_the_first_batch_is_left_out_of_the_speeds(monkeypatch):
    """A clock that advances by 1 s in each of the first batch's three parts and by 0.001 s in all others."""
    readings = iter([*range(6), *(5 + 0.001 * number for number in range(60))])
    monkeypatch.setattr("utils.device.time.perf_counter", lambda: next(readings))
    evaluation = evaluated(scenes(), [range(4), range(4, 8), range(8, 12)])
    assert evaluation.timed_images == 8
    assert evaluation.speeds.row() == pytest.approx((0.25, 0.25, 0.25))  # 2 batches of 1 ms over 8 images


def test_a_single_batch_is_timed_with_its_warm_up(monkeypatch):
    readings = iter(range(60))
    monkeypatch.setattr("utils.device.time.perf_counter", lambda: next(readings))
    evaluation = evaluated(scenes(), [range(12)])
    assert evaluation.timed_images == 12 and evaluation.speeds.row() == pytest.approx((1000 / 12,) * 3)
