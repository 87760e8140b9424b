"""Several models as one: their decoded predictions side by side, for NMS to choose from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.yolo import Model
from utils.errors import ModelError
from utils.types import HeadGeometry


class Ensemble(nn.Module):
    """Models with the same classes, called as one model in evaluation.

    `stride` is that of the model with the largest, so that a picture sized by it suits all. Raises
    ModelError when the models' class counts differ.
    """

    def __init__(self, models: Sequence[Model]):
        super().__init__()
        if not models:
            raise ModelError("an ensemble needs at least one model")
        counts = [model.nc for model in models]
        if len(set(counts)) > 1:
            raise ModelError(f"models of an ensemble must know the same classes, got {counts} classes")
        self.models = nn.ModuleList(models)

    @property
    def _coarsest(self) -> Model:
        return max(self.models, key=lambda model: float(model.stride.max()))

    @property
    def nc(self) -> int:
        return self.models[0].nc

    @property
    def names(self) -> list[str]:
        return self.models[0].names

    @property
    def stride(self) -> Tensor:
        return self._coarsest.stride

    @property
    def geometry(self) -> HeadGeometry:
        return self._coarsest.geometry

    def forward(self, x: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """Return (decoded (B, N of all models, 5+nc), None). Raises ModelError in training mode."""
        if self.training:
            raise ModelError("an ensemble does not train; call .eval() on it, or train its models one by one")
        return torch.cat([model(x, augment=augment)[0] for model in self.models], 1), None

    def fuse(self) -> "Ensemble":
        for model in self.models:
            model.fuse()
        return self

    def summary(self, imgsz: int = 640, verbose: bool = False) -> str:
        """Log every model's summary and return them joined by "; "."""
        return "; ".join(model.summary(imgsz, verbose) for model in self.models)
