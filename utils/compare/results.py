"""What passes between the parts of a comparison: runs, their detections, costs, verdicts, and the study they make up.

The runner (study.py) makes `Run`s, utils/statistics makes `Difference`s of their detections, cost.py makes
`Cost`s, and the report (report.py and its writers) shows a `Study` and computes nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.statistics.types import Difference, MatchedDetections


@dataclass(frozen=True)
class Scores:
    """The figures of one run, all 0..1. per_class: mAP50-95 by class name (nan without labels); size: AP by
    pycocotools for small, medium and large objects (nan where there are none); errors: mAP50 that repairing a kind of error
    would add, by utils/statistics/tide.py's kinds.
    """

    map: float
    map50: float
    ap75: float
    precision: float
    recall: float
    size: dict[str, float] = field(default_factory=dict)
    coco: float | None = None
    coco50: float | None = None
    per_class: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training (or one checkpoint) of a variant with a seed. status: done, failed or missing; error: one line where it
    failed; results: results.csv of the training, if any; matches: of its evaluation, None where it is not done.
    """

    variant: str
    seed: int
    status: str
    folder: Path
    weights: Path | None = None
    scores: Scores | None = None
    matches: MatchedDetections | None = None
    results: Path | None = None
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Cost:
    """What a variant costs. gflops: by torch's dispatcher at the real size, attention's products included; gflops_thop: as in
    YOLOv5's tables; latency_ms, latency_p95_ms: one image, batch 1, fused; throughput: images a second at batch 16;
    inference_mib, training_mib: memory at its peak, of one image and of a training step with 16. None: could not be
    measured, `notes` says why. ratios: figures by their name here, relative to the first variant's; those of latency and
    throughput are medians of ratios within a round, which a busy machine moves less than the figures themselves.
    """

    parameters: int
    gflops: float | None
    gflops_thop: float | None
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    throughput: float | None = None
    inference_mib: float | None = None
    training_mib: float | None = None
    training_seconds: float | None = None
    imgsz: int = 640
    device: str = "cpu"
    notes: tuple[str, ...] = ()
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """One metric of one variant over its seeds. sd: sample standard deviation, nan for one seed."""

    values: dict[int, float]
    mean: float
    sd: float


@dataclass(frozen=True)
class VariantResult:
    """What is compared: name, model yaml or checkpoint, and what was found. summaries: by metric ("mAP50-95", "mAP50",
    "AP75", "APs", "APm", "APl", "class/<name>" and "error/<kind>"); differences: by metric, empty for the baseline.
    """

    name: str
    source: str
    role: str  # baseline, variant or control
    runs: tuple[Run, ...]
    cost: Cost | None
    summaries: dict[str, Summary] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A whole comparison as the report shows it. command: how to repeat it; settings: of training and evaluation; versions: of
    Python, libraries and the project; data: its name, hash and counts; notes: what a reader must know (one seed only, failed runs, ...).
    """

    title: str
    folder: Path
    command: str
    variants: tuple[VariantResult, ...]
    seeds: tuple[int, ...]
    names: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, Any]
    date: str
    notes: tuple[str, ...] = ()
    strip: Path | None = None  # the same pictures detected by each model, drawn by the runner

    @property
    def baseline(self) -> VariantResult:
        return next(variant for variant in self.variants if variant.role == "baseline")
