"""Time training steps and inference beside busy processes, with threads that wait as torch's do and that yield.

    python benchmarks/shared_cores.py --neighbors 0 1 2 4 --cfg models/yolov5n.yaml

Neighbors are endless loops, each worth a core. Both ways of waiting alternate in one process. Prints, per number of
neighbors, the mean milliseconds, and the ratio to torch's way on an idle machine; (k + 1) x 1.3 is the goal.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from models.yolo import Model  # noqa: E402
from utils.threads import SAMPLE_SECONDS, yielding_threads  # noqa: E402

SECONDS, ROUNDS = 4.0, 2
LEAVE_A_LOOP = """
import subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
print(subprocess.Popen([sys.executable, "-c", "while True: pass"], **quiet).pid)
"""


def main() -> None:
    """Time both kinds of work beside each number of neighbors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--neighbors", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--cfg", default="models/yolov5n.yaml")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--imgsz", type=int, default=320)
    options = parser.parse_args()
    model = Model(options.cfg, nc=3, report=False)
    works = {
        "training step": training_step(model.train(), options.batch_size, options.imgsz),
        "inference": inference(Model(options.cfg, nc=3, report=False).eval().fuse(), 2 * options.imgsz),
    }
    for name, work in works.items():
        idle = None
        for count in options.neighbors:
            with busy(count):
                plain, yielding = alternate(work)
            idle = idle or plain
            print(
                f"{name}, {count} neighbors: {1000 * plain:.0f} ms, yielding {1000 * yielding:.0f} ms; "
                f"ratios to idle {plain / idle:.2f}, {yielding / idle:.2f} (goal {(count + 1) * 1.3:.1f})",
                flush=True,
            )


def training_step(model: Model, batch_size: int, imgsz: int) -> Callable[[], None]:
    """Return a function that runs forward and backward of a batch.

    Args:
        model: In training mode.
        batch_size: Images.
        imgsz: Their sides in pixels.

    Returns:
        The function.
    """
    images = torch.rand(batch_size, 3, imgsz, imgsz)

    def step() -> None:
        sum(raw.square().mean() for raw in model(images)).backward()
        model.zero_grad(set_to_none=True)

    return step


def inference(model: Model, imgsz: int) -> Callable[[], None]:
    """Return a function that runs the network on one image.

    Args:
        model: In evaluation mode.
        imgsz: Sides of the image in pixels.

    Returns:
        The function.
    """
    image = torch.rand(1, 3, imgsz, imgsz)

    def step() -> None:
        with torch.no_grad():
            model(image)

    return step


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run endless loops that are not this process's children, which would not count as others."""
    started = [
        subprocess.run([sys.executable, "-c", LEAVE_A_LOOP], capture_output=True, text=True) for _ in range(count)
    ]
    try:
        yield
    finally:
        for each in started:
            os.kill(int(each.stdout), signal.SIGKILL)


def alternate(work: Callable[[], None]) -> tuple[float, float]:
    """Return the mean seconds of a step with torch's way of waiting and with yielding threads."""
    plain, yielding = [], []
    for _ in range(ROUNDS):
        plain += measure(work)
        with yielding_threads():
            time.sleep(3 * SAMPLE_SECONDS)  # the neighbors are noticed
            yielding += measure(work)
    return sum(plain) / len(plain), sum(yielding) / len(yielding)


def measure(work: Callable[[], None]) -> list[float]:
    """Return the seconds of each step within `SECONDS`, after two that warm up."""
    work()
    work()
    steps, start = [], time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        began = time.perf_counter()
        work()
        steps.append(time.perf_counter() - began)
    return steps


if __name__ == "__main__":
    main()
