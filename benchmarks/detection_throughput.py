"""How long detect.py takes against its network alone: reading and writing beside it, and one after the other.

    python benchmarks/detection_throughput.py --weights yolov5n.pt --source clip.mp4 --imgsz 640

Three ways over the same frames, which take turns: the network alone on frames that are already in memory and
letterboxed; reading, network and writing one after the other; and detect.py's reader and writer threads. Each writes
annotated frames, label files and a csv, as `--save-txt --save-csv` do. Printed are milliseconds per frame, medians of
the rounds: what passed, and the processor's time of the thread that runs the network and of all others. Where a core is
free for each thread, the frames take as long as the busiest of them; what passed says so only on a machine that does
nothing else.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import DetectConfig  # noqa: E402
from utils.datasets.letterboxing import letterbox  # noqa: E402
from utils.datasets.sources import open_source  # noqa: E402
from utils.engine.detection import Detection, predict_options  # noqa: E402
from utils.engine.prediction_tables import CsvWriter  # noqa: E402
from utils.engine.prediction_writers import Artist, ImageWriter, LabelWriter  # noqa: E402
from utils.engine.predictor import PredictionHook, Predictor, load_predictor, predict  # noqa: E402


def main() -> None:
    """Time the three ways and print one line each."""
    options = _options()
    config = DetectConfig(
        weights=(options.weights,), source=options.source, imgsz=(options.imgsz,), batch_size=options.batch_size
    )
    predictor = load_predictor(options.weights, "cpu")
    if options.enlarge != 1:
        config = replace(config, source=_enlarged(options.source, options.enlarge, tempfile.mkdtemp()))
    canvases = [
        letterbox(frame.image, predictor.input_shape(config.imgsz), auto=True, stride=predictor.stride)[0]
        for frame in open_source(config.source)
    ]
    ways: dict[str, Callable[[], None]] = {
        "network alone": lambda: _network_alone(predictor, canvases, options.batch_size),
        "one after the other": lambda: _one_after_the_other(config, predictor),
        "with threads": lambda: _with_threads(config, predictor),
    }
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter(), time.thread_time(), time.process_time()
            way()
            ended = time.perf_counter(), time.thread_time(), time.process_time()
            passed, own, all_threads = (
                (after - before) * 1000 / len(canvases) for before, after in zip(begun, ended, strict=True)
            )
            times[name].append((passed, own, all_threads - own))
    # the first round warms up
    medians = {
        name: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for name, rows in times.items()
    }
    height, width = canvases[0].shape[:2]
    print(
        f"{len(canvases)} frames at {height} x {width}, batches of {options.batch_size}, {options.rounds} rounds, "
        f"{torch.get_num_threads()} threads in the network"
    )
    print(f"{'ms per frame':20} {'passed':>8} {'network thread':>15} {'ratio':>7} {'other threads':>14}")
    for name, (passed, own, others) in medians.items():
        ratio = own / medians["network alone"][1]
        print(f"{name:20} {passed:8.1f} {own:15.1f} {ratio:7.3f} {others:14.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="yolov5n.pt", help="a checkpoint")
    parser.add_argument("--source", required=True, help="a video or a folder of images, which fits into memory")
    parser.add_argument("--imgsz", type=int, default=640, help="pixels")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--enlarge", type=float, default=1, help="read a copy of the video with sides as much larger")
    return parser.parse_args()


def _enlarged(source: str, factor: float, folder: str) -> str:
    """Write a video with larger frames, which takes longer to read, to draw and to write, and return its path."""
    file, writer = str(Path(folder) / "enlarged.mp4"), None
    for frame in open_source(source):
        image = cv2.resize(frame.image, None, fx=factor, fy=factor)[..., ::-1]
        if writer is None:
            print(f"frames of {image.shape[0]} x {image.shape[1]}")
            writer = cv2.VideoWriter(file, cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, image.shape[1::-1])
        writer.write(image)
    if writer is not None:
        writer.release()
    return file


@torch.no_grad()
def _network_alone(predictor: Predictor, canvases: list, batch_size: int) -> None:
    for start in range(0, len(canvases), batch_size):
        batch = torch.stack([torch.from_numpy(canvas) for canvas in canvases[start : start + batch_size]])
        predictor.model(batch.permute(0, 3, 1, 2).float().div_(255))


def _hooks(folder: Path) -> list[PredictionHook]:
    return [ImageWriter(folder, Artist(folder)), CsvWriter(folder), LabelWriter(folder)]


def _one_after_the_other(config: DetectConfig, predictor: Predictor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hooks = _hooks(Path(folder))
        for prediction in predict(predictor, open_source(config.source), predict_options(config)):
            for hook in hooks:
                hook.after_frame(prediction)
        for hook in hooks:
            hook.close()


def _with_threads(config: DetectConfig, predictor: Predictor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Detection(config, predictor, open_source(config.source), _hooks(Path(folder))).run()


if __name__ == "__main__":
    main()
