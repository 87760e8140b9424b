"""Compare every attention block with its literal form, and with the network that it stands in.

    python benchmarks/attention.py --output table.md                  # every block, a few minutes
    python benchmarks/attention.py --blocks MHSA BoT --maps 80x128 40x256
    python benchmarks/attention.py --share --output share.md          # the share of a yolov5n variant's time

A literal form (benchmarks/attention_literal.py) reads the block's own weights and must return what it returns, within
1e-4 of the largest value, before anything is timed. Both run in turn on one image, in evaluation mode; the fastest of
several passes counts. Backward computes the gradients of the map and of all parameters.

Bytes are those of tensors, counted as operators allocate and free them, the block's weights, its input and its output
gradient left out: the peak of a forward pass without gradients, the peak of forward and backward, and what is saved for
backward, each storage once. Scratch space inside operators is not counted.

`--share`: the variant's time less that of yolov5n, as a share of the variant's: a forward pass at 640, one image, and a
forward and backward pass in training mode at 320, four images. What lies within some 3 % of zero is noise.

`--results` keeps the figures in a JSON file: what is in it is not measured again, and the table has all of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from attention_literal import LITERAL  # noqa: E402

import models.attention  # noqa: E402, F401 - fills the registry
from models.registry import Scale, find, registered  # noqa: E402
from models.yolo import Model  # noqa: E402
from utils.profile.memory import LiveBytes  # noqa: E402

BLOCKS = sorted(name for name, entry in registered().items() if entry.attention)
MAPS = ["20x512", "40x256", "80x128"]  # P5, P4 and P3 of an image of 640 pixels
ARGS = {"DoubleAttentionLayer": lambda channels: [channels, 3]}
HEADS = ["block", "map", "forward", "with backward", "peak", "peak with backward", "saved"]
Run = Callable[[Tensor], Tensor]


def build(name: str, channels: int) -> nn.Module:
    """Return a block in evaluation mode, its parameters moved a little so that no gate is closed.

    Args:
        name: The block's registered name.
        channels: Channels of its map.

    Returns:
        The block.
    """
    torch.manual_seed(0)
    plan = find(name).wiring([channels], 1, Scale(), ARGS.get(name, lambda width: [])(channels))
    block = find(name).cls(*plan.args).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    return block


def forward(run: Run, x: Tensor) -> None:
    """Compute the map without gradients.

    Args:
        run: The block or its literal form.
        x: (1, C, H, W).
    """
    with torch.no_grad():
        run(x)


def forward_backward(run: Run, x: Tensor, gradient: Tensor, parameters: list[Tensor]) -> None:
    """Compute the map and the gradients of `x` and of the parameters.

    Args:
        run: The block or its literal form.
        x: (1, C, H, W) that requires a gradient.
        gradient: Of the shape of the output.
        parameters: The block's.
    """
    torch.autograd.grad(run(x), [x, *parameters], gradient, allow_unused=True)


def fastest(works: list[Callable[[], None]], seconds: float) -> list[float]:
    """Return the seconds of each work's fastest pass, the works in turn until the time is spent, twice at least.

    Args:
        works: What is timed.
        seconds: For all of them together.

    Returns:
        One figure per work.
    """
    best, end, rounds = [float("inf")] * len(works), time.perf_counter() + seconds, 0
    while rounds < 2 or time.perf_counter() < end:
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
        rounds += 1
    return best


def peak_bytes(work: Callable[[], None]) -> int:
    """Return the most bytes of tensors alive at once that `work` allocated."""
    with LiveBytes() as live:
        work()
    return live.peak


def saved_bytes(run: Run, x: Tensor, weights: list[Tensor]) -> int:
    """Return the bytes that a forward pass saves for backward, weights and the input left out.

    Args:
        run: The block or its literal form.
        x: (1, C, H, W) that requires a gradient.
        weights: Parameters and buffers.

    Returns:
        Bytes; each storage counts once.
    """
    known = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in (x, *weights)}
    own, total = set(known), 0

    def keep(tensor: Tensor) -> Tensor:
        known.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(x)
    for key, storage in known.items():
        total += 0 if key in own else storage.nbytes()
    return total


def compare(name: str, side: int, channels: int, seconds: float) -> dict[str, Any]:
    """Return the figures of a block and of its literal form on one map.

    Args:
        name: The block's registered name.
        side: Rows and columns of the map.
        channels: Channels of the map.
        seconds: For the timed passes of each kind.

    Returns:
        Each column -> [ours, literal], in seconds or bytes.
    """
    block = build(name, channels)
    x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
    runs: list[Run] = [block, lambda maps: LITERAL[name](block, maps)]
    with torch.no_grad():
        outputs = [run(x) for run in runs]
    error = float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max())
    if not error < 1e-4:
        raise SystemExit(f"{name} on {side}x{side}x{channels}: differs from its literal form by {error:.1e}")
    gradient, parameters = torch.randn(outputs[0].shape), list(block.parameters())
    steps = [lambda run=run: forward(run, x) for run in runs]
    both = [lambda run=run: forward_backward(run, x, gradient, parameters) for run in runs]
    weights = [*parameters, *block.buffers()]
    return {
        "forward": fastest(steps, seconds),
        "with backward": fastest(both, seconds),
        "peak": [peak_bytes(step) for step in steps],
        "peak with backward": [peak_bytes(step) for step in both],
        "saved": [saved_bytes(run, x, weights) for run in runs],
    }


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the Markdown rows: literal over ours in time, ours over literal in bytes."""
    lines = ["| " + " | ".join(HEADS) + " |", "| --- | --- |" + " ---: |" * (len(HEADS) - 2)]
    for key, figures in sorted(results.items()):
        name, maps = key.split(" ")
        cells = [f"{figures[each][1] / figures[each][0]:.2f} ×" for each in HEADS[2:4]]
        cells += [_bytes_cell(*figures[each]) for each in HEADS[4:]]
        lines.append(f"| {name} | {maps} | " + " | ".join(cells) + " |")
    return lines


def _bytes_cell(ours: int, literal: int) -> str:
    share = f"{ours / literal:.2f}" if literal else "–"
    return f"{share} ({ours / 2**20:.1f} MiB)"


# ---- the share of a variant ----


def variants() -> dict[str, str]:
    """Return the variant of yolov5n for each block: of the yamls whose rows name it, that of the shortest name."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "models").glob("yolov5n_*.yaml"), key=lambda path: (len(path.name), path.name)):
        text = path.read_text()
        for name in BLOCKS:
            if f", {name}, " in text or f"[{name}, " in text:
                found.setdefault(name, path.name)
    return found


def share(path: Path, base: nn.Module, seconds: float) -> dict[str, float]:
    """Return what a variant adds to yolov5n's time, as a share of its own.

    Args:
        path: The variant's yaml.
        base: yolov5n.
        seconds: For the timed passes of each kind.

    Returns:
        "forward" and "step", below zero if the variant was the faster.
    """
    networks = [base, Model(str(path))]
    image, images = torch.rand(1, 3, 640, 640), torch.rand(4, 3, 320, 320)

    def pass_forward(network: nn.Module) -> None:
        with torch.inference_mode():
            network.eval()(image)

    def step(network: nn.Module) -> None:
        sum(maps.mean() for maps in network.train()(images)).backward()
        network.zero_grad(set_to_none=True)

    figures = {}
    for kind, work in (("forward", pass_forward), ("step", step)):
        of_base, of_variant = fastest([lambda each=each, work=work: work(each) for each in networks], seconds)
        figures[kind] = 1 - of_base / of_variant
    return figures


def share_table(results: dict[str, dict[str, float]]) -> list[str]:
    """Return the Markdown rows of the shares, the largest share of a step first."""
    lines = ["| block | variant | forward, 640 | step, 320 |", "| --- | --- | ---: | ---: |"]
    found = variants()
    for name, figures in sorted(results.items(), key=lambda item: -item[1]["step"]):
        lines.append(f"| {name} | {found[name]} | {figures['forward']:.0%} | {figures['step']:.0%} |")
    return lines


def planned(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what the command line asks for: the key of each result, and what measures it."""
    if options.share:
        base, found = Model(str(ROOT / "models" / "yolov5n.yaml")), variants()
        return {name: partial(share, ROOT / "models" / found[name], base, options.seconds) for name in options.blocks}
    plan = {}
    for name in options.blocks:
        for maps in options.maps:
            side, channels = map(int, maps.split("x"))
            plan[f"{name} {maps}"] = partial(compare, name, side, channels, options.seconds)
    return plan


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", nargs="+", default=BLOCKS, choices=BLOCKS, metavar="BLOCK")
    parser.add_argument("--maps", nargs="+", default=MAPS, help="side x channels")
    parser.add_argument("--share", action="store_true", help="time whole variants of yolov5n")
    parser.add_argument("--seconds", type=float, default=0.3, help="for the timed passes of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, help="a JSON file that keeps the figures of all runs")
    parser.add_argument("--output", type=Path, help="the Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    for key, measure in planned(options).items():
        if key not in results:
            results[key] = measure()
        if options.results:
            options.results.write_text(json.dumps(results))
    lines = share_table(results) if options.share else table(results)
    print("\n".join(lines))
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
