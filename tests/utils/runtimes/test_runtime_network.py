"""RuntimeNetwork: batches as a file takes them, boxes that a file suppressed, and what is refused; with stand-ins."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.config import PredictOptions
from utils.engine.predictor import as_predictor, predict
from utils.errors import CheckpointError, ConfigError
from utils.nms import non_max_suppression
from utils.runtimes.metadata import ExportMetadata
from utils.runtimes.network import RuntimeNetwork, fixed_shape, give_thresholds, refuse_for_exported, require_size
from utils.runtimes.protocol import InputShape, Thresholds

NAMES = ("cat", "dog", "hen")


class StandIn:
    """Answers one prediction per image: a box at (mean of the image, 20), class 1; and notes what it was given."""

    title, place = "Stand-in 1.0", "CPU"

    def __init__(self, shape=(None, None, None), nms=False, name="x.onnx"):
        self.path, self.shape = Path(name), InputShape(*shape)
        self.metadata = ExportMetadata(NAMES, 32, (64, 64), nms=nms)
        self.batches, self.thresholds = [], []

    def run(self, images, thresholds=None):
        self.batches.append(images.shape)
        self.thresholds.append(thresholds)
        assert images.dtype == np.float32 and images.flags.c_contiguous
        rows = np.zeros((len(images), 1, 8), np.float32)
        rows[:, 0, 0] = images.mean((1, 2, 3)) * 100
        rows[:, 0, 1:5] = 20, 8, 8, 0.9
        rows[:, 0, 6] = 1
        return rows


def network_of(*arguments, **more):
    return RuntimeNetwork(StandIn(*arguments, **more)).eval()


def images_of(count, size=(64, 64)):
    """Image i is i/10 everywhere; channels last, as batches of a loader are."""
    values = torch.arange(count).float().view(-1, 1, 1, 1) / 10
    return values.expand(count, 3, *size).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "batch, expected", [(None, [5]), (1, [1, 1, 1, 1, 1]), (2, [2, 2, 2]), (8, [8])], ids=["any", "one", "two", "eight"]
)
def test_batches_are_split_and_filled_up(batch, expected):
    network = network_of((batch, 64, 64))
    decoded, raw = network(images_of(5))
    assert raw is None and decoded.shape == (5, 1, 8)
    assert decoded[:, 0, 0].tolist() == pytest.approx([0, 10, 20, 30, 40], abs=1e-4)
    assert [shape[0] for shape in network.runtime.batches] == expected


def test_it_looks_like_a_network():
    network = network_of((1, 64, 96))
    assert network.names == list(NAMES) and network.nc == 3 and network.stride.tolist() == [32.0]
    assert fixed_shape(network) == (64, 96) and fixed_shape(nn.Identity()) is None
    assert next(network.parameters()).device.type == "cpu" and next(network.parameters()).numel() == 0


def test_boxes_that_a_file_suppressed_leave_nms_as_they_are():
    class Suppressing(StandIn):
        def run(self, images, thresholds=None):
            self.thresholds.append(thresholds)
            boxes = np.zeros((len(images), 4, 4), np.float32)
            boxes[:, :2] = [[10, 20, 50, 40], [11, 20, 51, 40]]
            scores = np.tile(np.array([0.8, 0.3, 0.7, 0], np.float32), (len(images), 1))
            classes = np.tile(np.array([2, 0, 0, 0]), (len(images), 1))
            return boxes, scores, classes, np.full(len(images), 2)  # the third row is beyond the count

    network = RuntimeNetwork(Suppressing(nms=True)).eval()
    give_thresholds(network, 0.25, 0.45)
    decoded, _ = network(images_of(2))
    assert network.runtime.thresholds == [Thresholds(0.25, 0.45)]
    for found in non_max_suppression(decoded, 0.25, 0.45, multi_label=True):
        assert found.xyxy.tolist() == [[10, 20, 50, 40], [11, 20, 51, 40]]
        assert found.conf.tolist() == pytest.approx([0.8, 0.3]) and found.cls.tolist() == [2, 0]


def test_what_is_no_prediction_is_refused():
    class Transposed(StandIn):  # as later YOLOs write it
        def run(self, images, thresholds=None):
            return np.zeros((len(images), 7, 8400), np.float32)

    with pytest.raises(CheckpointError, match=r"x.onnx: its output is \(1, 7, 8400\); expected \(1, N, 8\)"):
        RuntimeNetwork(Transposed())(images_of(1))


def test_another_size_and_augmentation_are_refused():
    network = network_of((1, 64, 96))
    with pytest.raises(ConfigError, match="takes images of 64x96 .* alone, got 64x64"):
        network(images_of(1))
    with pytest.raises(ConfigError, match="--augment"):
        network(images_of(1, (64, 96)), augment=True)
    with pytest.raises(ConfigError, match="--imgsz 64 64: x.onnx takes images of 64x96"):
        require_size(network, (64, 64))
    assert require_size(network, (64, 96)) is None and require_size(network_of(), (1, 2)) is None


def test_files_of_two_sizes_make_no_ensemble():
    pair = nn.ModuleList([network_of((1, 64, 64)), network_of((1, 96, 96), name="y.onnx")])
    with pytest.raises(ConfigError, match="x.onnx takes images of 64x64.*y.onnx takes images of 96x96"):
        fixed_shape(pair)


@pytest.mark.parametrize("flag", ["--half", "--augment", "--visualize", "--heatmap", "--compile", "--update"])
def test_flags_without_meaning_are_refused_by_name(flag):
    with pytest.raises(ConfigError, match=f"^{flag}: a_openvino_model ") as caught:
        refuse_for_exported(["b.pt", "a_openvino_model"], {flag: True})
    assert "\n" not in str(caught.value)
    refuse_for_exported(["b.pt"], {flag: True})
    refuse_for_exported(["a_openvino_model"], {flag: False})


def test_frames_fill_the_shape_that_a_file_takes():
    """A file of one shape gets the whole letterbox, any other the smallest rectangle."""
    frame = np.full((100, 200, 3), 128, np.uint8)
    for shape, options, expected in (
        ((1, 64, 96), PredictOptions(), (1, 3, 64, 96)),
        ((1, 64, 96), PredictOptions(imgsz=(64, 96)), (1, 3, 64, 96)),
        ((None, None, None), PredictOptions(), (1, 3, 320, 640)),
        ((None, None, None), PredictOptions(imgsz=128), (1, 3, 64, 128)),
    ):
        network = network_of(shape)
        (prediction,) = predict(as_predictor(network), frame, options)
        assert network.runtime.batches == [expected] and prediction.shape == expected[2:]
        assert len(prediction) == 1 and prediction.summary() == "1 dog, "
    with pytest.raises(ConfigError, match="--imgsz 640 640"):
        list(predict(as_predictor(network_of((1, 64, 96))), frame, PredictOptions(imgsz=640)))
