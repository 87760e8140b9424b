"""The confusion matrix of a detector, background included."""

import numpy as np

from utils.boxes import iou_matrix
from utils.types import Detections


class ConfusionMatrix:
    """Counts which class was predicted for which object.

    matrix: (nc+1, nc+1) int64, row = predicted class, column = true class, the last of each the
    background: the last row counts objects that were missed, the last column predictions without an object.
    Predictions must be more confident than `conf`; prediction and object pair up where they
    overlap by more than `iou`, whatever their classes, each at most once, best overlap first.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou: float = 0.45):
        self.nc, self.conf, self.iou = nc, conf, iou
        self.matrix = np.zeros((nc + 1, nc + 1), np.int64)

    def thresholds(self) -> str:
        """Return both thresholds in words."""
        return f"confidence > {self.conf:g}, IoU > {self.iou:g}"

    def update(self, detections: Detections, labels_cls, labels_xyxy) -> None:
        """Add one image: its detections, and its labels' (m,) classes and (m, 4) xyxy boxes in the same pixels."""
        xyxy, conf, cls = (np.asarray(part) for part in (detections.xyxy, detections.conf, detections.cls))
        labels_cls = np.asarray(labels_cls).astype(np.int64)
        sure = (conf > self.conf) & (cls >= 0) & (cls < self.nc)
        xyxy, cls = xyxy[sure].astype(np.float64), cls[sure].astype(np.int64)
        overlap = iou_matrix(xyxy, np.asarray(labels_xyxy, dtype=np.float64).reshape(-1, 4))
        found, label = greedy_pairs(overlap, self.iou)
        self._count(cls[found], labels_cls[label])
        self._count(np.delete(cls, found), self.nc)
        self._count(self.nc, np.delete(labels_cls, label))

    def _count(self, predicted: np.ndarray | int, true: np.ndarray | int) -> None:
        np.add.at(self.matrix, (predicted, true), 1)

    def normalised(self) -> np.ndarray:
        """Return (nc+1, nc+1) shares of each true class; a column without objects is zeros."""
        return self.matrix / np.maximum(self.matrix.sum(0), 1)


def greedy_pairs(overlap: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) of the one-to-one pairs that greedy matching takes from an (N, M) overlap matrix.

    Greedy: the largest entry over the threshold pairs its row and column, both leave, and so on;
    of equal entries the one that stands first. Done in rounds: entries that are the largest of
    their row and of their column are taken together, which chooses the same pairs.
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
