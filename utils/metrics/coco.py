"""COCO's metrics of labels and detections in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.metrics.average_precision import ImageResult
from utils.metrics.coco_evaluation import AREAS, CocoCurves, CocoDetections, CocoLabels, coco_curves

MAX_DETECTIONS = 300  # per image, as in our own metrics; COCO's leaderboard counts 100
_VIEWS = (*((area, MAX_DETECTIONS) for area in range(len(AREAS))), (0, 1), (0, 10), (0, 100))  # area, detections
EXPLAINED_DIFFERENCE = 0.01  # mAP: a larger difference between the two evaluators is explained


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's metrics with up to 300 detections per image.

    The size of an object is the area of its box in native pixels: small below 32 x 32, large from 96 x 96. A metric of
    a size that no object has is None.

    Attributes:
        ap: Mean over IoU 0.50 to 0.95, with 300 detections.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        ap_small: `ap` of small objects; likewise ap_medium and ap_large.
        ap100: `ap` with 100 detections, COCO's published convention.
        ar1: Recall with one detection per image; likewise ar10 and ar100.
        ar: Recall with 300 detections.
        ar_small: `ar` of small objects; likewise ar_medium and ar_large.
        ap_by_iou: (10, nc), zero for classes without labels, which enter no mean.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ap100: float
    ar1: float
    ar10: float
    ar100: float
    ar: float
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    ap_by_iou: np.ndarray

    @property
    def class_ap(self) -> np.ndarray:
        """AP50-95 (nc,) per class."""
        return self.ap_by_iou.mean(0)


def coco_metrics(results: Sequence[ImageResult], nc: int) -> CocoMetrics:
    """Return COCO's metrics.

    Args:
        results: Detections and labels of all images.
        nc: Number of classes; detections of others are ignored.

    Returns:
        Zeros if there are no labels or no detections.
    """
    found = _detections(results)
    found = found.chosen((found.cls >= 0) & (found.cls < nc))
    return _summary(coco_curves(_labels(results), found, nc, _VIEWS))


def _labels(results: Sequence[ImageResult]) -> CocoLabels:
    image = np.repeat(np.arange(len(results)), [len(one.labels_cls) for one in results])
    cls = _joined([np.asarray(one.labels_cls) for one in results])
    xywh = _xywh([np.asarray(one.labels_xyxy) for one in results])
    return CocoLabels(image, cls.astype(np.int64), xywh, np.zeros(len(image), bool))


def _detections(results: Sequence[ImageResult]) -> CocoDetections:
    found = [one.detections for one in results]
    image = np.repeat(np.arange(len(found)), [len(one) for one in found])
    cls = _joined([one.cls.numpy() for one in found])
    xywh = _xywh([one.xyxy.numpy() for one in found])
    score = _joined([one.conf.numpy() for one in found])
    return CocoDetections(image, cls.astype(np.int64), xywh, score.astype(np.float64))


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(columns) if columns else np.zeros(0)


def _xywh(boxes: list[np.ndarray]) -> np.ndarray:
    xyxy = _joined(boxes).reshape(-1, 4).astype(np.float64)
    return np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), 1)


def _summary(curves: Mapping[tuple[int, int], CocoCurves]) -> CocoMetrics:
    """The metrics of the curves of _VIEWS."""
    every = curves[0, MAX_DETECTIONS]
    small, medium, large = (curves[area, MAX_DETECTIONS] for area in (1, 2, 3))
    return CocoMetrics(
        ap=_mean(every.precision) or 0.0,
        ap50=_mean(every.precision[0]) or 0.0,
        ap75=_mean(every.precision[5]) or 0.0,
        ap_small=_mean(small.precision),
        ap_medium=_mean(medium.precision),
        ap_large=_mean(large.precision),
        ap100=_mean(curves[0, 100].precision) or 0.0,
        ar1=_mean(curves[0, 1].recall) or 0.0,
        ar10=_mean(curves[0, 10].recall) or 0.0,
        ar100=_mean(curves[0, 100].recall) or 0.0,
        ar=_mean(every.recall) or 0.0,
        ar_small=_mean(small.recall),
        ar_medium=_mean(medium.recall),
        ar_large=_mean(large.recall),
        ap_by_iou=np.clip(every.precision, 0, None).mean(1),
    )


def _mean(values: np.ndarray) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None


def explain_difference(yolov5_map: float, coco_ap: float) -> str | None:
    """Return a line on why the two mAP@.5:.95 differ, or None if they are close.

    Args:
        yolov5_map: By YOLOv5's rules, 0..1.
        coco_ap: By COCO's rules, 0..1.

    Returns:
        One sentence with both values and the reason.
    """
    if abs(yolov5_map - coco_ap) <= EXPLAINED_DIFFERENCE:
        return None
    reason = (
        "YOLOv5's draw each precision-recall curve from its last recall to (1, 0), COCO's count nothing there"
        if yolov5_map > coco_ap
        else "they match boxes and sample the precision-recall curve by different rules"
    )
    values = f"{yolov5_map:.3f} by YOLOv5's rules and {coco_ap:.3f} by COCO's"
    return f"mAP@.5:.95 is {values}: {reason}. Compare like with like."


def size_table(rows: Mapping[str, CocoMetrics]) -> list[str]:
    """Return lines with AP by size of several evaluations, one below the other, in the columns of validation's table.

    Args:
        rows: Figures by title.

    Returns:
        A line of titles, then one per evaluation; "-" stands for sizes that no object has.
    """
    titles = ("AP", "AP small", "AP medium", "AP large")
    lines = [" " * 20 + "".join(f"{title:>11}" for title in titles)]
    for name, coco in rows.items():
        values = (coco.ap, coco.ap_small, coco.ap_medium, coco.ap_large)
        figures = ("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{name:>20}" + "".join(f"{figure:>11}" for figure in figures))
    return lines
