"""YOLOv5's detection metrics: P, R, F1 and AP per class, from matched detections.

`match` decides for one image which detections are correct at each IoU threshold; `DetectionAccumulator` collects this
over a dataset and computes `DetectionMetrics` and `Curves`. All in float64 on the host; the only loops are over
classes and thresholds.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.boxes import iou_matrix
from utils.errors import NAME_LIMIT, cut
from utils.types import DetectionMetrics, Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_TIE_SEED = 98  # any would do; with this one the only tie in the reference metrics, of ten detections, ranks as there
SAMPLES = np.linspace(0, 1, 1000)  # confidences for P, R and F1, recalls for the plotted precision-recall curves
AP_RECALLS = np.linspace(0, 1, 101)  # recalls at which AP integrates
SMOOTHING = 101  # width, in points of SAMPLES, of the running mean of F1 whose peak is taken
TINY = 1e-16


@dataclass(frozen=True)
class ImageResult:
    """The detections and labels of one image, both in native pixels.

    Attributes:
        index: Position of the image in its dataset.
        path: The image file.
        native: (height, width) in pixels.
        detections: On the host.
        labels_cls: (n,) int64 class ids.
        labels_xyxy: (n, 4) float32 xyxy pixels.
    """

    index: int
    path: str
    native: tuple[int, int]
    detections: Detections
    labels_cls: np.ndarray
    labels_xyxy: np.ndarray


@dataclass(frozen=True)
class Curves:
    """The curves of the threshold plots at IoU 0.5, for the k classes that have labels.

    Attributes:
        px: (1000,) confidences and, for the precision-recall curve, recalls, 0..1.
        precision: (k, 1000) by confidence.
        recall: (k, 1000) by confidence.
        f1: (k, 1000) by confidence.
        pr_precision: (k, 1000) by recall, never rising.
        classes: (k,) class ids, rising.
        ap50: (k,) average precision.
    """

    px: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    pr_precision: np.ndarray
    classes: np.ndarray
    ap50: np.ndarray

    def peaks(self) -> np.ndarray:
        """Return (k,) indices into px of each class's largest F1, smoothed as the mean F1 is for `confidence`."""
        return np.array([_smoothed(values).argmax() for values in self.f1], np.int64)


def match(detections_cls: np.ndarray, labels_cls: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Return whether each detection of one image is correct, at each of IOU_THRESHOLDS.

    A detection is a candidate for the label of its class that it overlaps most, if their IoU is the threshold or more.
    Of the candidates for a label the most confident is correct.

    Args:
        detections_cls: (n,) class ids, by falling confidence.
        labels_cls: (m,) class ids.
        iou: (m, n) of labels and detections.

    Returns:
        (n, 10) bool.

    Example:
        >>> iou = np.array([[0.62, 0.91]])  # one label, two detections of its class
        >>> match(np.array([0, 0]), np.array([0]), iou).astype(int)
        array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
               [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]])
    """
    count = len(detections_cls)
    if not count or not len(labels_cls):
        return np.zeros((count, len(IOU_THRESHOLDS)), bool)
    overlap = np.where(labels_cls[:, None] == detections_cls[None], iou, -1)
    label = overlap.argmax(0)
    candidate = overlap.max(0)[:, None] >= IOU_THRESHOLDS
    # Candidates grouped by label, still by falling confidence: the first of each group is correct.
    order = label.argsort(kind="stable")
    counted = candidate[order].cumsum(0)
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    before = np.where(starts[:, None] > 0, counted[starts - 1], 0)
    sizes = np.diff(np.append(starts, count))
    correct = np.empty_like(candidate)
    correct[order] = candidate[order] & (counted - np.repeat(before, sizes, 0) == 1)
    return correct


def ranking(conf: np.ndarray) -> np.ndarray:
    """Return the order (n,) of detections by falling confidence; conf is (n,) in the order of their images."""
    # Equal confidences are ranked by a fixed shuffle: it does not favor the first images, and it is the same with every
    # processor and numpy, which an unstable sort is not (RandomState's stream is frozen).
    shuffle = np.random.RandomState(_TIE_SEED).permutation(len(conf))
    return shuffle[(-conf[shuffle]).argsort(kind="stable")]


class DetectionAccumulator:
    """Collects detections and labels image by image and computes the metrics of all of them.

    The rank of detections of equal confidence depends on the order of their images: update in the order of the dataset
    for results that do not depend on batches.

    Example:
        >>> import torch
        >>> box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
        >>> accumulator = DetectionAccumulator(nc=2)
        >>> accumulator.update(Detections(box, torch.tensor([0.9]), torch.tensor([1])), np.array([1]), box.numpy())
        >>> metrics = accumulator.compute()
        >>> metrics.mean_precision, metrics.mean_recall, round(metrics.map50, 3)
        (1.0, 1.0, 0.995)
    """

    def __init__(self, nc: int):
        self.nc = nc
        self.images = 0
        self._correct: list[np.ndarray] = []
        self._conf: list[np.ndarray] = []
        self._cls: list[np.ndarray] = []
        self._labels = np.zeros(nc, np.int64)

    def update(self, detections: Detections, labels_cls: np.ndarray | Tensor, labels_xyxy: np.ndarray | Tensor) -> None:
        """Add one image. Detections of a class that the dataset does not have are ignored.

        Args:
            detections: By falling confidence, on the host.
            labels_cls: (m,) class ids, array or host tensor.
            labels_xyxy: (m, 4) xyxy in the same pixels, array or host tensor.

        Raises:
            ValueError: A label's class is outside 0..nc-1.
        """
        xyxy, conf, cls = (np.asarray(values) for values in (detections.xyxy, detections.conf, detections.cls))
        labels_cls = np.asarray(labels_cls).astype(np.int64)
        labels_xyxy = np.asarray(labels_xyxy, dtype=np.float64).reshape(-1, 4)
        if len(labels_cls) and not 0 <= labels_cls.min() <= labels_cls.max() < self.nc:
            wrong = np.unique(labels_cls).tolist()
            raise ValueError(f"DetectionAccumulator: expected label classes in 0..{self.nc - 1}, got {wrong}")
        known = (cls >= 0) & (cls < self.nc)
        xyxy, conf, cls = xyxy[known], conf[known], cls[known]
        self.add(match(cls, labels_cls, iou_matrix(labels_xyxy, xyxy.astype(np.float64))), conf, cls, labels_cls)

    def add(self, correct: np.ndarray, conf: np.ndarray, cls: np.ndarray, labels_cls: np.ndarray) -> None:
        """Add one image, or several at once, whose detections are matched already.

        Args:
            correct: (n, 10) bool, whether each detection is correct, at each of IOU_THRESHOLDS.
            conf: (n,) confidence, 0..1.
            cls: (n,) class ids.
            labels_cls: (m,) int64 class ids in 0..nc-1.
        """
        self._correct.append(correct)
        self._conf.append(conf.astype(np.float64))
        self._cls.append(cls.astype(np.int64))
        self._labels += np.bincount(labels_cls, minlength=self.nc)
        self.images += 1

    def compute(self) -> DetectionMetrics:
        """Return the metrics so far; without labels or detections they are zeros."""
        return self.summary()[0]

    def curves(self) -> Curves:
        """Return the curves by confidence and recall so far."""
        return self.summary()[1]

    def summary(self) -> tuple[DetectionMetrics, Curves]:
        """Return the metrics and the curves so far, for little more than either alone."""
        correct, conf, cls = self._by_falling_confidence()
        present = np.flatnonzero(self._labels)
        ap = np.zeros((self.nc, len(IOU_THRESHOLDS)))
        precision, recall, at_recall = (np.zeros((len(present), len(SAMPLES))) for _ in range(3))
        for row, c in enumerate(present):
            of_class = cls == c
            if of_class.any():
                ap[c], precision[row], recall[row], at_recall[row] = _class_curves(
                    correct[of_class], conf[of_class], self._labels[c]
                )
        f1 = 2 * precision * recall / (precision + recall + TINY)
        curves = Curves(SAMPLES, precision, recall, f1, at_recall, present, ap[present, 0])
        best = int(_smoothed(f1.mean(0)).argmax()) if len(present) else 0
        at_best = np.zeros((3, self.nc))
        at_best[:, present] = precision[:, best], recall[:, best], f1[:, best]
        confidence = float(SAMPLES[best])
        return DetectionMetrics(
            at_best[0], at_best[1], at_best[2], ap, self._labels.copy(), confidence, self.images
        ), curves

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

    correct (n, 10) and conf (n,) are by falling confidence; labels is the class's number of labels.
    """
    hits = correct.cumsum(0)
    recall = hits / (labels + TINY)
    precision = hits / np.arange(1, len(conf) + 1)[:, None]
    # The curve runs from (0, 1) to (1, 0); its precision at a recall is the best at that recall or beyond.
    ends = np.ones((1, len(IOU_THRESHOLDS)))
    curve_recall = np.concatenate((0 * ends, recall, ends))
    curve_precision = np.concatenate((ends, precision, 0 * ends))
    curve_precision = np.maximum.accumulate(curve_precision[::-1])[::-1]
    sampled = [np.interp(AP_RECALLS, r, p) for r, p in zip(curve_recall.T, curve_precision.T, strict=True)]
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
    titles = ("Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
    return f"{'Class':>20}" + "".join(f"{title:>11}" for title in titles)


def table_rows(metrics: DetectionMetrics, names: list[str] | tuple[str, ...], per_class: bool = False) -> list[str]:
    """Return v6.1's lines of the validation table.

    Args:
        metrics: Of the dataset.
        names: Of the classes.
        per_class: Whether a line per class that has labels follows the line `all`; not if there is only one class.

    Returns:
        The lines, as wide as the header.
    """
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
    return f"{cut(name, NAME_LIMIT):>20}{images:>11}{labels:>11}" + "".join(f"{figure:>11.3g}" for figure in figures)
