"""Operators that runtimes read wrongly without an error, or not at all: recognized in a graph, and warned of by name.

Each entry was found by running the file: `docs/export.md` says how.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Test = Callable[[Any, Any], bool]  # node, graph


@dataclass(frozen=True)
class Hazard:
    """What a runtime does with an operator.

    Attributes:
        runtime: Its name and the version that was tried.
        operator: The operator.
        effect: What happens.
        wrong: Whether it happens without an error.
        test: Whether a node of this operator is concerned, given the graph.
    """

    runtime: str
    operator: str
    effect: str
    wrong: bool
    test: Test

    def describe(self) -> str:
        """Return the hazard in one line."""
        does = "reads this file wrongly" if self.wrong else "does not run this file"
        return f"{self.runtime} {does}: {self.operator}: {self.effect}"


def _always(node: Any, graph: Any) -> bool:
    return True


def _is_cubic(node: Any, graph: Any) -> bool:
    return any(each.name == "mode" and each.s in (b"cubic", b"bicubic") for each in node.attribute)


def _is_antialiased(node: Any, graph: Any) -> bool:
    return any(each.name == "antialias" and each.i == 1 for each in node.attribute)


def _is_gate(node: Any, graph: Any) -> bool:
    return any(other.op_type == "Mul" and node.output[0] in other.input for other in graph.node)


HAZARDS = (
    Hazard("OpenCV 5.0", "HardSigmoid", "reads a gate of it as hard swish: wrong values", True, _is_gate),
    Hazard("OpenCV 5.0", "GridSample", "samples cubically in another way: wrong values", True, _is_cubic),
    Hazard("OpenCV 5.0", "Resize", "ignores anti-aliasing: wrong values", True, _is_antialiased),
    Hazard("OpenVINO 2026.4", "Resize", "ignores anti-aliasing: wrong values", True, _is_antialiased),
    Hazard("OpenCV 5.0", "Attention", "fills fully masked rows with the mean: wrong values there", True, _always),
    Hazard("OpenCV 5.0", "DeformConv", "does not read it", False, _always),
    Hazard("OpenVINO 2026.4", "DeformConv", "not read from ONNX; see --include openvino", False, _always),
)  # fmt: skip


def find_hazards(model: Any) -> list[Hazard]:
    """Return what runtimes are known to do wrong with the operators of an `onnx.ModelProto`, each hazard once."""
    found = []
    for hazard in HAZARDS:
        graphs = _graphs(model)
        if any(node.op_type == hazard.operator and hazard.test(node, graph) for graph in graphs for node in graph.node):
            found.append(hazard)
    return found


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph, its functions, and the graphs within nodes."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        pending += [each.g for node in graph.node for each in node.attribute if each.HasField("g")]
