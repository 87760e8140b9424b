"""ONNX files: names, axes, weights and metadata as they are read back, and numbers equal to torch's."""

import pytest
import torch
from exported_files import apart, job_of, onnx_session, spread_model

from utils.errors import ConfigError
from utils.export.file_formats import onnx_model
from utils.export.onnx_file import OnnxOptions, check_opset, export_onnx, operators, simplified, write_onnx
from utils.runtimes.metadata import ExportMetadata

onnx = pytest.importorskip("onnx", reason="writes ONNX files with onnx and onnxscript")
pytest.importorskip("onnxscript", reason="writes ONNX files with onnx and onnxscript")


@pytest.fixture(scope="module")
def model():
    return spread_model()


@pytest.fixture(scope="module")
def static(model):
    return onnx_model(job_of(model))


@pytest.fixture(scope="module")
def dynamic(model):
    return onnx_model(job_of(model, dynamic=True))


def axes(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_names_axes_and_opset(static, dynamic):
    assert [(each.name, axes(each)) for each in static.graph.input] == [("images", [1, 3, 64, 96])]
    assert [(each.name, axes(each)) for each in static.graph.output] == [("output", [1, 960, 8])]
    assert [(each.name, axes(each)) for each in dynamic.graph.input] == [("images", ["batch", 3, "height", "width"])]
    assert [(each.name, axes(each)) for each in dynamic.graph.output] == [("output", ["batch", "anchors", 8])]
    assert [(each.domain, each.version) for each in static.opset_import if not each.domain] == [("", 20)]


def test_a_file_holds_its_weights_and_its_description(static, tmp_path):
    metadata = ExportMetadata(("cat", "dög"), 32, (64, 96), variant="small", weights="ab", version="6.1.0")
    write_onnx(static, tmp_path / "a.onnx", metadata.as_text())
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"], "no file of weights beside it"
    read = onnx.load(tmp_path / "a.onnx")
    assert ExportMetadata.from_text({each.key: each.value for each in read.metadata_props}, "a.onnx") == metadata
    assert not any(each.data_location for each in read.graph.initializer)


def test_a_static_file_computes_what_torch_does(model, static):
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images)[0].numpy()
    (found,) = onnx_session(static)(images)
    assert apart(found, expected) < 5e-5


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 32, 32), (2, 160, 64)])
def test_a_dynamic_file_computes_it_at_any_size_and_batch(model, dynamic, shape):
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images)[0].numpy()
    (found,) = onnx_session(dynamic)(images)
    assert apart(found, expected) < 5e-5


def test_the_graph_is_fused(static, model):
    """Two operators per SiLU; no batch norm; levels are joined before they are decoded."""
    counts = operators(static)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    activations = sum(isinstance(module, torch.nn.SiLU) for module in model.modules())
    assert counts["Conv"] == convolutions and "BatchNormalization" not in counts
    assert counts["Sigmoid"] == activations + 1 and counts["Mul"] == activations + 3


def test_a_simplified_graph_computes_the_same(static):
    pytest.importorskip("onnxslim", reason="--simplify shortens graphs with onnxslim")
    images = torch.rand(1, 3, 64, 96)
    slim = simplified(static)
    assert sum(operators(slim).values()) <= sum(operators(static).values())
    assert apart(onnx_session(slim)(images)[0], onnx_session(static)(images)[0]) < 5e-5


def test_operators_within_branches_are_counted():
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    branch = onnx.helper.make_graph(nodes, "branch", [], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    choice = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([choice], "main", [], []))
    assert operators(model) == {"If": 1, "Relu": 2}


def test_what_the_exporter_cannot_convert_is_one_line():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    from utils.errors import ModelError

    with pytest.raises(ModelError, match=r"^ONNX: torch's exporter cannot convert this network: ") as caught:
        export_onnx(Branching(), torch.rand(1, 3, 8, 8), OnnxOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [12, 17, 24])
def test_other_operator_sets_are_refused(opset):
    with pytest.raises(ConfigError, match=f"--opset {opset}: expected 18 to 23"):
        check_opset(opset)
