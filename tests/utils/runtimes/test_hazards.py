"""Hazards: operators that runtimes read wrongly are recognized, and others are not."""

import pytest

from utils.runtimes.hazards import HAZARDS, find_hazards

onnx = pytest.importorskip("onnx", reason="hazards are found in ONNX graphs")


def graph_of(*nodes):
    made = [
        onnx.helper.make_node(name, inputs.split(), outputs.split(), **more) for name, inputs, outputs, more in nodes
    ]
    return onnx.helper.make_model(onnx.helper.make_graph(made, "g", [], []))


def names(model):
    return [(hazard.runtime, hazard.operator) for hazard in find_hazards(model)]


def test_a_hard_sigmoid_is_one_if_it_is_a_gate():
    gate = graph_of(("HardSigmoid", "c", "g", {}), ("Mul", "x g", "y", {}))
    assert names(gate) == [("OpenCV 5.0", "HardSigmoid")]
    assert find_hazards(gate)[0].wrong
    assert names(graph_of(("HardSigmoid", "c", "g", {}), ("Add", "x g", "y", {}))) == []


def test_resizing_and_sampling_are_ones_in_some_modes():
    assert names(graph_of(("Resize", "x", "y", {"mode": "linear"}))) == []
    assert names(graph_of(("Resize", "x", "y", {"antialias": 1}))) == [
        ("OpenCV 5.0", "Resize"),
        ("OpenVINO 2026.4", "Resize"),
    ]
    assert names(graph_of(("GridSample", "x g", "y", {"mode": "linear"}))) == []
    assert names(graph_of(("GridSample", "x g", "y", {"mode": "cubic"}))) == [("OpenCV 5.0", "GridSample")]


def test_what_is_not_read_at_all_is_no_wrong_reading():
    found = find_hazards(graph_of(("DeformConv", "x w o", "y", {})))
    assert [hazard.wrong for hazard in found] == [False, False]


def test_operators_within_branches_are_looked_at():
    inner = [onnx.helper.make_node("Attention", ["q", "k", "v"], ["y"])]
    branch = onnx.helper.make_graph(inner, "b", [], [])
    choice = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([choice], "g", [], []))
    assert names(model) == [("OpenCV 5.0", "Attention")]


def test_every_hazard_names_a_version():
    assert all(any(letter.isdigit() for letter in hazard.runtime) for hazard in HAZARDS)


def test_opencv_is_warned_of_when_it_is_asked_for(tmp_path, caplog):
    """The graph is a gate that OpenCV reads as hard swish; it has the metadata of an exported file."""
    import torch

    from utils.runtimes.metadata import ExportMetadata
    from utils.runtimes.opencv_dnn import OpenCvDnn

    model = graph_of(("HardSigmoid", "images", "gate", {}), ("Mul", "images gate", "output", {}))
    for values, name in ((model.graph.input, "images"), (model.graph.output, "output")):
        values.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32]))
    onnx.helper.set_model_props(model, ExportMetadata(("cat",), 32, (32, 32)).as_text())
    onnx.save(model, tmp_path / "gate.onnx")
    OpenCvDnn(tmp_path / "gate.onnx", torch.device("cpu"))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "gate.onnx: OpenCV 5.0 reads this file wrongly: HardSigmoid" in warning
