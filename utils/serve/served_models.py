"""The models that the page offers: each weights file opened once, under a name of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.registry import load_plugins
from models.yolo import Model
from utils.engine.predictor import Predictor, load_predictor
from utils.errors import nearest
from utils.log import LOGGER
from utils.serve.serve_options import ServeConfig
from utils.serve.uploads import UploadError


@dataclass(frozen=True)
class ServedModel:
    """A model that the page offers.

    Attributes:
        name: What the page and programs call it.
        predictor: The network.
        path: Its weights.
        has_gradients: Whether heat maps can be made: an exported file has neither layers nor gradients.
    """

    name: str
    predictor: Predictor
    path: str
    has_gradients: bool

    @property
    def layers(self) -> list[str]:
        """The kinds of the rows of the network but its head, by index; none of an exported file."""
        network = self.predictor.model
        rows = list(network.model)[:-1] if isinstance(network, Model) else []
        return [type(getattr(row, "block", row)).__name__ for row in rows]

    @property
    def imgsz(self) -> tuple[int, int]:
        """(height, width) of the input if a request says nothing."""
        return self.predictor.input_shape(None)


class ServedModels:
    """The models by name, the first one the default.

    Args:
        models: At least one.
    """

    def __init__(self, models: Sequence[ServedModel]):
        self._models = {model.name: model for model in models}

    def __iter__(self):
        return iter(self._models.values())

    def of(self, name: str) -> ServedModel:
        """Return a model; "" is the first one. Raises UploadError (404) for an unknown name."""
        if not name:
            return next(iter(self))
        if name not in self._models:
            raise UploadError(f"model {name[:60]!r}: no such model{nearest(name, self._models)}", 404)
        return self._models[name]


def load_models(config: ServeConfig) -> ServedModels:
    """Return the models that the flags name. Raises UserError kinds if one cannot be read."""
    load_plugins(config.plugin)
    models = []
    for path, name in zip(config.weights, model_names(config.weights), strict=True):
        predictor = load_predictor(path, config.device, config.half, config.download, config.dnn)
        models.append(ServedModel(name, predictor, path, isinstance(predictor.model, Model)))
        LOGGER.info(f"{name}: {path}, {len(predictor.names)} classes, on {predictor.device}")
    return ServedModels(models)


def model_names(paths: Sequence[str]) -> list[str]:
    """Return a name per file: its own, with as many of its folders in front as it takes to tell files apart.

    Args:
        paths: The files.

    Returns:
        As many names, all different.
    """
    parts = [Path(path).parts for path in paths]
    names = []
    for index, own in enumerate(parts):
        others = [each for position, each in enumerate(parts) if position != index]
        count = next(
            (size for size in range(1, len(own) + 1) if all(own[-size:] != each[-size:] for each in others)), len(own)
        )
        name = "/".join(own[-count:])
        names.append(name if name not in names else f"{name} ({index + 1})")
    return names
