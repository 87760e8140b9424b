"""The files of one run of a study. They are all its state: a study that was killed reads them and goes on.

weights/last.pt   the training, resumable       progress.json   seconds of each epoch done
weights/best.pt   what is compared              run.log         everything the run printed
trained.json      the training has ended        failed.json     why it did not, in one line
val.npz, val.json matched detections and scores on a split; if both exist, the run is done
"""

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.compare.results import MatchedDetections, Scores
from utils.files import write_atomically, write_json_atomically


@dataclass(frozen=True)
class RunFiles:
    """The paths of a run's files, and what is in them.

    Attributes:
        folder: Folder of the run.
        split: The split that the run is evaluated on.
    """

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
    def lock(self) -> Path:
        return self.folder / "claim.json"

    @property
    def scores(self) -> Path:
        return self.folder / f"{self.split}.json"

    @property
    def matches(self) -> Path:
        return self.folder / f"{self.split}.npz"

    def is_done(self) -> bool:
        """Return whether the run is evaluated."""
        return self.scores.exists() and self.matches.exists()

    def error(self) -> str:
        """Return why the run failed, in one line; "" if it did not."""
        return str(read_json(self.failed).get("error", "")) if self.failed.exists() and not self.is_done() else ""

    def has_ended(self) -> bool:
        """Return whether the run is evaluated or has failed."""
        return self.is_done() or bool(self.error())

    def write_failure(self, reason: str) -> None:
        """Write why the run failed, in one line."""
        write_json_atomically(self.failed, {"error": " ".join(reason.split())[:500]})

    def epoch_seconds(self) -> tuple[float, ...]:
        """Return the seconds of each epoch that is done."""
        return tuple(float(seconds) for seconds in read_json(self.progress).get("seconds", ()))

    def thread_counts(self) -> list[int]:
        """Return the numbers of threads that computed the training, one unless it was resumed with another."""
        return list(read_json(self.progress).get("threads", ()))

    def training_seconds(self) -> float | None:
        """Return the seconds of the training with its validations, None if nothing was trained."""
        return sum(self.epoch_seconds()) or None

    def transferred_share(self) -> float | None:
        """Return the share (0..1) of the starting checkpoint's parameters that the training began with.

        None if it began with random weights.
        """
        file = self.folder / "transfer.csv"
        if not file.exists():
            return None
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [(row["status"], int(row["parameters"])) for row in csv.DictReader(stream)]
        used = sum(count for status, count in rows if status in ("transferred", "remapped"))
        total = used + sum(count for status, count in rows if status == "dropped")
        return used / total if total else None

    def write_evaluation(self, scores: Scores, matches: MatchedDetections, facts: Mapping[str, Any]) -> None:
        """Write an evaluation; the run is done then.

        Args:
            scores: The scores.
            matches: The matched detections.
            facts: What else a reader may want to know, such as the device.
        """
        write_atomically(self.matches, matches.save)
        write_json_atomically(self.scores, {"scores": dataclasses.asdict(scores), "facts": dict(facts)})

    def read_scores(self) -> Scores:
        """Return the scores; null comes back as nan."""
        values = {name: _null_as_nan(value) for name, value in read_json(self.scores)["scores"].items()}
        return Scores(**{**values, "coco": _nan_as_none(values["coco"]), "coco50": _nan_as_none(values["coco50"])})

    def read_facts(self) -> dict[str, Any]:
        """Return what `write_evaluation` was given as facts."""
        return read_json(self.scores)["facts"]

    def read_matches(self) -> MatchedDetections:
        """Return the matched detections."""
        return MatchedDetections.load(self.matches)


def _null_as_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _null_as_nan(item) for name, item in value.items()}
    return float("nan") if value is None else value


def _nan_as_none(value: float) -> float | None:
    return None if value != value else value


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, empty if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
