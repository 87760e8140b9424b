"""Figures: boxes on images, batches, curves, label statistics, feature maps, and those of a comparison."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.compat.drawing import (  # noqa: F401
        Colors,
        colors,
        feature_visualization,
        output_to_target,
        plot_evolve,
        plot_images,
        plot_labels,
        plot_one_box,
        plot_results,
        plot_val_study,
        save_one_box,
    )
    from utils.compat.drawing import ScriptAnnotator as Annotator  # noqa: F401


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)
