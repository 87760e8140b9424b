"""ONNX Runtime: .onnx files, of ours and of YOLOv5's own export."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import CheckpointError, cut, shown
from utils.runtimes.foreign import read_metadata
from utils.runtimes.metadata import NMS_INPUTS, NMS_OUTPUTS, OUTPUT
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, InputShape, Runtime, Thresholds, in_one_line

SILENT = 4  # its log, which repeats on stderr what it raises
OUTPUT_NAMES = (OUTPUT, "output0")  # the latter in YOLOv5 v7.0


class OnnxRuntime(Runtime):
    """A .onnx file in ONNX Runtime, with as many threads as torch has.

    Args:
        path: The file.
        device: CUDA devices are used if this onnxruntime knows them; all else runs on the CPU.

    Raises:
        CheckpointError: If the file cannot be read, or is no detector.
        ConfigError: If onnxruntime is not installed.
    """

    def __init__(self, path: Path, device: torch.device):
        onnxruntime = required("onnxruntime", "onnxruntime", path)
        self._onnxruntime, self._device = onnxruntime, device
        self.path, self.title = path, f"ONNX Runtime {onnxruntime.__version__}"
        with in_one_line(path, self.title):
            self.session = self._session(onnxruntime, device)
            self._inputs = {each.name: each for each in self.session.get_inputs()}
            texts = self.session.get_modelmeta().custom_metadata_map
        self.place = "GPU" if self.session.get_providers()[0].startswith("CUDA") else "CPU"
        self.shape = image_shape(next((each.shape for each in self._inputs.values()), []), path)
        self.metadata = read_metadata(texts, path, self.shape)
        self._wanted = self._wanted_outputs()

    def node_events(self, images: np.ndarray, rounds: int) -> list[dict[str, Any]]:
        """Return what ONNX Runtime's profile says of several passes.

        Args:
            images: (B, 3, H, W) float32 in 0..1.
            rounds: Number of passes.

        Returns:
            Its events; those of the category "Node" have `dur`, microseconds.
        """
        plain = self.session
        with tempfile.TemporaryDirectory() as folder, in_one_line(self.path, self.title, "cannot be profiled"):
            self.session = self._session(self._onnxruntime, self._device, str(Path(folder) / "profile"))
            try:
                for _ in range(rounds):
                    self.run(images)
                return json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
            finally:
                self.session = plain

    def _session(self, onnxruntime: Any, device: torch.device, profile: str = "") -> Any:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = bool(profile)
        if profile:
            options.profile_file_prefix = profile
        options.log_severity_level = SILENT
        options.intra_op_num_threads = torch.get_num_threads()
        providers: list[object] = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            # TF32 keeps 10 bits of a product, and is not what float32 means here
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}))
        return onnxruntime.InferenceSession(str(self.path), options, providers=providers)

    def _wanted_outputs(self) -> list[str]:
        """The names of the outputs that are read; v6.1's files have the raw maps behind the decoded predictions."""
        names = [each.name for each in self.session.get_outputs()]
        if self.metadata.nms:
            lacking = [name for name in (*NMS_INPUTS, *NMS_OUTPUTS) if name not in (*self._inputs, *names)]
            if lacking:
                raise CheckpointError(f"{cut(self.path)}: is said to suppress boxes, but lacks {', '.join(lacking)}")
            return list(NMS_OUTPUTS)
        return [predictions_among(names)]

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Any:
        first = next(iter(self._inputs.values()))
        feeds: dict[str, np.ndarray] = {first.name: images.astype(self._type(first), copy=False)}
        if self.metadata.nms:
            for name, value in zip(NMS_INPUTS, (thresholds.conf, thresholds.iou), strict=True):
                feeds[name] = np.array(value, self._type(self._inputs[name]))
        with in_one_line(self.path, self.title, f"does not run on images {images.shape}"):
            outputs = self.session.run(self._wanted, feeds)
        return tuple(outputs) if self.metadata.nms else outputs[0]

    @staticmethod
    def _type(value: Any) -> type:
        return np.float16 if value.type == "tensor(float16)" else np.float32


def image_shape(sides: Sequence[int | str | None], path: Path) -> InputShape:
    """Return the images that a graph's first input declares.

    Args:
        sides: Batch, channels, height and width; text or None where any number will do.
        path: The file, for the message.

    Returns:
        The shape.

    Raises:
        CheckpointError: If these are no color images.
    """
    numbers = [side if isinstance(side, int) and side > 0 else None for side in sides]
    if len(numbers) != 4 or numbers[1] not in (3, None):
        raise CheckpointError(f"{cut(path)}: takes {shown(list(sides))}, not images (B, 3, H, W): no detector's file")
    if (numbers[2] is None) != (numbers[3] is None):
        raise CheckpointError(f"{cut(path)}: fixes one side of its images alone; export with --dynamic, or without")
    return InputShape(numbers[0], numbers[2], numbers[3])


def predictions_among(names: Sequence[str]) -> str:
    """Return the output that holds decoded predictions: v6.1's files have raw maps behind it."""
    return next((name for name in OUTPUT_NAMES if name in names), names[0])
