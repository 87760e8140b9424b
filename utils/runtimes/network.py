"""An exported file in a network's place: `RuntimeNetwork`, and `load_network`, which reads what --weights names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.ensemble import Ensemble
from models.yolo import Model
from utils.calibration import OVERALL, stored_confidence
from utils.checkpoint import load_models
from utils.errors import CheckpointError, ConfigError, cut
from utils.log import LOGGER, warn_once
from utils.runtimes.opening import is_exported, open_runtime
from utils.runtimes.protocol import Runtime, Thresholds


class RuntimeNetwork(nn.Module):
    """An exported file that is called as a network in evaluation mode is.

    Its only parameter is empty and says that images are to stay on the CPU: runtimes take them from there.

    Args:
        runtime: The opened file.

    Attributes:
        runtime: The same.
        names: Names of the classes.
        nc: Number of classes.
        stride: (1,) pixels of which the sides of images are multiples.
        confidence: The calibrated confidence of its weights, None if there is none.
        thresholds: What the file is given if it suppresses boxes itself.
    """

    def __init__(self, runtime: Runtime):
        super().__init__()
        self.runtime = runtime
        self.names = list(runtime.metadata.names)
        self.nc = len(self.names)
        self.stride = torch.tensor([float(runtime.metadata.stride)])
        self.confidence = stored_confidence({OVERALL: runtime.metadata.confidence})
        self.thresholds = Thresholds()
        self.nothing = nn.Parameter(torch.zeros(0), requires_grad=False)

    @property
    def fixed_shape(self) -> tuple[int, int] | None:
        """The one (height, width) that the file takes, None if it takes several."""
        return self.runtime.shape.size

    def forward(self, images: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """Return the predictions of a batch, which is split or filled up if the file has a fixed batch.

        Args:
            images: (B, 3, H, W) of values 0..1.
            augment: Must be False.

        Returns:
            (decoded (B, N, 5+nc) with xywh in pixels, None). Of a file that suppresses boxes, N is what it kept at
            most, with the score as objectness and 1 for the class.

        Raises:
            ConfigError: With `augment`, or if the file takes another size.
            CheckpointError: If the runtime fails, or answers something else than predictions.
        """
        if augment:
            raise ConfigError(
                f"--augment: {cut(self.runtime.path)} holds the plain pass alone; give a checkpoint (.pt)"
            )
        size = (int(images.shape[2]), int(images.shape[3]))
        if self.fixed_shape not in (None, size):
            raise ConfigError(f"{takes(self)}, got {size[0]}x{size[1]}")
        array = np.ascontiguousarray(images.detach().float().cpu().numpy())
        rows = [self._rows(part)[:count] for part, count in self._parts(array)]
        return torch.from_numpy(np.concatenate(rows) if len(rows) > 1 else rows[0]).to(images.device), None

    def _parts(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yield batches as the file takes them, and how many of their images count."""
        batch = self.runtime.shape.batch or len(images)
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            count = len(part)
            if count < batch:
                part = np.concatenate((part, np.zeros((batch - count, *part.shape[1:]), part.dtype)))
            yield part, count

    def _rows(self, images: np.ndarray) -> np.ndarray:
        output = self.runtime.run(images, self.thresholds)
        rows = self._of_kept_boxes(*output) if self.runtime.metadata.nms else output
        if rows.ndim != 3 or len(rows) != len(images) or rows.shape[2] != 5 + self.nc:
            raise CheckpointError(
                f"{cut(self.runtime.path)}: its output is {rows.shape}; expected ({len(images)}, N, {5 + self.nc}): "
                f"boxes, objectness and {self.nc} classes, as export.py writes it"
            )
        return np.array(rows, np.float32, copy=None)

    def _of_kept_boxes(
        self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """(B, K, 5+nc) predictions that suppression leaves as they are."""
        count, most = scores.shape
        rows = np.zeros((count, most, 5 + self.nc), np.float32)
        rows[..., :2] = (boxes[..., :2] + boxes[..., 2:]) / 2
        rows[..., 2:4] = boxes[..., 2:] - boxes[..., :2]
        kept = np.arange(most) < np.asarray(counts).reshape(-1, 1)
        rows[..., 4] = np.where(kept, scores, 0)
        image, place = np.nonzero(kept)
        rows[image, place, 5 + classes[image, place].astype(np.int64).clip(0, self.nc - 1)] = 1
        return rows


def takes(network: RuntimeNetwork) -> str:
    """Return "x.onnx takes images of 640x640 alone" for messages."""
    height, width = network.fixed_shape or (0, 0)
    return f"{cut(network.runtime.path)} takes images of {height}x{width} (height x width) alone"


def runtime_networks(model: nn.Module) -> list[RuntimeNetwork]:
    """Return the exported files in a network: none, itself, or members of an ensemble."""
    return [module for module in model.modules() if isinstance(module, RuntimeNetwork)]


def fixed_shape(model: nn.Module) -> tuple[int, int] | None:
    """Return the one (height, width) that a network takes, None if it takes several.

    Raises ConfigError if the files of an ensemble take different ones.
    """
    fixed = [network for network in runtime_networks(model) if network.fixed_shape]
    for other in fixed[1:]:
        if other.fixed_shape != fixed[0].fixed_shape:
            raise ConfigError(f"{takes(fixed[0])}, {takes(other)}: they make no ensemble")
    return fixed[0].fixed_shape if fixed else None


def require_size(model: nn.Module, sides: Sequence[int]) -> None:
    """Return if a network takes images of a size.

    Args:
        model: Any network.
        sides: (height, width) in pixels.

    Raises:
        ConfigError: If it is an exported file of another size; the line names both.
    """
    fixed = fixed_shape(model)
    if fixed is not None and tuple(sides) != fixed:
        file = next(network for network in runtime_networks(model) if network.fixed_shape)
        raise ConfigError(
            f"--imgsz {' '.join(map(str, sides))}: {takes(file)}; leave --imgsz away, or export with --dynamic"
        )


def give_thresholds(model: nn.Module, conf: float, iou: float) -> None:
    """Give those exported files that suppress boxes themselves their thresholds.

    Args:
        model: Any network.
        conf: Least confidence, 0..1.
        iou: Largest IoU of two boxes of a class, 0..1.
    """
    for network in runtime_networks(model):
        network.thresholds = Thresholds(conf, iou)


def warn_of_own_suppression(model: nn.Module) -> None:
    """Log once if a network holds a file that suppresses boxes itself: its figures are not quite its checkpoint's."""
    for network in runtime_networks(model):
        if network.runtime.metadata.nms:
            warn_once(
                f"{cut(network.runtime.path)} suppresses boxes itself: it keeps one class per box, and as many boxes "
                "per image as it was exported for; P, R and mAP differ from those without --nms"
            )


def load_network(
    weights: Sequence[Path | str] | Path | str, device: torch.device, download: bool = False, dnn: bool = False
) -> nn.Module:
    """Return what --weights names, ready to predict: a checkpoint's network, an exported file, an ensemble of them.

    Args:
        weights: Checkpoints or exported files, one or several.
        device: Where they compute.
        download: Fetch published weights that are not on disk.
        dnn: Let OpenCV run .onnx files.

    Returns:
        A network in evaluation mode.

    Raises:
        CheckpointError: If a file cannot be found or read, or classes of an ensemble differ.
        ConfigError: If a package is missing.
    """
    names = [weights] if isinstance(weights, (str, Path)) else list(weights)
    if dnn and not any(map(is_exported, names)):
        raise ConfigError(f"--dnn: OpenCV runs .onnx files, and {cut(names[0])} is none; leave --dnn away")
    if not any(map(is_exported, names)):
        return load_models(names, device, download=download)
    members = [
        _opened(name, dnn, device) if is_exported(name) else load_models(name, device, download=download)
        for name in names
    ]
    first = members[0]
    for name, other in zip(names, members, strict=True):
        if list(other.names) != list(first.names):
            raise CheckpointError(f"{cut(name)} and {cut(names[0])} have different classes and make no ensemble")
    return first if len(members) == 1 else Ensemble(cast("Sequence[Model]", members)).eval()


def _opened(name: Path | str, dnn: bool, device: torch.device) -> RuntimeNetwork:
    runtime = open_runtime(name, dnn, device)
    LOGGER.info(f"{cut(name)}: {runtime.title} on the {runtime.place}, images {runtime.shape}")
    return RuntimeNetwork(runtime).eval()


def refuse_for_exported(weights: Sequence[Path | str], asked: Mapping[str, bool]) -> None:
    """Return if no flag is asked for that makes no sense for exported files.

    Args:
        weights: What --weights names.
        asked: Flag -> whether it was asked for.

    Raises:
        ConfigError: One line that names flag, file and reason.
    """
    reasons = {
        "--half": "has the precision that it was exported with (export.py --half)",
        "--augment": "holds the plain pass alone",
        "--visualize": "has no layers to look into",
        "--heatmap": "has no layers to look into",
        "--compile": "is compiled already",
        "--update": "carries no training state to strip",
    }
    file = next((name for name in weights if is_exported(name)), None)
    flag = next((flag for flag, is_asked in asked.items() if is_asked), None)
    if file is not None and flag is not None:
        raise ConfigError(f"{flag}: {cut(file)} {reasons[flag]}; give a checkpoint (.pt), or leave {flag} away")
