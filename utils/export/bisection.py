"""The first layer whose output differs between torch and a file: the network is exported once more with taps."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.export.file_formats import ExportFormat, ExportJob
from utils.export.graph_network import GraphNetwork

_RELATIVE = 1e-3  # of a map's largest value: a larger difference is no rounding
TAPPABLE = ("ONNX", "TorchScript", "OpenVINO")


def first_difference(
    export_format: ExportFormat, job: ExportJob, model: nn.Module, images: Tensor, inside: bool = False
) -> str:
    """Return the first layer whose output differs from torch's, in words.

    Args:
        export_format: The format that was written.
        job: What was written.
        model: The network it was made of.
        images: (B, 3, H, W) on which it differs.
        inside: Whether to look for the first module within that layer too.

    Returns:
        The layer, its kind and the difference as a share of its largest value; or why none was found.
    """
    if export_format.title not in TAPPABLE:
        return f"layers of {export_format.title} files cannot be compared one by one; export onnx to find the layer"
    layers = dict(job.network.networks[0].named_modules())
    rows = [name for name in layers if name.count(".") == 1][:-1]  # model.0, model.1, ...; the last is the head
    found = _first_of(export_format, job, model, images, rows)
    if found is None:
        return "no layer of the body differs: the decoding of the head does, or only taps away from it"
    if isinstance(found, str):
        return found
    name, share = found
    kind = type(layers[name]).__name__
    text = f"the first layer that differs is {name.removeprefix('model.')} ({kind}), by {share:.2g} of its range"
    if not inside:
        return f"{text}; --debug-parity looks inside"
    inner = [each for each in layers if each.startswith(f"{name}.")]
    found = _first_of(export_format, job, model, images, inner)
    if found is None or isinstance(found, str):
        return f"{text}; no module within it differs: its own operators do"
    return f"{text}; within it {found[0]} ({type(layers[found[0]]).__name__}), by {found[1]:.2g}"


def _first_of(
    export_format: ExportFormat, job: ExportJob, model: nn.Module, images: Tensor, names: Sequence[str]
) -> tuple[str, float] | str | None:
    """Return the first of the named modules, in the order of the pass, whose output differs, and by how much."""
    network = job.network
    ordered = _in_order(network, names, images)
    shape = None if job.metadata.dynamic else job.metadata.imgsz
    tapped = GraphNetwork(model, shape, network.dtype == torch.half, ordered)
    config = replace(job.config, nms=False, int8="")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = export_format.path(Path(folder) / "tapped")
        try:
            export_format.write(replace(job, network=tapped, config=config), path)
            found = run_all_outputs(export_format, path, images.numpy())
        except UserError as error:
            return f"with its layers as outputs the network is not converted: {error}"
        expected = [value.cpu().numpy() for value in tapped(images.to(tapped.device))]
    for name, one, other in zip(ordered, found[1:], expected[1:], strict=False):
        if one.shape != other.shape:
            return name, np.inf
        share = np.abs(one - other).max() / max(np.abs(other).max(), np.finfo(np.float32).tiny)
        if not share <= _RELATIVE:
            return name, float(share)
    return None


def _in_order(network: GraphNetwork, names: Sequence[str], images: Tensor) -> list[str]:
    """Return the names in the order in which a pass runs the modules; those that do not run or give no map drop out."""
    order: list[str] = []
    hooks = []

    def note(name: str) -> Any:
        def after(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and name not in order:
                order.append(name)

        return after

    for name in names:
        hooks.append(network.networks[0].get_submodule(name).register_forward_hook(note(name)))
    with torch.no_grad():
        network(images.to(network.device))
    for hook in hooks:
        hook.remove()
    return order


def run_all_outputs(export_format: ExportFormat, path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Return all outputs of a file with taps.

    Args:
        export_format: The format.
        path: The file or folder.
        images: (B, 3, H, W) float32 in 0..1.

    Returns:
        The predictions, then the taps.
    """
    if export_format.title == "ONNX":
        import onnxruntime

        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})
    if export_format.title == "TorchScript":
        with torch.no_grad():
            return [value.numpy() for value in torch.jit.load(str(path))(torch.from_numpy(images))]
    import openvino

    compiled = openvino.Core().compile_model(next(path.glob("*.xml")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(images)
    return [results[output] for output in compiled.outputs]
