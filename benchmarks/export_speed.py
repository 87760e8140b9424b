"""How fast an exported file is beside torch, and beside a file of another exporter.

    python benchmarks/export_speed.py --weights yolov5n.pt
    python benchmarks/export_speed.py --weights yolov5n.pt --other v5.onnx   an ONNX file of the same network

Each candidate runs in a process of its own, which is stopped while another one's turn is timed: the threads of ONNX
Runtime and OpenVINO wait actively and would take the cores from the others. In each round every candidate makes its
passes in turn; a ratio is the median over rounds of torch's time over the candidate's within a round. One image; 640
pixels and both cores unless told otherwise.
"""

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PASSES = 5


def main() -> None:
    """Export, time in turn, and print the table."""
    options = arguments()
    import export

    with tempfile.TemporaryDirectory() as folder:
        files = export.run(
            weights=options.weights, include=options.include, imgsz=options.imgsz, output=folder, runtime_check=False
        )
        candidates = {"torch, as it is": "unfused", "torch, as detect.py runs it": "eager"}
        candidates |= {f"{name}": str(path) for name, path in zip(options.include, files, strict=True)}
        if options.other:
            candidates["the other file"] = options.other
        print_table(candidates, times_of(candidates, options))


def times_of(candidates: dict[str, str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds per pass of each candidate in each round."""
    context = multiprocessing.get_context("spawn")
    ends = {}
    for name, what in candidates.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, what, options), daemon=True)
        process.start()
        ours.recv()  # it is ready
        os.kill(process.pid, signal.SIGSTOP)
        ends[name] = ours, process.pid
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(options.rounds):
        names = list(candidates) if number % 2 else list(candidates)[::-1]
        for name in names:
            end, process_id = ends[name]
            os.kill(process_id, signal.SIGCONT)
            end.send("go")
            times[name].append(end.recv())
            os.kill(process_id, signal.SIGSTOP)
    for _, process_id in ends.values():
        os.kill(process_id, signal.SIGKILL)
    return times


def serve(end: Connection, what: str, options: argparse.Namespace) -> None:
    """Build a candidate and run its passes when asked."""
    import torch

    torch.set_num_threads(options.threads)
    run = candidate(what, options)
    for _ in range(3):
        run()
    end.send("ready")
    while end.recv() == "go":
        run()
        start = time.perf_counter()
        for _ in range(PASSES):
            run()
        end.send((time.perf_counter() - start) / PASSES)


def candidate(what: str, options: argparse.Namespace) -> Callable[[], object]:
    """Return a function that makes one pass."""
    import torch

    from utils.checkpoint import load_models
    from utils.runtimes.opening import open_runtime

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, options.imgsz, options.imgsz, generator=generator)
    if what in ("unfused", "eager"):
        model = load_models(options.weights, fuse=what == "eager")

        def run() -> object:
            with torch.no_grad():
                return model(images)

        return run
    runtime, pixels = open_runtime(what), images.numpy()
    return lambda: runtime.run(pixels)


def print_table(candidates: dict[str, str], times: dict[str, list[float]]) -> None:
    """Print milliseconds, the ratio to torch, and the operators of ONNX files."""
    base = times["torch, as detect.py runs it"]
    print("| candidate | ms | times as fast as torch | operators |\n| --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratio = statistics.median(one / other for one, other in zip(base, seconds, strict=True))
        count = ""
        if candidates[name].endswith(".onnx"):
            import onnx

            from utils.export.onnx_file import operators

            count = str(sum(operators(onnx.load(candidates[name], load_external_data=False)).values()))
        print(f"| {name} | {1000 * statistics.median(seconds):.1f} | {ratio:.2f} | {count} |")


def arguments() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument("--other", help="an ONNX file of another exporter")
    parser.add_argument("--include", nargs="+", default=["onnx", "openvino", "torchscript"])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
