"""Studies made up for tests of the report: several variants and a control, a failed run, one seed, checkpoints alone."""

import dataclasses
import math
import statistics
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from utils.engine.compare.records import Cost, Difference, Run, Scores, Study, Summary, Variant

CLASSES = ("RBC", "WBC", "Platelets", "细胞 & <debris>")
SHIFTS = {"yolov5n": 0.0, "CBAM": 0.011, "CoTAttention": 0.034, "EMA (neck)": -0.021, "control 1.12x": 0.004}
HARD_NAME = 'a "very" <long> & $hard$ 100%_name_of~a^variant\\with|every#sign{注意力机制}_and_no_place_to_break'
_METRICS = ("mAP50-95", "mAP50", "AP75", "APs", "APm", "APl")


def make_study(folder: Path, shifts: dict[str, float] = SHIFTS, seeds: tuple[int, ...] = (0, 1, 2), failed: tuple[str, int] | None = None,
               trained: bool = True, strip: bool = True, classes: tuple[str, ...] = CLASSES, source: int = 0) -> Study:
    """Return a study whose first name is the baseline and whose names with "control" are controls; APs is nan everywhere."""
    generator = np.random.default_rng(source)
    folder.mkdir(parents=True, exist_ok=True)
    noise = {seed: generator.normal(0, 0.004) for seed in seeds}
    variants = [_variant(folder, name, role_of(place, name), shift, noise, generator, failed, trained, classes)
                for place, (name, shift) in enumerate(shifts.items())]
    base = variants[0]
    variants = [base, *(dataclasses.replace(variant, differences=_differences(variant, base, len(shifts) - 1)) for variant in variants[1:])]
    notes = (("One seed only: how much seeds matter was not tested.",) if len(seeds) == 1 else ()) + \
        ((f"{failed[0]} seed {failed[1]}: failed, out of memory in epoch 3. It is in no figure.",) if failed else ())
    counts = dict(zip(classes, (819, 72, 76, 5)))
    return Study(
        "Attention on BCCD at 320 pixels", folder, "python compare.py --cfg models/yolov5n.yaml models/yolov5n_CBAM.yaml --data bccd.yaml "
        "--weights yolov5n.pt --epochs 20 --seeds 3 --imgsz 320 --control", tuple(variants), seeds, classes,
        {"epochs": 20, "batch_size": 16, "imgsz": 320, "weights": "yolov5n.pt", "hyp": {"lr0": 0.01, "mosaic": 1.0}, "rect": False,
         "freeze": [], "conf_thres": 0.001, "device": "cpu (Some processor)"},
        {"python": "3.11.7", "torch": "2.6.0", "numpy": "2.1.0", "source": "d1cc8cf04e2f6c1a0000000000000000deadbeef"},
        {"name": "bccd.yaml", "split": "val", "val": {"hash": "9f2c" * 16, "images": 73, "objects": 967, "by_class": counts}},
        "2026-01-31 12:30", notes, _strip(folder / "strip.jpg", list(shifts)) if strip else None)


def role_of(place: int, name: str) -> str:
    return "baseline" if place == 0 else "control" if "control" in name else "variant"


def _variant(folder, name, role, shift, noise, generator, failed, trained, classes) -> Variant:
    place = folder / "runs" / str(abs(hash(name)) % 10**8)
    runs = []
    for seed, common in noise.items():
        if failed == (name, seed):
            runs.append(Run(name, seed, "failed", place / f"seed{seed}", error="out of memory in epoch 3"))
            continue
        level = 0.532 + shift + common + generator.normal(0, 0.0025)
        per_class = {each: level + 0.07 * math.sin(3 * index) for index, each in enumerate(classes)} | ({classes[-1]: math.nan} if len(classes) > 2 else {})
        scores = Scores(level, level + 0.31, level + 0.04, 0.85, 0.88, {"small": math.nan, "medium": level - 0.02, "large": level + 0.05},
                        per_class=per_class)
        results = _results(place / f"seed{seed}", level, generator, 20 - seed) if trained else None
        runs.append(Run(name, seed, "done", place / f"seed{seed}", place / "best.pt", scores, None, results, 1834.6 + 60 * seed))
    cost = Cost(1_766_623 + int(abs(shift) * 3e6), 4.31 + abs(shift), 4.16, 21.4 + 300 * abs(shift), 29.9, 61.234, 148.0,
                None, sum(run.seconds or 0 for run in runs) / len(runs) if trained else None, 320, "cpu",
                ("memory of training with a batch of 16: measured on GPUs only",) + (() if trained else ("training time: nothing was trained",)),
                {"latency_ms": 1 + 14 * abs(shift), "parameters": 1.0})
    return Variant(name, f"models/{name}.yaml", role, tuple(runs), cost, _summaries(runs, classes))


def _summaries(runs, classes) -> dict[str, Summary]:
    figures = {}
    for run in runs:
        if run.scores:
            sizes = dict(zip(_METRICS[3:], run.scores.size.values()))
            every = dict(zip(_METRICS, (run.scores.map, run.scores.map50, run.scores.ap75))) | sizes
            for metric, value in (every | {f"class/{name}": run.scores.per_class[name] for name in classes}).items():
                figures.setdefault(metric, {})[run.seed] = value
    return {metric: Summary(values, statistics.fmean(values.values()),
                            float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan) for metric, values in figures.items()}


def _differences(variant: Variant, base: Variant, count: int) -> dict[str, Difference]:
    made = {}
    for metric, summary in variant.summaries.items():
        paired = {seed: value - base.summaries[metric].values[seed] for seed, value in summary.values.items()
                  if seed in base.summaries[metric].values}
        if not paired or math.isnan(summary.mean):
            continue
        mean, half = statistics.fmean(paired.values()), 0.014
        verdict = "better" if mean - half > 0 else "worse" if mean + half < 0 else "no difference shown"
        p = 0.0004 if verdict == "better" else 0.0062 if verdict == "worse" else 0.41
        sentence = (f"{variant.name}: {verdict}, {100 * mean:+.2f} points of {metric} against {base.name} "
                    f"(95 % interval {100 * (mean - half):+.2f} to {100 * (mean + half):+.2f}, p = {min(1.0, p * count):.3f})"
                    + ("; seeds were not tested." if len(paired) == 1 else "."))
        made[metric] = Difference(variant.name, metric, mean, paired, (mean - half, mean + half), p, min(1.0, p * count), verdict, sentence)
    return made


def _results(folder: Path, level: float, generator, epochs: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["epoch, metrics/mAP_0.5, metrics/mAP_0.5:0.95, val/box_loss, val/obj_loss, val/cls_loss"]
    for epoch in range(epochs):
        rise = level * (1 - math.exp(-(epoch + 1) / 5)) + generator.normal(0, 0.006)
        fall = 0.04 + 0.05 * math.exp(-epoch / 4)
        lines.append(f"{epoch}, {rise + 0.3:.5f}, {rise:.5f}, {fall:.5f}, {fall * 2:.5f}, {fall / 3:.5f}")
    file = folder / "results.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def _strip(file: Path, names: list[str]) -> Path:
    picture = Image.new("RGB", (1304, (len(names) + 1) * 246), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for row, name in enumerate(["labels", *names]):
        pen.text((6, row * 246 + 4), name.encode("ascii", "replace").decode(), fill=(0, 0, 0))
        for column in range(4):
            left, top = 6 + column * 324, row * 246 + 20
            pen.rectangle((left, top, left + 318, top + 220), fill=(232, 205, 200))
            for cell in range(9):
                x, y = left + 20 + cell * 61 % 270, top + 10 + cell * 83 % 170
                pen.ellipse((x, y, x + 44, y + 44), fill=(205, 120, 120))
                pen.rectangle((x - 2, y - 2, x + 46 + row % 2, y + 46), outline=(30, 100, 200), width=2)
    picture.save(file, quality=88)
    return file
