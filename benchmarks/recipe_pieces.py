"""The table of docs/recipes.md: what each piece of a recipe changes, per set and start, over seeds.

    python benchmarks/recipe_pieces.py runs/train --control v61
    python benchmarks/recipe_pieces.py runs/train runs/compare/bccd-scratch runs/compare/cards-weights --save runs.csv
    python benchmarks/recipe_pieces.py runs.csv

A folder is a study of compare.py, or it holds run folders of train.py and of peer_ultralytics.py that are named
PIECE_SET_START_SEED, such as tal_bccd_s_0; START is s (from scratch) or w (from weights). A study's set is that of its
data yaml, its control the baseline, and its start what its manifest says. --save writes one line per run, which is read
like a folder, so that seeds can be added later. Differences are paired by seed: with three seeds or more with the 95 %
interval of Student's t over seeds, which says whether another seed would show it too; with fewer with the interval and
the verdict of the study, if there is one: with one seed these are over images and say nothing about another training.
Runs that have not ended are left out, and so are sets without a run of the control. Ratios of seconds per epoch are
only as good as the load of the machine was even.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.errors import ConfigError, UserError  # noqa: E402
from utils.files import write_json_atomically, write_text_atomically  # noqa: E402
from utils.statistics.student import student_quantile  # noqa: E402

STARTS = {"s": "scratch", "w": "weights", "scratch": "scratch", "weights": "weights"}
ENOUGH_SEEDS = 3  # for an interval
Key = tuple[str, str, str]  # piece, set, start
PEER_KEY = "ours_map_iou0.6"  # of peer.json: by our metrics, suppressed as val.py does


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        piece: Name of the piece or recipe.
        set: Name of the dataset.
        start: "scratch" or "weights".
        seed: Of the training.
        map: mAP50-95, 0..1.
        seconds: Per epoch; None if not known.
        control: Whether it is of the control of its study.
        low: Lower end of the 95 % interval of the piece's difference in its study, -1..1; None without a study.
        high: Upper end.
        verdict: The study's; "" without one.
    """

    piece: str
    set: str
    start: str
    seed: int
    map: float
    seconds: float | None = None
    control: bool = False
    low: float | None = None
    high: float | None = None
    verdict: str = ""

    @property
    def cell(self) -> Key:
        """Piece, set and start."""
        return self.piece, self.set, self.start

    @property
    def study(self) -> tuple[float, float, str] | None:
        """The ends of the study's interval and its verdict; None without a study."""
        return None if self.low is None or self.high is None else (self.low, self.high, self.verdict)


@dataclass
class Cell:
    """The runs of one piece on one set from one start, by seed."""

    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        """Whether it is the control of its study."""
        return any(run.control for run in self.runs.values())

    @property
    def study(self) -> tuple[float, float, str] | None:
        """Interval and verdict of the study that all its runs are of; None without one."""
        found = {run.study for run in self.runs.values()}
        return found.pop() if len(found) == 1 else None


def read_sources(sources: Iterable[Path]) -> dict[Key, Cell]:
    """Return the runs of studies, of folders of runs and of saved lists, by piece, set and start."""
    cells: dict[Key, Cell] = {}
    for source in sources:
        for run in read_source(source):
            cell = cells.setdefault(run.cell, Cell())
            if run.seed in cell.runs:
                raise ConfigError(f"{source}: {' '.join(run.cell)} seed {run.seed} is given twice; leave one out")
            cell.runs[run.seed] = run
    return cells


def read_source(source: Path) -> list[Run]:
    """Return the runs of a study, of a folder of runs or of a saved list."""
    if source.suffix == ".csv" and source.is_file():
        return read_saved(source)
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder")
    return read_study(source) if (source / "settings.yaml").exists() else read_runs(source)


def read_study(folder: Path) -> list[Run]:
    """Return the runs of a study that are done, with its intervals if its report is there."""
    manifest = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
    study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    start, split = "weights" if manifest["weights"] else "scratch", study.get("split", "val")
    judged = _study_differences(folder / "compare.json")
    found = []
    for name, entry in manifest["variants"].items():
        for seed in manifest["seeds"]:
            run = folder / "runs" / name / f"seed{seed}"
            if (run / f"{split}.json").exists():
                score = json.loads((run / f"{split}.json").read_text())["scores"]["map"]
                times = json.loads((run / "progress.json").read_text())["seconds"]
                where = (name, Path(study["data"]).stem, start, seed)
                is_control = entry["role"] == "baseline"
                found.append(Run(*where, score, statistics.median(times), is_control, *judged.get(name, ())))
    return found


def _study_differences(report: Path) -> dict[str, tuple[float, float, str]]:
    """Interval and verdict in mAP50-95 of each variant of a study's report; none without it."""
    if not report.exists():
        return {}
    judged = {}
    for variant in json.loads(report.read_text(encoding="utf-8"))["variants"]:
        found = variant["differences"].get("mAP50-95")
        if found and None not in found["interval"]:
            judged[variant["name"]] = (*found["interval"], found["verdict"])
    return judged


def read_runs(folder: Path) -> list[Run]:
    """Return the runs of run folders named PIECE_SET_START_SEED; other folders are passed over."""
    found = []
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts = run.name.rsplit("_", 3)
        if len(parts) != 4 or parts[2] not in STARTS or not parts[3].isdecimal():
            continue
        score, seconds = read_run(run)
        if score is not None:
            found.append(Run(parts[0], parts[1], STARTS[parts[2]], int(parts[3]), score, seconds))
    return found


def read_saved(file: Path) -> list[Run]:
    """Return the runs of a list that `write_saved` wrote."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return [_saved_run(row) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{file}: is no list that --save wrote: {error}") from None


def _saved_run(row: dict[str, str]) -> Run:
    seconds, low, high = (float(row[key]) if row[key] else None for key in ("seconds", "low", "high"))
    where = (row["piece"], row["set"], row["start"], int(row["seed"]), float(row["map"]))
    return Run(*where, seconds, row["control"] == "yes", low, high, row["verdict"])


def write_saved(cells: dict[Key, Cell], file: Path) -> None:
    """Write the runs as a list, one line each, accuracies with four digits and seconds with two."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([each.name for each in fields(Run)])
    for run in sorted((run for cell in cells.values() for run in cell.runs.values()), key=_order):
        seconds = "" if run.seconds is None else f"{run.seconds:.2f}"
        ends = ["" if end is None else f"{end:.5f}" for end in (run.low, run.high)]
        row = [*run.cell, run.seed, f"{run.map:.5f}", seconds, "yes" if run.control else "", *ends, run.verdict]
        writer.writerow(row)
    write_text_atomically(file, text.getvalue())


def _order(run: Run) -> tuple[str, str, bool, str, int]:
    return run.set, run.start, not run.control, run.piece, run.seed


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
    interval: tuple[float, float] | None
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
            row(piece, (name, start), cell, base) for piece, cell in here.items() if set(cell.runs) & set(base.runs)
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
    seeds = sorted(set(cell.runs) & set(base.runs))
    pairs = [(base.runs[seed], cell.runs[seed]) for seed in seeds]
    mean, half_width = paired_interval([new.map - old.map for old, new in pairs])
    interval = None if half_width is None else (mean - half_width, mean + half_width)
    verdict = verdict_of(mean, half_width, len(seeds))
    if half_width is None and cell.study is not None and base.control and len(seeds) == len(cell.runs):
        low, high, verdict = cell.study
        interval = low, high
    timed = [new.seconds / old.seconds for old, new in pairs if new.seconds and old.seconds]
    means = (statistics.fmean(run.map for run in runs) for runs in zip(*pairs, strict=True))
    ratio = statistics.median(timed) if timed else None
    return Row(piece, *where, *means, len(seeds), mean, interval, verdict, ratio)


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
        cells = [f"`{each.piece}`", each.set, each.start, f"{100 * each.control:.1f}", f"{100 * each.mean:.1f}"]
        ratio = "–" if each.seconds_ratio is None else f"{each.seconds_ratio:.2f} ×"
        lines.append(f"| {' | '.join([*cells, _difference_text(each), str(each.seeds), each.verdict, ratio])} |")
    return "\n".join(lines)


def wide_markdown(rows: Sequence[Row]) -> str:
    """Return a table with a line per piece and a column per set and start; what is better or worse is bold.

    Lines are in the order of the mean difference over the columns, the largest first.
    """
    columns = list(dict.fromkeys((each.set, each.start) for each in rows))
    by_piece: dict[str, dict[tuple[str, str], Row]] = {}
    for each in rows:
        by_piece.setdefault(each.piece, {})[each.set, each.start] = each
    heads = ["piece", *(f"{name}, {start}" for name, start in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for piece in sorted(
        by_piece, key=lambda name: -statistics.fmean(row.difference for row in by_piece[name].values())
    ):
        found = by_piece[piece]
        cells = [_cell_text(found[column]) if column in found else "–" for column in columns]
        lines.append(f"| `{piece}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell_text(each: Row) -> str:
    text = _difference_text(each)
    return f"**{text}**" if each.verdict in ("better", "worse") else text


def _difference_text(each: Row) -> str:
    """The difference in points, with its interval if there is one."""
    text = f"{100 * each.difference:+.1f}"
    if each.interval is None:
        return text
    low, high = (100 * end for end in each.interval)
    return f"{text} ({low:+.1f} to {high:+.1f})"


def main(argv: list[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sources", nargs="+", type=Path, help="studies, folders of runs PIECE_SET_START_SEED, saved lists"
    )
    parser.add_argument("--control", default="", help="the piece that others are compared with; '': studies' baselines")
    parser.add_argument("--wide", action="store_true", help="a line per piece, a column per set and start")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--save", type=Path, metavar="FILE.csv", help="also write a line per run to this file")
    options = parser.parse_args(argv)
    try:
        cells = read_sources(options.sources)
        rows = compare_cells(cells, options.control)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.save:
        write_saved(cells, options.save)
    if options.json:
        write_json_atomically(options.json, {"rows": [vars(each) for each in rows]})
    print(wide_markdown(rows) if options.wide else markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
