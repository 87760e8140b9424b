"""OpenVINO: folders *_openvino_model, or the .xml in one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import CheckpointError, ConfigError, cut
from utils.files import is_dir
from utils.runtimes.foreign import folder_texts, read_metadata
from utils.runtimes.onnx_runtime import image_shape
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, Runtime, Thresholds, in_one_line


class OpenVinoRuntime(Runtime):
    """A folder of OpenVINO, on the CPU, with as many threads as torch has.

    It computes in float32 also on CPUs that could do it in bfloat16, which would change what is found.

    Args:
        path: The folder, or the .xml in it.
        device: Not read.

    Raises:
        CheckpointError: If there is no .xml, several, or one that cannot be read or is no detector.
        ConfigError: If openvino is not installed.
    """

    def __init__(self, path: Path, device: torch.device):
        openvino = required("openvino", "openvino", path)
        self.path, self.place = path, "CPU"
        self.title = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        graph_file = _graph_file(path)
        with in_one_line(path, self.title):
            graph = openvino.Core().read_model(str(graph_file))
            sides = [side.get_length() if side.is_static else "any" for side in graph.input(0).partial_shape]
        self.shape = image_shape(sides, path)
        self.metadata = read_metadata(folder_texts(graph_file.parent), path, self.shape)
        if self.metadata.nms:
            raise ConfigError(f"{cut(path)}: suppresses boxes itself; only .onnx files that do are run here")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        with in_one_line(path, self.title):
            self.compiled: Any = openvino.Core().compile_model(graph, "CPU", settings)

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        with in_one_line(self.path, self.title, f"does not run on images {images.shape}"):
            return self.compiled([images])[0]


def _graph_file(path: Path) -> Path:
    if not is_dir(path):
        return path
    files = sorted(path.glob("*.xml"))
    if len(files) != 1:
        raise CheckpointError(
            f"{cut(path)}: holds {len(files) or 'no'} .xml file{'s' * (len(files) > 1)}; expected one, as export.py "
            "writes"
        )
    return files[0]
