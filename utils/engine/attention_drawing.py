"""Figures of what the attention blocks of networks applied to an image."""

from collections.abc import Sequence
from pathlib import Path

from utils.config import HeatmapConfig
from utils.datasets.sources import Frame
from utils.engine.heat_map_maker import HeatSource
from utils.errors import ConfigError


class AttentionFigures:
    """Writes the figures of each image."""

    def __init__(self, config: HeatmapConfig, sources: Sequence[HeatSource], folder: Path):
        self._config, self._sources, self._folder = config, sources, folder

    def draw(self, frame: Frame) -> None:
        """Write the figures of an image."""
        raise ConfigError("--method attention: is not there yet")

    def close(self) -> None:
        """Write what is left."""
