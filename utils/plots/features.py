"""Feature maps of a layer as a picture and as numbers."""

from pathlib import Path

import numpy as np
from torch import Tensor

from utils.plots.canvas import canvas


def save_features(features: Tensor, module: str, stage: int, save_dir: Path | str, max_maps: int = 32) -> Path | None:
    """Write stage<stage>_<module>_features.png (the first maps) and .npy (all of them) into save_dir.

    features: (1, C, H, W); returns the picture's path, or None for outputs of another shape or of one pixel."""
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[2] * features.shape[3] <= 1:
        return None
    maps = features[0].detach().float().cpu().numpy()
    file = Path(save_dir) / f"stage{stage}_{module.rsplit('.', 1)[-1]}_features.png"
    shown = maps[:max_maps]
    lines = int(np.ceil(len(shown) / 8))
    with canvas(file, 12, 1.6 * lines, dpi=150) as figure:
        for axes in figure.subplots(lines, 8, squeeze=False).flat:
            axes.set_axis_off()
        for axes, feature_map in zip(figure.axes, shown):
            axes.imshow(feature_map, cmap="viridis")
    np.save(file.with_suffix(".npy"), maps[None])
    return file
