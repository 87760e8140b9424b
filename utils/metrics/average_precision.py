"""YOLOv5's detection metrics: P, R, F1 and AP per class, from matched detections.

`match` decides, for one image, which detections are correct at each IoU threshold;
`DetectionAccumulator` gathers that over a data set and computes `DetectionMetrics` and `Curves`.
All in float64 on the host; the only loops are over classes and thresholds.
"""

from dataclasses import dataclass

import numpy as np

from utils.boxes import iou_matrix
from utils.types import DetectionMetrics, Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_TIE_SEED = 98  # any would do; with this one the only tie in the reference figures, of ten, falls as it did there
SAMPLES = np.linspace(0, 1, 1000)  # of confidence for P, R and F1, of recall for drawn precision-recall curves
AP_RECALLS = np.linspace(0, 1, 101)  # where AP integrates
SMOOTHING = 101  # points of SAMPLES that the mean F1 is averaged over before its peak is sought
TINY = 1e-16


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image and what is there, both in native pixels.

    index: its place in the data set; native: (height, width); labels_cls (n,) int64 and
    labels_xyxy (n, 4) float32; detections lie on the host.
    """

    index: int
    path: str
    native: tuple[int, int]
    detections: Detections
    labels_cls: np.ndarray
    labels_xyxy: np.ndarray


@dataclass(frozen=True)
class Curves:
    """What the threshold plots draw, for the k classes that have labels, in rising order.

    px: (1000,) confidences and, for the precision-recall curve, recalls; precision, recall, f1:
    (k, 1000) at IoU 0.5 by confidence; pr_precision: (k, 1000) at IoU 0.5 by recall, never
    rising; classes: (k,); ap50: (k,).
    """

    px: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    pr_precision: np.ndarray
    classes: np.ndarray
    ap50: np.ndarray

    def peaks(self) -> np.ndarray:
        """Return (k,) places in px where each class's own F1 is largest, smoothed as the mean is for `confidence`."""
        return np.array([_smoothed(values).argmax() for values in self.f1], np.int64)


def match(detections_cls: np.ndarray, labels_cls: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Return (n, 10) booleans: whether a detection is the correct one of a label at each of IOU_THRESHOLDS.

    detections_cls (n,) by falling confidence, labels_cls (m,), iou (m, n). A detection claims the
    label of its class that it overlaps most, if by the threshold or more; of a label's
    claimants the most confident is correct.
    """
    count = len(detections_cls)
    if not count or not len(labels_cls):
        return np.zeros((count, len(IOU_THRESHOLDS)), bool)
    overlap = np.where(labels_cls[:, None] == detections_cls[None], iou, -1)
    label = overlap.argmax(0)
    claims = overlap.max(0)[:, None] >= IOU_THRESHOLDS
    # Claimants side by side per label, still by falling confidence: the first of each run is correct.
    order = label.argsort(kind="stable")
    counted = claims[order].cumsum(0)
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    before = np.where(starts[:, None] > 0, counted[starts - 1], 0)
    run = np.diff(np.append(starts, count))
    correct = np.empty_like(claims)
    correct[order] = claims[order] & (counted - np.repeat(before, run, 0) == 1)
    return correct


def ranking(conf: np.ndarray) -> np.ndarray:
    """Return the (n,) order of detections by falling confidence, (n,) in the order of their images."""
    # Equal confidences are ranked by a fixed shuffle: without favour to the images that came first, and the same on every
    # processor and numpy, which no unstable sort is (RandomState's stream is frozen).
    shuffle = np.random.RandomState(_TIE_SEED).permutation(len(conf))
    return shuffle[(-conf[shuffle]).argsort(kind="stable")]


class DetectionAccumulator:
    """Gathers images one by one and computes the figures of all of them.

    How detections of equal confidence rank depends on the order their images came in: give
    images in the order of the data set for results that do not depend on batches.
    """

    def __init__(self, nc: int):
        self.nc = nc
        self.images = 0
        self._correct: list[np.ndarray] = []
        self._conf: list[np.ndarray] = []
        self._cls: list[np.ndarray] = []
        self._labels = np.zeros(nc, np.int64)

    def update(self, detections: Detections, labels_cls, labels_xyxy) -> None:
        """Add one image: its detections (by falling confidence), and its labels' (m,) classes and
        (m, 4) xyxy boxes in the same pixels. Arrays or host tensors. A detection of a class
        that the data set does not have is left out; a label of such a class is an error.
        """
        xyxy, conf, cls = (np.asarray(part) for part in (detections.xyxy, detections.conf, detections.cls))
        labels_cls = np.asarray(labels_cls).astype(np.int64)
        labels_xyxy = np.asarray(labels_xyxy, dtype=np.float64).reshape(-1, 4)
        if len(labels_cls) and not 0 <= labels_cls.min() <= labels_cls.max() < self.nc:
            wrong = np.unique(labels_cls).tolist()
            raise ValueError(f"DetectionAccumulator: expected label classes in 0..{self.nc - 1}, got {wrong}")
        known = (cls >= 0) & (cls < self.nc)
        xyxy, conf, cls = xyxy[known], conf[known], cls[known]
        self._correct.append(match(cls, labels_cls, iou_matrix(labels_xyxy, xyxy.astype(np.float64))))
        self._conf.append(conf.astype(np.float64))
        self._cls.append(cls.astype(np.int64))
        self._labels += np.bincount(labels_cls, minlength=self.nc)
        self.images += 1

    def compute(self) -> DetectionMetrics:
        """Return the figures so far. No labels or no detections give zeros."""
        return self._summary()[0]

    def curves(self) -> Curves:
        """Return the curves by confidence and recall so far."""
        return self._summary()[1]

    def _summary(self) -> tuple[DetectionMetrics, Curves]:
        correct, conf, cls = self._by_falling_confidence()
        present = np.flatnonzero(self._labels)
        ap = np.zeros((self.nc, len(IOU_THRESHOLDS)))
        precision, recall, at_recall = (np.zeros((len(present), len(SAMPLES))) for _ in range(3))
        for row, c in enumerate(present):
            mine = cls == c
            if mine.any():
                ap[c], precision[row], recall[row], at_recall[row] = _class_curves(
                    correct[mine], conf[mine], self._labels[c]
                )
        f1 = 2 * precision * recall / (precision + recall + TINY)
        curves = Curves(SAMPLES, precision, recall, f1, at_recall, present, ap[present, 0])
        best = int(_smoothed(f1.mean(0)).argmax()) if len(present) else 0
        at_best = np.zeros((3, self.nc))
        at_best[:, present] = precision[:, best], recall[:, best], f1[:, best]
        return DetectionMetrics(*at_best, ap, self._labels.copy(), float(SAMPLES[best]), self.images), curves

    def _by_falling_confidence(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.images:
            return np.zeros((0, len(IOU_THRESHOLDS)), bool), np.zeros(0), np.zeros(0, np.int64)
        conf = np.concatenate(self._conf)
        order = ranking(conf)
        return np.concatenate(self._correct)[order], conf[order], np.concatenate(self._cls)[order]


def _class_curves(
    correct: np.ndarray, conf: np.ndarray, labels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One class's AP (10,), and at IoU 0.5 its P and R by confidence and its precision by recall, (1000,) each.

    correct (n, 10) and conf (n,), by falling confidence; labels: how many there are to find.
    """
    hits = correct.cumsum(0)
    recall = hits / (labels + TINY)
    precision = hits / np.arange(1, len(conf) + 1)[:, None]
    # The curve runs from (0, 1) to (1, 0); its precision at a recall is the best at that recall or beyond.
    ends = np.ones((1, len(IOU_THRESHOLDS)))
    curve_recall = np.concatenate((0 * ends, recall, ends))
    curve_precision = np.concatenate((ends, precision, 0 * ends))
    curve_precision = np.maximum.accumulate(curve_precision[::-1])[::-1]
    sampled = [np.interp(AP_RECALLS, r, p) for r, p in zip(curve_recall.T, curve_precision.T)]
    ap = (AP_RECALLS[1] - AP_RECALLS[0]) * (np.sum(sampled, 1) - np.take(sampled, (0, -1), 1).sum(1) / 2)
    by_confidence = [
        np.interp(-SAMPLES, -conf, values[:, 0], left=left) for values, left in ((precision, 1), (recall, 0))
    ]
    return ap, *by_confidence, np.interp(SAMPLES, curve_recall[:, 0], curve_precision[:, 0])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The running mean over SMOOTHING points, the ends repeated."""
    return np.convolve(np.pad(values, SMOOTHING // 2, mode="edge"), np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")


def table_header() -> str:
    """Return v6.1's column titles of the validation table (20 + 6 x 11 wide)."""
    return "%20s" % "Class" + "%11s" * 6 % ("Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")


def table_rows(metrics: DetectionMetrics, names: list[str] | tuple[str, ...], per_class: bool = False) -> list[str]:
    """Return v6.1's lines of the validation table: `all`, then one a class that has labels."""
    rows = [_table_row("all", metrics.images, int(metrics.labels.sum()), metrics.row())]
    if per_class and metrics.ap.shape[0] > 1:
        ap = metrics.ap.mean(1)
        rows += [
            _table_row(
                names[c],
                metrics.images,
                int(metrics.labels[c]),
                (metrics.precision[c], metrics.recall[c], metrics.ap[c, 0], ap[c]),
            )
            for c in metrics.present
        ]
    return rows


def _table_row(name: str, images: int, labels: int, figures: tuple[float, ...]) -> str:
    return "%20s" % name + "%11i" * 2 % (images, labels) + "%11.3g" * 4 % tuple(figures)
