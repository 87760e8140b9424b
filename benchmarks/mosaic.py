"""Time one mosaic sample, from memory and from files, and the classic mosaic: paste on a canvas, then warp it.

    python benchmarks/mosaic.py --images path/to/images --imgsz 640 320
    python benchmarks/mosaic.py --images path/to/images --peer site-packages

The classic mosaic is measured for its pixels only (no labels), from memory, on the same views. `--peer` adds the
samples of YOLOv5's own package: FOLDER holds it and what it imports (`pip install --target FOLDER yolov5`). All kinds
take turns, round by round, in one thread; ratios are medians over the rounds.
"""

import argparse
import dataclasses
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import Hyperparameters, SplitOptions  # noqa: E402
from utils.datasets import image_cache  # noqa: E402
from utils.datasets.dataset import DetectionDataset  # noqa: E402
from utils.datasets.label_store import LabelStore  # noqa: E402
from utils.datasets.labels import read_labels  # noqa: E402
from utils.datasets.loader import reuse_freed_memory  # noqa: E402
from utils.datasets.scenes import Scene, mosaic_scene  # noqa: E402

MEMORY, FILES, ONCE = "from memory", "from files", "from files, decoded once"


def classic(dataset: DetectionDataset, scene: Scene) -> np.ndarray:
    """Return the classic mosaic of a scene: four tiles pasted on a canvas, warped, colors jittered.

    Args:
        dataset: Source of the images, by index.
        scene: The tiles and the view that the dataset would draw itself.

    Returns:
        (H, W, 3) RGB pixels. Every step allocates a new array.
    """
    canvas = np.full((*scene.view.canvas, 3), 114, np.uint8)
    for tile in scene.tiles:
        x0, y0, x1, y1 = (int(side) for side in tile.visible(scene.view.canvas))
        left, top = (int(side) for side in tile.corner)
        part = dataset.image(tile.index, 1.0)[max(y0 - top, 0) : y1 - top, max(x0 - left, 0) : x1 - left]
        canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    output = cv2.warpAffine(canvas, scene.view.matrix[:2], scene.view.shape[::-1], borderValue=(114, 114, 114))
    planes = cv2.split(cv2.cvtColor(output, cv2.COLOR_RGB2HSV))
    table = np.arange(256, dtype=np.uint8)
    return cv2.cvtColor(cv2.merge([cv2.LUT(plane, table) for plane in planes]), cv2.COLOR_HSV2RGB)


def datasets(store: LabelStore, imgsz: int, hyp: Hyperparameters) -> tuple[DetectionDataset, ...]:
    """Return a dataset of stored images, one that decodes for each sample, and one that decodes once if it is small.

    Args:
        store: The labels.
        imgsz: Side of a sample in pixels.
        hyp: Augmentation gains.

    Returns:
        The three.
    """
    options, limit = SplitOptions(imgsz, augment=True), image_cache.SMALL_DATASET
    memory = DetectionDataset(store, dataclasses.replace(options, cache="ram"), hyp=hyp)
    image_cache.SMALL_DATASET = 0
    files = DetectionDataset(store, options, hyp=hyp)
    image_cache.SMALL_DATASET = limit
    return memory, files, DetectionDataset(store, options, hyp=hyp)


def _sample(dataset: DetectionDataset, index: int) -> object:
    return dataset[(0, index)]


def _classic_sample(dataset: DetectionDataset, scenes: list[Scene], index: int) -> object:
    return classic(dataset, scenes[index])


def peer_samples(folder: Path, images: Path, imgsz: int, hyp: Hyperparameters) -> dict[str, Callable[[int], object]]:
    """Return how YOLOv5's package gives a training sample, from memory and from files.

    Args:
        folder: Where the package and what it imports lie.
        images: The images, in YOLO layout.
        imgsz: Side of a sample in pixels.
        hyp: Augmentation gains, the same for both programs.

    Returns:
        Index -> sample, by kind.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind ours: what both import is the same
    from yolov5.utils.dataloaders import LoadImagesAndLabels

    cv2.setNumThreads(0)  # its import sets it too, but to be sure
    random.seed(0)
    gains = dataclasses.asdict(hyp)
    return {
        kind: LoadImagesAndLabels(str(images), imgsz, 16, augment=True, hyp=gains, cache_images=cache).__getitem__
        for kind, cache in ((MEMORY, "ram"), (FILES, False))
    }


def milliseconds(kinds: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Return the mean CPU time per call of every kind in every round; in a round the kinds take turns.

    Args:
        kinds: Work by name, called with 0 to count - 1.
        count: Calls per round.
        rounds: Number of rounds.

    Returns:
        Milliseconds per call, per kind one for each round.
    """
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, work in kinds.items():
            start = time.process_time()
            for index in range(count):
                work(index)
            found[name].append((time.process_time() - start) / count * 1e3)
    return found


def main() -> None:
    """Print the milliseconds per sample of each kind and image size, and the ratios to the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of images in YOLO layout")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="folder of YOLOv5's package, to compare with")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    reuse_freed_memory()  # as worker processes do
    store, hyp = read_labels(options.images, 1000, SplitOptions(cache_labels=False)), Hyperparameters()
    count = min(len(store), options.count)
    for imgsz in options.imgsz:
        memory, files, once = datasets(store, imgsz, hyp)
        scenes = [
            mosaic_scene(memory, index, (imgsz, imgsz), hyp, np.random.default_rng(index)) for index in range(count)
        ]
        kinds: dict[str, Callable[[int], object]] = {
            MEMORY: partial(_sample, memory),
            FILES: partial(_sample, files),
            ONCE: partial(_sample, once),
            "classic, from memory": partial(_classic_sample, memory, scenes),
        }
        if options.peer:
            peers = peer_samples(options.peer, options.images, imgsz, hyp)
            kinds |= {f"YOLOv5, {kind}": work for kind, work in peers.items()}
        found = milliseconds(kinds, count, options.rounds)
        for name, times in found.items():
            against = found.get(f"YOLOv5, {FILES if name == ONCE else name}")
            ratios = [own / other for own, other in zip(times, against, strict=True)] if against else []
            ratio = f", {statistics.median(ratios):.3f} x YOLOv5's" if ratios else ""
            print(f"{imgsz:5d} px  {name:25s} {min(times):6.2f} ms per sample{ratio}")


if __name__ == "__main__":
    main()
