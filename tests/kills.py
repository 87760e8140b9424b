"""Kills real trainings at moments chosen by progress, resumes them, and compares with one that was never killed.

    python tests/kills.py --kills 20 --workers 2 --seed 0

A training runs in a process of its own that counts what it does: batches, optimizer steps, writes of files (each at
half its bytes, and complete under its temporary name), validated batches, figures, and the last strip. An uninterrupted
one is counted first; a kill is a moment of that count, so it is exact on any machine. Every kind of moment comes in
turn. Prints one line per kill; the exit code is 0 if all are equal.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
KINDS = ("batch", "step", "half a write", "a write's rename", "validation", "figure", "strip")
TINY = {
    "nc": 4,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [40, 50, 60, 60]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C3", [16]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "Conv", [24, 3, 2]],
    ],
    "head": [[-1, 1, "SPPF", [24]], [[3, 5], 1, "Detect", ["nc", "anchors"]]],
}


@dataclass(frozen=True)
class Kill:
    """A moment.

    Attributes:
        kind: One of KINDS.
        number: How often it was reached, from 1.
    """

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass(frozen=True)
class Child:
    """What a process does.

    Attributes:
        options: Of train.py.
        kill: When it kills itself; None for never.
        counts: File that gets how often each kind of moment was reached.
    """

    options: dict
    kill: Kill | None = None
    counts: str = ""

    def start(self) -> subprocess.Popen:
        """Start the process."""
        command = [sys.executable, __file__, "--child", json.dumps(asdict(self))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

    def run(self) -> tuple[int, str]:
        """Return the exit code and the output of the process."""
        process = self.start()
        output, _ = process.communicate()
        return process.returncode, output


# ---- in the process that trains ----


class Moments:
    """Counts moments, and kills the process at one of them."""

    def __init__(self, kill: Kill | None):
        self.kill, self.counts = kill, Counter()

    def reach(self, kind: str) -> bool:
        """Count a moment; return whether it is the one to be killed at."""
        self.counts[kind] += 1
        return self.kill == Kill(kind, self.counts[kind])

    def pass_by(self, kind: str) -> None:
        """Count a moment and die there if it is the one."""
        if self.reach(kind):
            die()


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def watch(owner: object, name: str, moments: Moments, kind: str, after: bool = False) -> None:
    """Count the calls of a function, before or after it does its work.

    Args:
        owner: Module or class that has it.
        name: Its name there.
        moments: What counts.
        kind: Of moment.
        after: Whether it counts when the call has returned.
    """
    original = getattr(owner, name)

    def counted(*arguments, **keywords):
        if not after:
            moments.pass_by(kind)
        result = original(*arguments, **keywords)
        if after:
            moments.pass_by(kind)
        return result

    setattr(owner, name, counted)


def watch_writes(moments: Moments) -> None:
    """Count atomic writes where half of the bytes are written, and where all are under the temporary name."""
    synchronize, rename, own = os.fsync, os.replace, os.getpid()

    def counted_synchronize(handle):
        if os.getpid() == own and moments.reach("half a write"):
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        synchronize(handle)

    def counted_rename(*arguments, **keywords):
        if os.getpid() == own:
            moments.pass_by("a write's rename")
        rename(*arguments, **keywords)

    os.fsync, os.replace = counted_synchronize, counted_rename


def run_child(child: Child) -> int:
    """Train in this process, counting its moments."""
    import utils.engine.evaluation_pass as evaluation_pass
    import utils.engine.training as training
    import utils.engine.training_stages as training_stages
    import utils.plots.canvas as canvas
    from utils.cli import run_script
    from utils.config import TrainConfig, from_options
    from utils.engine.model_ema import ModelEMA
    from utils.engine.trainer import Trainer

    moments = Moments(child.kill)
    watch(Trainer, "backward", moments, "batch", after=True)  # its gradients are pending
    watch(ModelEMA, "update", moments, "step")  # weights have moved, their average has not
    watch(evaluation_pass, "_image_results", moments, "validation")
    watch(canvas, "write_figure", moments, "figure")
    watch(training_stages, "strip", moments, "strip")
    watch(training_stages, "strip", moments, "strip", after=True)
    watch_writes(moments)
    code = run_script(training.train, lambda argv: from_options(TrainConfig, **child.options), [])
    if child.counts:
        Path(child.counts).write_text(json.dumps(moments.counts))
    return code


# ---- the comparison ----


def same(left: object, right: object) -> bool:
    """Return whether two nested values are equal to the last bit."""
    import torch

    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def differences(run: Path, expected: Path) -> list[str]:
    """Return what of a finished run differs from another: results.csv, weights, training state, figures, leftovers.

    Args:
        run: The folder.
        expected: The folder of the run that was never killed.

    Returns:
        Names of what differs; none if all is equal.
    """
    from utils.checkpoint import read_checkpoint

    found = []
    if (run / "results.csv").read_bytes() != (expected / "results.csv").read_bytes():
        found.append("results.csv")
    for name in sorted(path.name for path in (expected / "weights").glob("*.pt")):
        ours, theirs = (read_checkpoint(folder / "weights" / name) for folder in (run, expected))
        if not same(dict(ours.state), dict(theirs.state)):
            found.append(f"weights of {name}")
        parts = ("model_state", "ema_updates", "optimizer", "loss", "swa", "generators", "state", "history")
        states = [{part: (each.training or {}).get(part) for part in parts} for each in (ours, theirs)]
        found += [f"{part} of {name}" for part in parts if not same(states[0][part], states[1][part])]
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (run, expected)]
    for each in figures:
        each.pop("settings")
        each.pop("speed_ms_per_image")
    if figures[0] != figures[1]:
        found.append("metrics.json")
    found += [f"missing {name}" for name in sorted(listing(expected) - listing(run))]
    found += [f"left {name}" for name in sorted(listing(run) - listing(expected))]
    return found


def listing(folder: Path) -> set[str]:
    """Return the files of a run by their path in it, TensorBoard's left out: each start writes one."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name
    }


# ---- the kills ----


@dataclass(frozen=True)
class Bench:
    """Where trainings are killed.

    Attributes:
        folder: Gets data, yaml and runs.
        workers: Processes that load images.
        changes: Options of train.py besides the usual ones.
    """

    folder: Path
    workers: int
    changes: dict

    def child(self, name: str, kill: Kill | None = None, **changes: object) -> Child:
        """Return a process that trains from the start.

        Args:
            name: Of the run folder.
            kill: When it kills itself.
            **changes: Options of train.py.

        Returns:
            The process.
        """
        options = {
            "cfg": str(self.folder / "tiny.yaml"),
            "data": str(self.folder / "small.yaml"),
            "imgsz": 64,
            "epochs": 3,
            "batch_size": 16,
            "device": "cpu",
            "noautoanchor": True,
            "workers": self.workers,
            "save_minutes": 1e-6,
            "project": str(self.folder),
            "name": name,
            **self.changes,
            **changes,
        }
        return Child(options, kill)

    def resume(self, name: str, kill: Kill | None = None) -> Child:
        """Return a process that goes on with a run.

        Args:
            name: Of the run folder.
            kill: When it kills itself.

        Returns:
            The process.
        """
        return Child({"resume": str(self.folder / name), "device": "cpu"}, kill)

    def prepare(self) -> tuple[Path, Counter]:
        """Draw the data, train without a kill; return the run folder and how often each moment was reached."""
        import yaml
        from small_data import drawn_yaml

        drawn_yaml(self.folder, train=80, val=16)
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        counts = self.folder / "counts.json"
        code, output = replace(self.child("whole"), counts=str(counts)).run()
        if code:
            raise SystemExit(f"the training that is not killed failed:\n{output}")
        return self.folder / "whole", Counter(json.loads(counts.read_text()))


def go_on(bench: Bench, name: str, first: Child, again: list[Kill]) -> tuple[list[str], str]:
    """Kill a training, resume it, killing it again as often as asked, until it ends; return differences and output.

    Args:
        bench: Where.
        name: Of the run folder.
        first: The process that is killed first.
        again: Moments at which resumed ones are killed; one that is not reached lets the training end.

    Returns:
        What differs, and all that was printed.
    """
    code, output = first.run()
    if code != -signal.SIGKILL:
        return [f"ended with {code} before the kill"], output
    for kill in (*again, None):
        last = bench.folder / name / "weights"
        if not any((last / each).exists() for each in ("last.pt", "last.previous.pt")):
            child = replace(first, kill=kill, options=first.options | {"exist_ok": True})  # nothing was saved yet
        else:
            child = bench.resume(name, kill)
        code, more = child.run()
        output += more
        if code == 0:
            break
        if code != -signal.SIGKILL:
            return [f"the resumed one ended with {code}: {more.strip().splitlines()[-1:]}"], output
    return differences(bench.folder / name, bench.folder / "whole"), output


def chosen_kills(counts: Counter, kills: int, seed: int) -> list[list[Kill]]:
    """Return the moments of each kill: kinds in turn, numbers drawn; every fifth training is killed again on resuming.

    Args:
        counts: How often each kind of moment was reached.
        kills: How many trainings are killed.
        seed: Decides the numbers.

    Returns:
        For each training its moments.
    """
    generator = random.Random(seed)
    kinds = [kind for kind in KINDS if counts[kind]]
    plan = []
    for index in range(kills):
        kind = kinds[index % len(kinds)]
        moments = [Kill(kind, generator.randint(1, counts[kind]))]
        if index % 5 == 4:
            moments += [Kill(other, 1) for other in generator.sample(kinds, 2)]
        plan.append(moments)
    return plan


def main() -> int:
    """Kill as many trainings as asked; return 0 if all went on as if never killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hyp", help="hyperparameters of the trainings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        asked = json.loads(flags.child)
        kill = asked.pop("kill")
        return run_child(Child(**asked, kill=Kill(**kill) if kill else None))
    folder, started, equal = Path(tempfile.mkdtemp(prefix="kills")), time.perf_counter(), 0
    bench = Bench(folder, flags.workers, {"hyp": flags.hyp} if flags.hyp else {})
    _, counts = bench.prepare()
    print("moments of a whole run: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS), flush=True)
    for index, (first, *again) in enumerate(chosen_kills(counts, flags.kills, flags.seed)):
        name = f"run{index}"
        found, output = go_on(bench, name, bench.child(name, first), again)
        then = "".join(f", then {kill}" for kill in again)
        print(f"{index + 1:3} {first!s:<22}{then} -> {'equal' if not found else '; '.join(found)}", flush=True)
        equal += not found
        if found:
            print(output[-3000:])
        shutil.rmtree(folder / name, ignore_errors=True)
    minutes = (time.perf_counter() - started) / 60
    print(f"{equal} of {flags.kills} equal, {flags.workers} workers, seed {flags.seed}, {minutes:.1f} minutes")
    shutil.rmtree(folder, ignore_errors=True)
    return int(equal < flags.kills)


if __name__ == "__main__":
    sys.exit(main())
