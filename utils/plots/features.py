"""Feature maps of a layer as an image and as an array."""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.images import write_image

_COLUMNS = 8
_CELL = 128  # pixels: a map's longer side in the image
_GAP = 6


def save_features(features: Tensor, module: str, stage: int, save_dir: Path | str, max_maps: int = 32) -> Path | None:
    """Write stage<stage>_<module>_features.png (the first maps) and .npy (all of them).

    Args:
        features: (1, C, H, W) output of a layer.
        module: Name of the layer's class; only the part behind the last dot is used.
        stage: Index of the layer.
        save_dir: The folder to write to.
        max_maps: Number of maps in the image, at most.

    Returns:
        The image's path, or None for outputs of another shape or of one pixel.
    """
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[2] * features.shape[3] <= 1:
        return None
    maps = features[0].detach().float().cpu().numpy()
    file = Path(save_dir) / f"stage{stage}_{module.rsplit('.', 1)[-1]}_features.png"
    write_image(file, _grid(maps[:max_maps]))
    np.save(file.with_suffix(".npy"), maps[None])
    return file


def _grid(maps: np.ndarray) -> np.ndarray:
    """An image (h, w, 3) of maps (n, H, W), eight per row, each in colors from its least to its greatest value."""
    scale = _CELL / max(maps.shape[1:])
    height, width = (max(round(side * scale), 1) for side in maps.shape[1:])
    lines = -(-len(maps) // _COLUMNS)
    image = np.full((lines * (height + _GAP) + _GAP, _COLUMNS * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for index, values in enumerate(maps):
        top, left = (
            position * (side + _GAP) + _GAP
            for position, side in zip(divmod(index, _COLUMNS), (height, width), strict=True)
        )
        enlarged = cv2.resize(_colorize(values), (width, height), interpolation=cv2.INTER_NEAREST)
        image[top : top + height, left : left + width] = enlarged
    return image


def _colorize(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as RGB (H, W, 3); a constant map has the darkest color."""
    values = np.nan_to_num(values)
    span = max(float(values.max() - values.min()), 1e-12)
    gray = ((values - values.min()) / span * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
