"""The time of an exported file: milliseconds per image and, of ONNX Runtime, those of each operator."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from utils.errors import ConfigError
from utils.runtimes.onnx_runtime import OnnxRuntime
from utils.runtimes.opening import open_runtime

_NODE_TIME = "_kernel_time"  # how ONNX Runtime's profile ends the name of a node's own time


def profile_file(path: Path | str, imgsz: tuple[int, int] | None, rounds: int, device: torch.device) -> str:
    """Return a table of an exported file's time on random images.

    Args:
        path: The file or folder.
        imgsz: (height, width) in pixels; None is the size that it was exported with.
        rounds: Number of timed passes; the fastest counts.
        device: Where it computes.

    Returns:
        A line on the file, and of ONNX Runtime a row per operator, by falling time.

    Raises:
        ConfigError: If the file takes another size.
        CheckpointError: If it cannot be read or run.
    """
    runtime = open_runtime(path, device=device)
    size = imgsz or runtime.metadata.imgsz
    if runtime.shape.size not in (None, size):
        height, width = runtime.metadata.imgsz
        raise ConfigError(f"--imgsz {size[0]} {size[1]}: {path} takes images of {height}x{width} alone; leave it away")
    batch = runtime.shape.batch or 1
    images = np.random.default_rng(0).random((batch, 3, *size), np.float32)
    fastest = _fastest(lambda: runtime.run(images), rounds) / batch
    lines = [f"{path}: {runtime.title} on the {runtime.place}, {fastest:.2f} ms per image of {size[0]}x{size[1]}"]
    if not isinstance(runtime, OnnxRuntime):
        return f"{lines[0]}; this runtime gives no times of layers here"
    return "\n".join([*lines, *_operator_rows(runtime, images, rounds)])


def _fastest(run: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest pass, after one that is not timed."""
    run()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def _operator_rows(runtime: OnnxRuntime, images: np.ndarray, rounds: int) -> list[str]:
    milliseconds: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    for event in runtime.node_events(images, rounds):
        name = event.get("args", {}).get("op_name", "")
        if event.get("cat") == "Node" and event["name"].endswith(_NODE_TIME) and name:
            milliseconds[name] += event["dur"] / 1000 / rounds / len(images)
            nodes.setdefault(name, set()).add(event["name"])
    total = sum(milliseconds.values()) or 1.0
    rows = [f"{'operator':<28}{'nodes':>6}{'ms':>9}{'share':>8}"]
    for name, value in milliseconds.most_common():
        rows.append(f"{name:<28}{len(nodes[name]):>6}{value:>9.3f}{value / total:>8.1%}")
    return rows
