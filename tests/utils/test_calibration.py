"""The calibrated confidence: found where F1 is best, kept in files, and used by detection; old files do without."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from red_finder import RedFinder, scene

import detect
import hubconf
from models.yolo import Model
from utils.calibration import CalibratedConfidence, least_confidence, stored_confidence
from utils.checkpoint import build_model, checkpoint_of, read_checkpoint, strip, write_checkpoint
from utils.checkpoint.description import describe
from utils.checkpoint.tools import average, convert
from utils.compat.auto_shape import AutoShape
from utils.config import ExportConfig, from_options
from utils.engine.validation_errors import calibrated
from utils.errors import ConfigError
from utils.export import exporting
from utils.images import write_image
from utils.metrics.average_precision import DetectionAccumulator
from utils.runtimes.metadata import ExportMetadata
from utils.types import Detections

SETTINGS = CalibratedConfidence(0.4, (0.35, None)).settings()


def evaluation(images, nc):
    """Evaluation of images whose detections are (confidence, class, whether it is right): each label its own place."""
    accumulator = DetectionAccumulator(nc)
    for found, labels in images:
        boxes = torch.tensor([[100.0 * i, 0, 100 * i + 50, 50] for i in range(max(len(found), len(labels)))])
        xyxy = boxes[: len(found)].clone()
        xyxy[[i for i, (_, _, right) in enumerate(found) if not right]] += 1000
        order = sorted(range(len(found)), key=lambda i: -found[i][0])
        conf, cls = (torch.tensor([found[i][part] for i in order]) for part in (0, 1))
        accumulator.update(Detections(xyxy[order], conf, cls), np.array(labels), boxes[: len(labels)].numpy())
    metrics, curves = accumulator.summary()
    return SimpleNamespace(metrics=metrics, curves=curves)


def f1_at(images, class_id, threshold):
    """The literal F1 of the detections above a threshold."""
    kept = [right for found, _ in images for conf, cls, right in found if cls == class_id and conf > threshold]
    labels = sum(label == class_id for _, of_image in images for label in of_image)
    return 2 * sum(kept) / (len(kept) + labels)


def test_thresholds_are_where_f1_is_best():
    """Right detections at 0.3 to 0.9, wrong ones below 0.25 in class 0 and below 0.55 in class 1; class 2 is absent."""
    generator, images = np.random.default_rng(0), []
    for _ in range(40):
        labels = [0, 0, 1, 1]
        right = [
            (float(generator.uniform(*bounds)), cls, True)
            for cls, bounds in zip(labels, [(0.3, 0.9), (0.3, 0.9), (0.6, 0.9), (0.6, 0.9)], strict=True)
        ]
        wrong = [(float(generator.uniform(0.01, top)), cls, False) for cls, top in [(0, 0.25), (1, 0.55)] * 3]
        images.append((right + wrong, labels))
    found = calibrated(evaluation(images, 3))
    first, second, absent = found.per_class
    assert absent is None and 0.15 < first < 0.45 and 0.45 < second < 0.75
    for class_id, threshold in ((0, first), (1, second)):
        best = max(f1_at(images, class_id, each) for each in np.linspace(0, 1, 201))
        assert f1_at(images, class_id, threshold) > best - 0.03
    means = [np.mean([f1_at(images, class_id, each) for class_id in (0, 1)]) for each in np.linspace(0, 1, 201)]
    assert np.mean([f1_at(images, class_id, found.overall) for class_id in (0, 1)]) > max(means) - 0.03


def test_nothing_found_is_no_threshold():
    assert calibrated(evaluation([([], [0])], 1)) is None
    assert calibrated(evaluation([([(0.5, 0, False)], [0])], 1)) is None


@pytest.mark.parametrize(
    "settings, expected",
    [
        (SETTINGS, 0.4),
        ({}, None),
        ({"confidence": "0.4"}, None),
        ({"confidence": float("nan")}, None),
        ({"confidence": 0.0}, None),
        ({"confidence": 1.5}, None),
        ({"confidence": True}, None),
    ],
)
def test_only_a_usable_number_is_taken_from_a_file(settings, expected):
    assert stored_confidence(settings) == expected


def test_a_number_stays_and_auto_needs_weights_that_know():
    assert least_confidence(0.25, None, "--conf-thres") == 0.25
    assert least_confidence("auto", 0.4, "--conf-thres") == 0.4
    with pytest.raises(ConfigError, match="--conf-thres auto: the weights carry no calibrated confidence.*number"):
        least_confidence("auto", None, "--conf-thres")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model's weights with thresholds, and without as they were written before there were any."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    checkpoint = checkpoint_of(Model("yolov5n.yaml", nc=2), names=["cat", "dog"])
    with_, without = folder / "with.pt", folder / "without.pt"
    write_checkpoint(replace(checkpoint, settings=SETTINGS), with_)
    write_checkpoint(checkpoint, without)
    return with_, without


def test_files_keep_thresholds_with_their_weights_and_no_others(weights, tmp_path):
    with_, without = weights
    assert build_model(read_checkpoint(with_)).confidence == 0.4
    assert build_model(read_checkpoint(without)).confidence is None
    assert "confidence=0.4, confidence_per_class=[0.35, None]" in "\n".join(describe(with_))
    assert read_checkpoint(strip(with_, tmp_path / "small.pt")).settings == SETTINGS
    assert set(read_checkpoint(average([with_, with_], tmp_path / "mean.pt")).settings) == {"average_of"}
    theirs = read_checkpoint(convert(with_, tmp_path / "theirs.pt", "yolov5"))
    assert not set(theirs.settings) & set(SETTINGS)


def test_exported_files_say_it_and_older_ones_need_not(weights):
    model = build_model(read_checkpoint(weights[0]))
    metadata = exporting.describe(from_options(ExportConfig, imgsz=(64, 64)), model, [weights[0]])
    assert metadata.confidence == 0.4
    text = metadata.as_text()
    assert ExportMetadata.from_text(text, "x.onnx") == metadata == ExportMetadata.from_json(metadata.as_json(), "x")
    del text["confidence"]
    assert asdict(ExportMetadata.from_text(text, "x.onnx")) == {**asdict(metadata), "confidence": 0.0}


def test_detection_takes_it(weights, tmp_path, monkeypatch):
    write_image(tmp_path / "image.png", np.full((64, 64, 3), 90, np.uint8))
    asked = []
    original = detect_module().predict
    monkeypatch.setattr(
        detect_module(), "predict", lambda *given: asked.append(given[2].conf_thres) or original(*given)
    )
    given = dict(source=str(tmp_path / "image.png"), project=str(tmp_path), imgsz=64, device="cpu", nosave=True)
    detect.run(weights=str(weights[0]), conf_thres="auto", **given)
    detect.run(weights=str(weights[0]), **given)
    assert asked == [0.4, 0.25]
    for several in ([weights[1]], [weights[0], weights[0]]):
        with pytest.raises(ConfigError, match="--conf-thres auto: the weights carry no"):
            detect.run(weights=[str(each) for each in several], conf_thres="auto", **given, name="refused")
    assert not (tmp_path / "refused").exists()


def detect_module():
    import utils.engine.detection

    return utils.engine.detection


@pytest.mark.parametrize("stored, found", [(0.85, 1), (0.95, 0), (None, None)])
def test_the_hub_takes_it(stored, found):
    model = AutoShape(RedFinder())  # whose box has confidence 0.9
    model.model.confidence = stored
    model.conf = "auto"
    if stored is None:
        with pytest.raises(ConfigError, match="model.conf = auto: the weights carry no"):
            model(scene())
    else:
        assert len(model(scene()).xyxy[0]) == found


def test_hub_models_know_their_confidence(weights):
    assert hubconf.custom(str(weights[0]), device="cpu", _verbose=False).network.confidence == 0.4
