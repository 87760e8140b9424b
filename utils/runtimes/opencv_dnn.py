"""`--dnn`: OpenCV's engine for .onnx files. Their metadata, which OpenCV does not give, is read by the onnx package."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import ConfigError, cut
from utils.log import LOGGER
from utils.runtimes.foreign import read_metadata
from utils.runtimes.hazards import find_hazards
from utils.runtimes.onnx_runtime import image_shape, predictions_among
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, Runtime, Thresholds, in_one_line


class OpenCvDnn(Runtime):
    """An .onnx file in OpenCV, on the CPU, with OpenCV's own number of threads.

    Args:
        path: The file.
        device: Not read.

    Raises:
        CheckpointError: If the file cannot be read, or is no detector.
        ConfigError: If onnx is not installed, or the file suppresses boxes itself.
    """

    def __init__(self, path: Path, device: torch.device):
        onnx, cv2 = required("onnx", "onnx", path), required("cv2", "opencv-python", path)
        self.path, self.title, self.place = path, f"OpenCV {cv2.__version__}", "CPU"
        with in_one_line(path, f"onnx {onnx.__version__}"):
            graph = onnx.load(path, load_external_data=False)
        weights = {each.name for each in graph.graph.initializer}
        images = next((each for each in graph.graph.input if each.name not in weights), None)
        sides = [side.dim_value or side.dim_param for side in images.type.tensor_type.shape.dim] if images else []
        self.shape = image_shape(sides, path)
        self.metadata = read_metadata({each.key: each.value for each in graph.metadata_props}, path, self.shape)
        if self.metadata.nms:
            raise ConfigError(
                f"--dnn: OpenCV does not run files that suppress boxes, such as {cut(path)}; leave it away"
            )
        for hazard in find_hazards(graph):
            if hazard.wrong and hazard.runtime.startswith("OpenCV"):
                LOGGER.warning(f"WARNING: {cut(path)}: {hazard.describe()}")
        self._wanted = predictions_among([each.name for each in graph.graph.output])
        self._log = cv2.utils.logging
        with in_one_line(path, self.title), self._silent():
            self.net: Any = cv2.dnn.readNetFromONNX(str(path))

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        with in_one_line(self.path, self.title, f"does not run on images {images.shape}"), self._silent():
            self.net.setInput(images)
            return self.net.forward(self._wanted)

    @contextlib.contextmanager
    def _silent(self) -> Iterator[None]:
        """Keep OpenCV from writing what it raises to stderr too."""
        before = self._log.getLogLevel()
        self._log.setLogLevel(self._log.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            self._log.setLogLevel(before)
