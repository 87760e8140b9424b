"""The rows of a study's table of exported files: which are asked for, and what is known about each.

FOLDER/export/NAME/           the files of a variant, made from best.pt of its first seed; those of 8 bits in int8/
FOLDER/export/NAME/onnx.json  what was found of one of them, or why there is none; removed, it is made again
FOLDER/export/latency.json    latencies, measured together

They are all the state: what is there is not made again (deployment.py makes it).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.compare.plan import PlannedVariant, StudyPlan
from utils.compare.run_dir import read_json
from utils.config.compare_options import EIGHT_BIT_RUNTIMES, TORCH, CompareConfig
from utils.errors import ConfigError, cut
from utils.files import file_digest, write_json_atomically
from utils.runtimes.packages import require

EXPORTS = "export"
FLOAT, EIGHT_BIT = "float32", "int8"
REASON_LIMIT = 500  # characters
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "ncnn": ("pnnx", "ncnn")}
_EIGHT_BIT_PACKAGES = {"openvino": ("nncf",)}


@dataclass(frozen=True)
class DeploymentRow:
    """A row of the table: a variant's checkpoint in one runtime, and the files of what is known about it.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the run whose checkpoint it is.
        weights: The checkpoint.
        runtime: "torch", or a format of exported files.
        calibration: The dataset yaml that its 8-bit file is calibrated on, "" for float32.
        study: Folder of the study.
    """

    variant: str
    seed: int
    weights: Path
    runtime: str
    calibration: str
    study: Path

    @property
    def precision(self) -> str:
        return EIGHT_BIT if self.calibration else FLOAT

    @property
    def name(self) -> str:
        """Its name in messages and in latency.json."""
        return f"{self.variant}/{self.stem}"

    @property
    def stem(self) -> str:
        return f"{self.runtime}-{EIGHT_BIT}" if self.calibration else self.runtime

    @property
    def folder(self) -> Path:
        """Where its exported file is."""
        return self._folder / EIGHT_BIT if self.calibration else self._folder

    @property
    def log(self) -> Path:
        return self._folder / f"{self.stem}.log"

    @property
    def lock(self) -> Path:
        return self._folder / f"{self.stem}.claim"

    @property
    def record(self) -> Path:
        return self._folder / f"{self.stem}.json"

    @property
    def _folder(self) -> Path:
        return self.study / EXPORTS / self.variant

    def read(self) -> dict[str, Any]:
        """Return what was found, empty if nothing was, or of another seed or calibration only."""
        found = read_json(self.record)
        return found if found.get("made_of") == self._made_of() else {}

    def write(self, **found: object) -> None:
        """Add to what was found.

        Args:
            **found: Figures and texts by name.
        """
        first = {"runtime": self.runtime, "made_of": self._made_of(), "weights": self._weights_hash()}
        known = self.read() or first
        self.record.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.record, {**known, **found})

    def write_failure(self, reason: str, retry: bool = True) -> None:
        """Write why there is no such file, or no use of it.

        Args:
            reason: The reason.
            retry: Try again when the study is started the next time.
        """
        self.write(error=cut(" ".join(reason.split()), REASON_LIMIT), retry=retry)

    def file(self) -> Path | None:
        """Return the exported file, torch's checkpoint, or None if there is none."""
        if self.runtime == TORCH:
            return self.weights
        name = self.read().get("file")
        return self.study / name if name else None

    def error(self) -> str:
        """Return why it cannot be used, "" if it can or nothing is known."""
        return str(self.read().get("error", ""))

    def is_exported(self) -> bool:
        """Return whether there is a file, or a reason why there is none."""
        return bool(self.file() or self.error())

    def is_examined(self, split: str) -> bool:
        """Return whether its memory and its mAP on a split are known, or why they are not."""
        found = self.read()
        return bool(found.get("error")) or split in found.get("scores", {})

    def is_stale(self) -> bool:
        """Return whether what was found is to be forgotten: that of other weights, or of a process that was ended."""
        found = read_json(self.record)
        if not found:
            return False
        is_other = self.weights.exists() and found.get("weights") != self._weights_hash()
        return is_other or not self.read() or bool(found.get("retry"))

    def _weights_hash(self) -> str:
        return file_digest(self.weights) if self.weights.exists() else ""

    def _made_of(self) -> dict[str, object]:
        return {"seed": self.seed, "calibration": Path(self.calibration).name}


# ---- which rows there are ----


def wanted_rows(plan: StudyPlan) -> list[DeploymentRow]:
    """Return the rows that --runtimes and --int8 ask for: of every variant of which a run is done, torch first."""
    rows = []
    for variant, seed in _first_runs(plan):
        row = DeploymentRow(variant.name, seed, plan.compared_weights(variant, seed), TORCH, "", plan.folder)
        for runtime, calibration in _asked_for(plan.config):
            rows.append(dataclasses.replace(row, runtime=runtime, calibration=calibration))
    return rows


def all_rows(plan: StudyPlan) -> list[DeploymentRow]:
    """Return the rows that are asked for, and those that an earlier start was asked for, variant by variant."""
    rows = wanted_rows(plan)
    for variant, seed in _first_runs(plan):
        row = DeploymentRow(variant.name, seed, plan.compared_weights(variant, seed), TORCH, "", plan.folder)
        found = [read_json(path) for path in sorted((plan.folder / EXPORTS / variant.name).glob("*.json"))]
        for made_of, runtime in ((each.get("made_of", {}), each.get("runtime")) for each in found):
            other = dataclasses.replace(row, runtime=str(runtime), calibration=str(made_of.get("calibration", "")))
            if runtime and other.read() and other.name not in [each.name for each in rows]:
                rows.append(other)
    order = [variant.name for variant in plan.variants]
    return sorted(rows, key=lambda row: (order.index(row.variant), row.runtime != TORCH))


def _first_runs(plan: StudyPlan) -> Iterator[tuple[PlannedVariant, int]]:
    """Yield each variant with its first seed that is done."""
    for variant in plan.variants:
        done = [seed for seed in plan.seeds if plan.files(variant.name, seed).is_done()]
        if done:
            yield variant, done[0]


def _asked_for(config: CompareConfig) -> list[tuple[str, str]]:
    """Return (runtime, calibration yaml) of each row of a variant."""
    if not config.runtimes:
        return []
    pairs = []
    for runtime in dict.fromkeys((TORCH, *config.runtimes)):
        pairs.append((runtime, ""))
        if config.calibration and runtime in EIGHT_BIT_RUNTIMES:
            pairs.append((runtime, config.calibration))
    return pairs


def check_packages(config: CompareConfig) -> None:
    """Raise ConfigError if a package is missing that --runtimes or --int8 needs."""
    for runtime, calibration in _asked_for(config):
        packages = (*_PACKAGES.get(runtime, ()), *(_EIGHT_BIT_PACKAGES.get(runtime, ()) if calibration else ()))
        try:
            require(*packages)
        except ConfigError as error:
            flag = f"--int8 with --runtimes {runtime}" if calibration else f"--runtimes {runtime}"
            raise ConfigError(f"{flag}: {error}") from None


def is_deployed(plan: StudyPlan) -> bool:
    """Return whether every row that is asked for is in the study's folder, with its latency if it can be used."""
    rows = wanted_rows(plan)
    if not all(row.is_exported() and row.is_examined(plan.config.split) for row in rows):
        return False
    timed = read_json(latency_file(plan)).get("rows", {})
    return all(timed.get(row.name, {}).get("of") == row_identity(row) for row in rows if not row.error())


def forget_stale_deployments(plan: StudyPlan) -> None:
    """Remove what was found of other weights, or by a process that did not end by itself, so that it is made again."""
    for row in wanted_rows(plan):
        if row.is_stale():
            row.record.unlink(missing_ok=True)


def latency_file(plan: StudyPlan) -> Path:
    """Return latency.json."""
    return plan.folder / EXPORTS / "latency.json"


def row_identity(row: DeploymentRow) -> list[object]:
    """Return what the latency of a row is known by."""
    return [row.seed, Path(row.calibration).name, row.read().get("weights")]
