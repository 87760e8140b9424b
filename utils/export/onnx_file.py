"""ONNX files: written by torch's exporter, one file with its weights, named axes and metadata."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import ConfigError, ModelError
from utils.export.exporters import converting, quiet_exporters
from utils.runtimes.metadata import INPUT, OUTPUT
from utils.runtimes.packages import require

OPSET = 20
LEAST_OPSET, LARGEST_OPSET = 18, 23  # what torch's exporter converts to
_LARGEST_FILE = 2**31 - 2**20  # bytes: protobuf's limit, less what the graph itself takes


@dataclass(frozen=True)
class OnnxOptions:
    """How an ONNX file is written.

    Attributes:
        opset: Version of the operator set.
        dynamic: Whether batch, height and width are left open.
        simplify: Whether onnxslim shortens the graph.
        stride: Pixels of which the input's sides are multiples.
    """

    opset: int = OPSET
    dynamic: bool = False
    simplify: bool = False
    stride: int = 32


def export_onnx(network: nn.Module, images: Tensor, options: OnnxOptions = OnnxOptions(), outputs: int = 1) -> Any:
    """Return a network as an `onnx.ModelProto` with input `images` and output `output`.

    Args:
        network: Gives one tensor, or a tuple of them.
        images: (B, 3, H, W) example; with `options.dynamic` its sides and its batch are no constants of the graph.
        options: How it is written.
        outputs: Number of tensors that the network gives; those behind the first are called tap0, tap1, ...

    Returns:
        The model, its weights inside.

    Raises:
        ConfigError: If onnx or onnxscript is not installed.
        ModelError: If the exporter cannot convert the network.
    """
    require("onnx", "onnxscript")
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _LARGEST_FILE:
        raise ModelError(f"ONNX: {size / 1e9:.1f} GB of weights, and one file holds 2 GB; export with --half")
    names = [OUTPUT, *(f"tap{index}" for index in range(outputs - 1))]
    with converting("ONNX", "torch's exporter"):
        program = torch.onnx.export(
            network,
            (_open_example(images, options.stride) if options.dynamic else images,),
            dynamo=True,
            opset_version=options.opset,
            input_names=[INPUT],
            output_names=names,
            dynamic_shapes=_open_axes() if options.dynamic else None,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ModelError("ONNX: torch's exporter gave no model")
    model = program.model_proto
    if options.dynamic:
        _name_axes(model)
    return simplified(model) if options.simplify else model


def write_onnx(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model with its metadata.

    Args:
        model: The `onnx.ModelProto`; it gets the metadata.
        path: The file.
        metadata: Text by key.
    """
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    path.write_bytes(model.SerializeToString())


def operators(model: Any) -> Counter[str]:
    """Return how many nodes of each operator a model has, those of its functions and inner graphs included."""
    counts: Counter[str] = Counter()
    pending = [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            counts[node.op_type] += 1
            pending += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return counts


def simplified(model: Any) -> Any:
    """Return a model as onnxslim shortens it. Raises ConfigError if onnxslim is not installed."""
    require("onnxslim")
    import onnxslim

    with quiet_exporters():
        slim = onnxslim.slim(model)
    if slim is None:
        raise ModelError("--simplify: onnxslim gave no model; leave --simplify out")
    return slim


def check_opset(opset: int) -> None:
    """Raise ConfigError if torch's exporter does not write this operator set."""
    if not LEAST_OPSET <= opset <= LARGEST_OPSET:
        raise ConfigError(
            f"--opset {opset}: expected {LEAST_OPSET} to {LARGEST_OPSET}; {OPSET} is the default and the one tested"
        )


def _open_example(images: Tensor, stride: int) -> Tensor:
    """Return an example of two images whose sides differ: sizes of one, or equal ones, might become constants."""
    pair = images[:1].expand(2, -1, -1, -1)
    height, width = images.shape[2:]
    return torch.cat((pair, pair[..., :stride]), 3) if height == width else pair.contiguous()


def _open_axes() -> tuple[dict[int, Any]]:
    return ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)


def _name_axes(model: Any) -> None:
    """Give the open axes of input and output their names instead of the exporter's symbols."""
    named = {}
    shape = model.graph.input[0].type.tensor_type.shape
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        named[shape.dim[axis].dim_param] = name
        shape.dim[axis].dim_param = name
    for output in model.graph.output:
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                fallback = "anchors" if output.name == OUTPUT and axis == 1 else dim.dim_param
                dim.dim_param = named.get(dim.dim_param, fallback)
    for info in model.graph.value_info:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_param = named[dim.dim_param]
