"""Training steps of one thread, with oneDNN throughout against torch's choice of kernels: models/one_thread.py.

    python benchmarks/one_thread_steps.py --cfg yolov5n.yaml yolov5s.yaml --imgsz 320 --batches 2 4 8 16

The two take turns, one forward and backward each per round. Printed are the ratios of the shortest times, above 1: ours
is the faster.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.one_thread import use_onednn_throughout  # noqa: E402
from models.yolo import Model  # noqa: E402


def seconds(model: nn.Module, images: Tensor) -> float:
    """Return how long a forward and a backward pass take."""
    start = time.perf_counter()
    torch.stack([level.square().mean() for level in model(images)]).sum().backward()
    elapsed = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return elapsed


def main() -> None:
    """Compare the networks of the command line and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cfg", nargs="+", default=["yolov5n.yaml", "yolov5s.yaml"])
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cfg:
        plain = Model(name, report=False).train()
        ours = copy.deepcopy(plain)
        use_onednn_throughout(ours)
        for count in options.batches:
            images = torch.rand(count, 3, options.imgsz, options.imgsz).to(memory_format=torch.channels_last)
            times = [(seconds(plain, images), seconds(ours, images)) for _ in range(options.rounds)]
            theirs, own = (min(column) for column in zip(*times, strict=True))
            print(f"{name:16} {count:3} images: {theirs / own:.2f} x as fast", flush=True)


if __name__ == "__main__":
    main()
