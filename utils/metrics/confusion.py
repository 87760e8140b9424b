"""The confusion matrix of a detector, background included."""

import numpy as np
from torch import Tensor

from utils.boxes import iou_matrix
from utils.types import Detections


class ConfusionMatrix:
    """Counts which class was predicted for which object.

    A prediction and an object are paired if they overlap by more than `iou`, whatever their classes, each at most once,
    best overlap first.

    Args:
        nc: Number of classes.
        conf: Only predictions more confident than this count, 0..1.
        iou: 0..1.

    Attributes:
        matrix: (nc+1, nc+1) int64, row = predicted class, column = true class, the last of each the background: the
            last row counts missed objects, the last column predictions without an object.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou: float = 0.45):
        self.nc, self.conf, self.iou = nc, conf, iou
        self.matrix = np.zeros((nc + 1, nc + 1), np.int64)

    def thresholds(self) -> str:
        """Return both thresholds in words."""
        return f"confidence > {self.conf:g}, IoU > {self.iou:g}"

    def update(self, detections: Detections, labels_cls: np.ndarray | Tensor, labels_xyxy: np.ndarray | Tensor) -> None:
        """Add one image.

        Args:
            detections: On the host.
            labels_cls: (m,) class ids, array or host tensor.
            labels_xyxy: (m, 4) xyxy in the same pixels, array or host tensor.
        """
        xyxy, conf, cls = (np.asarray(values) for values in (detections.xyxy, detections.conf, detections.cls))
        labels_cls = np.asarray(labels_cls).astype(np.int64)
        counted = (conf > self.conf) & (cls >= 0) & (cls < self.nc)
        xyxy, cls = xyxy[counted].astype(np.float64), cls[counted].astype(np.int64)
        overlap = iou_matrix(xyxy, np.asarray(labels_xyxy, dtype=np.float64).reshape(-1, 4))
        found, label = greedy_pairs(overlap, self.iou)
        self._count(cls[found], labels_cls[label])
        self._count(np.delete(cls, found), self.nc)
        self._count(self.nc, np.delete(labels_cls, label))

    def _count(self, predicted: np.ndarray | int, true: np.ndarray | int) -> None:
        np.add.at(self.matrix, tuple(np.broadcast_arrays(predicted, true)), 1)

    def normalized(self) -> np.ndarray:
        """Return (nc+1, nc+1) shares of each true class; a column without objects is zeros."""
        return self.matrix / np.maximum(self.matrix.sum(0), 1)


def greedy_pairs(overlap: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the one-to-one pairs that greedy matching takes from an overlap matrix.

    Greedy: the largest entry above the threshold pairs its row and column, both are removed, and so on; of equal
        entries
    the first one. Done in rounds: entries that are the largest of their row and of their column are taken together,
    which chooses the same pairs.

    Args:
        overlap: (N, M).
        threshold: Entries must be larger, at least 0.

    Returns:
        (K,) rows and (K,) columns.
    """
    left = np.where(overlap > threshold, overlap, 0.0)
    rows, columns = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while left.any():
        best_row = left.argmax(0)
        best_column = left.argmax(1)
        taken = np.flatnonzero((best_row[best_column] == np.arange(len(left))) & (left.max(1) > 0))
        rows, columns = np.append(rows, taken), np.append(columns, best_column[taken])
        left[taken] = 0
        left[:, best_column[taken]] = 0
    return rows, columns
