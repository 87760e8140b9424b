"""Small files of every runtime, made by the exporters themselves: what tests of the runtimes read."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.runtimes.metadata import FILE_NAME, INPUT, OUTPUT, ExportMetadata


class Decoded(nn.Module):
    """A detector whose output is the decoded predictions alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


def metadata_of(network: nn.Module, size: tuple[int, int], batch: int = 1, **more: object) -> ExportMetadata:
    return ExportMetadata(tuple(network.names), int(max(network.stride)), size, batch, variant="tiny", **more)


def images_of(size: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def onnx_file(network: nn.Module, path: Path, size: tuple[int, int], batch: int = 1, dynamic: bool = False) -> Path:
    """Write a network as ONNX, with our metadata."""
    import onnx

    axes = {0: "batch", 2: "height", 3: "width"}
    shapes = {"images": {axis: torch.export.Dim(name, min=1) for axis, name in axes.items()}} if dynamic else None
    example = images_of(size, 2 if dynamic else batch)  # one image would be taken for a fixed batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Decoded(network).eval(),
            (example,),
            str(path),
            dynamo=True,
            opset_version=20,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            verbose=False,
        )
    return with_metadata(path, metadata_of(network, size, batch, dynamic=dynamic).as_text(), onnx)


def with_metadata(path: Path, texts: dict[str, str], onnx) -> Path:
    """Give an ONNX file texts in the place of those that it has."""
    graph = onnx.load(path)
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, texts)
    onnx.save(graph, path)
    return path


def torchscript_file(network: nn.Module, path: Path, size: tuple[int, int], dynamic: bool = False) -> Path:
    texts = metadata_of(network, size, dynamic=dynamic).as_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Decoded(network).eval(), images_of(size), strict=False)
        torch.jit.save(traced, str(path), _extra_files={"config.txt": json.dumps(texts)})
    return path


def openvino_folder(network: nn.Module, folder: Path, size: tuple[int, int], dynamic: bool = False) -> Path:
    import openvino

    folder.mkdir()
    shape = [-1, 3, -1, -1] if dynamic else [1, 3, *size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(Decoded(network).eval(), example_input=images_of(size), input=[shape])
    openvino.save_model(graph, folder / f"{folder.name.removesuffix('_openvino_model')}.xml", compress_to_fp16=False)
    (folder / FILE_NAME).write_text(json.dumps(metadata_of(network, size, dynamic=dynamic).as_text()))
    return folder


def ncnn_folder(network: nn.Module, folder: Path, size: tuple[int, int]) -> Path:
    import pnnx

    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pnnx.export(
            Decoded(network).eval(),
            str(folder / "model.pt"),
            (images_of(size),),
            ncnnparam=str(folder / "model.ncnn.param"),
            ncnnbin=str(folder / "model.ncnn.bin"),
            fp16=False,
        )
    (folder / FILE_NAME).write_text(json.dumps(metadata_of(network, size).as_text()))
    return folder
