"""Tiled inference on a network whose eyes are known: it sees bright rectangles of eight pixels and more."""

import logging

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from utils.config import (
    DetectConfig,
    EvalOptions,
    LoaderOptions,
    PredictOptions,
    Slicing,
    SplitOptions,
    ValConfig,
    parse,
)
from utils.config.compare_options import CompareConfig
from utils.datasets.dataset import DetectionDataset
from utils.datasets.labels import read_labels
from utils.datasets.loader import Loader
from utils.engine import tiled_inference
from utils.engine.evaluator import as_evaluated, evaluate
from utils.engine.predictor import predict
from utils.errors import ConfigError
from utils.images import write_image

NAMES = ("red", "green")
LEAST = 8  # pixels of the network input: what is smaller is not seen
SHAPE = (300, 420)
OBJECTS = (  # left, top, right, bottom, class
    (20, 30, 32, 40, 0),
    (116, 20, 128, 32, 1),  # over the border of the first tile
    (250, 120, 262, 134, 0),
    (400, 280, 416, 292, 1),
    (150, 150, 330, 270, 1),  # larger than a tile
    (100, 100, 112, 112, 0),
    (5, 200, 95, 280, 0),
)


class Eyes(nn.Module):
    """Finds the rectangles of each color that are not too small; the more of its input one fills, the surer."""

    def __init__(self):
        super().__init__()
        self.names, self.stride = list(NAMES), torch.tensor([32.0])
        self.scale = nn.Parameter(torch.ones(()))
        self.seen, self.augmented = [], []

    def forward(self, images, augment=False):
        self.seen.append(tuple(images.shape))
        self.augmented.append(augment)
        answers = [self._rows((image * 255).byte().permute(1, 2, 0).numpy()) for image in images]
        most = max(map(len, answers), default=0)
        decoded = torch.zeros(len(images), max(most, 1), 7)
        for index, rows in enumerate(answers):
            decoded[index, : len(rows)] = torch.tensor(rows).reshape(-1, 7)
        return decoded * self.scale, None

    @staticmethod
    def _rows(image):
        rows = []
        for class_id in range(2):
            mask = (image[..., class_id] > 200) & (image[..., 1 - class_id] < 60)
            for x, y, width, height, _ in cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)[2][
                1:
            ]:
                if min(width, height) >= LEAST:
                    conf = 0.5 + 0.4 * width * height / mask.size
                    rows.append([x + width / 2, y + height / 2, width, height, conf, class_id == 0, class_id == 1])
        return rows


def scene():
    image = np.full((*SHAPE, 3), 40, np.uint8)
    for left, top, right, bottom, class_id in OBJECTS:
        image[top:bottom, left:right] = (255, 0, 0) if class_id == 0 else (0, 255, 0)
    return image


def predicted(network, slicing, image=None, **options):
    options = PredictOptions(128, 0.1, 0.6, slicing=slicing, **options)
    (prediction,) = predict(network, scene() if image is None else image, options)
    return prediction


def boxes(prediction):
    return sorted(tuple(round(value) for value in (*row[:4], row[5])) for row in prediction.rows().tolist())


@pytest.mark.parametrize("merge", ("nms", "wbf"))
def test_tiles_find_what_the_whole_image_is_too_small_for_and_each_object_once(merge):
    whole = boxes(predicted(Eyes().eval(), None))
    assert len(whole) == 2  # at 128 pixels the image has less than a third of its size
    network = Eyes().eval()
    found = predicted(network, Slicing(128, 0.2, merge))
    small = [row for row in OBJECTS if row[2] - row[0] < 128]
    assert len(found) == len(OBJECTS)
    rows = boxes(found)
    if merge == "nms":
        assert set(small) <= set(rows)  # to the pixel
        (large,) = set(rows) - set(small)
        assert np.abs(np.subtract(large, OBJECTS[4])).max() <= 4  # as the whole image shows it
    assert len(predicted(Eyes().eval(), Slicing(128, 0.2, merge, "iou"))) > len(OBJECTS)  # fragments stay
    assert sum(shape[0] for shape in network.seen) == 1 + len(tiled_inference.tiles_of(SHAPE, 128, 0.2))
    assert network.seen[0] == (1, 3, 96, 128) and {shape[2:] for shape in network.seen[1:]} == {(128, 128)}


def test_tiles_come_in_batches_of_bounded_size(monkeypatch):
    network, expected = Eyes().eval(), boxes(predicted(Eyes().eval(), Slicing(128)))
    monkeypatch.setattr(tiled_inference, "PIXELS_AT_ONCE", 3 * 128 * 128)
    assert boxes(predicted(network, Slicing(128))) == expected
    assert max(shape[0] for shape in network.seen) == 3


def test_an_image_no_larger_than_a_tile_is_predicted_as_without():
    for only in (False, True):
        network = Eyes().eval()
        found = predicted(network, Slicing(420, only=only))
        assert network.seen == [(1, 3, 96, 128)] and boxes(found) == boxes(predicted(Eyes().eval(), None))


def test_tiles_alone_if_asked():
    network = Eyes().eval()
    found = predicted(network, Slicing(128, only=True))
    assert {shape[2:] for shape in network.seen} == {(128, 128)} and found.shape == (128, 128)
    assert len(found) > len(OBJECTS)  # the largest is seen in parts only
    assert set(OBJECTS) - set(boxes(found)) == {OBJECTS[4]}


def test_a_tile_is_padded_to_the_stride_and_not_resized():
    network = Eyes().eval()
    found = predicted(network, Slicing(100, only=True))
    assert {shape[2:] for shape in network.seen} == {(128, 128)}
    assert {OBJECTS[0], OBJECTS[2], OBJECTS[3]} <= set(boxes(found))


def test_a_file_of_one_size_gets_tiles_of_its_size(monkeypatch):
    for module in ("predictor", "tiled_inference"):
        monkeypatch.setattr(f"utils.engine.{module}.fixed_shape", lambda model: (256, 256))
    network = Eyes().eval()
    (prediction,) = predict(network, scene(), PredictOptions(None, 0.1, 0.6, slicing=Slicing(128)))
    assert {shape[2:] for shape in network.seen} == {(256, 256)}
    found, small = boxes(prediction), [row for row in OBJECTS if row[2] - row[0] < 128]
    assert len(found) == len(OBJECTS)
    for row in small:
        assert min(np.abs(np.subtract(row, each)).max() for each in found) <= 1


def test_options_hold_for_tiles_too():
    assert [row[4] for row in boxes(predicted(Eyes().eval(), Slicing(128), classes=(1,)))] == [1, 1, 1]
    assert len(predicted(Eyes().eval(), Slicing(128), max_det=3)) == 3
    network = Eyes().eval()
    predicted(network, Slicing(128), augment=True)
    assert all(network.augmented) and len(network.augmented) > 1
    found = predicted(Eyes().eval(), Slicing(128))
    assert (found.detections.conf.diff() <= 0).all() and min(found.times.row()) > 0


def loader(folder, rows=OBJECTS):
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    small = np.full((90, 90, 3), 40, np.uint8)
    small[10:40, 20:60] = (255, 0, 0)
    write_image(folder / "images" / "a.png", scene())
    write_image(folder / "images" / "b.png", small)
    height, width = SHAPE
    text = [
        f"{cls} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"
        for x1, y1, x2, y2, cls in rows
    ]
    (folder / "labels" / "a.txt").write_text("".join(text))
    (folder / "labels" / "b.txt").write_text(f"0 {40 / 90} {25 / 90} {40 / 90} {30 / 90}\n")
    options = as_evaluated(SplitOptions(imgsz=128, pad=0.0, cache_labels=False), 32)
    return Loader(DetectionDataset(read_labels([folder / "images"], 2, options), options), LoaderOptions(2))


def test_validation_finds_what_detection_finds_and_shows_ap_by_size(tmp_path, caplog):
    data, names = loader(tmp_path), NAMES
    with caplog.at_level(logging.INFO):
        plain = evaluate(Eyes(), data, names, EvalOptions(0.1, coco=True))
        caplog.clear()
        tiled = evaluate(Eyes(), data, names, EvalOptions(0.1, coco=True, slicing=Slicing(128)))
    of_large = next(result for result in tiled.results if result.native == SHAPE)
    rows = {tuple(round(value) for value in (*row[:4], row[5])) for row in of_large.detections.rows().tolist()}
    # what the tiles show; the whole image is reduced in two ways
    assert rows & set(boxes(predicted(Eyes().eval(), Slicing(128)))) >= set(OBJECTS) - {OBJECTS[4]}
    assert len(of_large.detections) == len(OBJECTS)
    assert (plain.coco.ap_small, tiled.coco.ap_small) == (0, 1)
    assert tiled.coco_whole.ap == plain.coco.ap and tiled.coco_whole.ap_small == 0
    assert plain.coco_whole is None and plain.tiles_per_image == 0
    assert tiled.tiles_per_image == len(tiled_inference.tiles_of(SHAPE, 128, 0.2)) / 2  # the small image has none
    lines = [record.message.split() for record in caplog.records]
    at = lines.index(["AP", "AP", "small", "AP", "medium", "AP", "large"])
    assert lines[at + 1][:4] == ["whole", "images", f"{plain.coco.ap:.3f}", "0.000"]
    assert lines[at + 2][:4] == ["with", "tiles", f"{tiled.coco.ap:.3f}", "1.000"]


def test_validation_of_tiles_alone(tmp_path):
    network = Eyes()
    result = evaluate(network, loader(tmp_path), NAMES, EvalOptions(0.1, coco=True, slicing=Slicing(128, only=True)))
    assert result.coco.ap_small == 1 and result.coco_whole is None
    assert (1, 3, 96, 128) not in network.seen  # the large image as a whole
    assert [len(each.detections) for each in result.results][1] == 1


def test_observers_get_boxes_in_pixels_of_the_network_input(tmp_path):
    seen = []
    evaluate(Eyes(), loader(tmp_path), NAMES, EvalOptions(0.1, slicing=Slicing(128)), observers=[seen.append])
    for evaluated in seen:
        for found, result, placed in zip(
            evaluated.detections, evaluated.results, evaluated.batch.letterboxes, strict=True
        ):
            assert torch.allclose(placed.to_native(found.xyxy), result.detections.xyxy, atol=1e-3)


@pytest.mark.parametrize(
    "config, argv, words",
    [
        (DetectConfig, "--overlap 0.3", ("--overlap", "--slice 640")),
        (ValConfig, "--slice-only", ("--slice-only", "--slice 640")),
        (CompareConfig, "--weights a.pt b.pt --slice-merge wbf", ("--slice-merge", "--slice 640")),
        (DetectConfig, "--slice 640 --visualize", ("--visualize", "--slice")),
        (ValConfig, "--slice 640 --save-hybrid", ("--save-hybrid", "--slice")),
        (DetectConfig, "--slice 640 --overlap 1", ("--overlap", "0.9")),
        (DetectConfig, "--slice 8", ("--slice 8", "32")),
    ],
)
def test_flags_that_do_not_fit_are_one_line(config, argv, words, capsys):
    with pytest.raises((SystemExit, ConfigError)):
        parse(config, argv.split(), prog="x.py")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and all(word in printed for word in words), printed
