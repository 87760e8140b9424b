"""TensorRT: .engine files with their description in front, as export.py and YOLOv5 since v6.2 write them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import CheckpointError, ConfigError, cut
from utils.runtimes.foreign import read_metadata, texts_of_json
from utils.runtimes.onnx_runtime import image_shape, predictions_among
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, InputShape, Runtime, Thresholds, in_one_line

LENGTH_BYTES = 4  # little-endian, of the JSON text that follows
_LONGEST = 1 << 24


class TensorRtEngine(Runtime):
    """An .engine file in TensorRT, on the CUDA device that it was built on.

    Args:
        path: The file.
        device: The CUDA device.

    Raises:
        CheckpointError: If the file carries no description, or is not of this version of TensorRT and this GPU.
        ConfigError: Without a CUDA device, or if tensorrt is not installed.
    """

    def __init__(self, path: Path, device: torch.device):
        text, plan = split_engine(path)
        if device.type != "cuda":
            raise ConfigError(f"{cut(path)}: TensorRT runs on NVIDIA GPUs; name one with --device 0")
        tensorrt = required("tensorrt", "tensorrt", path, "tensorrt")
        self.path, self.title, self.place = path, f"TensorRT {tensorrt.__version__}", str(device)
        self._device = device
        with in_one_line(path, self.title), torch.cuda.device(device):
            self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))  # lives as long as its engine
            self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise RuntimeError("it was built by another version of TensorRT, or for another GPU")
            self._context: Any = self._engine.create_execution_context()
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            modes = {name: self._engine.get_tensor_mode(name) for name in names}
            inputs = [name for name in names if modes[name] == tensorrt.TensorIOMode.INPUT]
            self._outputs = [name for name in names if name not in inputs]
            self._input = inputs[0]
            declared = tuple(self._engine.get_tensor_shape(self._input))
            is_open = any(side < 0 for side in declared)
            limits = self._engine.get_tensor_profile_shape(self._input, 0) if is_open else (declared,) * 3
            types = {name: self._engine.get_tensor_dtype(name) for name in names}
            self._half = {name: types[name] == tensorrt.DataType.HALF for name in names}
        self._most = tuple(limits[2])
        self.shape: InputShape = image_shape([side if side > 0 else None for side in declared], path)
        self.metadata = read_metadata(texts_of_json(text, path), path, self.shape)
        self._wanted = predictions_among(self._outputs)

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        with (
            in_one_line(self.path, self.title, f"does not run on images {images.shape}"),
            torch.cuda.device(self._device),
        ):
            if any(side > most for side, most in zip(images.shape[2:], self._most[2:], strict=True)):
                raise RuntimeError(f"it was built for at most {self._most[2]}x{self._most[3]}")
            parts = np.split(images, range(self._most[0], len(images), self._most[0]))
            return np.concatenate([self._run(part) for part in parts])

    def _run(self, images: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(images).to(self._device, self._type(self._input)).contiguous()
        self._context.set_input_shape(self._input, tuple(given.shape))
        self._context.set_tensor_address(self._input, given.data_ptr())
        outputs = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs[name] = torch.empty(shape, dtype=self._type(name), device=self._device)
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream(self._device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine did not run")
        stream.synchronize()
        return outputs[self._wanted].float().cpu().numpy()

    def _type(self, name: str) -> torch.dtype:
        return torch.float16 if self._half[name] else torch.float32


def split_engine(path: Path) -> tuple[str, bytes]:
    """Return an engine file's description and its plan.

    Raises CheckpointError if there is no description, as in files of v6.1.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    text, plan = content[LENGTH_BYTES : LENGTH_BYTES + length], content[LENGTH_BYTES + length :]
    if not 0 < length < _LONGEST or not plan or not text.lstrip().startswith(b"{"):
        raise CheckpointError(
            f"{cut(path)}: carries no metadata in front of its engine, as files of v6.1 or damaged ones; export the "
            "checkpoint again with export.py"
        )
    return text.decode("utf-8", "replace"), plan
