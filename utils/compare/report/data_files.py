"""A study for other programs: compare.csv, one row per variant and metric, and compare.json, all but the detections."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.compare.report import study_cells, tables
from utils.compare.report.cells import is_figure
from utils.compare.results import BASELINE, Study, VariantResult
from utils.files import finite_or_none

SCHEMA = "comparison/1"  # the number rises when a key changes its meaning or is removed
_LEFT_OUT = ("matches",)  # detections; they are in the folder of each run
_JSON_KEYS = {"sample_grid": "strip"}  # keys that differ from the names of the fields
_COSTS = {
    "parameters": "1",
    "gflops": "GFLOPs",
    "gflops_thop": "GFLOPs",
    "latency_ms": "ms",
    "latency_p95_ms": "ms",
    "throughput": "images/s",
    "inference_mib": "MiB",
    "training_mib": "MiB",
    "training_seconds": "s",
}
_TESTED = ("difference", "low", "high", "p", "p_holm", "verdict")


def as_csv(study: Study) -> str:
    """Return compare.csv, one row per variant and metric.

    The columns are variant, role, metric, unit, value (the mean), sd, seeds (how many), one column per seed, the
    difference to the baseline with its tests, and a remark. A missing figure is "nan", and the remark says why.
    """
    stream = io.StringIO()
    seeds = [f"seed_{seed}" for seed in study.seeds]
    writer = csv.DictWriter(
        stream,
        ["variant", "role", "metric", "unit", "value", "sd", "seeds", *seeds, *_TESTED, "remark"],
        lineterminator="\n",
        restval="nan",
    )
    writer.writeheader()
    for variant in study.variants:
        for prefix in ("", study_cells.CLASS, study_cells.ERROR):
            writer.writerows(_score_row(study, variant, metric) for metric in study_cells.metrics_of(study, prefix))
        writer.writerows(_cost_rows(variant))
        writer.writerows(_deployment_rows(study, variant))
    return stream.getvalue()


def _points(value: float | None) -> str:
    """Return an accuracy in points with six decimals, more than any table shows, so that binary rounding is hidden."""
    return f"{100 * value:.6f}" if is_figure(value) else "nan"


def _score_row(study: Study, variant: VariantResult, metric: str) -> dict[str, Any]:
    summary, difference = variant.summaries.get(metric), variant.differences.get(metric)
    values = {seed: value for seed, value in summary.values.items() if is_figure(value)} if summary else {}
    row: dict[str, Any] = {"variant": variant.name, "role": variant.role, "metric": metric, "unit": "points"}
    row["seeds"] = len(values)
    row |= {f"seed_{seed}": _points(values.get(seed)) for seed in study.seeds}
    row |= {"value": _points(summary.mean), "sd": _points(summary.sd)} if summary else {}
    row["verdict"] = "baseline" if variant.role == BASELINE else "not tested"
    if difference:
        low, high = difference.interval
        row |= {
            "difference": _points(difference.difference),
            "low": _points(low),
            "high": _points(high),
            "p": repr(float(difference.p)),
            "p_holm": repr(float(difference.p_holm)),
            "verdict": difference.verdict,
        }
    cells = [study_cells.score_cell(study, variant, metric), *study_cells.difference_cells(study, variant, metric)]
    lost = [f"seed {run.seed} {run.status}" for run in variant.runs if run.status != "done"]
    row["remark"] = "; ".join(dict.fromkeys([cell.reason for cell in cells if cell.reason] + lost)) or "none"
    return row


def _cost_rows(variant: VariantResult) -> Iterator[dict[str, Any]]:
    figures = variant.cost.figures() if variant.cost else {}
    for key, unit in _COSTS.items():
        value = figures.get(key)
        known = is_figure(value)
        yield {
            "variant": variant.name,
            "role": variant.role,
            "metric": key,
            "unit": unit,
            "seeds": 0,
            "verdict": "not tested",
            "value": repr(value) if known else "nan",
            "remark": "none" if known else study_cells.why_no_cost(variant.cost, key),
        }


_DEPLOYED = {
    "map": "points",
    "torch_map": "points",
    "map50": "points",
    "latency_ms": "ms",
    "latency_p95_ms": "ms",
    "latency_ratio": "1",
    "memory_mib": "MiB",
    "file_bytes": "B",
}


def _deployment_rows(study: Study, variant: VariantResult) -> Iterator[dict[str, Any]]:
    """Yield one row per figure of a variant's exported files; the metric is such as deployment/onnx-int8/latency_ms."""
    for each in study.deployments:
        for key, unit in _DEPLOYED.items() if each.variant == variant.name else ():
            value = getattr(each, key)
            reason = each.error or ("not known" if value is None else each.remark)
            yield {
                "variant": variant.name,
                "role": variant.role,
                "metric": f"deployment/{each.runtime}-{each.precision}/{key}",
                "unit": unit,
                "seeds": int(is_figure(value)),
                "verdict": "not tested",
                "value": _points(value) if unit == "points" else repr(value) if is_figure(value) else "nan",
                "remark": reason or "none",
            }


def as_json(study: Study) -> str:
    """Return compare.json: the study without its detections.

    Accuracies are 0..1, paths are relative to the study's folder, and a number that is not finite is null.
    """
    units = {"scores": "0..1", "difference": "0..1", "seconds": "s", **_COSTS}
    content = {"schema": SCHEMA, "units": units, **_plain(study, study.folder)}
    content["asked"] = tables.question(study)
    content["found"] = [sentence for _, _, sentence in tables.findings(study)]
    for variant, entry in zip(study.variants, content["variants"], strict=True):
        entry["missing"] = _why_missing(study, variant)
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _why_missing(study: Study, variant: VariantResult) -> dict[str, str]:
    """Return the reason of each figure of a variant that is null or absent, by metric."""
    every = [
        metric
        for prefix in ("", study_cells.CLASS, study_cells.ERROR)
        for metric in study_cells.metrics_of(study, prefix)
    ]
    reasons = {metric: study_cells.score_cell(study, variant, metric).reason for metric in every}
    reasons |= {row["metric"]: row["remark"] for row in _cost_rows(variant) if row["value"] == "nan"}
    return {metric: reason for metric, reason in reasons.items() if reason}


def _plain(value: Any, folder: Path) -> Any:
    """Return records, mappings, paths and numbers as values that JSON knows."""
    if dataclasses.is_dataclass(value):
        fields = {name: entry for name, entry in vars(value).items() if name not in _LEFT_OUT}
        return {_JSON_KEYS.get(name, name): _plain(entry, folder) for name, entry in fields.items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, folder) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, folder) for entry in value]
    if isinstance(value, Path):
        return value.relative_to(folder).as_posix() if value.is_relative_to(folder) else value.as_posix()
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item(), folder)
    if isinstance(value, float):
        return finite_or_none(value)
    return value if value is None or isinstance(value, (str, int)) else str(value)
