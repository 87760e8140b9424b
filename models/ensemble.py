"""Several models as one: their decoded predictions concatenated, for NMS to choose from."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.yolo import Model
from utils.errors import ModelError
from utils.types import HeadGeometry


class Ensemble(nn.Module):
    """Models with the same classes, called as one model in evaluation mode.

    `stride` and `geometry` are those of the model with the largest stride, so that an image that fits it fits all.

    Raises:
        ModelError: If there is no model, or their numbers of classes differ.
    """

    def __init__(self, models: Sequence[Model]):
        super().__init__()
        if not models:
            raise ModelError("an ensemble needs at least one model")
        counts = [model.nc for model in models]
        if len(set(counts)) > 1:
            raise ModelError(f"models of an ensemble must have the same classes, got {counts} classes")
        self.models = nn.ModuleList(models)

    @property
    def _members(self) -> Sequence[Model]:
        return cast("Sequence[Model]", self.models)

    @property
    def _coarsest(self) -> Model:
        return max(self._members, key=lambda model: float(model.stride.max()))

    @property
    def nc(self) -> int:
        """Number of classes."""
        return self._members[0].nc

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return self._members[0].names

    @property
    def stride(self) -> Tensor:
        """(levels,) pixels per cell of each output map."""
        return self._coarsest.stride

    @property
    def geometry(self) -> HeadGeometry:
        """Anchors, strides and number of classes of the head."""
        return self._coarsest.geometry

    def forward(self, x: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """Return the predictions of all models, concatenated.

        Args:
            x: (B, ch, H, W) images of values 0..1; H and W are multiples of the largest stride.
            augment: Test-time augmentation.

        Returns:
            (decoded (B, N of all models, 5+nc) with xywh in pixels, None).

        Raises:
            ModelError: In training mode.
        """
        if self.training:
            raise ModelError("an ensemble does not train; call .eval() on it, or train its models one by one")
        return torch.cat([model(x, augment=augment)[0] for model in self._members], 1), None

    def fuse(self) -> "Ensemble":
        """Fold the batch norms of every model into its convolutions."""
        for model in self._members:
            model.fuse()
        return self

    def summary(self, imgsz: int = 640, verbose: bool = False) -> str:
        """Log every model's summary line and return them joined by "; ".

        Args:
            imgsz: Side of the image in pixels that operations are counted for.
            verbose: Log the tables of layers as well.

        Returns:
            The lines.
        """
        return "; ".join(model.summary(imgsz, verbose) for model in self._members)
