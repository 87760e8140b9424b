"""`DetectMultiBackend`: v6.1's one class for a checkpoint or an exported file, over `load_network`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.inference import largest_stride
from utils.checkpoint import load_models
from utils.device import select_device
from utils.engine.evaluator import usable_half
from utils.engine.prediction_views import FeatureMaps
from utils.engine.predictor import class_names
from utils.errors import ConfigError
from utils.runtimes.network import load_network, runtime_networks
from utils.runtimes.opening import is_exported

_SUFFIXES = {
    "jit": (".torchscript",),
    "onnx": (".onnx",),
    "xml": (".xml", "_openvino_model"),
    "engine": (".engine",),
    "tflite": (".tflite",),
    "ncnn": ("_ncnn_model",),
}


class DetectMultiBackend(nn.Module):
    """A checkpoint or an exported file, called as v6.1's scripts call it.

    Args:
        weights: Checkpoint or exported file; several checkpoints make an ensemble.
        device: Where it computes: a torch.device, or v6.1's --device text; None is the CPU.
        dnn: Let OpenCV run .onnx files.
        data: Taken and not read: the class names are those of the weights.
        fp16: Compute in half precision (checkpoints on CUDA).
        fuse: Fold batch norms into convolutions.
        download: Fetch published weights that are not on disk.

    Attributes:
        model: The network: a `Model`, an `Ensemble`, or a `RuntimeNetwork`.
        names: Class names by class id.
        stride: Pixels of which the sides of images are multiples.
        pt: Whether it is a checkpoint; jit, onnx, xml, engine, tflite and ncnn say so of exported files.
        fp16: Whether it computes in half precision.
        device: Where it computes.

    Raises:
        CheckpointError: If a file cannot be found or read.
        ConfigError: If a runtime or a device is not there.

    Example:
        >>> model = DetectMultiBackend("best.pt")  # doctest: +SKIP
        >>> model(torch.zeros(1, 3, 640, 640)).shape  # doctest: +SKIP
        torch.Size([1, 25200, 85])
    """

    jit: bool
    onnx: bool
    xml: bool
    engine: bool
    tflite: bool
    ncnn: bool

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device | str | None = None,
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        download: bool = False,
    ):
        super().__init__()
        paths = [weights] if isinstance(weights, (str, Path)) else list(weights)
        target = device if isinstance(device, torch.device) else select_device("cpu" if device is None else device)
        if any(map(is_exported, paths)) or dnn or fuse:
            network = load_network(paths, target, download, dnn)
        else:
            network = load_models(paths, target, fuse=False, download=download)
        self.pt = not runtime_networks(network)
        self.fp16 = self.pt and usable_half(fp16, target)
        self.model: Any = network.half() if self.fp16 else network  # v6.1's users reach into it
        self.device = target
        self.stride = largest_stride(network)
        self.names = list(class_names(network))
        for name, suffixes in _SUFFIXES.items():
            setattr(self, name, str(paths[0]).lower().rstrip("/\\").endswith(suffixes))

    def forward(
        self, im: Tensor, augment: bool = False, visualize: bool | str | Path = False, val: bool = False
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the predictions for a batch.

        Args:
            im: (B, 3, H, W) of values 0..1; H and W are multiples of `stride`.
            augment: Test-time augmentation (checkpoints).
            visualize: Folder for images of the feature maps; False writes none.
            val: Return the raw maps too, which exported files do not have.

        Returns:
            Decoded predictions (B, N, 5+nc) with xywh in pixels; with `val` a pair of them and the raw maps.
        """
        if self.fp16 and im.dtype != torch.float16:
            im = im.half()
        maps = FeatureMaps(self._folder(visualize), self.model) if visualize else None
        try:
            decoded, raw = self.model(im, augment=augment)
        finally:
            if maps is not None:
                maps.close()
        return (decoded, raw if raw is not None else []) if val else decoded

    def _folder(self, visualize: bool | str | Path) -> Path:
        if not self.pt:
            raise ConfigError("visualize: an exported file has no layers to look into; give a checkpoint (.pt)")
        if isinstance(visualize, bool):
            raise ConfigError("visualize=True: give the folder that the images of the feature maps are written to")
        return Path(visualize)

    def from_numpy(self, x: np.ndarray | Tensor) -> Tensor:
        """Return an array as a tensor on the device; a tensor as it is."""
        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640), half: bool = False) -> None:
        """Run once on zeros, so that the first image does not wait for a device that starts; nothing on the CPU.

        Args:
            imgsz: (B, 3, H, W).
            half: Taken as v6.1 has it; the precision is that of the network.
        """
        if self.device.type != "cpu":
            with torch.no_grad():
                self.forward(torch.zeros(*imgsz, device=self.device, dtype=torch.half if self.fp16 else torch.float))
