"""Which variants torch.compile gains on, loses on or fails on, in inference and in training.

    python benchmarks/compile.py                             base and all variants at scale n: minutes each
    python benchmarks/compile.py --variants base CBAM MHSA   some
    python benchmarks/compile.py --backend aot_eager --rounds 0   graphs alone: seconds each, needs no compiler

Prints one row per variant and kind of pass. `gain` is the time of the eager pass over that of the compiled one, medians
of passes that alternate (above 1 the compiled one is faster). `compile` is the time of the first compiled pass in eager
passes: with a gain g, compiling has paid off after compile / (1 - 1 / g) passes. `difference` is the largest one of
outputs, in training of gradients, as a share of the largest value. With a network that fails, `--compile` runs eagerly.
"""

import argparse
import copy
import logging
import statistics
import sys
import time
from pathlib import Path

import torch
import torch._dynamo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.yolo import Model  # noqa: E402
from models.zoo.table import load_variants  # noqa: E402
from utils.compilation import CompiledPass, CompileOptions  # noqa: E402
from utils.device import select_device, synchronize  # noqa: E402
from utils.profile.components import for_inference  # noqa: E402

HEAD = "| variant | pass | gain | compile | difference | result |\n| --- | --- | --- | --- | --- | --- |"
EVEN = 0.03  # a gain or loss below this is none


def main() -> None:
    """Compile every variant asked for and print the table."""
    options = arguments()
    logging.getLogger("yolo").setLevel(logging.ERROR)
    print(HEAD, flush=True)
    for name in options.variants or ("base", *load_variants()):
        model = Model("yolov5n.yaml" if name == "base" else f"yolov5n_{name}.yaml", report=False)
        fill_statistics(model.to(options.device), options.imgsz)
        for kind in options.passes:
            torch._dynamo.reset()
            torch.manual_seed(0)
            print(f"| {name} | {kind} | {' | '.join(row(model, kind, options))} |", flush=True)


def fill_statistics(model: Model, imgsz: int) -> None:
    """Give batch norm the statistics of one batch: with those of an untrained network every output is its bias."""
    torch.manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, imgsz, imgsz, device=next(model.parameters()).device))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="*", help="names of the zoo, and base; default: all")
    parser.add_argument("--passes", nargs="*", default=["inference", "training"], choices=["inference", "training"])
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=4, help="images per training pass; inference takes one")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each; 0 times none")
    parser.add_argument("--backend", default="inductor", help="inductor, or aot_eager for graphs without a compiler")
    parser.add_argument("--device", default="cpu", type=select_device)
    return parser.parse_args()


def row(model: Model, kind: str, options: argparse.Namespace) -> tuple[str, str, str, str]:
    """Return gain, compile time, difference and result of a variant's pass."""
    batch = 1 if kind == "inference" else options.batch_size
    images = torch.rand(batch, 3, options.imgsz, options.imgsz, device=options.device)
    if kind == "inference":
        eager, network = (for_inference(model) for _ in range(2))
        run = predict
    else:
        eager, network = (copy.deepcopy(model).train() for _ in range(2))
        run = train
    compiled = CompiledPass(network, CompileOptions(dynamic=False, backend=options.backend))
    expected = run(eager, eager, images)
    eager_seconds = seconds(run, eager, eager, images)
    torch.manual_seed(0)
    started = time.perf_counter()
    found = run(network, compiled, images)
    compile_passes = (time.perf_counter() - started) / eager_seconds
    if compiled.failure:
        return "–", "–", "–", f"fails: {compiled.failure[:120]}"
    difference = max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(found, expected, strict=True)
    )
    gain = timed_gain(run, (eager, eager), (network, compiled), images, options.rounds)
    result = "compiles" if gain is None else "gains" if gain > 1 + EVEN else "loses" if gain < 1 - EVEN else "even"
    return "–" if gain is None else f"{gain:.2f}", f"{compile_passes:.0f}", f"{difference:.0e}", result


def predict(network: torch.nn.Module, call, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the raw maps, less their means over cells, of `call`, which is `network` or its compiled pass."""
    with torch.no_grad():
        maps = call(images)[1]
    return [level - level.mean((0, 2, 3), keepdim=True) for level in maps]  # biases would hide a difference


def train(network: torch.nn.Module, call, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of a sum over the raw maps of `call`, which is `network` or its compiled pass."""
    network.zero_grad(set_to_none=True)
    torch.manual_seed(0)  # of dropout
    sum(level.float().sigmoid().mean() for level in call(images)).backward()
    grads = [each.grad for each in network.parameters() if each.grad is not None]
    return [torch.cat([grad.flatten() for grad in grads])]


def seconds(run, network: torch.nn.Module, call, images: torch.Tensor) -> float:
    """Return the time of one pass."""
    synchronize(images.device)
    started = time.perf_counter()
    run(network, call, images)
    synchronize(images.device)
    return time.perf_counter() - started


def timed_gain(run, eager: tuple, compiled: tuple, images: torch.Tensor, rounds: int) -> float | None:
    """Return the median time of eager passes over that of compiled ones, which take turns; None without rounds."""
    if not rounds:
        return None
    for pair in (eager, compiled):
        run(*pair, images)
    times = [(seconds(run, *eager, images), seconds(run, *compiled, images)) for _ in range(rounds)]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first / second


if __name__ == "__main__":
    main()
