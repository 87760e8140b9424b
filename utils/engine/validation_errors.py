"""What val.py reports beyond the table: the confidence of each class's best F1, and errors by kind after TIDE."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.calibration import CalibratedConfidence
from utils.engine.evaluator import Evaluation
from utils.errors import NAME_LIMIT, cut
from utils.metrics.average_precision import ImageResult
from utils.statistics.tide import ErrorKinds, error_kinds

NO_BEST_F1 = {"best_f1": None, "best_f1_confidence": None, "best_f1_precision": None, "best_f1_recall": None}


def best_f1(evaluation: Evaluation) -> dict[int, dict[str, float]]:
    """Return F1, confidence, precision and recall at the largest F1 (IoU 0.5), by class id, of the classes found."""
    curves = evaluation.curves
    figures = {}
    for row, (class_id, peak) in enumerate(zip(curves.classes, curves.peaks(), strict=True)):
        if curves.f1[row].any():
            values = (curves.f1[row, peak], curves.px[peak], curves.precision[row, peak], curves.recall[row, peak])
            figures[int(class_id)] = dict(zip(NO_BEST_F1, map(float, values), strict=True))
    return figures


def calibrated(evaluation: Evaluation) -> CalibratedConfidence | None:
    """Return the thresholds of the best F1, None if nothing was found."""
    peaks, metrics = best_f1(evaluation), evaluation.metrics
    if not peaks or not metrics.confidence:
        return None
    own = {class_id: figures["best_f1_confidence"] for class_id, figures in peaks.items()}
    return CalibratedConfidence(metrics.confidence, tuple(own.get(class_id) for class_id in range(len(metrics.labels))))


def best_f1_lines(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """Return a table of the best F1 for the console: all classes together, then one row per class.

    Args:
        evaluation: The results.
        names: Class names.

    Returns:
        Lines with F1, and the confidence, P and R that belong to it.
    """
    metrics = evaluation.metrics
    mean_f1 = float(metrics.f1[metrics.present].mean()) if len(metrics.present) else 0.0
    means = [mean_f1, metrics.confidence, metrics.mean_precision, metrics.mean_recall]
    rows: list[tuple[str, list[float]]] = [("all", means)]
    rows += [(names[class_id], list(figures.values())) for class_id, figures in best_f1(evaluation).items()]
    titles = "".join(f"{title:>11}" for title in ("F1", "conf", "P", "R"))
    lines = [f"{cut(name, NAME_LIMIT):>20}" + "".join(f"{value:11.3g}" for value in values) for name, values in rows]
    return [f"{'Best F1 at IoU .5':>20}{titles}", *lines]


@dataclass(frozen=True)
class CountedErrors:
    """Errors by kind.

    Attributes:
        ranked: Of all detections, as TIDE costs them.
        counted: Of the detections from `confidence` on: the errors that a user of the detector would see.
        confidence: The threshold of `counted`.
    """

    ranked: ErrorKinds
    counted: ErrorKinds
    confidence: float

    @classmethod
    def of(cls, results: Sequence[ImageResult], nc: int, confidence: float) -> "CountedErrors":
        """Return the errors of an evaluation.

        Args:
            results: Labels and detections per image, in the order of the dataset.
            nc: Number of classes.
            confidence: Least confidence of a detection that is counted.

        Returns:
            Counts and costs by kind.
        """
        return cls(error_kinds(results, nc), error_kinds(results, nc, confidence), confidence)

    def rows(self) -> list[tuple[str, int, float]]:
        """Return kind, number of errors from `confidence` on, and cost in mAP50 (0..1), one row per kind."""
        pairs = zip(self.counted.rows(), self.ranked.rows(), strict=True)
        return [(kind, count, cost) for (kind, count, _), (_, _, cost) in pairs]

    def lines(self) -> list[str]:
        """Return a table for the console, costs in points of mAP50."""
        titles = f"{'Errors (TIDE)':>20}{f'conf >= {self.confidence:g}':>15}{'mAP50 lost, points':>22}"
        return [titles, *(f"{kind:>20}{count:15d}{100 * cost:22.2f}" for kind, count, cost in self.rows())]

    def as_dict(self) -> dict[str, object]:
        """Return all figures as plain values, costs as parts of 1."""
        counts = self.counted.counts
        return {
            "conf_thres": self.confidence,
            "kinds": [{"kind": kind, "count": count, "map50_cost": cost} for kind, count, cost in self.rows()],
            "false_positives_map50_cost": float(self.ranked.false_positives),
            "false_negatives_map50_cost": float(self.ranked.false_negatives),
            "counts_by_class": {kind: counts[row].tolist() for row, (kind, _, _) in enumerate(self.rows())},
        }
