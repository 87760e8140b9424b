"""Detection metrics: YOLOv5's average precision, COCO's, and the confusion matrix."""

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
from utils.metrics.confusion import ConfusionMatrix

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
