"""Metrics with the tuples of YOLOv5's utils.metrics, computed by ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError
from utils.metrics.average_precision import AP_RECALLS, IOU_THRESHOLDS, TINY, DetectionAccumulator
from utils.metrics.confusion import ConfusionMatrix
from utils.types import Detections

APResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def class_names(names: Sequence[str] | Mapping[int, str]) -> list[str]:
    """Return names of classes as a list, also if they are a mapping of ids, as in v7."""
    if not isinstance(names, Mapping):
        return [str(name) for name in names]
    return [str(names.get(index, index)) for index in range(max(names, default=-1) + 1)]


def fitness(x: np.ndarray) -> np.ndarray:
    """Return 0.1 mAP50 + 0.9 mAP50-95 (n,) of rows (n, 4 or more): P, R, mAP50, mAP50-95."""
    return (x[:, :4] * [0.0, 0.0, 0.1, 0.9]).sum(1)


def ap_per_class(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Sequence[str] | Mapping[int, str] = (),
    eps: float = 1e-16,
) -> APResult:
    """Return the figures of the k classes that have labels, at the confidence with the largest mean F1.

    Args:
        tp: (n, up to 10) whether each detection is correct, at IoU 0.50, 0.55, ...
        conf: (n,) confidences.
        pred_cls: (n,) class ids.
        target_cls: (m,) class ids of the labels.
        plot: Whether the curves are drawn to `save_dir`.
        save_dir: A folder.
        names: Of the classes.
        eps: Not used; ours is 1e-16.

    Returns:
        True positives, false positives, P, R, F1 (k,), AP (k, thresholds), and class ids (k,) int32.

    Raises:
        DataError: If there are more than ten thresholds.
    """
    correct = np.asarray(tp).reshape(len(conf), -1)
    thresholds = correct.shape[1]
    if thresholds > len(IOU_THRESHOLDS):
        raise DataError(f"ap_per_class: expected at most {len(IOU_THRESHOLDS)} thresholds, got {thresholds}")
    filled = np.zeros((len(correct), len(IOU_THRESHOLDS)), bool)
    filled[:, :thresholds] = correct
    target = np.asarray(target_cls).astype(np.int64).reshape(-1)
    predicted = np.asarray(pred_cls).astype(np.int64).reshape(-1)
    collected = DetectionAccumulator(int(target.max(initial=-1)) + 1 or 1)
    collected.add(filled, np.asarray(conf), predicted, target)
    metrics, curves = collected.summary()
    if plot:
        from utils.plots.curves import plot_threshold_curves

        plot_threshold_curves(curves, class_names(names), save_dir)
    at = metrics.present
    precision, recall, f1, counts = metrics.precision[at], metrics.recall[at], metrics.f1[at], metrics.labels[at]
    right = (recall * counts).round()
    wrong = (right / (precision + TINY) - right).round()
    return right, wrong, precision, recall, f1, metrics.ap[at, :thresholds], at.astype(np.int32)


def compute_ap(recall: Sequence[float], precision: Sequence[float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the average precision of a curve, and the curve that it is the area of.

    Args:
        recall: Rising, 0..1.
        precision: At these.

    Returns:
        AP over 101 recalls; precision (n + 2,), never rising; recall (n + 2,).
    """
    at = np.concatenate(([0.0], recall, [1.0]))
    values = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(values[::-1])[::-1]
    sampled = np.interp(AP_RECALLS, at, envelope)
    area = float(((sampled[1:] + sampled[:-1]) / 2 * np.diff(AP_RECALLS)).sum())
    return area, envelope, at


class ScriptConfusionMatrix(ConfusionMatrix):
    """The confusion matrix with v6.1's methods; `matrix` has a row per predicted and a column per true class.

    Args:
        nc: Number of classes.
        conf: Only predictions more confident than this count.
        iou_thres: Least overlap of a pair.
        iou: The same, as our own code names it.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45, iou: float | None = None):
        super().__init__(nc, conf, iou_thres if iou is None else iou)
        self.iou_thres = self.iou

    def process_batch(self, detections: Tensor | np.ndarray | None, labels: Tensor | np.ndarray) -> None:
        """Add one image.

        Args:
            detections: (n, 6) xyxy, confidence, class; None for none.
            labels: (m, 5) class, xyxy.
        """
        rows = torch.zeros(0, 6) if detections is None else torch.as_tensor(detections).detach().cpu().float()
        truth = torch.as_tensor(labels).detach().cpu().float().reshape(-1, 5)
        self.update(Detections(rows[:, :4], rows[:, 4], rows[:, 5].long()), truth[:, 0].long(), truth[:, 1:])

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return true and false positives (nc,) of each class."""
        right = self.matrix.diagonal()
        return right[:-1], (self.matrix.sum(1) - right)[:-1]

    def plot(
        self, normalize: bool = True, save_dir: str | Path = "", names: Sequence[str] | Mapping[int, str] = ()
    ) -> None:
        """Write confusion_matrix.png.

        Args:
            normalize: Whether columns are shares of the true class.
            save_dir: A folder.
            names: Of the classes.
        """
        from utils.plots.error_plots import plot_confusion

        plot_confusion(
            self.matrix, class_names(names), Path(save_dir) / "confusion_matrix.png", normalize, self.thresholds()
        )

    def print(self) -> None:
        """Print the matrix, a line per predicted class."""
        for row in self.matrix:
            print(" ".join(map(str, row.tolist())))
