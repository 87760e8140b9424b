"""Exported files by suffix: each format equals torch, each mistake is one line, packages are imported when used."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from exported_files import NAMES, exported, saved, spread_model

from utils.checkpoint import load_models
from utils.errors import CheckpointError, ConfigError, UserError
from utils.files import ROOT
from utils.runtimes.network import RuntimeNetwork, load_network
from utils.runtimes.opening import RUNTIME_SUFFIXES, is_exported, open_runtime
from utils.runtimes.protocol import InputShape
from utils.runtimes.tensorrt_engine import split_engine

FORMATS = ("onnx", "torchscript", "openvino", "ncnn")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(spread_model(), tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture(scope="module")
def torch_network(checkpoint):
    return load_models(checkpoint)


@pytest.fixture(scope="module")
def file_of(checkpoint, tmp_path_factory):
    """file_of("onnx") -> that export, made once."""
    made = {}

    def get(file_format, **options):
        key = (file_format, *sorted(options.items()))
        if key not in made:
            made[key] = exported(checkpoint, file_format, tmp_path_factory.mktemp(file_format), **options)
        return made[key]

    return get


def images_of(batch, size=(64, 64)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def apart(network, other, images):
    """The largest difference, of values over 1 as a share of them: how float32 rounds depends on the processor."""
    with torch.no_grad():
        found, expected = network(images)[0], other(images)[0]
    assert found.shape == expected.shape and expected[..., 4].std() > 0.05
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


@pytest.mark.parametrize("file_format, dnn", [*((each, False) for each in FORMATS), ("onnx", True)])
def test_each_runtime_equals_torch(file_format, dnn, file_of, torch_network):
    runtime = open_runtime(file_of(file_format), dnn)
    assert runtime.shape == InputShape(1, 64, 64) and runtime.metadata.names == NAMES and runtime.place == "CPU"
    words = {"onnx": "ONNX Runtime 1.", "torchscript": "TorchScript of torch 2.", "openvino": "OpenVINO 20"}
    assert runtime.title.startswith("OpenCV" if dnn else words.get(file_format, "ncnn 1."))
    assert apart(RuntimeNetwork(runtime).eval(), torch_network, images_of(3)) < 1e-4


@pytest.mark.parametrize("file_format, dnn", [("onnx", False), ("onnx", True)])
def test_dynamic_files_take_other_shapes(file_format, dnn, file_of, torch_network):
    network = RuntimeNetwork(open_runtime(file_of(file_format, dynamic=True), dnn)).eval()
    assert network.fixed_shape is None and network.runtime.shape.batch is None
    for batch, size in ((1, (64, 64)), (2, (96, 64)), (3, (32, 128))):
        assert apart(network, torch_network, images_of(batch, size)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["openvino", "torchscript"])
def test_other_dynamic_files_take_other_shapes(file_format, file_of, torch_network):
    network = RuntimeNetwork(open_runtime(file_of(file_format, dynamic=True))).eval()
    for batch, size in ((1, (64, 64)), (2, (96, 64))):
        assert apart(network, torch_network, images_of(batch, size)) < 1e-4


def test_ensembles_of_files_and_checkpoints(file_of, checkpoint, torch_network):
    network = load_network([file_of("torchscript"), checkpoint], CPU)
    with torch.no_grad():
        both, one = network(images_of(1))[0], torch_network(images_of(1))[0]
    assert both.shape == (1, 2 * one.shape[1], 8) and torch.allclose(both[:, one.shape[1] :], one, atol=1e-4)
    assert torch.allclose(both[:, : one.shape[1]], one, atol=1e-3)


def test_suffixes():
    assert set(RUNTIME_SUFFIXES) >= {".onnx", "_openvino_model", ".torchscript", ".engine", "_ncnn_model"}
    assert all(map(is_exported, ("a.onnx", "A.ONNX", "x/a_openvino_model", "a_ncnn_model/", "a.mlpackage", "m.xml")))
    assert not any(map(is_exported, ("a.pt", "yolov5n", "onnx", "a.onnx/best.pt")))


@pytest.mark.parametrize(
    "name, words",
    [
        ("a.onnx", "cannot open it"),
        ("empty.onnx", "empty.onnx: "),
        ("a.torchscript", "cannot open it"),
        ("folder.onnx", "a folder; expected a file"),
        ("file_openvino_model", "a file; expected a folder"),
        ("empty_openvino_model", "holds no .xml file"),
        ("empty_ncnn_model", "holds no model.ncnn.param and no model.ncnn.bin"),
        ("a.engine", "carries no metadata in front of its engine"),
        ("none.onnx", "none.onnx: no such file"),
        ("fle_openvino_model", "no such folder (did you mean file_openvino_model"),
        ("a.mlpackage", "Core ML files are run by Apple's systems alone"),
        ("a.pb", "TensorFlow's own formats are not run here"),
        ("a.weights", "expected an exported file: .onnx"),
    ],
)
def test_files_that_are_missing_or_damaged_are_one_line(name, words, tmp_path, capfd):
    for package in ("onnxruntime", "openvino", "ncnn"):
        pytest.importorskip(package, reason=f"{package} is given a damaged file")
    for file in ("a.onnx", "a.torchscript", "a.engine", "file_openvino_model"):
        (tmp_path / file).write_bytes(b"nothing that a runtime reads")
    (tmp_path / "empty.onnx").touch()
    for folder in ("folder.onnx", "empty_openvino_model", "empty_ncnn_model"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError) as caught:
        open_runtime(tmp_path / name)
    assert words in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("file_format, cut_file", [("ncnn", "model.ncnn.bin"), ("openvino", "*.bin"), ("onnx", "")])
def test_half_a_file_is_one_line(file_format, cut_file, file_of, tmp_path, capfd):
    source = file_of(file_format)
    copy = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    (part,) = copy.glob(cut_file) if cut_file else [copy]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    capfd.readouterr()
    with pytest.raises(CheckpointError) as caught:
        open_runtime(copy)
    assert "\n" not in str(caught.value) and copy.name in str(caught.value) and capfd.readouterr().err == ""


def test_metadata_that_is_gone_is_missed(file_of, tmp_path):
    copy = shutil.copytree(file_of("ncnn"), tmp_path / "copy_ncnn_model")
    (copy / "metadata.json").unlink()
    with pytest.raises(CheckpointError, match="carries no metadata of a detector"):
        open_runtime(copy)


@pytest.mark.parametrize(
    "name, module, words",
    [
        ("a.onnx", "onnxruntime", "needs onnxruntime, which is not installed: pip install -r requirements-export.txt"),
        ("a_openvino_model", "openvino", "needs openvino, which is not installed: pip install -r"),
        ("a_ncnn_model", "ncnn", "needs ncnn, which is not installed: pip install -r"),
        ("a.tflite", "ai_edge_litert", "needs ai-edge-litert, which is not installed: pip install ai-edge-litert"),
    ],
)
def test_packages_that_are_missing_are_named(name, module, words, tmp_path, monkeypatch):
    class Hidden:
        @staticmethod
        def find_spec(wanted, path=None, target=None):
            if wanted.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Hidden, *sys.meta_path])
    monkeypatch.setattr("utils.runtimes.tflite.find_spec", lambda name: None)
    file = tmp_path / name
    file.mkdir() if name.endswith("_model") else file.touch()
    with pytest.raises(ConfigError) as caught:
        open_runtime(file)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_dnn_runs_onnx_files_alone(file_of, checkpoint):
    with pytest.raises(ConfigError, match="--dnn: OpenCV runs .onnx files, and .* is none"):
        open_runtime(file_of("torchscript"), dnn=True)
    with pytest.raises(ConfigError, match="--dnn: OpenCV runs .onnx files, and .* is none"):
        load_network(checkpoint, CPU, dnn=True)


def test_engines_are_split_and_need_a_gpu(tmp_path):
    file = tmp_path / "a.engine"
    text = b'{"stride": 32, "names": ["a"]}'
    file.write_bytes(len(text).to_bytes(4, "little") + text + b"plan")
    assert split_engine(file) == (text.decode(), b"plan")
    with pytest.raises(ConfigError, match="TensorRT runs on NVIDIA GPUs"):
        open_runtime(file)


def test_no_runtime_is_imported_before_it_is_asked_for(checkpoint):
    code = (
        "import sys, torch; from utils.engine import detection, validation; from utils.runtimes import network\n"
        f"network.load_network({str(checkpoint)!r}, torch.device('cpu'))\n"
        "print(sorted({'onnx', 'onnxruntime', 'openvino', 'ncnn', 'tensorrt', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


def test_v61s_own_onnx_file_is_read(tmp_path):
    """Its names as a Python list, raw maps behind the predictions, weights unknown."""
    onnx = pytest.importorskip("onnx", reason="onnx makes the file")
    pytest.importorskip("onnxruntime", reason="onnxruntime runs it")
    helper = onnx.helper
    rows = np.zeros((1, 1, 7), np.float32)
    rows[..., :5] = 20, 20, 10, 10, 0.5
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["rows", "largest"], ["output"]),
        helper.make_node("Identity", ["images"], ["298"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(name, kind, None) for name in ("298", "output")],
        [onnx.numpy_helper.from_array(rows, "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    helper.set_model_props(model, {"stride": "32", "names": "['cat', 'dog']"})
    onnx.save(model, tmp_path / "v61.onnx")
    network = load_network(tmp_path / "v61.onnx", CPU)
    assert network.names == ["cat", "dog"] and network.fixed_shape == (32, 32)
    decoded, _ = network(torch.full((2, 3, 32, 32), 0.5))
    assert decoded.tolist() == [[[10, 10, 5, 5, 0.25, 0, 0]]] * 2
