"""Configuration: the options of each script, the hyperparameters of a training, and the description of a dataset.

Nothing here imports torch or numpy, so that `--help` answers at once.
"""

from utils.config.dataset_spec import DatasetSpec
from utils.config.export_options import ExportConfig
from utils.config.flags import from_options, parse
from utils.config.heatmap_options import HeatmapConfig
from utils.config.hyperparameters import OPTIMIZERS, Hyperparameters
from utils.config.option_records import (
    EvalOptions,
    LoaderOptions,
    PredictOptions,
    Slicing,
    SplitOptions,
    parse_image_limit,
)
from utils.config.options import DetectConfig, TrainConfig, ValConfig

__all__ = [
    "OPTIMIZERS",
    "DatasetSpec",
    "DetectConfig",
    "EvalOptions",
    "ExportConfig",
    "HeatmapConfig",
    "Hyperparameters",
    "LoaderOptions",
    "PredictOptions",
    "Slicing",
    "SplitOptions",
    "TrainConfig",
    "ValConfig",
    "from_options",
    "parse",
    "parse_image_limit",
]
