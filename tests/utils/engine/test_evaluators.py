"""Both evaluators against their originals on what a detector really finds.

These are pycocotools run by itself on files, with its own summary, and YOLOv5's rules spelled out. The detections are
yolov5n's on photographs, or of a drawn crowd without them.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from literal_metrics import literal_ap, literal_match

from utils.boxes import iou_matrix
from utils.checkpoint import load_models
from utils.config import LoaderOptions, SplitOptions, ValConfig
from utils.datasets.dataset import DetectionDataset
from utils.datasets.labels import read_labels
from utils.datasets.loader import Loader
from utils.engine.evaluation_pass import EvaluatedBatch
from utils.engine.evaluator import as_evaluated, evaluate
from utils.metrics.average_precision import DetectionAccumulator, ImageResult
from utils.metrics.coco import coco_metrics
from utils.types import Detections, Letterbox


def drawn_results(nc: int = 4, images: int = 40) -> list[ImageResult]:
    """Crowds of boxes of all three sizes, each found several times, moved, misnamed or missed; with false alarms."""
    rng, results = np.random.default_rng(11), []
    for index in range(images):
        labels = rng.integers(0, 9)
        corner = rng.uniform(0, 400, (labels, 2))
        boxes = np.concatenate(
            (corner, corner + rng.choice([14, 60, 180], (labels, 1)) * rng.uniform(0.7, 1.3, (labels, 2))), 1
        )
        cls = rng.integers(0, nc - 1, labels)  # the last class has no labels
        source = np.repeat(np.arange(labels), 3)
        sides = (boxes[:, 2:] - boxes[:, :2])[source]
        moved = boxes[source] + rng.normal(0, 0.12, (len(source), 4)) * np.tile(sides, 2)
        named = np.where(rng.random(len(source)) < 0.15, rng.integers(0, nc, len(source)), cls[source])
        alarms = rng.uniform(0, 300, (5, 2))
        xyxy = np.concatenate((moved, np.concatenate((alarms, alarms + 50), 1))).astype(np.float32)
        named = np.append(named, rng.integers(0, nc, 5))
        conf = np.sort(rng.random(len(xyxy)))[::-1].astype(np.float32)
        found = Detections(torch.from_numpy(xyxy), torch.from_numpy(conf.copy()), torch.from_numpy(named))
        results.append(ImageResult(index, f"{index}.jpg", (600, 600), found, cls, boxes.astype(np.float32)))
    return results


def detected_results(real, folder) -> list[ImageResult]:
    """What yolov5n finds in 24 photographs at 320."""
    model = load_models([real("weights/yolov5n.pt")], torch.device("cpu"))
    listed = folder / "some.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted((real("coco_val128") / "images").glob("*.jpg"))[:24]))
    dataset = DetectionDataset(read_labels(listed, 80, SplitOptions(cache_labels=False)), SplitOptions(320, rect=True))
    return list(evaluate(model, Loader(dataset, LoaderOptions(8, 0)), model.names).results)


@pytest.fixture(scope="module", params=["drawn", "detected"])
def scene(request, real, tmp_path_factory) -> tuple[list[ImageResult], int]:
    """Results and the number of classes."""
    return (
        (drawn_results(), 4)
        if request.param == "drawn"
        else (detected_results(real, tmp_path_factory.mktemp("some")), 80)
    )


def write_coco_files(results, nc, folder) -> tuple[str, str]:
    """Ground truth and results as one would hand them to pycocotools."""
    annotations, records = [], []
    for one in results:
        for cls, (x1, y1, x2, y2) in zip(one.labels_cls.tolist(), one.labels_xyxy.astype(float).tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": one.index,
                    "category_id": cls,
                    "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                }
            )
        found = one.detections
        for (x1, y1, x2, y2), conf, cls in zip(
            found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True
        ):
            records.append(
                {"image_id": one.index, "category_id": cls, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": conf}
            )
    truth = {
        "images": [{"id": one.index, "height": one.native[0], "width": one.native[1]} for one in results],
        "categories": [{"id": c, "name": str(c)} for c in range(nc)],
        "annotations": annotations,
        "info": {},
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(records))
    return str(folder / "truth.json"), str(folder / "found.json")


def test_coco_figures_are_those_of_pycocotools_by_itself(scene, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results, nc = scene
    truth_file, found_file = write_coco_files(results, nc, tmp_path)
    truth = COCO(truth_file)
    original = COCOeval(truth, truth.loadRes(found_file), "bbox")
    original.params.maxDets = [10, 100, 300]  # its summary takes AP, AP50, AP75 and sizes at the last
    original.evaluate()
    original.accumulate()
    ours = coco_metrics(results, nc)
    precision = original.eval["precision"][..., -1]

    def mean(values):
        return values[values > -1].mean()

    expected = [
        mean(precision[..., 0]),
        mean(precision[0, ..., 0]),
        mean(precision[5, ..., 0]),
        *(mean(precision[..., area]) for area in (1, 2, 3)),
        mean(original.eval["recall"][:, :, 0, -1]),
        mean(original.eval["recall"][:, :, 0, 1]),
    ]
    found = [ours.ap, ours.ap50, ours.ap75, ours.ap_small, ours.ap_medium, ours.ap_large, ours.ar, ours.ar100]
    assert 0.05 < ours.ap < 0.9 and 0.02 < ours.ap_small < 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    original.params.maxDets = [1, 10, 100]
    original.evaluate()
    original.accumulate()
    original.summarize()
    assert ours.ap100 == pytest.approx(original.stats[0], rel=0, abs=1e-12)
    assert (ours.ar1, ours.ar10, ours.ar100) == pytest.approx(tuple(original.stats[6:9]), rel=0, abs=1e-12)
    capsys.readouterr()  # pycocotools prints


def test_yolov5_figures_are_those_of_its_rules_spelt_out(scene):
    results, nc = scene
    accumulator = DetectionAccumulator(nc)
    for one in results:
        accumulator.update(one.detections, one.labels_cls, one.labels_xyxy)
    metrics = accumulator.compute()
    parts = [
        (
            one.detections.conf.numpy(),
            one.detections.cls.numpy(),
            literal_match(
                one.detections.cls.numpy(),
                one.labels_cls,
                iou_matrix(one.labels_xyxy.astype(float), one.detections.xyxy.double().numpy()),
            ),
        )
        for one in results
    ]
    conf, cls, correct = (np.concatenate(column) for column in zip(*parts, strict=True))
    labels = np.bincount(np.concatenate([one.labels_cls for one in results]), minlength=nc)
    assert (metrics.labels == labels).all() and metrics.map50 > 0.1
    for c in np.flatnonzero(labels):
        mine = cls == c
        expected = [literal_ap(correct[mine, t], conf[mine], labels[c]) if mine.any() else 0 for t in range(10)]
        np.testing.assert_allclose(metrics.ap[c], expected, atol=1e-6)


def as_yolov5_maps_back(found: Detections, letterbox: Letterbox) -> Detections:
    """Detections in native pixels by YOLOv5's record of the border, half of it, where the image lies on a whole pixel.

    If the border is odd, each box is half a pixel too far to the left or too high. YOLOv5 puts labels into the network
    input and back by the same half, so they stay right and the boxes alone move.
    """
    inner = [round(side * ratio) for side, ratio in zip(letterbox.native, letterbox.ratio[::-1], strict=True)]
    top, left = ((outer - side) / 2 for outer, side in zip(letterbox.shape, inner, strict=True))
    return found.to_native(replace(letterbox, pad=(left, top)))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count"), [("first_16", 16), pytest.param("coco_val128", 128, marks=pytest.mark.slow)]
)
def test_figures_with_the_border_are_yolov5s_at_batch_size_1(real, golden, tmp_path, name, count):
    published = golden("val_batch1.json")[name]
    listed = tmp_path / "some.txt"
    listed.write_text("".join(f"{file}\n" for file in sorted((real("coco_val128") / "images").glob("*.jpg"))[:count]))
    store = read_labels(listed, 80, SplitOptions(cache_labels=False))
    options = as_evaluated(SplitOptions.of(ValConfig()), 32)
    shifted = DetectionAccumulator(80)

    def observe(seen: EvaluatedBatch) -> None:
        for found, letterbox, result in zip(seen.detections, seen.batch.letterboxes, seen.results, strict=True):
            shifted.update(as_yolov5_maps_back(found, letterbox), result.labels_cls, result.labels_xyxy)

    model = load_models([real("weights/yolov5n.pt")], torch.device("cpu"))
    loader = Loader(DetectionDataset(store, options), LoaderOptions(1, 0))  # one by one: ties keep the order of images
    metrics = evaluate(model, loader, model.names, observers=[observe]).metrics
    ours, theirs = metrics.row(), tuple(published[key] for key in ("precision", "recall", "map50", "map50_95"))
    assert shifted.compute().row() == pytest.approx(theirs, abs=1e-5)
    assert ours[:2] == pytest.approx(theirs[:2], abs=1e-5)
    assert ours[2] == pytest.approx(theirs[2], abs=1e-5 if count == 16 else 5e-5)  # 3e-5 are the half pixel
    assert ours[3] - theirs[3] == pytest.approx(0.00334 if count == 16 else 0.00053, abs=2e-5)
