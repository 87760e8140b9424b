"""NMS within an ONNX file: the detections of utils.nms.non_max_suppression, at any thresholds."""

import numpy as np
import pytest
import torch
from exported_files import onnx_session

from utils.export.onnx_nms import NmsOptions, add_nms
from utils.nms import MAX_SIDE, non_max_suppression

onnx = pytest.importorskip("onnx", reason="NMS is added to ONNX graphs with onnx")


def crowded(images=3, count=200, nc=4, seed=0):
    """Predictions in clusters: many boxes overlap, some have odd sides, confidences have no ties."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(50, 590, (images, count // 10, 1, 2)) + rng.normal(0, 8, (images, count // 10, 10, 2))
    sides = rng.uniform(20, 120, (images, count, 2))
    sides[:, 0], sides[:, 1] = 1, MAX_SIDE + 1
    scores = rng.uniform(0, 1, (images, count, 1 + nc))
    rows = np.concatenate((centers.reshape(images, count, 2), sides, scores), 2)
    rows[-1, :, 4] = 0  # an image without detections
    return torch.from_numpy(rows.astype(np.float32))


def passing_on(shape):
    """A graph whose output is its input."""
    value = [onnx.helper.make_tensor_value_info(name, 1, list(shape)) for name in ("images", "output")]
    node = onnx.helper.make_node("Identity", ["images"], ["output"])
    graph = onnx.helper.make_graph([node], "passing on", value[:1], value[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def scalars(conf, iou):
    return {"conf": np.array(conf, np.float32), "iou": np.array(iou, np.float32)}


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("conf, iou", [(0.25, 0.45), (0.01, 0.6), (0.7, 0.2), (0.9999, 0.5)])
def test_detections_are_those_of_non_max_suppression(conf, iou, agnostic):
    rows = crowded()
    run = onnx_session(add_nms(passing_on(rows.shape), 4, NmsOptions(150, 150, agnostic)))
    boxes, scores, classes, counts = run(rows, **scalars(conf, iou))
    expected = non_max_suppression(rows, conf, iou, agnostic=agnostic, max_det=150)
    assert counts.tolist() == [len(each) for each in expected]
    assert conf > 0.9 or counts[0] > 5
    for index, other in enumerate(expected):
        count = counts[index]
        assert np.allclose(boxes[index, :count], other.xyxy, atol=1e-4)
        assert np.allclose(scores[index, :count], other.conf, atol=1e-6)
        assert classes[index, :count].tolist() == other.cls.tolist()
        assert not boxes[index, count:].any() and not scores[index, count:].any() and not classes[index, count:].any()


def test_only_the_most_confident_fit():
    rows = crowded()
    run = onnx_session(add_nms(passing_on(rows.shape), 4, NmsOptions(max_det=5, per_class=150)))
    _, scores, _, counts = run(rows, **scalars(0.1, 0.5))
    expected = non_max_suppression(rows, 0.1, 0.5, max_det=5)
    assert counts.tolist() == [5, 5, 0]
    assert np.allclose(scores[0], expected[0].conf)


def test_a_class_has_a_limit_of_its_own():
    rows = crowded()
    run = onnx_session(add_nms(passing_on(rows.shape), 4, NmsOptions(max_det=50, per_class=2)))
    _, scores, classes, counts = run(rows, **scalars(0.05, 0.5))
    assert counts.tolist() == [8, 8, 0]
    for class_id in range(4):
        every = non_max_suppression(rows, 0.05, 0.5, max_det=150)[0]
        kept = scores[0][:8][classes[0][:8] == class_id]
        assert np.allclose(sorted(kept)[::-1], every.conf[every.cls == class_id][:2])


def test_outputs_are_declared():
    model = add_nms(passing_on(("batch", "anchors", 9)), 4, NmsOptions(max_det=7))
    declared = {each.name: each.type.tensor_type.shape.dim for each in model.graph.output}
    shapes = {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in declared.items()}
    assert shapes == {"boxes": ["batch", 7, 4], "scores": ["batch", 7], "classes": ["batch", 7], "counts": ["batch"]}
    assert [each.name for each in model.graph.input] == ["images", "conf", "iou"]
