"""TorchScript: .torchscript files, of ours and of YOLOv5's own export."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.runtimes.foreign import declared_shape, read_metadata, texts_of_json
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, Runtime, Thresholds, in_one_line

DESCRIPTION = "config.txt"


class TorchScriptRuntime(Runtime):
    """A .torchscript file in torch, on any of its devices.

    A traced network knows the shape of its example alone, unless its description says that it is dynamic.

    Args:
        path: The file.
        device: Where it computes.

    Raises:
        CheckpointError: If the file cannot be read, or carries no description.
    """

    def __init__(self, path: Path, device: torch.device):
        self.path, self.title = path, f"TorchScript of torch {torch.__version__.partition('+')[0]}"
        self.place, self._device = "CPU" if device.type == "cpu" else str(device), device
        extra = {DESCRIPTION: ""}
        with in_one_line(path, self.title), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to remove TorchScript one day
            self.module: Any = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
        text = extra[DESCRIPTION]
        texts = texts_of_json(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, path)
        self.metadata = read_metadata(texts, path)
        self.shape = declared_shape(self.metadata)

    @torch.no_grad()
    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        with in_one_line(self.path, self.title, f"does not run on images {images.shape}"):
            output = self.module(torch.from_numpy(images).to(self._device))
            return (output[0] if isinstance(output, tuple | list) else output).float().cpu().numpy()
