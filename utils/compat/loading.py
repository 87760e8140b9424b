"""Checkpoints loaded as YOLOv5's scripts load them: `attempt_load`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.ensemble import Ensemble
from models.yolo import HeadOutput, Model
from utils.checkpoint import find_weights, load_models
from utils.engine.prediction_views import FeatureMaps
from utils.log import warn_once


class LoadedModel(Model):
    """A detector that also takes the arguments that v6.1's forward has."""

    hyp: Any  # a mapping of hyperparameters that ComputeLoss reads, if a script sets one

    def forward(  # type: ignore[override]  # v6.1's order of arguments
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> HeadOutput | tuple[Tensor, None]:
        """Return the predictions for a batch of images.

        Args:
            x: (B, ch, H, W) of values 0..1.
            augment: Test-time augmentation.
            profile: Not used; `python -m utils.profile` measures layers.
            visualize: A folder that gets the feature maps of every layer.

        Returns:
            What `Model.forward` returns.
        """
        if not visualize or visualize is True:
            return super().forward(x, augment)
        maps = FeatureMaps(Path(visualize), self)
        try:
            return super().forward(x, augment)
        finally:
            maps.close()

    def info(self, verbose: bool = False, img_size: int = 640) -> None:
        """Log the summary line.

        Args:
            verbose: Log the table of layers first.
            img_size: Side of the image in pixels that operations are counted for.
        """
        self.summary(img_size, verbose)


class LoadedEnsemble(Ensemble):
    """Several detectors as one that also takes the arguments that v6.1's forward has."""

    def forward(  # type: ignore[override]  # v6.1's order of arguments
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> tuple[Tensor, None]:
        """Return the predictions of all, concatenated.

        Args:
            x: (B, ch, H, W) of values 0..1.
            augment: Test-time augmentation.
            profile: Not used.
            visualize: Not used.

        Returns:
            (decoded, None).
        """
        return super().forward(x, augment)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, index: int) -> nn.Module:
        return self.models[index]


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    map_location: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    device: torch.device | str | None = None,
    download: bool = False,
) -> LoadedModel | LoadedEnsemble:
    """Return the network in a checkpoint, or the ensemble of several, in float32 and evaluation mode.

    Args:
        weights: Checkpoints (.pt) of this project or of YOLOv5, one or several. No pickle is executed.
        map_location: Where the network is put; the CPU if None. The second argument in v6.1 and in v6.2.
        inplace: Not used.
        fuse: Whether batch norms are folded into convolutions.
        device: v6.2's name of `map_location`.
        download: Whether published weights that are not on disk may be fetched; v6.1 does so unasked.

    Returns:
        The network. Called with images it returns (decoded, raw maps).

    Raises:
        CheckpointError: If a file cannot be found or read.
    """
    names = [weights] if isinstance(weights, (str, Path)) else list(weights)
    place = device if device is not None else map_location if map_location is not None else "cpu"
    paths = [find_weights(str(name).strip().replace("'", ""), download) for name in names]
    found = load_models(paths, place, fuse=fuse)
    kind: type = LoadedEnsemble if isinstance(found, Ensemble) else LoadedModel
    found.__class__ = kind  # the same network, that takes more arguments
    if not inplace:
        warn_once("attempt_load: inplace=False makes no difference; export.py writes graphs")
    return found  # type: ignore[return-value]  # its class was replaced above
