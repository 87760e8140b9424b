"""Exported files by their suffix: which program runs a file (`open_runtime`), and which file a name means."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.errors import CheckpointError, ConfigError, cut, nearest
from utils.files import ROOT, is_dir, is_file
from utils.runtimes.protocol import Runtime


@dataclass(frozen=True)
class _Format:
    """A format: whether it is a folder, and what opens it; None if no program here does, and then why."""

    is_folder: bool
    open: Callable[[Path, torch.device], Runtime] | None = None
    reason: str = ""


def _onnx(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.onnx_runtime import OnnxRuntime

    return OnnxRuntime(path, device)


def _openvino(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.openvino_runtime import OpenVinoRuntime

    return OpenVinoRuntime(path, device)


def _torchscript(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.torchscript import TorchScriptRuntime

    return TorchScriptRuntime(path, device)


def _engine(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(path, device)


def _ncnn(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.ncnn_runtime import NcnnRuntime

    return NcnnRuntime(path, device)


def _tflite(path: Path, device: torch.device) -> Runtime:
    from utils.runtimes.tflite import TfLiteRuntime

    return TfLiteRuntime(path, device)


_APPLE = "Core ML files are run by Apple's systems alone"
_TENSORFLOW = "TensorFlow's own formats are not run here"
_FORMATS = {
    ".onnx": _Format(False, _onnx),
    "_openvino_model": _Format(True, _openvino),
    ".xml": _Format(False, _openvino),
    ".torchscript": _Format(False, _torchscript),
    ".engine": _Format(False, _engine),
    "_ncnn_model": _Format(True, _ncnn),
    ".tflite": _Format(False, _tflite),
    ".mlpackage": _Format(True, reason=_APPLE),
    ".mlmodel": _Format(False, reason=_APPLE),
    "_saved_model": _Format(True, reason=_TENSORFLOW),
    "_web_model": _Format(True, reason=_TENSORFLOW),
    ".pb": _Format(False, reason=_TENSORFLOW),
}
RUNTIME_SUFFIXES = tuple(suffix for suffix, each in _FORMATS.items() if each.open)


def is_exported(name: Path | str) -> bool:
    """Return whether a name is that of an exported file, by its suffix alone; a checkpoint's is not."""
    return _suffix_of(name) in _FORMATS


def is_runnable(name: Path | str) -> bool:
    """Return whether files with a name's suffix are run here."""
    return _suffix_of(name) in RUNTIME_SUFFIXES


def open_runtime(path: Path | str, dnn: bool = False, device: torch.device | str = "cpu") -> Runtime:
    """Return an exported file opened by the program that runs its format.

    Args:
        path: The file or folder; also one in the project's folder.
        dnn: Let OpenCV run an .onnx file, in the place of ONNX Runtime.
        device: Where it computes, if the program can; else on the CPU.

    Returns:
        The runtime, whose metadata is read.

    Raises:
        CheckpointError: If there is no such file, or it is damaged.
        ConfigError: If a package is not installed, or no program runs such files.
    """
    suffix = _suffix_of(path)
    file = _FORMATS.get(suffix)
    if dnn and suffix != ".onnx":
        raise ConfigError(f"--dnn: OpenCV runs .onnx files, and {cut(path)} is none; leave --dnn away")
    if file is None:
        raise ConfigError(f"{cut(path)}: expected an exported file: {', '.join(RUNTIME_SUFFIXES)}")
    if file.open is None:
        raise ConfigError(f"{cut(path)}: {file.reason}; export another format, such as onnx")
    found = _found(Path(path), file.is_folder)
    if dnn:
        from utils.runtimes.opencv_dnn import OpenCvDnn

        return OpenCvDnn(found, torch.device(device))
    return file.open(found, torch.device(device))


def _suffix_of(name: Path | str) -> str:
    """The key of `_FORMATS` that a name ends with, else its suffix."""
    path = Path(name)
    return next((suffix for suffix in _FORMATS if path.name.lower().endswith(suffix)), path.suffix.lower())


def _found(path: Path, is_folder: bool) -> Path:
    is_there, is_other = (is_dir, is_file) if is_folder else (is_file, is_dir)
    for candidate in (path, ROOT / path):
        if is_there(candidate):
            return candidate
    if is_other(path):
        kinds = ("a file", "a folder") if is_folder else ("a folder", "a file")
        raise CheckpointError(f"{cut(path)}: {kinds[0]}; expected {kinds[1]}")
    beside = [each.name for each in path.parent.iterdir()] if is_dir(path.parent) else []
    raise CheckpointError(f"{cut(path)}: no such {'folder' if is_folder else 'file'}{nearest(path.name, beside)}")
