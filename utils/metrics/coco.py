"""COCO's figures, computed by pycocotools on labels and detections as they stand in memory."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.metrics.average_precision import ImageResult

MAX_DETECTIONS = 300  # an image, as in our own metrics; COCO's leaderboard counts 100
_DETECTION_LIMITS = (1, 10, 100, MAX_DETECTIONS)
_AREAS = ("all", "small", "medium", "large")
REMARKABLE = 0.01  # a difference between the two evaluators that deserves a word


@dataclass(frozen=True)
class CocoMetrics:
    """pycocotools' figures with up to 300 detections an image; the area of an object is that of its box
    in native pixels (small below 32 x 32, large from 96 x 96).

    ap: mean over IoU 0.50 to 0.95; ap100: the same with 100 detections, COCO's published convention;
    ar1, ar10, ar100, ar: recall with so many detections (ar: 300); ap_by_iou: (10, nc), zero for
    classes without labels, which enter no mean. None where no object has that size.
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
        """(nc,) AP50-95 a class."""
        return self.ap_by_iou.mean(0)


def coco_metrics(results: Sequence[ImageResult], nc: int) -> CocoMetrics:
    """Return pycocotools' figures of all `results` over classes 0..nc-1. Prints nothing."""
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
    """A COCO data set of boxes; rows: (n, 7) image number, class, xyxy, score."""
    sides = rows[:, 4:6] - rows[:, 2:4]
    boxes = np.concatenate((rows[:, 2:4], sides), 1).tolist()
    columns = zip(rows[:, 0], rows[:, 1], boxes, sides.prod(1).tolist(), rows[:, 6].tolist())
    annotations = [  # numbered from 1, because 0 stands for "unmatched" in pycocotools
        {
            "id": number,
            "image_id": int(image),
            "category_id": int(cls),
            "bbox": box,
            "area": area,
            "iscrowd": 0,
            "score": score,
        }
        for number, (image, cls, box, area, score) in enumerate(columns, 1)
    ]
    images = [{"id": number} for number in range(len(results))]
    return {"images": images, "categories": [{"id": c} for c in range(nc)], "annotations": annotations}


def _label_rows(results: Sequence[ImageResult]) -> np.ndarray:
    """(n, 7) image number, class, xyxy, score."""
    return _rows(
        [
            (np.full(len(one.labels_cls), number), one.labels_cls, one.labels_xyxy, np.ones(len(one.labels_cls)))
            for number, one in enumerate(results)
        ]
    )


def _detection_rows(results: Sequence[ImageResult], nc: int) -> np.ndarray:
    rows = _rows(
        [
            (
                np.full(len(one.detections), number),
                one.detections.cls.numpy(),
                one.detections.xyxy.numpy(),
                one.detections.conf.numpy(),
            )
            for number, one in enumerate(results)
        ]
    )
    return rows[(rows[:, 1] >= 0) & (rows[:, 1] < nc)]


def _rows(parts: list) -> np.ndarray:
    if not parts:
        return np.zeros((0, 7))
    return np.concatenate(
        [
            np.column_stack((number, cls, np.reshape(xyxy, (-1, 4)), score)).astype(np.float64)
            for number, cls, xyxy, score in parts
        ]
    )


def _summary(precision: np.ndarray, recall: np.ndarray) -> CocoMetrics:
    """precision (IoU 10, recall 101, nc, area 4, limit 4), recall (IoU 10, nc, area 4, limit 4); -1 where there are no labels."""
    by_area = {area: _mean(precision[:, :, :, number, -1]) for number, area in enumerate(_AREAS)}
    recall_by_area = {area: _mean(recall[:, :, number, -1]) for number, area in enumerate(_AREAS)}
    by_limit = [_mean(recall[:, :, 0, number]) or 0.0 for number in range(len(_DETECTION_LIMITS))]
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
    """Return a line that says why the two mAP@.5:.95 differ, or None where they are close."""
    if abs(yolov5_map - coco_ap) <= REMARKABLE:
        return None
    reason = (
        "YOLOv5's draw each precision-recall curve from its last recall to (1, 0), COCO's count nothing there"
        if yolov5_map > coco_ap
        else "they match boxes and sample the precision-recall curve by different rules"
    )
    return f"mAP@.5:.95 is {yolov5_map:.3f} by YOLOv5's rules and {coco_ap:.3f} by COCO's: {reason}. Compare like with like."
