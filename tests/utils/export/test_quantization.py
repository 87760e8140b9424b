"""8-bit files: convolutions alone are quantized, attention keeps its weights, calibration images are the dataset's."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from exported_files import job_of, onnx_session, saved, spread_model
from small_models import SMALL, with_block

import export
from utils.config import ExportConfig, from_options
from utils.export import exporting
from utils.export.file_formats import EXPORT_FORMATS, onnx_model
from utils.export.parity import EIGHT_BIT, compare_outputs
from utils.export.quantization import quantize_onnx
from utils.images import write_image

pytest.importorskip("onnxscript", reason="8-bit files start from ONNX graphs, which onnxscript makes")
onnx = pytest.importorskip("onnx", reason="8-bit ONNX files are made with onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="8-bit ONNX files are made with onnx and onnxruntime")
ATTENTION = with_block(-1, 1, "MHSA", [])


def images(count, size=(64, 96), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator).numpy() for _ in range(count)]


@pytest.fixture(scope="module")
def attentive():
    return spread_model(ATTENTION)


@pytest.fixture(scope="module")
def quantized(attentive):
    return quantize_onnx(onnx_model(job_of(attentive)), images(4))


def test_every_convolution_is_quantized_and_nothing_else(quantized):
    made_by = {name: node.op_type for node in quantized.graph.node for name in node.output}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 15
    assert all(made_by.get(name) == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    inputs = {(node.op_type, made_by.get(name)) for node in quantized.graph.node for name in node.input}
    others = {consumer for consumer, source in inputs if source == "DequantizeLinear"} - {"Conv"}
    assert "Softmax" not in others and "MatMul" not in others, "attention's products read float maps or rounded ones"
    softmax = next(node for node in quantized.graph.node if node.op_type == "Softmax")
    readers = [node.op_type for node in quantized.graph.node if softmax.output[0] in node.input]
    assert readers and "QuantizeLinear" not in readers


def test_weights_and_activations_are_unsigned(quantized):
    zeros = {node.input[2] for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    kinds = Counter(each.data_type for each in quantized.graph.initializer if each.name in zeros)
    assert kinds[onnx.TensorProto.UINT8] > 20 and kinds[onnx.TensorProto.INT8] == 0


def test_detections_agree_with_the_float_file(attentive, quantized):
    batch = torch.from_numpy(np.stack(images(1, seed=9)))
    with torch.no_grad():
        expected = attentive(batch)[0].numpy()
    (found,) = onnx_session(quantized)(batch)
    difference = compare_outputs(found, expected, EIGHT_BIT)
    assert difference.finite and difference.agreement > 0.6
    assert np.abs(found - expected).max() > 1e-3, "but it is quantized"


def test_calibration_images_are_spread_over_the_train_split(tmp_path):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    for number in range(9):
        write_image(folder / f"{number}.png", np.full((40, 60, 3), 20 * number, np.uint8))
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/train\nnames: [a, b, c]\n")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    for number in range(9):
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    config = from_options(ExportConfig, int8=str(tmp_path / "data.yaml"), imgsz=(64, 64), calibration_images=3)
    found = exporting._calibration(config)
    assert [each.shape for each in found] == [(3, 64, 64)] * 3 and found[0].dtype == np.float32
    assert [round(float(each[0, 32, 32]) * 255) for each in found] == [0, 80, 160], "the first, the middle, the last"


def test_an_8_bit_file_is_compared_on_images_of_its_dataset(attentive):
    """On others a network may detect two objects or none, and their agreement says nothing."""
    pixels = [np.full((3, 64, 96), number / 100, np.float32) for number in range(31)]
    job = dataclasses.replace(job_of(attentive, int8="some.yaml", batch=3), calibration=pixels)
    (batch,) = exporting._batches(EXPORT_FORMATS["onnx"], job)
    assert batch.shape == (15, 3, 64, 96), "whole batches, up to 16 images"
    assert batch[0, 0, 0, 0] == 0 and batch[-1, 0, 0, 0] == pytest.approx(0.3), "from the first to the last"
    assert [len(each) for each in exporting._batches(EXPORT_FORMATS["onnx"], job_of(attentive))] == [1, 1]


def test_images_of_several_batches_are_run_in_turn():
    class Recorder:
        def __init__(self):
            self.seen = []

        def run(self, images, thresholds):
            self.seen.append(len(images))
            return images[:, 0] if self.one else (images[:, 0], images[:, 1])

    for one in (True, False):
        runtime = Recorder()
        runtime.one = one
        values = np.arange(24).reshape(6, 2, 2)
        found = exporting._run_in_batches(runtime, 2, None, values)
        assert runtime.seen == [2, 2, 2]
        assert np.array_equal(found if one else found[1], values[:, 0 if one else 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_export_int8(tmp_path, caplog, name):
    if name == "openvino":
        pytest.importorskip("nncf", reason="8-bit OpenVINO files are made with nncf")
    weights = saved(spread_model(SMALL | {"nc": 3}), tmp_path / "best.pt")
    caplog.set_level("INFO", "yolo")
    (path,) = export.run(
        weights=str(weights), int8="shapes.yaml", include=name, imgsz=64, calibration_images=8, output=str(tmp_path)
    )
    assert path.exists() and any("of the detections agree" in record.message for record in caplog.records)
