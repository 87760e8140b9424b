"""TFLite: .tflite files with their metadata in a .json beside them, in ai-edge-litert's interpreter."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.files import is_file
from utils.runtimes.foreign import declared_shape, read_metadata, texts_of_json
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, Runtime, Thresholds, in_one_line

_PACKAGES = ("ai_edge_litert", "tflite_runtime")  # either has the interpreter


class TfLiteRuntime(Runtime):
    """A .tflite file, on the CPU, with as many threads as torch has.

    Args:
        path: The file.
        device: Not read.

    Raises:
        CheckpointError: If the file cannot be read, or the .json with its metadata is not beside it.
        ConfigError: If no interpreter is installed.
    """

    def __init__(self, path: Path, device: torch.device):
        package = next((each for each in _PACKAGES if find_spec(each)), _PACKAGES[0])
        name = package.replace("_", "-")
        module = required(f"{package}.interpreter", name, path, name)
        self.path, self.title, self.place = path, f"TFLite of {name}", "CPU"
        beside = path.with_suffix(".json")
        text = beside.read_text(encoding="utf-8", errors="replace") if is_file(beside) else ""
        self.metadata = read_metadata(texts_of_json(text, beside), path)
        self.shape = declared_shape(self.metadata)
        with in_one_line(path, self.title):
            self._interpreter: Any = module.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        with in_one_line(self.path, self.title, f"does not run on images {images.shape}"):
            self._interpreter.set_tensor(self._input, images)
            self._interpreter.invoke()
            return self._interpreter.get_tensor(self._output)
