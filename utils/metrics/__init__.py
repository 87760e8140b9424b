"""Detection metrics: YOLOv5's average precision, COCO's, and the confusion matrix."""

from typing import TYPE_CHECKING, Any

from utils.metrics.average_precision import (
    Curves,
    DetectionAccumulator,
    ImageResult,
    match,
    ranking,
    table_header,
    table_rows,
)
from utils.metrics.coco import CocoMetrics, coco_metrics, explain_difference

if TYPE_CHECKING:
    from utils.compat.box_functions import bbox_ioa, bbox_iou, box_iou, wh_iou  # noqa: F401
    from utils.compat.measures import ScriptConfusionMatrix as ConfusionMatrix
    from utils.compat.measures import ap_per_class, compute_ap, fitness  # noqa: F401

__all__ = [
    "CocoMetrics",
    "ConfusionMatrix",
    "Curves",
    "DetectionAccumulator",
    "ImageResult",
    "coco_metrics",
    "explain_difference",
    "match",
    "ranking",
    "table_header",
    "table_rows",
]


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)
