"""The records of a comparison: runs, their detections, costs, verdicts, and the study that they make up.

The runner (study.py) makes `Run`s, utils/statistics computes `Difference`s from their detections, cost.py measures
`Cost`s, and the report package lays out a `Study` and computes nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.statistics.types import Difference, MatchedDetections

# The roles of variants, as files and tables store them.
BASELINE = "baseline"
VARIANT = "variant"
PARAMETER_MATCHED = "control"  # the baseline widened to the parameters of the largest variant


@dataclass(frozen=True)
class Scores:
    """The scores of one run, all 0..1.

    Attributes:
        map: mAP50-95.
        map50: mAP at IoU 0.50.
        ap75: AP at IoU 0.75.
        precision: Mean over the classes, at the confidence of the best F1.
        recall: The same.
        size: AP by COCO's rules for "small", "medium" and "large" objects, nan if there are none.
        coco: mAP50-95 by COCO's rules, None if not computed.
        coco50: mAP50 by COCO's rules, None if not computed.
        per_class: mAP50-95 by class name, nan for a class without labels.
        errors: mAP50 that repairing a kind of error would add, by the kinds of utils/statistics/tide.py.
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
    """One training of a variant with one seed, or one checkpoint.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the training; 0 for a checkpoint.
        status: "done", "failed" or "missing".
        folder: Folder of the run.
        weights: The checkpoint that was evaluated.
        scores: Scores of the evaluation, None unless the run is done.
        matches: Matched detections of the evaluation, None unless the run is done.
        results: results.csv of the training, if any.
        seconds: Duration of the training, None if it is not known.
        error: One line that says why the run failed or is missing.
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
    """What a variant costs. A figure that could not be measured is None, and `notes` says why.

    Attributes:
        parameters: Number of parameters.
        gflops: By torch's dispatcher at the real input size, attention's matrix products included.
        gflops_thop: As in YOLOv5's tables.
        latency_ms: Median of one image, batch 1, fused.
        latency_p95_ms: 95th percentile of the same.
        throughput: Images/s at batch 16.
        inference_mib: Peak memory of inference with one image.
        training_mib: Peak memory of a training step with 16 images.
        training_seconds: Mean duration of the trainings.
        imgsz: Side of the input in pixels.
        device: Device of the measurement, in words.
        notes: Reasons of missing figures.
        ratios: Figures by their name here, relative to the first variant's. Those of latency and throughput are
            medians of ratios within a round, which a busy machine moves less than the figures themselves.
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

    def figures(self) -> dict[str, float | None]:
        """Return every figure by its name."""
        return {
            "parameters": self.parameters,
            "gflops": self.gflops,
            "gflops_thop": self.gflops_thop,
            "latency_ms": self.latency_ms,
            "latency_p95_ms": self.latency_p95_ms,
            "throughput": self.throughput,
            "inference_mib": self.inference_mib,
            "training_mib": self.training_mib,
            "training_seconds": self.training_seconds,
        }


@dataclass(frozen=True)
class Deployment:
    """A variant as one program runs it: torch, or a runtime of exported files. A missing figure is None.

    Attributes:
        variant: Name of the variant.
        runtime: "torch", or the format of its file, such as "onnx".
        precision: "float32" or "int8".
        seed: Seed of the run whose best.pt it is.
        program: Program, version and device, such as "ONNX Runtime 1.22.0 on the CPU".
        file: The exported file or folder; torch's checkpoint.
        file_bytes: Its size.
        map: mAP50-95 on the study's split, 0..1.
        map50: mAP at IoU 0.50 on the study's split, 0..1.
        torch_map: mAP50-95 of torch on images of the same shapes, None for torch itself.
        latency_ms: Median of one image.
        latency_p95_ms: 95th percentile of the same.
        latency_ratio: Median over rounds of the ratio to torch's latency of the same variant in the same round.
        memory_mib: Growth of the resident memory of a fresh process at its peak.
        unmatched: No faster deployment of the study is as accurate. None if that is not known.
        error: Why there is no such file, or why it is not used; "" if it is.
        remark: What is to be known about its figures.
        no_latency: Why there is no latency.
    """

    variant: str
    runtime: str
    precision: str = "float32"
    seed: int = 0
    program: str = ""
    file: Path | None = None
    file_bytes: int | None = None
    map: float | None = None
    map50: float | None = None
    torch_map: float | None = None
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_ratio: float | None = None
    memory_mib: float | None = None
    unmatched: bool | None = None
    error: str = ""
    remark: str = ""
    no_latency: str = ""


@dataclass(frozen=True)
class Summary:
    """One metric of one variant over its seeds.

    Attributes:
        values: The metric by seed, 0..1.
        mean: Their mean.
        sd: Their sample standard deviation, nan for one seed.
    """

    values: dict[int, float]
    mean: float
    sd: float


@dataclass(frozen=True)
class VariantResult:
    """One of the models that are compared, and its results.

    Attributes:
        name: Name in tables and files.
        source: Name of its model yaml or checkpoint.
        role: BASELINE, VARIANT or PARAMETER_MATCHED.
        runs: One run per seed.
        cost: What it costs, None if that was not measured.
        summaries: By metric: "mAP50-95", "mAP50", "AP75", "APs", "APm", "APl", "class/<name>" and "error/<kind>".
        differences: Differences to the baseline by metric, empty for the baseline.
    """

    name: str
    source: str
    role: str
    runs: tuple[Run, ...]
    cost: Cost | None
    summaries: dict[str, Summary] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A whole comparison as the report shows it.

    Attributes:
        title: Heading of the report.
        folder: Folder of the study.
        command: The command that repeats it.
        variants: What is compared, the baseline first.
        seeds: The seeds of the study.
        names: Class names.
        settings: Settings of training and evaluation.
        versions: Versions of Python, the libraries and the project.
        data: Name, hash and counts of the dataset.
        date: When the report was made.
        notes: What a reader must know: one seed only, failed runs, ...
        sample_grid: Image of qualitative results, the same images as each model detects them.
        deployments: With --runtimes, each variant in each of them, variant by variant, torch first.
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
    sample_grid: Path | None = None
    deployments: tuple[Deployment, ...] = ()

    @property
    def baseline(self) -> VariantResult:
        return next(variant for variant in self.variants if variant.role == BASELINE)
