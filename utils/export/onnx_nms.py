"""Non-maximum suppression at the end of an ONNX graph, in standard operators: what detect.py does, within the file."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.nms import MAX_SIDE, MIN_SIDE
from utils.runtimes.metadata import NMS_INPUTS, NMS_OUTPUTS, OUTPUT


@dataclass(frozen=True)
class NmsOptions:
    """How boxes are suppressed within a file; the thresholds are inputs of the file.

    Attributes:
        max_det: Rows per image of the outputs.
        per_class: Most boxes of a class and image.
        agnostic: Whether boxes of different classes suppress each other.
    """

    max_det: int = 100
    per_class: int = 100
    agnostic: bool = False


def add_nms(model: Any, nc: int, options: NmsOptions = NmsOptions()) -> Any:
    """Return a model whose outputs are those of `utils.nms.non_max_suppression` with one label per box.

    New inputs: conf and iou, scalars in 0..1. Outputs: boxes (B, K, 4) xyxy pixels, scores (B, K), classes (B, K) int64
    and counts (B,) int64, by falling score; rows beyond an image's count are 0.

    Args:
        model: An `onnx.ModelProto` with output (B, N, 5+nc); it is changed.
        nc: Number of classes.
        options: How boxes are suppressed.

    Returns:
        `model`, checked by onnx.
    """
    import onnx

    graph = _GraphEnd(model.graph)
    xywh, objectness, classes = graph.split(OUTPUT, (4, 1, nc), axis=2)
    boxes = _corners(graph, xywh)
    best, class_ids = _best_class(graph, objectness, classes)
    best = _without_odd_sides(graph, xywh, best)
    chosen, confidence = _suppress(graph, boxes, best, class_ids, nc, options)
    _collect(graph, boxes, class_ids, chosen, confidence, options.max_det)
    _declare(model, options.max_det)
    onnx.checker.check_model(model)
    return model


class _GraphEnd:
    """Appends nodes to a graph; every method returns the names of what it appended."""

    def __init__(self, graph: Any):
        from onnx import helper, numpy_helper

        self.graph, self.helper, self.numpy_helper = graph, helper, numpy_helper
        self.count = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output."""
        return self.several(operator, inputs, 1, **attributes)[0]

    def several(self, operator: str, inputs: tuple[str, ...], outputs: int, **attributes: Any) -> list[str]:
        self.count += 1
        names = [f"nms_{self.count}_{index}" for index in range(outputs)]
        self.graph.node.append(
            self.helper.make_node(operator, list(inputs), names, name=f"nms_{self.count}", **attributes)
        )
        return names

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        self.count += 1
        name = f"nms_constant_{self.count}"
        self.graph.initializer.append(self.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def split(self, value: str, sizes: tuple[int, ...], axis: int) -> list[str]:
        return self.several("Split", (value, self.constant(sizes)), len(sizes), axis=axis)


def _corners(graph: _GraphEnd, xywh: str) -> str:
    """(B, N, 4) xywh -> xyxy."""
    center, sides = graph.split(xywh, (2, 2), axis=2)
    half = graph.add("Div", sides, graph.constant(2, np.float32))
    return graph.add("Concat", graph.add("Sub", center, half), graph.add("Add", center, half), axis=2)


def _best_class(graph: _GraphEnd, objectness: str, classes: str) -> tuple[str, str]:
    """Return the confidence (B, N) of each box's best class, objectness times class score, and its id (B, N)."""
    scores = graph.add("Mul", classes, objectness)
    best = graph.add("ReduceMax", scores, graph.constant([2]), keepdims=0)
    return best, graph.add("ArgMax", scores, axis=2, keepdims=0)


def _without_odd_sides(graph: _GraphEnd, xywh: str, best: str) -> str:
    """Set the confidence of boxes with a side outside MIN_SIDE..MAX_SIDE to 0."""
    _, sides = graph.split(xywh, (2, 2), axis=2)
    shortest = graph.add("ReduceMin", sides, graph.constant([2]), keepdims=0)
    longest = graph.add("ReduceMax", sides, graph.constant([2]), keepdims=0)
    fits = graph.add(
        "And",
        graph.add("GreaterOrEqual", shortest, graph.constant(MIN_SIDE, np.float32)),
        graph.add("LessOrEqual", longest, graph.constant(MAX_SIDE, np.float32)),
    )
    return graph.add("Where", fits, best, graph.constant(0, np.float32))


def _suppress(graph: _GraphEnd, boxes: str, best: str, class_ids: str, nc: int, options: NmsOptions) -> tuple[str, str]:
    """Return the kept boxes, (M, 2) image and box index, and their confidences (M,)."""
    conf, iou = NMS_INPUTS
    one = graph.constant([1])
    if options.agnostic or nc == 1:
        scores = graph.add("Unsqueeze", best, one)  # (B, 1, N)
    else:  # (B, nc, N): a box enters the suppression of its best class alone
        ids = graph.constant(np.arange(nc)[None, :, None])
        is_best = graph.add("Equal", graph.add("Unsqueeze", class_ids, one), ids)
        scores = graph.add("Where", is_best, graph.add("Unsqueeze", best, one), graph.constant(0, np.float32))
    limit = options.max_det if options.agnostic else options.per_class
    selected = graph.add("NonMaxSuppression", boxes, scores, graph.constant([limit]), iou, conf)  # (M, 3)
    chosen = graph.add("Gather", selected, graph.constant([0, 2]), axis=1)
    return chosen, graph.add("GatherND", best, chosen)


def _collect(graph: _GraphEnd, boxes: str, class_ids: str, chosen: str, confidence: str, max_det: int) -> None:
    """Append the outputs: the `max_det` most confident of each image's kept boxes.

    -1 stands for "of another image", and for the rows that fill up: a confidence is above 0.
    """
    zero, nothing = graph.constant([0]), graph.constant(-1, np.float32)
    B = graph.add("Shape", boxes, start=0, end=1)
    images = graph.add("Range", graph.constant(0), graph.add("Squeeze", B, zero), graph.constant(1))
    owner = graph.add("Gather", chosen, graph.constant(0), axis=1)  # (M,)
    is_own = graph.add("Equal", graph.add("Unsqueeze", images, graph.constant([1])), owner)  # (B, M)
    own = graph.add("Where", is_own, confidence, nothing)
    filled = graph.add("Pad", own, graph.constant([0, 0, 0, max_det]), nothing)  # (B, M + K)
    scores, places = graph.several("TopK", (filled, graph.constant([max_det])), 2, axis=1)
    there = graph.add("Greater", scores, graph.constant(0, np.float32))  # (B, K)
    # what fills up gets index 0 of its own image, and is set to 0 below
    index = graph.add("Gather", chosen, graph.constant(1), axis=1)
    index = graph.add("Pad", index, graph.constant([0, max_det]), graph.constant(0))
    index = graph.add("Gather", index, places, axis=0)  # (B, K)
    pair = graph.add("Unsqueeze", index, graph.constant([2]))
    found = graph.add("GatherND", boxes, pair, batch_dims=1)
    ids = graph.add("GatherND", class_ids, pair, batch_dims=1)
    wide = graph.add("Unsqueeze", there, graph.constant([2]))
    results = (
        graph.add("Where", wide, found, graph.constant(0, np.float32)),
        graph.add("Where", there, scores, graph.constant(0, np.float32)),
        graph.add("Where", there, ids, graph.constant(0)),
        graph.add("ReduceSum", graph.add("Cast", there, to=7), graph.constant([1]), keepdims=0),
    )
    for result, name in zip(results, NMS_OUTPUTS, strict=True):
        graph.graph.node.append(graph.helper.make_node("Identity", [result], [name], name=f"nms_{name}"))


def _declare(model: Any, max_det: int) -> None:
    """Replace the declared outputs, and declare the thresholds as inputs."""
    from onnx import TensorProto, helper

    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    B = batch.dim_param or batch.dim_value
    shapes = {"boxes": [B, max_det, 4], "scores": [B, max_det], "classes": [B, max_det], "counts": [B]}
    del model.graph.output[:]
    for name in NMS_OUTPUTS:
        kind = TensorProto.INT64 if name in ("classes", "counts") else TensorProto.FLOAT
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shapes[name]))
    for name in NMS_INPUTS:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
