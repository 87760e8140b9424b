"""export.py from outside: files written, compared with torch and read back, and what goes wrong in one line."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from exported_files import NAMES, NEEDS, need, saved, spread_model
from torch.backends import xnnpack

import export
from utils.config import ExportConfig, from_options
from utils.errors import CheckpointError, ConfigError, DataError, ModelError, ParityError
from utils.export import exporting, file_formats
from utils.export.file_formats import EXPORT_FORMATS
from utils.files import file_digest
from utils.runtimes.metadata import PROJECT_VERSION
from utils.runtimes.opening import open_runtime
from utils.runtimes.packages import is_installed


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(spread_model(), tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.mark.parametrize(
    "name, dynamic", [*((name, False) for name in NEEDS), *((name, True) for name in NEEDS if name != "ncnn")]
)
def test_a_file_is_compared_and_says_what_it_is(weights, tmp_path, caplog, name, dynamic):
    need(name)
    caplog.set_level("INFO", "yolo")
    (path,) = export.run(weights=str(weights), include=name, imgsz=(64, 96), dynamic=dynamic, output=str(tmp_path))
    assert path == tmp_path / f"best{EXPORT_FORMATS[name].suffix}" and path.exists()
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing else is left"
    line = next(record.message for record in caplog.records if record.message.startswith(EXPORT_FORMATS[name].title))
    found = re.search(r"ok: largest difference (\S+) px, (\S+) in scores", line)
    assert found and float(found[1]) < 0.01 and float(found[2]) < 1e-4
    metadata = open_runtime(path).metadata
    assert (metadata.names, metadata.stride, metadata.imgsz, metadata.dynamic) == (NAMES, 32, (64, 96), dynamic)
    assert metadata.weights == file_digest(weights) and metadata.version == PROJECT_VERSION


def test_the_version_is_that_of_the_project():
    from utils.files import ROOT

    assert f'version = "{PROJECT_VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_nms_inside_is_compared_with_nms_outside(weights, tmp_path, caplog):
    need("onnx")
    caplog.set_level("INFO", "yolo")
    (path,) = export.run(weights=str(weights), nms=True, imgsz=96, output=str(tmp_path), topk_all=20)
    assert any("ok: largest difference" in record.message for record in caplog.records)
    boxes, scores, classes, counts = open_runtime(path).run(np.zeros((1, 3, 96, 96), np.float32))
    assert (boxes.shape, scores.shape, classes.shape, counts.shape) == ((1, 20, 4), (1, 20), (1, 20), (1,))


def test_half_precision_has_float32_around_it(weights, tmp_path):
    need("onnx")
    import onnx

    (path,) = export.run(weights=str(weights), include="onnx", half=True, imgsz=64, output=str(tmp_path))
    model = onnx.load(path)
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*model.graph.input, *model.graph.output)}
    assert kinds == {"images": onnx.TensorProto.FLOAT, "output": onnx.TensorProto.FLOAT}
    convolved = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    halves = [each for each in model.graph.initializer if each.name in convolved]
    assert len(halves) == len(convolved) and {each.data_type for each in halves} == {onnx.TensorProto.FLOAT16}


def wrong_writer(job, path):
    """Writes a file of a network whose first convolution differs."""
    job = dataclasses.replace(job, network=copy.deepcopy(job.network))
    with torch.no_grad():
        job.network.networks[0].model[1].conv.weight.mul_(1.5)
    file_formats._write_torchscript(job, path)


def test_a_file_that_differs_is_put_aside_and_the_layer_named(weights, tmp_path, monkeypatch):
    wrong = file_formats.ExportFormat("TorchScript", ".torchscript", wrong_writer)
    monkeypatch.setitem(exporting.EXPORT_FORMATS, "torchscript", wrong)
    (tmp_path / "best.torchscript").write_text("of an earlier run")
    options = dict(weights=str(weights), include="torchscript", imgsz=64, output=str(tmp_path), debug_parity=True)
    with pytest.raises(ParityError) as caught:
        export.run(**options)
    message = str(caught.value)
    assert caught.value.exit_code == 1 and "\n" not in message
    assert re.search(r"TorchScript .* and torch differ at 64x64: largest difference \S+ px", message)
    assert "the first layer that differs is 1 (Conv), by " in message
    assert "within it model.1.conv (Conv2d)" in message
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.torchscript", "best_differs.torchscript"]
    assert (tmp_path / "best.torchscript").read_text() == "of an earlier run", "an older good file stays"


def test_formats_that_fail_do_not_keep_others_from_being_written(weights, tmp_path, monkeypatch):
    def fails(job, path):
        raise ModelError("no such operator")

    monkeypatch.setitem(exporting.EXPORT_FORMATS, "openvino", file_formats.ExportFormat("OpenVINO", "_x", fails))
    with pytest.raises(ModelError, match=r"1 of 2 formats failed; written: .*best.torchscript; .*no such operator"):
        export.run(weights=str(weights), include=("openvino", "torchscript"), imgsz=64, output=str(tmp_path))
    assert (tmp_path / "best.torchscript").exists()


def test_formats_that_start_from_one_graph_share_it(weights, tmp_path, monkeypatch):
    need("openvino")
    made = []
    whole = file_formats.export_onnx
    monkeypatch.setattr(file_formats, "export_onnx", lambda *given, **more: made.append(1) or whole(*given, **more))
    export.run(weights=str(weights), include=("onnx", "openvino"), imgsz=64, output=str(tmp_path))
    assert len(made) == 1


def test_openvino_takes_the_network_where_it_cannot_read_the_graph(weights, tmp_path, monkeypatch, caplog):
    need("openvino")

    def refused(job):
        raise ModelError("ONNX: no such operator")

    monkeypatch.setattr(file_formats, "onnx_model", refused)
    caplog.set_level("INFO", "yolo")
    for dynamic in (False, True):
        export.run(weights=str(weights), include="openvino", imgsz=(64, 96), dynamic=dynamic, output=str(tmp_path))
    lines = [record.message for record in caplog.records if "ok: largest difference" in record.message]
    assert len(lines) == 2 and any("no such operator" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(include="saved_model"), ConfigError, "--include saved_model: TensorFlow's formats"),
        (dict(include="onxx"), ConfigError, "--include onxx: expected onnx, torchscript"),
        (dict(int8=True), ConfigError, "--int8: expected text"),
        (dict(int8="no.yaml", half=True), ConfigError, "--int8 and --half: choose one"),
        (dict(int8="a.yaml", include="ncnn"), ConfigError, "--int8 with --include ncnn: only onnx and openvino"),
        (dict(nms=True, include="torchscript"), ConfigError, "--nms with --include torchscript: only onnx has it"),
        (dict(optimize=True, include="onnx"), ConfigError, "--optimize with --include onnx"),
        (dict(include="ncnn", dynamic=True), ConfigError, "--dynamic with --include ncnn: only onnx and torchscript"),
        (dict(include="coreml", dynamic=True), ConfigError, "--dynamic with --include coreml: only onnx and torch"),
        (dict(include="ncnn", batch_size=2), ConfigError, "--include ncnn: its files take one image; leave --batch"),
        (dict(include="torchscript", output="/dev/null/x"), ConfigError, "--output /dev/null/x: Not a directory"),
        (dict(opset=12), ConfigError, "--opset 12: expected 18 to 23"),
        (dict(weights="none.pt"), CheckpointError, "none.pt: no such checkpoint"),
        (dict(check_image="none.jpg", include="torchscript"), DataError, "none.jpg"),
        (dict(include="torchscript", optimize=True), ConfigError, "--optimize: this build of torch has no XNNPACK"),
        (dict(include="engine"), ConfigError, "tensorrt: not installed; pip install tensorrt"),
        (dict(include="coreml"), ConfigError, "coremltools: not installed; pip install coremltools"),
        (dict(include="tflite"), ConfigError, "litert_torch: not installed; pip install litert-torch"),
    ],
)
def test_what_goes_wrong_is_one_line(weights, tmp_path, options, error, message):
    package = {"engine": "tensorrt", "coreml": "coremltools", "tflite": "litert_torch"}.get(options.get("include"))
    package = None if "dynamic" in options else package
    if package and is_installed(package):
        pytest.skip(f"{package} is installed")
    if "optimize" in options and xnnpack.enabled:
        pytest.skip("this build of torch has XNNPACK")
    if options.get("include") == "ncnn" and "batch_size" in options:
        need("ncnn")
    with pytest.raises(error) as caught:
        export.run(**{"weights": str(weights), "imgsz": 64, "output": str(tmp_path), **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_metadata_beside_a_file_goes_with_it(weights, tmp_path, monkeypatch):
    def writes_two(job, path):
        path.write_text("network")
        path.with_suffix(".json").write_text(job.metadata.as_json())

    monkeypatch.setitem(exporting.EXPORT_FORMATS, "tflite", file_formats.ExportFormat("TFLite", ".tflite", writes_two))
    export.run(weights=str(weights), include="tflite", imgsz=64, output=str(tmp_path), runtime_check=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.json", "best.tflite"]
    assert json.loads((tmp_path / "best.json").read_text())["names"] == list(NAMES)


@pytest.mark.parametrize(("name", "is_offered"), [("tflite", True), ("coreml", False)])
def test_a_file_is_offered_to_detect_only_if_it_is_run_here(weights, tmp_path, monkeypatch, caplog, name, is_offered):
    written = exporting.EXPORT_FORMATS[name]
    writes = file_formats.ExportFormat(written.title, written.suffix, lambda job, path: path.write_text("network"))
    monkeypatch.setitem(exporting.EXPORT_FORMATS, name, writes)
    with caplog.at_level("INFO"):
        export.run(weights=str(weights), include=name, imgsz=64, output=str(tmp_path), runtime_check=False)
    assert (f"Try it: python detect.py --weights {tmp_path / 'best'}{written.suffix}" in caplog.text) == is_offered


def test_a_file_that_cannot_be_compared_is_not_handed_out(weights, tmp_path, monkeypatch):
    def missing(path):
        raise ConfigError(f"{path}: needs a runtime, which is not installed")

    monkeypatch.setattr(exporting, "open_runtime", missing)
    with pytest.raises(ConfigError, match="is not installed; --no-runtime-check hands files out without a comparison"):
        export.run(weights=str(weights), include="torchscript", imgsz=64, output=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_flags_that_only_onnx_has_choose_onnx():
    assert from_options(ExportConfig).include == ("torchscript", "onnx")
    assert from_options(ExportConfig, nms=True).include == ("onnx",)
    config = from_options(ExportConfig, int8="--data")
    assert config.include == ("onnx",) and config.int8 == config.data


def test_torchscript_has_the_keys_of_v6_1(weights, tmp_path):
    (path,) = export.run(weights=str(weights), include="torchscript", imgsz=(64, 96), output=str(tmp_path))
    extra = {"config.txt": ""}
    torch.jit.load(str(path), _extra_files=extra)
    described = json.loads(extra["config.txt"])
    assert (described["shape"], described["stride"], described["names"]) == ([1, 3, 64, 96], 32, list(NAMES))
