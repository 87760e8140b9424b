"""The files of a validation: label files, COCO results, images of batches, figures and metrics.json.

The writers are observers of `evaluate`; one that is off is absent. Files are replaced, never appended to.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.boxes import xyxy_to_xywhn
from utils.engine.evaluation_pass import EvaluatedBatch
from utils.engine.evaluator import Evaluation
from utils.engine.validation_errors import NO_BEST_F1, CountedErrors, best_f1
from utils.files import write_json_atomically
from utils.log import warn_once
from utils.metrics.average_precision import ImageResult
from utils.metrics.coco import CocoMetrics, explain_difference
from utils.types import DetectionMetrics

DRAWN_BATCHES = 3
# COCO numbers its 80 classes from 1 to 90; these numbers name no class that has boxes.
_UNUSED_COCO_IDS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_COCO_IDS)


class LabelFiles:
    """labels/<stem>.txt: rows `class xc yc w h [confidence]`, normalized to the native image.

    An image without detections has no file. Images of one stem (in different folders) get <stem>_2.txt, ...

    Args:
        save_dir: The run folder.
        save_conf: Append the confidence to each row.
    """

    def __init__(self, save_dir: Path, save_conf: bool):
        self.folder, self.save_conf = save_dir / "labels", save_conf
        self.written = 0
        self._stems: dict[str, int] = {}

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for result in evaluated.results:
            file = self.folder / f"{self._unused_stem(Path(result.path).stem)}.txt"
            lines = _label_lines(result, self.save_conf)
            if not lines:
                file.unlink(missing_ok=True)  # of an earlier run into the same folder
                continue
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            self.written += 1

    def _unused_stem(self, stem: str) -> str:
        self._stems[stem] = self._stems.get(stem, 0) + 1
        if self._stems[stem] == 1:
            return stem
        warn_once(
            f"several images are called {stem}: their label files are {stem}.txt, {stem}_2.txt, ... in dataset order"
        )
        return self._unused_stem(f"{stem}_{self._stems[stem]}")


def _label_lines(result: ImageResult, save_conf: bool) -> list[str]:
    found, (height, width) = result.detections, result.native
    xywhn = xyxy_to_xywhn(found.xyxy.double().numpy(), width, height).tolist()
    columns = zip(found.cls.tolist(), xywhn, found.conf.tolist(), strict=True)
    return [
        " ".join(f"{value:g}" for value in (cls, *box, *([conf] if save_conf else []))) for cls, box, conf in columns
    ]


class CocoResults:
    """<weights stem>_predictions.json in COCO's result format; `save` writes what was collected.

    image_id is the image's stem, as a number if it is one; category_id is COCO's own id if the classes are COCO's 80,
    else the class id.

    Args:
        file: The file to write.
        names: Class names.
    """

    def __init__(self, file: Path, names: Sequence[str]):
        self.file = file
        self._ids = category_ids(names)
        self._images: list[tuple[int, list[dict]]] = []

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        self._images += [(result.index, self._records(result)) for result in evaluated.results]

    def _records(self, result: ImageResult) -> list[dict]:
        stem, found = Path(result.path).stem, result.detections
        image = int(stem) if stem.isascii() and stem.isdigit() else stem
        return [
            {
                "image_id": image,
                "category_id": self._ids[cls],
                "score": round(conf, 5),
                "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            }
            for (left, top, right, bottom), conf, cls in zip(
                found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True
            )
        ]

    def save(self) -> Path:
        """Write the file, images in the order of the dataset, and return its path."""
        records = [record for _, records in sorted(self._images, key=lambda image: image[0]) for record in records]
        return write_json_atomically(self.file, records, indent=None, ensure_ascii=True)


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Return the category_id of each class: COCO's for its 80 classes, else 0, 1, ..."""
    is_coco = len(names) == len(COCO_IDS) and (names[0], names[-1]) == ("person", "toothbrush")
    return COCO_IDS if is_coco else tuple(range(len(names)))


class ValBatchImages:
    """val_batch0..2_labels.jpg and val_batch0..2_pred.jpg: the first batches with their labels and detections.

    Args:
        save_dir: The run folder.
        names: Class names.
    """

    def __init__(self, save_dir: Path, names: Sequence[str]):
        self.save_dir, self.names = save_dir, tuple(names)

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        if evaluated.index >= DRAWN_BATCHES:
            return
        from utils.plots.batches import plot_batch, plot_detections

        batch, base = evaluated.batch, f"val_batch{evaluated.index}"
        plot_batch(batch.images, batch.targets, batch.paths, self.save_dir / f"{base}_labels.jpg", self.names)
        plot_detections(batch.images, evaluated.detections, batch.paths, self.save_dir / f"{base}_pred.jpg", self.names)


def draw_figures(evaluation: Evaluation, names: Sequence[str], save_dir: Path, errors: CountedErrors) -> None:
    """Write F1, P, R and PR_curve.png, confusion_matrix.png and errors.png.

    Args:
        evaluation: The results.
        names: Class names.
        save_dir: The run folder.
        errors: Errors by kind.
    """
    from utils.plots.curves import plot_threshold_curves
    from utils.plots.error_plots import plot_confusion, plot_errors

    plot_threshold_curves(evaluation.curves, names, save_dir)
    confusion = evaluation.confusion
    plot_confusion(confusion.matrix, names, save_dir / "confusion_matrix.png", note=confusion.thresholds())
    plot_errors(errors.rows(), errors.confidence, save_dir / "errors.png")


def write_metrics(
    evaluation: Evaluation, names: Sequence[str], save_dir: Path, settings: Mapping, errors: CountedErrors | None = None
) -> Path:
    """Write metrics.json: every figure of both evaluators, one entry per class, errors, speeds, settings and versions.

    A figure that is not finite, such as the loss of a diverged network, is null there.

    Args:
        evaluation: The results.
        names: Class names.
        save_dir: The run folder.
        settings: What the evaluation was made with.
        errors: Errors by kind, if they were counted.

    Returns:
        The file's path.
    """
    metrics, coco, best = evaluation.metrics, evaluation.coco, best_f1(evaluation)
    content = {
        "images": metrics.images,
        "labels": int(metrics.labels.sum()),
        "yolov5": _yolov5_figures(metrics),
        "coco": _coco_figures(coco) if coco else None,
        "note": explain_difference(metrics.map, coco.ap) if coco else None,
        "coco_whole_images": _coco_figures(evaluation.coco_whole) if evaluation.coco_whole else None,
        "tiles_per_image": evaluation.tiles_per_image,
        "losses": dict(zip(("box", "obj", "cls"), evaluation.losses.row(), strict=True)) if evaluation.losses else None,
        "speed_ms_per_image": dict(zip(("pre_process", "inference", "nms"), evaluation.speeds.row(), strict=True)),
        "speed_images": evaluation.timed_images,
        "classes": [
            {**_class_figures(class_id, name, metrics, coco), **best.get(class_id, NO_BEST_F1)}
            for class_id, name in enumerate(names)
        ],
        "errors": errors.as_dict() if errors else None,
        "confusion_matrix": {
            "rows": "predicted, background last",
            "columns": "true, background last",
            "conf_thres": evaluation.confusion.conf,
            "iou_thres": evaluation.confusion.iou,
            "counts": evaluation.confusion.matrix.tolist(),
        },
        "settings": dict(settings),
        "versions": _versions(),
    }
    return write_json_atomically(save_dir / "metrics.json", content, indent=2, default=str)


def _yolov5_figures(metrics: DetectionMetrics) -> dict:
    return {
        "precision": metrics.mean_precision,
        "recall": metrics.mean_recall,
        "map50": metrics.map50,
        "map": metrics.map,
        "fitness": metrics.fitness,
        "best_f1_confidence": metrics.confidence,
    }


def _coco_figures(coco: CocoMetrics) -> dict:
    return {name: value for name, value in vars(coco).items() if not isinstance(value, np.ndarray)}


def _class_figures(class_id: int, name: str, metrics: DetectionMetrics, coco: CocoMetrics | None) -> dict:
    return {
        "class": class_id,
        "name": name,
        "labels": int(metrics.labels[class_id]),
        "precision": float(metrics.precision[class_id]),
        "recall": float(metrics.recall[class_id]),
        "f1": float(metrics.f1[class_id]),
        "ap50": float(metrics.ap[class_id, 0]),
        "ap": float(metrics.ap[class_id].mean()),
        "ap_by_iou": metrics.ap[class_id].tolist(),
        "coco_ap50": float(coco.ap_by_iou[0, class_id]) if coco else None,
        "coco_ap": float(coco.class_ap[class_id]) if coco else None,
    }


def _versions() -> dict:
    from importlib import metadata

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "opencv-python"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
