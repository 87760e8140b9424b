"""Training in two processes compared with one process: losses, weights after each step, results.csv and mAP.

    python benchmarks/process_parity.py --weights yolov5n.pt

Makes docs/processes.json and the table of docs/processes.md. Each model is trained from one seed on drawn
shapes, one thread per process: alone, by two processes with global batch norm, and by two without; and once more alone
in two threads, which also adds in another order. A hook that runs in each training writes the
losses and weights of every step, which are then compared.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.engine.trainer import EpochProgress, Hook, Trainer  # noqa: E402
from utils.files import write_json_atomically, write_text_atomically  # noqa: E402
from utils.types import Batch  # noqa: E402

MODELS = {"base": "yolov5n.yaml", "CBAM": "yolov5n_CBAM.yaml", "CoTA": "yolov5n_CoTA.yaml"}
IMAGES, BATCH, SIDE, EPOCHS = 101, 8, 128, 3  # the last batch of an epoch is uneven
RUNS = {"synced": (2, 1), "own": (2, 1), "threads": (1, 2)}  # processes and threads of each
TITLES = {"synced": "2 processes, `--sync-bn`", "own": "2 processes", "threads": "1 process, 2 threads"}
MARKS = "<!-- made by `python benchmarks/process_parity.py` -->", "<!-- end -->"
DATA = """path: {folder}
train: images/train
val: images/val
test: images/test
nc: 4
names: [disc, triangle, square, star]
generate: {{generator: shapes, seed: 0, train: {train}, val: 20, test: 4, size: {side}}}
"""


class StepRecorder(Hook):
    """Keeps mean losses and weights after each batch of the first process, and writes them at the end."""

    def __init__(self, path: Path):
        self.path, self.losses, self.weights = path, [], []

    def after_batch(self, trainer: Trainer, batch: Batch, progress: EpochProgress) -> None:
        self.losses.append(list(progress.mean))
        parameters = trainer.components.model.parameters()
        self.weights.append(torch.cat([each.detach().flatten() for each in parameters]))

    def close(self, trainer: Trainer) -> None:
        if trainer.components.processes.is_first:
            torch.save({"losses": self.losses, "weights": self.weights}, self.path)


def train_recorded(folder: Path, name: str, model: str, is_synced: bool, weights: str) -> None:
    """Train as one of the processes that were started, and record each step.

    Args:
        folder: Where data and runs are.
        name: Of the run.
        model: A file of models/.
        is_synced: `--sync-bn`.
        weights: A checkpoint to start from, or ''.
    """
    from utils import log
    from utils.config import TrainConfig, from_options
    from utils.engine.training import train

    log.configure()
    options = {"data": str(folder / "shapes.yaml"), "cfg": str(ROOT / "models" / model), "device": "cpu", "workers": 0}
    config = from_options(
        TrainConfig,
        **options,
        imgsz=SIDE,
        epochs=EPOCHS,
        batch_size=BATCH,
        sync_bn=is_synced,
        project=str(folder),
        name=name,
        weights=weights,
        noautoanchor=True,
    )
    train(config, hooks=[StepRecorder(folder / f"{name}.pt")])


def start(folder: Path, weights: str, processes: int, threads: int, *arguments: str) -> None:
    """Run `train_recorded` in processes of their own.

    Args:
        folder: Where data and runs are.
        weights: A checkpoint to start from, or ''.
        processes: How many train together.
        threads: In which each of them computes.
        *arguments: Name of the run, model, and "synced" or "own".
    """
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *launcher, __file__, "--folder", str(folder), "--weights", weights, "--one", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def compared(folder: Path, one: str, two: str) -> dict[str, float | list[float]]:
    """Return the largest differences between two runs.

    Args:
        folder: Where the runs are.
        one: Name of the reference.
        two: Name of the other.

    Returns:
        Per figure the largest difference.
    """
    first, second = (torch.load(folder / f"{name}.pt") for name in (one, two))
    losses = torch.tensor(first["losses"]), torch.tensor(second["losses"])
    by_step = [
        float((a - b).abs().max() / a.abs().max()) for a, b in zip(first["weights"], second["weights"], strict=True)
    ]
    rows = [list(csv.reader((folder / name / "results.csv").open()))[1:] for name in (one, two)]
    cells = [[float(cell) for row in table for cell in row] for table in rows]
    figures = [json.loads((folder / name / "metrics.json").read_text()) for name in (one, two)]
    return {
        "first_loss": float(((losses[0] - losses[1]).abs() / losses[0])[0].max()),
        "losses": float(((losses[0] - losses[1]).abs() / losses[0]).max()),
        "first_weights": by_step[0],
        "weights": max(by_step),
        "weights_by_step": by_step,
        "results": max(abs(a - b) for a, b in zip(*cells, strict=True)),
        "map50": abs(map50_of(figures[0]) - map50_of(figures[1])),
        "map50_of_one": map50_of(figures[0]),
    }


def map50_of(figures: dict) -> float:
    """Return mAP at IoU 0.5 of a metrics.json."""
    return float(figures["yolov5"]["map50"])


def table(rows: dict[str, dict]) -> str:
    """Return the Markdown table of all comparisons."""
    columns = {
        "first_loss": "loss of batch 1",
        "losses": "losses",
        "first_weights": "weights, step 1",
        "weights": "weights",
        "results": "results.csv",
        "map50": "mAP50",
        "map50_of_one": "mAP50 of one",
    }
    titles = ("model", "compared with one", *columns.values())
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for name, row in rows.items():
        model, norm = name.split(", ")
        figures = (f"{row[key]:.3f}" if key == "map50_of_one" else f"{row[key]:.1e}" for key in columns)
        lines.append("| " + " | ".join((model, TITLES[norm], *figures)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/processes", help="where data and runs are written")
    parser.add_argument("--weights", default="", help="a checkpoint to start from, so that there is an mAP to compare")
    parser.add_argument("--one", nargs=3, help="used by the program itself: a run's name, its model, synced or own")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--keep", action="store_true", help="write nothing into docs/")
    options = parser.parse_args()
    folder = Path(options.folder).resolve()
    if options.one:
        name, model, norm = options.one
        train_recorded(folder, name, model, norm == "synced", options.weights)
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = DATA.format(folder=folder / "data", train=IMAGES, side=SIDE)
    write_text_atomically(folder / "shapes.yaml", data)
    rows = {}
    for label in options.models:
        start(folder, options.weights, 1, 1, f"{label}_one", MODELS[label], "own")
        for norm, (processes, threads) in RUNS.items():
            start(folder, options.weights, processes, threads, f"{label}_{norm}", MODELS[label], norm)
            rows[f"{label}, {norm}"] = compared(folder, f"{label}_one", f"{label}_{norm}")
            print(f"{label}, {norm}: {rows[f'{label}, {norm}']}", flush=True)
    print(table(rows))
    if not options.keep:
        write_json_atomically(ROOT / "docs" / "processes.json", {"torch": torch.__version__, "rows": rows})
        page = ROOT / "docs" / "processes.md"
        before, rest = page.read_text().split(MARKS[0])
        write_text_atomically(page, f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


if __name__ == "__main__":
    main()
