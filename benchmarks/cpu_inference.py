"""Compare ways to run a network on the CPU: as trained, fused, channels last, and as detect.py and val.py run it.

    python benchmarks/cpu_inference.py --cfg yolov5n.yaml yolov5s.yaml yolov5n_CBAM.yaml --rounds 15
    python benchmarks/cpu_inference.py --weights yolov5n.pt --imgsz 640 480
    python benchmarks/cpu_inference.py --cfg yolov5n.yaml --batches 1 2 4 8

The ways take turns, one pass of each per round, so that a noisy machine favors none. Printed are the median of the
ratios to the network as trained, per round, and the largest difference of its probabilities. A network of `--cfg` has
random weights. `bf16` is the fused network, channels last, in bfloat16. `--batches` compares images/s of batches with
those of one image at a time.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.inference import prepare_for_inference  # noqa: E402
from models.yolo import Model  # noqa: E402
from utils.checkpoint import load_models  # noqa: E402


def main() -> None:
    """Compare the networks of the command line and print one line each."""
    options = _options()
    torch.set_grad_enabled(False)
    sides = options.imgsz * 2 if len(options.imgsz) == 1 else options.imgsz
    print(f"{torch.get_num_threads()} threads, {sides[0]} x {sides[1]}")
    for name in (*options.cfg, *options.weights):
        torch.manual_seed(0)
        network = load_models(name, fuse=False) if name in options.weights else Model(name, report=False).eval()
        if options.batches:
            _print_batches(name, prepare_for_inference(network), sides, options)
        else:
            _print_ways(name, network, sides, options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="*", default=[], help="model yamls, with random weights")
    parser.add_argument("--weights", nargs="*", default=[], help="checkpoints")
    parser.add_argument("--imgsz", nargs="+", type=int, default=[640], help="height and width in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", nargs="*", type=int, default=[], help="batch sizes to compare")
    return parser.parse_args()


def _print_ways(name: str, network: nn.Module, sides: list[int], rounds: int) -> None:
    """Print how many times as fast as the network as trained each way is, and how far its probabilities are off."""
    ways, image = _ways(network), torch.rand(1, 3, *sides)
    last = image.contiguous(memory_format=torch.channels_last)
    passes: dict[str, Callable[[], Tensor]] = {
        "as trained": lambda: network(image)[0],
        "fused": lambda: ways["fused"](image)[0],
        "channels last": lambda: ways["channels last"](last)[0],
        "prepared": lambda: ways["prepared"](last)[0],
        "bf16": lambda: ways["bf16"](last.bfloat16())[0],
    }
    expected = network(image)[0]
    errors = {way: float((run() - expected)[..., 4:].abs().max()) for way, run in passes.items()}
    seconds = _alternate(passes, rounds)
    for way in passes:
        ratio = statistics.median(a / b for a, b in zip(seconds["as trained"], seconds[way], strict=True))
        print(f"{Path(name).stem:24} {way:14} {ratio:5.2f} x as fast, probabilities differ by {errors[way]:.1e}")


def _ways(network: nn.Module) -> dict[str, nn.Module]:
    fused = copy.deepcopy(network).fuse()  # type: ignore[operator]  # a detector or an ensemble has it
    last = copy.deepcopy(fused)
    for module in last.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    prepared = prepare_for_inference(copy.deepcopy(network))
    return {"fused": fused, "channels last": last, "prepared": prepared, "bf16": copy.deepcopy(last).bfloat16()}


def _print_batches(name: str, network: nn.Module, sides: list[int], options: argparse.Namespace) -> None:
    """Print the images/s of each batch size as a ratio to those of single images."""
    sizes = sorted({1, *options.batches})
    images = {size: torch.rand(size, 3, *sides).contiguous(memory_format=torch.channels_last) for size in sizes}
    passes: dict[str, Callable[[], Tensor]] = {str(size): partial(_decoded, network, images[size]) for size in sizes}
    for run in passes.values():
        run()
    seconds = _alternate(passes, options.rounds)
    for size in sizes:
        pairs = zip(seconds["1"], seconds[str(size)], strict=True)
        print(
            f"{Path(name).stem:24} batch {size:3} {statistics.median(size * a / b for a, b in pairs):5.2f} x images/s"
        )


def _decoded(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)[0]


def _alternate(passes: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each pass in each round."""
    seconds: dict[str, list[float]] = {way: [] for way in passes}
    for _ in range(rounds):
        for way, run in passes.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
