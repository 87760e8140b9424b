"""The files of one run of a study, which are all the state there is: a study that was killed reads them and goes on.

weights/last.pt   the training, resumable       progress.json   seconds of each epoch done
weights/best.pt   what is compared              run.log         everything the run printed
trained.json      the training has ended        failed.json     why it did not, in one line
val.npz, val.json the matched detections and the scores on a split; both there: the run is done
"""

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.compare.results import MatchedDetections, Scores
from utils.files import write_atomically, write_json_atomically


@dataclass(frozen=True)
class RunFiles:
    """Where a run's files lie. split: the pictures that it is evaluated on."""

    folder: Path
    split: str

    @property
    def last(self) -> Path:
        return self.folder / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "weights" / "best.pt"

    @property
    def trained(self) -> Path:
        return self.folder / "trained.json"

    @property
    def failed(self) -> Path:
        return self.folder / "failed.json"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.json"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def results(self) -> Path:
        return self.folder / "results.csv"

    @property
    def claim(self) -> Path:
        return self.folder / "claim.json"

    @property
    def scores(self) -> Path:
        return self.folder / f"{self.split}.json"

    @property
    def matches(self) -> Path:
        return self.folder / f"{self.split}.npz"

    def is_done(self) -> bool:
        return self.scores.exists() and self.matches.exists()

    def error(self) -> str:
        """Why the run failed, in one line; "" where it did not."""
        return str(read_json(self.failed).get("error", "")) if self.failed.exists() and not self.is_done() else ""

    def fail(self, reason: str) -> None:
        """Leave word of a failure, in one line."""
        write_json_atomically(self.failed, {"error": " ".join(reason.split())[:500]})

    def epochs(self) -> tuple[float, ...]:
        """The seconds of each epoch that is done."""
        return tuple(float(seconds) for seconds in read_json(self.progress).get("seconds", ()))

    def threads(self) -> list[int]:
        """The numbers of threads that the training was computed with, one unless it was resumed otherwise."""
        return list(read_json(self.progress).get("threads", ()))

    def seconds(self) -> float | None:
        """The seconds that training and its validations took, None where nothing was trained."""
        return sum(self.epochs()) or None

    def transferred(self) -> float | None:
        """The share of the starting checkpoint's parameters that the training began with, None from random weights."""
        file = self.folder / "transfer.csv"
        if not file.exists():
            return None
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [(row["status"], int(row["parameters"])) for row in csv.DictReader(stream)]
        used = sum(count for status, count in rows if status in ("transferred", "remapped"))
        whole = used + sum(count for status, count in rows if status == "dropped")
        return used / whole if whole else None

    def write_evaluation(self, scores: Scores, matches: MatchedDetections, facts: Mapping[str, Any]) -> None:
        """Keep an evaluation. facts: what else a reader may want to know, such as the device."""
        arrays = {field.name: getattr(matches, field.name) for field in dataclasses.fields(matches)}
        write_atomically(self.matches, lambda stream: np.savez_compressed(stream, **arrays))
        write_json_atomically(self.scores, {"scores": dataclasses.asdict(scores), "facts": dict(facts)})

    def read_scores(self) -> Scores:
        """The kept scores; what JSON has no number for comes back as nan."""
        values = {name: _number(value) for name, value in read_json(self.scores)["scores"].items()}
        return Scores(**{**values, "coco": _or_none(values["coco"]), "coco50": _or_none(values["coco50"])})

    def read_facts(self) -> dict[str, Any]:
        return read_json(self.scores)["facts"]

    def read_matches(self) -> MatchedDetections:
        with np.load(self.matches) as arrays:
            return MatchedDetections(**{name: arrays[name] for name in arrays.files})


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(item) for name, item in value.items()}
    return float("nan") if value is None else value


def _or_none(value: float) -> float | None:
    return None if value != value else value


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping, an empty one where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
