"""Made-up studies for tests of the report: variants, a wider baseline, a failed run, one seed, checkpoints."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from utils.compare.report import write_report
from utils.compare.results import Cost, Deployment, Difference, Run, Scores, Study, Summary, VariantResult

CLASSES = ("RBC", "WBC", "Platelets", "细胞 & <debris>")  # nothing is labelled as the last
SHIFTS = {"yolov5n": 0.0, "CBAM": 0.011, "CoTAttention": 0.034, "EMA (neck)": -0.021, "control 1.12x": 0.004}
HARD_NAME = 'a "very" <long> & $hard$ 100%_name_of~a^variant\\with|every#sign{注意力机制}_and_no_place_to_break'
HARD_SHIFTS = {"yolov5n": 0.0, HARD_NAME: 0.03, "control": 0.0, "注意力 <b>": -0.03}
LEVELS = {"mAP50-95": 0.532, "mAP50": 0.845, "AP75": 0.571, "APs": math.nan, "APm": 0.51, "APl": 0.583}
TESTED = ("mAP50-95", "mAP50", "AP75")  # of those without a class
COMMAND = (
    "python compare.py --cfg models/yolov5n.yaml models/yolov5n_CBAM.yaml --data bccd.yaml --weights yolov5n.pt "
    "--epochs 20 --seeds 3 --imgsz 320 --control"
)
SETTINGS = {
    "epochs": 20,
    "batch_size": 16,
    "imgsz": 320,
    "weights": "yolov5n.pt",
    "hyp": {"lr0": 0.01, "mosaic": 1.0},
    "rect": False,
    "freeze": [],
    "conf_thres": 0.001,
    "device": "cpu (some processor)",
}
VERSIONS = {
    "python": "3.11.7",
    "torch": "2.6.0",
    "numpy": "2.1.0",
    "source": "0123456789abcdef0123456789abcdef01234567",
}


def make_study(
    folder: Path,
    shifts: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    failed: tuple[str, int] | None = None,
    trained: bool = True,
    sample_grid: bool = True,
) -> Study:
    """Return a study. APs, the last class and the memory of training have no figures.

    Args:
        folder: Folder of the study.
        shifts: By name of variant, how much better it is than the baseline, which is the first. Names with "control"
            are parameter-matched baselines.
        seeds: The seeds.
        failed: (name, seed) of a run that failed.
        trained: Whether the runs are trainings, not checkpoints.
        sample_grid: Whether there is a sample grid.

    Returns:
        The study; files of its runs are written.
    """
    shifts, generator = shifts or SHIFTS, np.random.default_rng(0)
    common = {seed: generator.normal(0, 0.004) for seed in seeds}
    variants = []
    for index, (name, shift) in enumerate(shifts.items()):
        folders = {seed: folder / "runs" / f"variant{index}" / f"seed{seed}" for seed in seeds}
        runs = tuple(
            _run(at, name, seed, shift, common[seed], generator, trained)
            if failed != (name, seed)
            else Run(name, seed, "failed", at, error="out of memory in epoch 3")
            for seed, at in folders.items()
        )
        variants.append(
            VariantResult(
                name, f"models/{name}.yaml", role_of(index, name), runs, _cost(shift, trained), _summaries(runs)
            )
        )
    base, *others = variants
    others = [
        dataclasses.replace(other, differences=_differences(other, base, len(others), generator)) for other in others
    ]
    data = {
        "name": "bccd.yaml",
        "split": "val",
        "val": {
            "hash": "9f2c" * 16,
            "images": 73,
            "objects": 967,
            "by_class": dict(zip(CLASSES, (819, 72, 76, 0), strict=True)),
        },
    }
    notes = [f"{failed[0]} seed {failed[1]}: failed, out of memory in epoch 3. It is in no figure."] if failed else []
    notes += ["One seed only: how much seeds matter was not tested."] if len(seeds) == 1 else []
    folder.mkdir(parents=True, exist_ok=True)
    return Study(
        "Attention on BCCD at 320 pixels",
        folder,
        COMMAND,
        (base, *others),
        seeds,
        CLASSES,
        SETTINGS,
        VERSIONS,
        data,
        "2026-01-31 12:30",
        tuple(notes),
        _draw_grid(folder / "strip.jpg", list(shifts)) if sample_grid else None,
    )


def deployments_of(study: Study) -> tuple[Deployment, ...]:
    """Return each variant of a study in torch, ONNX of 32 and 8 bits, and ncnn: one size only, or not exported."""
    made = []
    for index, variant in enumerate(study.variants):
        times = dict(latency_ms=9.5, latency_p95_ms=12.25, latency_ratio=1.0, memory_mib=71.4, unmatched=True)
        scores = dict(file_bytes=3_663_109, map=0.52, map50=0.84)
        torchs = Deployment(variant.name, "torch", program="torch 2.6.0 on cpu", **scores, **times)
        changes = dict(program="ONNX Runtime 1.22.0 on the CPU", torch_map=0.52, latency_ms=4.75, latency_ratio=0.503)
        onnx = dataclasses.replace(torchs, runtime="onnx", file_bytes=7_626_570, unmatched=True, **changes)
        int8 = dataclasses.replace(onnx, precision="int8", map=0.4875, unmatched=False, memory_mib=None)
        ncnn = dataclasses.replace(torchs, runtime="ncnn", program="ncnn 1.0 on the CPU", torch_map=0.5)
        ncnn = dataclasses.replace(ncnn, remark="its file takes squares", latency_ms=None, unmatched=None)
        ncnn = dataclasses.replace(ncnn, latency_p95_ms=None, latency_ratio=None, no_latency="no memory")
        failed = Deployment(variant.name, "ncnn", error="ncnn: pnnx cannot convert this network")
        made += [torchs, onnx, int8, failed if index else ncnn]
    return tuple(made)


KINDS = {
    "full": dict(failed=("EMA (neck)", 1)),
    "hard": dict(shifts=HARD_SHIFTS, failed=("control", 0)),
    "one": dict(seeds=(7,)),
    "weights": dict(seeds=(0,), trained=False, sample_grid=False),
}
_WRITTEN: dict[str, tuple[Study, dict[str, Path]]] = {}


def written_report(kind: str, tmp_path_factory) -> tuple[Study, dict[str, Path]]:
    """Return a study of KINDS and the files of its report; each is written once per session.

    Args:
        kind: Key of KINDS.
        tmp_path_factory: pytest's.

    Returns:
        The study, and its files by name.
    """
    if kind not in _WRITTEN:
        study = make_study(tmp_path_factory.mktemp(kind), **KINDS[kind])
        _WRITTEN[kind] = study, {file.name: file for file in write_report(study)}
    return _WRITTEN[kind]


def role_of(index: int, name: str) -> str:
    """Return the role of a variant.

    Args:
        index: Its position in the study.
        name: Its name.

    Returns:
        "baseline", "control" or "variant".
    """
    return "baseline" if index == 0 else "control" if "control" in name else "variant"


def _run(
    folder: Path, name: str, seed: int, shift: float, common: float, generator: np.random.Generator, trained: bool
) -> Run:
    figures = {
        metric: level + (1 + 0.2 * index) * shift + common + generator.normal(0, 0.003)
        for index, (metric, level) in enumerate(LEVELS.items())
    }
    per_class = {
        each: figures["mAP50-95"] + 0.07 * math.sin(3 * index) + generator.normal(0, 0.01)
        for index, each in enumerate(CLASSES[:-1])
    } | {CLASSES[-1]: math.nan}
    scores = Scores(
        figures["mAP50-95"],
        figures["mAP50"],
        figures["AP75"],
        0.85,
        0.88,
        {"small": figures["APs"], "medium": figures["APm"], "large": figures["APl"]},
        per_class=per_class,
    )
    results = _results(folder, scores.map, generator, 20 - seed) if trained else None
    return Run(name, seed, "done", folder, folder / "best.pt", scores, None, results, 1834.6 + 60 * seed)


def _results(folder: Path, level: float, generator: np.random.Generator, epochs: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["epoch, metrics/mAP_0.5, metrics/mAP_0.5:0.95, val/box_loss, val/obj_loss, val/cls_loss"]
    for epoch in range(epochs):
        rise = level * (1 - math.exp(-(epoch + 1) / 5)) + generator.normal(0, 0.006)
        fall = 0.04 + 0.05 * math.exp(-epoch / 4) * generator.uniform(0.9, 1.1) - 0.05 * (level - 0.5)
        lines.append(f"{epoch}, {rise + 0.3:.5f}, {rise:.5f}, {fall:.5f}, {fall * 2:.5f}, {fall / 3:.5f}")
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder / "results.csv"


def _cost(shift: float, trained: bool) -> Cost:
    notes = ("memory of training with a batch of 16: measured on GPUs only",)
    notes += () if trained else ("training time: nothing was trained",)
    extra = abs(shift)
    return Cost(
        1_766_623 + int(extra * 3e6),
        4.31 + extra,
        4.16,
        21.4 + 300 * extra,
        29.9 + 400 * extra,
        61.234,
        148.0,
        None,
        1894.6 if trained else None,
        320,
        "cpu",
        notes,
        {"latency_ms": 1 + 14 * extra},
    )


def _summaries(runs: tuple[Run, ...]) -> dict[str, Summary]:
    figures: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.scores:
            figures_of_run = (run.scores.map, run.scores.map50, run.scores.ap75, *run.scores.size.values())
            plain = dict(zip(LEVELS, figures_of_run, strict=True))
            for metric, value in (
                plain | {f"class/{name}": value for name, value in run.scores.per_class.items()}
            ).items():
                figures.setdefault(metric, {})[run.seed] = value
    return {metric: _summary(values) for metric, values in figures.items()}


def _summary(values: dict[int, float]) -> Summary:
    numbers = np.array(list(values.values()))
    return Summary(values, float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan)


def _differences(
    variant: VariantResult, base: VariantResult, count: int, generator: np.random.Generator
) -> dict[str, Difference]:
    made = {}
    for metric, summary in variant.summaries.items():
        theirs = base.summaries[metric].values
        paired = {seed: value - theirs[seed] for seed, value in summary.values.items() if seed in theirs}
        if math.isnan(summary.mean) or not paired or metric in LEVELS and metric not in TESTED:
            continue
        mean, half = float(np.mean(list(paired.values()))), generator.uniform(0.01, 0.02)
        verdict = "better" if mean > half else "worse" if mean < -half else "no difference shown"
        p = {"better": 0.0004, "worse": 0.0062}.get(verdict, generator.uniform(0.1, 0.9))
        sentence = _sentence(variant.name, base.name, metric, verdict, mean, half, min(1.0, p * count), len(paired))
        ends, p_holm = (mean - half, mean + half), min(1.0, p * count)
        made[metric] = Difference(variant.name, metric, mean, paired, ends, p, p_holm, verdict, sentence)
    return made


def _sentence(name: str, base: str, metric: str, verdict: str, mean: float, half: float, p: float, seeds: int) -> str:
    finding = f"{verdict} between {name} and" if verdict == "no difference shown" else f"{name} is {verdict} than"
    low, middle, high = (f"{100 * value:+.2f}".replace("-", "−") for value in (mean - half, mean, mean + half))
    return (
        f"{metric}: {finding} {base}, {middle} points (95 % interval {low} to {high}; p = {p:.2g}, corrected for "
        f"several comparisons; {seeds} seed{'s' * (seeds > 1)}, 73 images)."
    )


def _draw_grid(file: Path, names: list[str]) -> Path:
    """Draw cells on a slide with boxes, in rows of labels and models as in a sample grid."""
    image = Image.new("RGB", (1304, (len(names) + 1) * 246), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for row, name in enumerate(["labels", *names]):
        pen.text((6, row * 246 + 4), name.encode("ascii", "replace").decode(), fill=(0, 0, 0))
        for column in range(4):
            left, top = 6 + column * 324, row * 246 + 20
            pen.rectangle((left, top, left + 318, top + 220), fill=(232, 205, 200))
            for cell in range(9):
                x, y = left + 20 + (cell * 61 + column * 37) % 250, top + 10 + cell * 83 % 165
                pen.ellipse((x, y, x + 44, y + 44), fill=(205, 120, 120))
                pen.rectangle((x - 2, y - 2, x + 46 + row % 2, y + 46), outline=(30, 100, 200), width=2)
    image.save(file, quality=80)
    return file
