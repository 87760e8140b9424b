"""Gradient traffic of data-parallel training, and the efficiency that arithmetic expects of it. Nothing is measured.

    python benchmarks/scaling.py                      # print the tables of docs/scaling.md
    python benchmarks/scaling.py --write              # put them there
    python benchmarks/scaling.py --gpus 1 2 4 --gbytes 12.5 --tflops 60 --batch 32

Parameters, their tensors and operations come from the models; bandwidth, latency and the speed of a GPU are assumed.

An all-reduce of S bytes over N processes at B bytes/s takes, as a ring, 2 (N - 1) / N S / B and 2 (N - 1) latencies
(Patarasuk and Yuan, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations, JPDC 2009); as two trees,
2 S / B and 2 log2 N latencies (Sanders, Speck and Traff, Two-tree Algorithms for Full Bandwidth Broadcast, Reduction
and Scan, Parallel Computing 2009). The faster one counts. DistributedDataParallel collects gradients in buckets, in the
order in which the backward pass makes them, and reduces a bucket while the pass goes on; only the last one has nothing
to hide behind.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from models.graph.flops import flops  # noqa: E402
from models.yolo import Model  # noqa: E402
from utils.files import write_text_atomically  # noqa: E402

MIB = 2**20
FIRST_BUCKET, BUCKET = 1 * MIB, 25 * MIB  # DistributedDataParallel's defaults
SCALES = "nsmlx"
BACKWARD_SHARE = 2 / 3  # of a step: a gradient for the input and one for the weights, each as dear as the forward pass
PAGE = ROOT / "docs" / "scaling.md"
MARKERS = ("<!-- made by `python benchmarks/scaling.py --write`: traffic -->", "<!-- end: traffic -->")


@dataclass(frozen=True)
class Assumptions:
    """What is assumed of the machines.

    Attributes:
        bandwidth: Bytes/s that each process sends and receives.
        latency: Seconds per message.
        speed: Operations/s that a GPU really does in training.
        batch: Images per GPU and step.
    """

    bandwidth: float = 25e9
    latency: float = 10e-6
    speed: float = 50e12
    batch: int = 16


@dataclass(frozen=True)
class Workload:
    """What a step of a model computes and sends.

    Attributes:
        name: Name of the model.
        parameters: Number of trainable parameters.
        buckets: Bytes of each bucket, in the order in which they are reduced.
        buffers: Bytes that rank 0 sends to all before a step: running statistics.
        batch_norms: Number of batch norms; each is two more all-reduces per step with --sync-bn.
        operations: Operations of a forward pass of one image.
    """

    name: str
    parameters: int
    buckets: tuple[int, ...]
    buffers: int
    batch_norms: int
    operations: float

    @property
    def gradient(self) -> int:
        """Bytes of all gradients; they are float32 under autocast too."""
        return sum(self.buckets)


def buckets_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes of each bucket: it is full with the tensor that reaches its limit; the first is small.

    Args:
        sizes: Bytes of each gradient, in the order in which the backward pass makes them.

    Returns:
        Bytes of each bucket, in the same order.
    """
    buckets, filled = [], 0
    for size in sizes:
        filled += size
        if filled >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(filled)
            filled = 0
    return (*buckets, filled) if filled else tuple(buckets)


def workload(scale: str, imgsz: int) -> Workload:
    """Return what a step of yolov5<scale> with 80 classes computes and sends.

    Args:
        scale: One of SCALES.
        imgsz: Side of the square images in pixels.

    Returns:
        The workload.
    """
    model = Model(f"yolov5{scale}.yaml", nc=80)
    sizes = [each.numel() * 4 for each in model.parameters() if each.requires_grad]
    return Workload(
        f"yolov5{scale}",
        sum(sizes) // 4,
        buckets_of(sizes[::-1]),
        sum(each.numel() * each.element_size() for each in model.buffers()),
        sum(isinstance(each, torch.nn.BatchNorm2d) for each in model.modules()),
        flops(model, imgsz),
    )


def reduce_seconds(size: float, gpus: int, assumed: Assumptions) -> float:
    """Return the seconds of one all-reduce, as a ring or as two trees, whichever is faster.

    Args:
        size: Bytes.
        gpus: Number of processes.
        assumed: The machines.

    Returns:
        Seconds; 0 for one process.
    """
    if gpus == 1:
        return 0.0
    ring = 2 * (gpus - 1) / gpus * size / assumed.bandwidth + 2 * (gpus - 1) * assumed.latency
    trees = 2 * size / assumed.bandwidth + 2 * math.log2(gpus) * assumed.latency
    return min(ring, trees)


def step_seconds(load: Workload, assumed: Assumptions) -> float:
    """Return the seconds of a step that computes only: the backward pass takes twice the time of the forward pass.

    Args:
        load: The model.
        assumed: The machines.

    Returns:
        Seconds.
    """
    return load.operations * assumed.batch / (1 - BACKWARD_SHARE) / assumed.speed


def efficiency(load: Workload, gpus: int, assumed: Assumptions, overlap: bool) -> float:
    """Return the images/s per GPU of N GPUs, divided by those of one.

    Args:
        load: The model.
        gpus: Number of GPUs.
        assumed: The machines.
        overlap: Whether all buckets but the last one are reduced during the backward pass, as far as there is time.

    Returns:
        0..1.
    """
    step = step_seconds(load, assumed)
    *early, last = (reduce_seconds(size, gpus, assumed) for size in load.buckets)
    hidden = min(sum(early), BACKWARD_SHARE * step) if overlap else 0.0
    return step / (step + sum(early) - hidden + last)


def tables(loads: Sequence[Workload], gpus: Sequence[int], assumed: Assumptions) -> str:
    """Return both tables as Markdown.

    Args:
        loads: The models.
        gpus: Numbers of GPUs.
        assumed: The machines.

    Returns:
        Traffic per step, then efficiencies.
    """
    rows = [
        "| model | parameters (M) | gradients (MB) | buckets (MB) | running statistics (kB) | batch norms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for load in loads:
        sizes = " + ".join(f"{size / 1e6:.1f}" for size in load.buckets)
        rows.append(
            f"| {load.name} | {load.parameters / 1e6:.2f} | {load.gradient / 1e6:.1f} | {sizes} | "
            f"{load.buffers / 1e3:.0f} | {load.batch_norms} |"
        )
    counts = [count for count in gpus if count > 1]
    rows += ["", "| model | computes (ms) | 1 GPU | " + " | ".join(f"{count:,} GPUs" for count in counts) + " |"]
    rows.append("| --- " * (3 + len(counts)) + "|")
    for load in loads:
        cells = []
        for count in counts:
            sent = 2 * (count - 1) / count * load.gradient / 1e6
            with_overlap, without = (f"{efficiency(load, count, assumed, each):.1%}" for each in (True, False))
            cells.append(f"{with_overlap} ({without}), {sent:.0f} MB")
        rows.append(f"| {load.name} | {1e3 * step_seconds(load, assumed):.1f} | 100 % | {' | '.join(cells)} |")
    return "\n".join(row.replace("%", " %").replace("  %", " %") for row in rows)


def with_tables(page: str, text: str) -> str:
    """Return the page with the tables between its markers.

    Args:
        page: Text of the page.
        text: The tables.

    Returns:
        The new text of the page.
    """
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    return f"{before}{MARKERS[0]}\n\n{text}\n\n{MARKERS[1]}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradient traffic and expected efficiency, by arithmetic.")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 1024])
    parser.add_argument("--gbytes", type=float, default=25.0, help="GB/s that each process sends and receives")
    parser.add_argument("--latency", type=float, default=10.0, help="microseconds per message")
    parser.add_argument("--tflops", type=float, default=50.0, help="operations/s of a GPU in training, in 10^12")
    parser.add_argument("--batch", type=int, default=16, help="images per GPU")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    options = parser.parse_args()
    assumed = Assumptions(options.gbytes * 1e9, options.latency * 1e-6, options.tflops * 1e12, options.batch)
    text = tables([workload(scale, options.imgsz) for scale in SCALES], options.gpus, assumed)
    if options.write:
        write_text_atomically(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), text))
    print(text)


if __name__ == "__main__":
    main()
