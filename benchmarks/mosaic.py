"""Time one mosaic sample, from memory and from files, and the classic mosaic: paste on a canvas, then warp it.

    python benchmarks/mosaic.py --images path/to/images --imgsz 640 320

The classic mosaic is measured for its pixels only (no labels), from memory, on the same views.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import Hyperparameters, SplitOptions  # noqa: E402
from utils.datasets.augmentation import Scene, mosaic_scene  # noqa: E402
from utils.datasets.dataset import DetectionDataset  # noqa: E402
from utils.datasets.labels import read_labels  # noqa: E402
from utils.datasets.loader import reuse_freed_memory  # noqa: E402


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


def _sample(dataset: DetectionDataset, index: int) -> object:
    return dataset[(0, index)]


def _classic_sample(dataset: DetectionDataset, scenes: list[Scene], index: int) -> object:
    return classic(dataset, scenes[index])


def milliseconds(work: Callable[[int], object], count: int, rounds: int) -> float:
    """Return the mean CPU time per call in the fastest round.

    Args:
        work: Called with 0 to count - 1.
        count: Calls per round.
        rounds: Number of rounds.

    Returns:
        Milliseconds per call.
    """
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for index in range(count):
            work(index)
        best = min(best, (time.process_time() - start) / count)
    return best * 1e3


def main() -> None:
    """Print the milliseconds per sample of each kind and image size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of images in YOLO layout")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    reuse_freed_memory()  # as worker processes do
    store, hyp = read_labels(options.images, 1000, SplitOptions(cache_labels=False)), Hyperparameters()
    for imgsz in options.imgsz:
        memory, files = (
            DetectionDataset(store, SplitOptions(imgsz, augment=True, cache=cache), hyp=hyp) for cache in ("ram", None)
        )
        count = min(len(store), options.count)
        scenes = [
            mosaic_scene(memory, index, (imgsz, imgsz), hyp, np.random.default_rng(index)) for index in range(count)
        ]
        for name, work in (
            ("from memory", partial(_sample, memory)),
            ("from files", partial(_sample, files)),
            ("classic, from memory", partial(_classic_sample, memory, scenes)),
        ):
            print(f"{imgsz:5d} px  {name:22s} {milliseconds(work, count, options.rounds):6.2f} ms per sample")


if __name__ == "__main__":
    main()
