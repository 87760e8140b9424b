"""Time the evaluation of detections: metrics of drawn detections, and suppression of a network's predictions.

    python benchmarks/evaluation.py --images 5000
    python benchmarks/evaluation.py --weights yolov5n.pt --data coco128.yaml

Without weights: YOLOv5's metrics and COCO's of 300 drawn detections per image, and with --pycocotools its time for the
first of these images. With weights: suppression as val.py does it against torchvision's operator alone on all
candidates, in turn.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import nms as suppression  # noqa: E402
from utils.config import DatasetSpec, EvalOptions, SplitOptions  # noqa: E402
from utils.device import network_input, select_device  # noqa: E402
from utils.engine.evaluator import EvalSplit, load_for  # noqa: E402
from utils.metrics.average_precision import DetectionAccumulator, ImageResult  # noqa: E402
from utils.metrics.coco import coco_metrics  # noqa: E402
from utils.types import Detections  # noqa: E402

CLASSES, PER_IMAGE = 80, 300
CONF, IOU = 0.001, 0.6  # as val.py


def drawn_results(images: int, seed: int = 0) -> list[ImageResult]:
    """Return images of some 8 labels and 300 detections each, a third of them of a nearby label's class.

    Args:
        images: How many.
        seed: Of the random generator.

    Returns:
        One result per image.
    """
    rng, results = np.random.default_rng(seed), []
    for index in range(images):
        count = int(rng.poisson(7)) + 1
        corner = rng.uniform(0, 500, (count, 2))
        labels = np.concatenate((corner, corner + np.exp(rng.normal(4, 1, (count, 2)))), 1)
        classes = rng.integers(0, CLASSES, count)
        near = rng.integers(0, count, PER_IMAGE)
        boxes = labels[near] + rng.normal(0, 1, (PER_IMAGE, 4)) * np.exp(rng.normal(1.5, 1.5, (PER_IMAGE, 1)))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        cls = np.where(rng.random(PER_IMAGE) < 0.35, classes[near], rng.integers(0, CLASSES, PER_IMAGE))
        conf = np.sort(rng.random(PER_IMAGE) ** 3)[::-1].astype(np.float32)
        found = Detections(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(conf), torch.from_numpy(cls))
        results.append(ImageResult(index, f"{index}.jpg", (640, 640), found, classes, labels.astype(np.float32)))
    return results


def yolov5_metrics(results: list[ImageResult]) -> object:
    """Return YOLOv5's metrics and curves."""
    accumulator = DetectionAccumulator(CLASSES)
    for one in results:
        accumulator.update(one.detections, one.labels_cls, one.labels_xyxy)
    return accumulator.summary()


def predictions(weights: Path, data: Path) -> list[torch.Tensor]:
    """Return the rows (n, 5 + nc) that pass the threshold of objectness, per image.

    Args:
        weights: A checkpoint.
        data: A data yaml, whose split `val` is predicted.

    Returns:
        One tensor per image.
    """
    device, spec = select_device("cpu"), DatasetSpec.load(data)
    model = load_for(spec, [weights], device, EvalOptions())
    loader = EvalSplit("val", SplitOptions(), 32, 0, Path()).open(spec, model)
    with torch.no_grad():
        rows = [
            one[one[:, 4] > CONF] for batch in loader.epoch(0) for one in model(network_input(batch.images, device))[0]
        ]
    loader.close()
    return rows


def seconds(*works: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each work in its fastest round; the works take turns.

    Args:
        works: What is timed.
        rounds: Number of rounds.

    Returns:
        One figure per work.
    """
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def compare_suppression(rows: list[torch.Tensor], rounds: int) -> None:
    """Print the time of suppression in parts of that of the operator alone.

    Args:
        rows: Predictions per image.
        rounds: Number of rounds.
    """
    candidates = [suppression._candidates(one, CONF, True, None) for one in rows]
    shifted = [(xyxy + (cls * suppression.MAX_SIDE)[:, None], conf) for xyxy, conf, cls in candidates]
    operator, whole = seconds(
        lambda: [suppression.nms(xyxy, conf, IOU) for xyxy, conf in shifted],
        lambda: [suppression.non_max_suppression(one[None], CONF, IOU, multi_label=True) for one in rows],
        rounds=rounds,
    )
    mean = sum(len(conf) for _, conf in shifted) / len(rows)
    print(f"suppression of {len(rows)} images, {mean:.0f} candidates each: {whole / operator:.2f} x the operator alone")


def compare_metrics(images: int, rounds: int, reference: int) -> None:
    """Print the seconds of both evaluators, and of pycocotools on the first images.

    Args:
        images: How many are drawn.
        rounds: Number of rounds.
        reference: Images that pycocotools evaluates; 0 leaves it out.
    """
    results = drawn_results(images)
    ours, coco = seconds(lambda: yolov5_metrics(results), lambda: coco_metrics(results, CLASSES), rounds=rounds)
    print(f"{images * PER_IMAGE} detections: YOLOv5's metrics {ours:.2f} s, COCO's {coco:.2f} s")
    if reference:
        few = results[:reference]
        here, there = seconds(lambda: coco_metrics(few, CLASSES), lambda: _pycocotools(few), rounds=1)
        print(f"{len(few) * PER_IMAGE} detections: pycocotools {there / here:.0f} x the time of ours")


def _pycocotools(results: list[ImageResult]) -> None:
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    for dataset, is_truth in ((truth, True), (found, False)):
        annotations: list[dict] = []
        for one in results:
            boxes = one.labels_xyxy if is_truth else one.detections.xyxy.numpy()
            classes = one.labels_cls if is_truth else one.detections.cls.numpy()
            scores = np.ones(len(boxes)) if is_truth else one.detections.conf.numpy()
            for (left, top, right, bottom), cls, score in zip(boxes.tolist(), classes, scores, strict=True):
                row = {"image_id": one.index, "category_id": int(cls), "score": float(score), "iscrowd": 0}
                size = right - left, bottom - top
                row |= {"id": len(annotations) + 1, "bbox": [left, top, *size], "area": size[0] * size[1]}
                annotations.append(row)
        images, categories = [{"id": one.index} for one in results], [{"id": c} for c in range(CLASSES)]
        dataset.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.maxDets = [1, 10, 100, 300]
        evaluator.evaluate()
        evaluator.accumulate()


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="images of 300 drawn detections")
    parser.add_argument("--pycocotools", type=int, default=0, help="images that pycocotools evaluates too")
    parser.add_argument("--weights", type=Path, help="a checkpoint whose predictions are suppressed")
    parser.add_argument("--data", type=Path, help="the data yaml of its images")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.weights:
        compare_suppression(predictions(options.weights, options.data), options.rounds)
    else:
        compare_metrics(options.images, options.rounds, options.pycocotools)


if __name__ == "__main__":
    main()
