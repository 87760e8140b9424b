"""The table of docs/recipes.md: what each piece of a recipe changes, per set and start, over seeds.

    python benchmarks/recipe_pieces.py runs/train --control v61
    python benchmarks/recipe_pieces.py runs/train runs/compare/bccd-scratch runs/compare/cards-weights

A folder is a study of compare.py, or it holds run folders of train.py and of peer_ultralytics.py that are named
PIECE_SET_START_SEED, such as tal_bccd_s_0; START is s (from scratch) or w (from weights). A study's set is that of its
data yaml, its control the baseline, and its start what its manifest says. Differences are paired by seed: with three
seeds or more with the 95 % interval of Student's t over seeds, which says whether another seed would show it too, with
fewer the bare difference. A study's own report has intervals over images as well. Runs that have not ended are left
out, and so are sets without a run of the control. Ratios of seconds per epoch are only as good as the load of the
machine was even.
"""

import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.errors import ConfigError, UserError  # noqa: E402
from utils.files import write_json_atomically  # noqa: E402
from utils.statistics.student import student_quantile  # noqa: E402

STARTS = {"s": "scratch", "w": "weights", "scratch": "scratch", "weights": "weights"}
ENOUGH_SEEDS = 3  # for an interval
PEER_KEY = "ours_map_iou0.6"  # of peer.json: by our metrics, suppressed as val.py does


@dataclass
class Cell:
    """The runs of one piece on one set from one start.

    Attributes:
        scores: mAP50-95 (0..1) by seed.
        seconds: Seconds per epoch by seed, of the runs that know them.
        control: Whether it is the control of its study.
    """

    scores: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    control: bool = False


Key = tuple[str, str, str]  # piece, set, start


def read_folders(folders: Iterable[Path]) -> dict[Key, Cell]:
    """Return the runs of studies and of folders of runs, by piece, set and start."""
    cells: dict[Key, Cell] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder")
        found = read_study(folder) if (folder / "settings.yaml").exists() else read_runs(folder)
        for key, seed, score, seconds, control in found:
            cell = cells.setdefault(key, Cell(control=control))
            if seed in cell.scores:
                raise ConfigError(f"{folder}: {' '.join(key)} seed {seed} is given twice; leave out a folder")
            cell.scores[seed] = score
            if seconds:
                cell.seconds[seed] = seconds
    return cells


Found = list[tuple[Key, int, float, float | None, bool]]


def read_study(folder: Path) -> Found:
    """Return piece, set, start, seed, mAP50-95 and seconds per epoch of the runs of a study that are done."""
    manifest = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
    study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    start, split = "weights" if manifest["weights"] else "scratch", study.get("split", "val")
    found: Found = []
    for name, entry in manifest["variants"].items():
        for seed in manifest["seeds"]:
            run = folder / "runs" / name / f"seed{seed}"
            if (run / f"{split}.json").exists():
                score = json.loads((run / f"{split}.json").read_text())["scores"]["map"]
                times = json.loads((run / "progress.json").read_text())["seconds"]
                key = (name, Path(study["data"]).stem, start)
                found.append((key, seed, score, statistics.median(times), entry["role"] == "baseline"))
    return found


def read_runs(folder: Path) -> Found:
    """Return the same of run folders named PIECE_SET_START_SEED; other folders are passed over."""
    found: Found = []
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts = run.name.rsplit("_", 3)
        if len(parts) != 4 or parts[2] not in STARTS or not parts[3].isdecimal():
            continue
        score, seconds = read_run(run)
        if score is not None:
            found.append(((parts[0], parts[1], STARTS[parts[2]]), int(parts[3]), score, seconds, False))
    return found


def read_run(run: Path) -> tuple[float | None, float | None]:
    """Return mAP50-95 and seconds per epoch of a run folder, None where they are not known."""
    if (run / "peer.json").exists():
        peer = json.loads((run / "peer.json").read_text())
        return peer.get(PEER_KEY, peer.get("map")), peer.get("seconds_per_epoch") or _epoch_seconds(run)
    if not (run / "metrics.json").exists():
        return None, None
    return json.loads((run / "metrics.json").read_text())["yolov5"]["map"], _event_seconds(run)


def _epoch_seconds(run: Path) -> float | None:
    """The median of the steps of the column `time`, if results.csv has one."""
    if not (run / "results.csv").exists():
        return None
    with (run / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    times = [float(row["time"]) for row in rows if row.get("time")]
    return _median_step([0.0, *times])


def _event_seconds(run: Path) -> float | None:
    """The median time between the epochs of TensorBoard's file, which results.csv does not have; None without it."""
    if not list(run.glob("events.out.tfevents.*")):
        return None
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()["scalars"]
    return _median_step([each.wall_time for each in events.Scalars(tags[0])]) if tags else None


def _median_step(times: Sequence[float]) -> float | None:
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return statistics.median(steps) if steps else None


# ---- the table ----


@dataclass(frozen=True)
class Row:
    """One line of the table: a piece compared with the control; scores are 0..1."""

    piece: str
    set: str
    start: str
    control: float
    mean: float
    seeds: int
    difference: float
    half_width: float | None
    verdict: str
    seconds_ratio: float | None


def compare_cells(cells: dict[Key, Cell], control: str = "") -> list[Row]:
    """Return a row per piece, set and start that shares seeds with its control.

    Args:
        cells: The runs.
        control: Name of the piece that the others are compared with; "" for the baselines of the studies.

    Returns:
        The rows, set by set.

    Raises:
        ConfigError: There are two controls, or none at all.
    """
    rows = []
    for name, start in sorted({key[1:] for key in cells}):
        here = {key[0]: cell for key, cell in cells.items() if key[1:] == (name, start)}
        controls = [piece for piece, cell in here.items() if (piece == control if control else cell.control)]
        if len(controls) > 1:
            raise ConfigError(
                f"{name} from {start}: has several controls, {', '.join(controls)}; name one with --control"
            )
        if not controls:
            continue
        base = here.pop(controls[0])
        rows += [
            row(piece, (name, start), cell, base) for piece, cell in here.items() if set(cell.scores) & set(base.scores)
        ]
    if not rows:
        pieces = ", ".join(sorted({key[0] for key in cells})) or "none"
        raise ConfigError(f"no piece shares a seed with its control; --control names one of the pieces: {pieces}")
    return rows


def row(piece: str, where: tuple[str, str], cell: Cell, base: Cell) -> Row:
    """Return the line of a piece, paired with the control by seed.

    Args:
        piece: Its name.
        where: Set and start.
        cell: Its runs.
        base: Those of the control.

    Returns:
        The line.
    """
    seeds = sorted(set(cell.scores) & set(base.scores))
    differences = [cell.scores[seed] - base.scores[seed] for seed in seeds]
    mean, half_width = paired_interval(differences)
    timed = [cell.seconds[seed] / base.seconds[seed] for seed in seeds if seed in cell.seconds and seed in base.seconds]
    means = (statistics.fmean(each.scores[seed] for seed in seeds) for each in (base, cell))
    verdict = verdict_of(mean, half_width, len(seeds))
    ratio = statistics.median(timed) if timed else None
    return Row(piece, *where, *means, len(seeds), mean, half_width, verdict, ratio)


def paired_interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of paired differences and half the width of its 95 % interval; None below three seeds."""
    count, mean = len(differences), statistics.fmean(differences)
    if count < ENOUGH_SEEDS:
        return mean, None
    return mean, student_quantile(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)


def verdict_of(mean: float, half_width: float | None, seeds: int) -> str:
    """Return the verdict in words: better or worse only if the interval does not contain zero."""
    if half_width is None:
        return "one seed" if seeds == 1 else f"{seeds} seeds"
    return "no difference shown" if abs(mean) <= half_width else "better" if mean > 0 else "worse"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table; scores in points of mAP50-95."""
    head = "piece | set | start | control | piece's | difference | seeds | verdict | time per epoch"
    lines = [f"| {head} |", f"|{' --- |' * 9}"]
    for each in rows:
        difference = f"{100 * each.difference:+.1f}"
        if each.half_width is not None:
            low, high = (100 * (each.difference + sign * each.half_width) for sign in (-1, 1))
            difference += f" ({low:+.1f} to {high:+.1f})"
        cells = [f"`{each.piece}`", each.set, each.start, f"{100 * each.control:.1f}", f"{100 * each.mean:.1f}"]
        ratio = "–" if each.seconds_ratio is None else f"{each.seconds_ratio:.2f} ×"
        lines.append(f"| {' | '.join([*cells, difference, str(each.seeds), each.verdict, ratio])} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="studies, or folders of runs PIECE_SET_START_SEED")
    parser.add_argument("--control", default="", help="the piece that others are compared with; '': studies' baselines")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(argv)
    try:
        rows = compare_cells(read_folders(options.folders), options.control)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        write_json_atomically(options.json, {"rows": [vars(each) for each in rows]})
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
