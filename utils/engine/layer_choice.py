"""Layers of a model by the indices of the model without attention: those to freeze, and those of the backbone."""

from collections.abc import Collection, Iterator

from torch import nn

from models.yolo import Model
from utils.errors import ConfigError
from utils.log import LOGGER
from utils.transfer.alignment import base_indices


def freeze_layers(model: Model, freeze: tuple[int | str, ...]) -> None:
    """Freeze layers of a model; inserted attention, also that inside a C3, goes on learning.

    Args:
        model: The model.
        freeze: One number N freezes the first N layers, several freeze the layers of these indices, "backbone" freezes
            the backbone. Indices are those of the model without attention, so they mean the same in a variant.

    Raises:
        ConfigError: If the model has no such layer.
    """
    indices = base_indices(model.yaml)
    frozen = _frozen_layers(indices, freeze, len(model.yaml["backbone"]))
    for name, parameter in _base_parameters(model, indices, frozen):
        parameter.requires_grad = False
        LOGGER.info(f"freezing {name}")


def backbone_parameters(model: Model) -> list[nn.Parameter]:
    """Return the parameters of the backbone's layers, without those of inserted attention, also of that inside a C3."""
    indices = base_indices(model.yaml)
    layers = _backbone_layers(indices, len(model.yaml["backbone"]))
    return [parameter for _, parameter in _base_parameters(model, indices, layers)]


def _base_parameters(
    model: Model, indices: list[int | None], layers: Collection[int]
) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of the layers with these base indices, inserted attention left out."""
    for layer, base_index in zip(model.model, indices, strict=True):
        if base_index in layers:
            for name, parameter in layer.named_parameters():
                if ".attention." not in name:
                    yield f"model.{layer.i}.{name}", parameter


def _backbone_layers(indices: list[int | None], backbone: int) -> set[int]:
    return {index for index in indices[:backbone] if index is not None}


def _frozen_layers(indices: list[int | None], freeze: tuple[int | str, ...], backbone: int) -> set[int]:
    """The base model's indices of the layers to freeze.

    indices: per layer, None for inserted attention; backbone: how many of the layers are the backbone.
    """
    if freeze == ("backbone",):
        return _backbone_layers(indices, backbone)
    count = sum(index is not None for index in indices)
    asked = [int(index) for index in freeze]
    layers = set(range(asked[0]) if len(asked) == 1 else asked)
    if layers and max(layers) >= count:
        without = "" if count == len(indices) else " without its attention"
        raise ConfigError(f"--freeze {' '.join(map(str, freeze))}: the model{without} has layers 0 to {count - 1}")
    return layers
