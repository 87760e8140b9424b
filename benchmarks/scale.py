"""Time what grows with the files of a dataset, on drawn files: listing, scan, start from cache, bytes of the store.

    python benchmarks/scale.py --files 10000 [--yolov5 path/to/its/checkout] [--rounds 3]

Draws small JPEG files (hard links of a few) and one label file for each in a temporary folder, and removes them. With
`--yolov5` its `LoadImagesAndLabels.cache_labels` scans the same files in turn, with its own number of threads.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import SplitOptions  # noqa: E402
from utils.datasets.label_store import LabelStore  # noqa: E402
from utils.datasets.labels import read_labels  # noqa: E402
from utils.datasets.source_entries import expand  # noqa: E402

PER_INODE = 1000  # links of one image file
CLASSES = 80


def draw_files(root: Path, count: int, folders: int) -> Path:
    """Draw images and label files of one to fourteen boxes.

    Args:
        root: An empty folder.
        count: Number of images.
        folders: Number of folders below images/train that they are spread over.

    Returns:
        The folder of the images.
    """
    rng = np.random.default_rng(0)
    source = root / "source.jpg"
    for index in range(count):
        folder = f"train/{index % folders:03d}" if folders > 1 else "train"
        if index < folders:
            for kind in ("images", "labels"):
                (root / kind / folder).mkdir(parents=True)
        if index % PER_INODE == 0:
            source = root / f"source{index}.jpg"
            cv2.imwrite(str(source), rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1))
        (root / "images" / folder / f"{index:09d}.jpg").hardlink_to(source)
        rows = [
            f"{rng.integers(CLASSES)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}"
            for x, y, w, h in rng.uniform(0.3, 0.6, (rng.integers(1, 15), 4))
        ]
        (root / "labels" / folder / f"{index:09d}.txt").write_text("\n".join(rows) + "\n")
    return root / "images/train"


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def store_bytes(store: LabelStore) -> int:
    """Return the bytes of all arrays of a store."""
    arrays = [store.sizes, store.offsets, store.cls, store.xywhn, store.points, store.point_offsets]
    held = [array for array in arrays if 0 not in array.strides]  # one value that stands for all takes no memory
    return sum(array.nbytes for array in held) + store.paths._bytes.nbytes + store.paths._ends.nbytes


def theirs(images: Path) -> Callable[[], object]:
    """Return YOLOv5's scan of the same files: its `cache_labels`, which also writes its cache."""
    from yolov5.utils.dataloaders import LoadImagesAndLabels, img2label_paths

    dataset = LoadImagesAndLabels.__new__(LoadImagesAndLabels)
    dataset.workers = 1  # not 0: with its own number of threads
    dataset.im_files = sorted(map(str, images.rglob("*.jpg")))
    dataset.label_files = img2label_paths(dataset.im_files)
    return lambda: dataset.cache_labels(images.parent / "theirs.cache", "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--yolov5", type=Path, nargs="*", default=[], help="folders that hold its package and needs")
    options = parser.parse_args()
    sys.path[:0] = map(str, options.yolov5)
    root = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        images = draw_files(root, options.files, options.folders)
        scan, other = lambda: read_labels(images, CLASSES, SplitOptions(cache_labels=False)), None
        if options.yolov5:
            other = theirs(images)
        times = [(seconds(scan), seconds(other) if other else 0.0) for _ in range(options.rounds)]
        own = sorted(one for one, _ in times)[len(times) // 2]
        print(f"scan                 {own:8.2f} s, {options.files / own:8.0f} files per s")
        if other:
            ratio = sorted(their / one for one, their in times)[len(times) // 2]
            print(f"YOLOv5's scan        {ratio:8.2f} x as long (median of {len(times)})")
        store = read_labels(images, CLASSES)
        cached = sorted(seconds(lambda: read_labels(images, CLASSES)) for _ in range(options.rounds))
        print(f"start from cache     {cached[len(cached) // 2]:8.2f} s")
        size = store_bytes(store) - 24 * len(store.cls)
        print(f"store                {size / len(store):8.0f} bytes per image + 24 per box")
        print(f"list for detect.py   {seconds(lambda: expand(str(images), '')):8.2f} s")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
