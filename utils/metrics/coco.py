"""COCO's metrics, computed by pycocotools from labels and detections in memory."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.metrics.average_precision import ImageResult

MAX_DETECTIONS = 300  # per image, as in our own metrics; COCO's leaderboard counts 100
_DETECTION_LIMITS = (1, 10, 100, MAX_DETECTIONS)
_AREAS = ("all", "small", "medium", "large")
EXPLAINED_DIFFERENCE = 0.01  # mAP: a larger difference between the two evaluators is explained


@dataclass(frozen=True)
class CocoMetrics:
    """pycocotools' metrics with up to 300 detections per image.

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
    """Return pycocotools' metrics. Nothing is printed.

    Args:
        results: Detections and labels of all images.
        nc: Number of classes; detections of others are ignored.

    Returns:
        Zeros if there are no labels or no detections.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = _dataset(results, nc, _label_rows(results))
        found.dataset = _dataset(results, nc, _detection_rows(results, nc))
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.maxDets = list(_DETECTION_LIMITS)
        evaluator.evaluate()
        evaluator.accumulate()
    return _summary(evaluator.eval["precision"], evaluator.eval["recall"])


def _dataset(results: Sequence[ImageResult], nc: int, rows: np.ndarray) -> dict:
    """A COCO dataset of boxes; rows: (n, 7) image index, class, xyxy, score."""
    sides = rows[:, 4:6] - rows[:, 2:4]
    boxes = np.concatenate((rows[:, 2:4], sides), 1).tolist()
    columns = zip(rows[:, 0], rows[:, 1], boxes, sides.prod(1).tolist(), rows[:, 6].tolist(), strict=True)
    annotations = [  # numbered from 1, because 0 stands for "unmatched" in pycocotools
        {
            "id": annotation_id,
            "image_id": int(image),
            "category_id": int(cls),
            "bbox": box,
            "area": area,
            "iscrowd": 0,
            "score": score,
        }
        for annotation_id, (image, cls, box, area, score) in enumerate(columns, 1)
    ]
    images = [{"id": index} for index in range(len(results))]
    return {"images": images, "categories": [{"id": c} for c in range(nc)], "annotations": annotations}


def _label_rows(results: Sequence[ImageResult]) -> np.ndarray:
    """Rows (n, 7): image index, class, xyxy, score."""
    return _rows(
        [
            (np.full(len(one.labels_cls), index), one.labels_cls, one.labels_xyxy, np.ones(len(one.labels_cls)))
            for index, one in enumerate(results)
        ]
    )


def _detection_rows(results: Sequence[ImageResult], nc: int) -> np.ndarray:
    rows = _rows(
        [
            (
                np.full(len(one.detections), index),
                one.detections.cls.numpy(),
                one.detections.xyxy.numpy(),
                one.detections.conf.numpy(),
            )
            for index, one in enumerate(results)
        ]
    )
    return rows[(rows[:, 1] >= 0) & (rows[:, 1] < nc)]


def _rows(images: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    if not images:
        return np.zeros((0, 7))
    return np.concatenate(
        [
            np.column_stack((index, cls, np.reshape(xyxy, (-1, 4)), score)).astype(np.float64)
            for index, cls, xyxy, score in images
        ]
    )


def _summary(precision: np.ndarray, recall: np.ndarray) -> CocoMetrics:
    """The metrics of precision (10 IoU, 101 recalls, nc, 4 areas, 4 limits) and recall (10 IoU, nc, 4 areas, 4 limits).

    Entries without labels are -1.
    """
    by_area = {name: _mean(precision[:, :, :, area, -1]) for area, name in enumerate(_AREAS)}
    recall_by_area = {name: _mean(recall[:, :, area, -1]) for area, name in enumerate(_AREAS)}
    by_limit = [_mean(recall[:, :, 0, limit]) or 0.0 for limit in range(len(_DETECTION_LIMITS))]
    return CocoMetrics(
        ap=by_area["all"] or 0.0,
        ap50=_mean(precision[0, :, :, 0, -1]) or 0.0,
        ap75=_mean(precision[5, :, :, 0, -1]) or 0.0,
        ap_small=by_area["small"],
        ap_medium=by_area["medium"],
        ap_large=by_area["large"],
        ap100=_mean(precision[:, :, :, 0, 2]) or 0.0,
        ar1=by_limit[0],
        ar10=by_limit[1],
        ar100=by_limit[2],
        ar=by_limit[3],
        ar_small=recall_by_area["small"],
        ar_medium=recall_by_area["medium"],
        ar_large=recall_by_area["large"],
        ap_by_iou=np.clip(precision[:, :, :, 0, -1], 0, None).mean(1),
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
