"""What val.py tells beyond the table: the confidence at which each class does best, and errors by kind after TIDE."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.engine.evaluator import Evaluation
from utils.metrics.average_precision import ImageResult
from utils.statistics.tide import ErrorKinds, error_kinds

NO_BEST_F1 = {"best_f1": None, "best_f1_confidence": None, "best_f1_precision": None, "best_f1_recall": None}


def best_f1(evaluation: Evaluation) -> dict[int, dict[str, float]]:
    """Return F1, confidence, precision and recall where a class's F1 at IoU 0.5 is largest, for each class that was found."""
    curves = evaluation.curves
    found = [
        (row, number, place)
        for row, (number, place) in enumerate(zip(curves.classes, curves.peaks()))
        if curves.f1[row].any()
    ]
    return {
        int(number): dict(
            zip(
                NO_BEST_F1,
                map(
                    float,
                    (curves.f1[row, place], curves.px[place], curves.precision[row, place], curves.recall[row, place]),
                ),
            )
        )
        for row, number, place in found
    }


def best_f1_lines(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """Return a table: for all classes together, then for each, the confidence of the best F1 and what P, R and F1 are there."""
    metrics = evaluation.metrics
    mean_f1 = float(metrics.f1[metrics.present].mean()) if len(metrics.present) else 0.0
    rows = [("all", mean_f1, metrics.confidence, metrics.mean_precision, metrics.mean_recall)]
    rows += [(names[number], *figures.values()) for number, figures in best_f1(evaluation).items()]
    titles = "%20s" % "Best F1 at IoU .5" + "%11s" * 4 % ("F1", "conf", "P", "R")
    return [titles, *("%20s%11.3g%11.3g%11.3g%11.3g" % row for row in rows)]


@dataclass(frozen=True)
class CountedErrors:
    """Errors by kind. ranked: of all detections, as TIDE costs them; counted: of those from `confidence` on, whose
    numbers are those of errors that somebody would see.
    """

    ranked: ErrorKinds
    counted: ErrorKinds
    confidence: float

    @classmethod
    def of(cls, results: Sequence[ImageResult], nc: int, confidence: float) -> "CountedErrors":
        """Sort the errors of `results`, in the order of the data set."""
        return cls(error_kinds(results, nc), error_kinds(results, nc, confidence), confidence)

    def rows(self) -> list[tuple[str, int, float]]:
        """Return kind, number of errors from `confidence` on, and cost in mAP50 (0..1), a row a kind."""
        return [(kind, count, cost) for (kind, count, _), (_, _, cost) in zip(self.counted.rows(), self.ranked.rows())]

    def lines(self) -> list[str]:
        """Return a table for the console, costs in points of mAP50."""
        titles = "%20s" % "Errors (TIDE)" + "%15s" % f"conf >= {self.confidence:g}" + "%22s" % "mAP50 lost, points"
        return [
            titles,
            *("%20s" % kind + "%15i" % count + "%22.2f" % (100 * cost) for kind, count, cost in self.rows()),
        ]

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
