"""Variants as they would be deployed: exported, and each file compared with torch in mAP, latency, memory and size.

An export is a process of its own, and so is the measurement of each file: a runtime that crashes ends one row of the
table, and the memory of a fresh process is the file's. Latencies are then measured together, in the interleaved rounds
of cost.py. What is in the study's folder already (deployment_rows.py) is not made again.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from models.inference import largest_stride
from models.registry import BLOCK_ERRORS, load_plugins
from utils.compare.cost import PASSES, ROUNDS, paired_ratios, run_interleaved, time_passes
from utils.compare.deployment_rows import (
    EXPORTS,
    REASON_LIMIT,
    DeploymentRow,
    all_rows,
    is_deployed,
    latency_file,
    row_identity,
    wanted_rows,
)
from utils.compare.plan import StudyPlan
from utils.compare.process_pool import Job, ProcessPool
from utils.compare.provenance import device_name
from utils.compare.resident_memory import ResidentPeak
from utils.compare.results import Deployment
from utils.compare.run import data_of, evaluate_file
from utils.compare.run_dir import read_json
from utils.compare.sample_grid import sample_indices
from utils.config import ExportConfig, SplitOptions, from_options
from utils.config.compare_options import TORCH
from utils.datasets.letterboxing import round_to_stride
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.engine.evaluator import Evaluation
from utils.errors import ConfigError, UserError, cut
from utils.export.exporting import export
from utils.files import is_dir, write_json_atomically
from utils.log import LOGGER
from utils.profile.timing import random_images
from utils.runtimes.network import RuntimeNetwork, fixed_shape, load_network

MEMORY_PASSES = 5
AS_ACCURATE = 0.001  # mAP; rounding in single precision changes less
ONE_SIZE = {"ncnn": "ncnn's files have one size"}  # reasons by runtime
_LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}


def deploy_missing(plan: StudyPlan, devices: Sequence[str], lock: Path) -> None:
    """Export, examine and time what is missing; a row that fails keeps its reason, and the others go on.

    Args:
        plan: The study. Nothing of it is running.
        devices: One per process that exports; everything else is measured on the first, alone.
        lock: Lock file of measurements.
    """
    if is_deployed(plan):
        return
    rows, split = wanted_rows(plan), plan.config.split
    LOGGER.info(f"exporting and measuring {', '.join(dict.fromkeys(row.stem for row in rows))} of each variant ...")
    exports = [
        Job(row.name, export_row, (plan, row), row.lock, row.log, row.is_exported, row.write_failure, row.error)
        for row in rows
        if not row.is_exported()
    ]
    threads = max(torch.get_num_threads() // len(devices), 1) if len(devices) > 1 else 0
    by_name = {row.name: row for row in rows}
    ProcessPool(devices, threads, on_end=lambda job: _log_export(by_name[job.name])).run(exports)
    examinations = [
        Job(
            row.name,
            examine_row,
            (plan, row),
            lock,
            row.log,
            partial(row.is_examined, split),
            row.write_failure,
            row.error,
        )
        for row in rows
        if not row.is_examined(split)
    ]
    pool = ProcessPool(devices[:1], 0, on_end=lambda job: _log_row(by_name[job.name], split))
    pool.run(examinations)
    if not is_deployed(plan):
        failures: list[str] = []
        file = plan.folder / EXPORTS / "latency.log"
        done = partial(is_deployed, plan)
        ProcessPool(devices[:1], 0).run([Job("latencies", time_rows, (plan,), lock, file, done, failures.append)])
        for reason in failures:
            LOGGER.warning(f"WARNING: latencies of exported files are missing from the report: {reason}")


def _log_export(row: DeploymentRow) -> None:
    if row.error():
        LOGGER.warning(f"WARNING: {row.name}: {row.error()}")


def _log_row(row: DeploymentRow, split: str) -> None:
    if row.error():
        LOGGER.warning(f"WARNING: {row.name}: {row.error()}")
    else:
        found = row.read()
        LOGGER.info(f"{row.name}: mAP50-95 {100 * found['scores'][split]['map']:.2f}, {found['bytes'] / 1e6:.1f} MB")


def export_row(plan: StudyPlan, row: DeploymentRow, device: str) -> None:
    """Export a row's file: for any size, or for the study's alone if the variant or its runtime cannot do that.

    Args:
        plan: The study.
        row: The row.
        device: Of the study; files are written on the CPU.
    """
    config = plan.config
    common = {
        "weights": [str(row.weights)],
        "imgsz": [config.imgsz],
        "include": [row.runtime],
        "int8": row.calibration,
        "runtime_check": not row.calibration,  # one of 8 bits differs anyway, and its mAP says how much
        "check_image": _check_image(plan),
        "plugin": config.plugin,
        "output": str(row.folder),
    }
    has_one_size = row.runtime in ONE_SIZE
    reasons = [ONE_SIZE[row.runtime]] if has_one_size else []
    for dynamic in (False,) if has_one_size else (True, False):
        try:
            (file,) = export(from_options(ExportConfig, **common, dynamic=dynamic))
        except (UserError, *BLOCK_ERRORS) as error:  # an exporter may raise anything
            reasons.append(_reason(error))
            continue
        file = file.relative_to(row.study) if file.is_relative_to(row.study) else file
        row.write(file=file.as_posix(), fixed="" if dynamic else reasons[0])
        return
    row.write_failure(reasons[-1], retry=False)


def _reason(error: BaseException) -> str:
    """Return an error in one line, with its kind unless it is a user error."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return cut(text if text and isinstance(error, UserError) else f"{name}: {text}".rstrip(": "), REASON_LIMIT)


def _check_image(plan: StudyPlan) -> str:
    """Return a labeled image of the study's split, on which files are compared with torch."""
    options = dataclasses.replace(SplitOptions.of(plan.config), download=False)
    dataset = open_split(data_of(plan), plan.config.split, options)
    return str(dataset.paths[sample_indices(dataset, 1)[0]])


def examine_row(plan: StudyPlan, row: DeploymentRow, device: str) -> None:
    """Measure a file's memory and size, and evaluate it on the study's split as torch was evaluated.

    Args:
        plan: The study.
        row: The row, exported.
        device: "cpu" or a CUDA device number.
    """
    try:
        load_plugins(plan.config.plugin)
        chosen, file = select_device(device), row.file()
        if file is None:
            raise ConfigError(f"{row.name}: was not exported")
        if row.runtime in _LIBRARIES:
            importlib.import_module(_LIBRARIES[row.runtime])
        with ResidentPeak() as peak:
            network = load_network([file], chosen)
            time_passes(network, _images(network, plan.config.imgsz), MEMORY_PASSES)
        found: dict[str, object] = {
            "memory_mib": peak.mib,
            "bytes": _size(file),
            "program": _program(network, chosen),
        }
        scores = _torchs_scores(plan, row) if row.runtime == TORCH else _evaluated(plan, row, network, device)
        row.write(**found, scores={**row.read().get("scores", {}), plan.config.split: scores})
    except UserError as error:
        row.write_failure(str(error), retry=False)


def _torchs_scores(plan: StudyPlan, row: DeploymentRow) -> dict[str, float]:
    """Return the scores of a checkpoint, which was evaluated as a run of the study."""
    scores = plan.files(row.variant, row.seed).read_scores()
    return {"map": scores.map, "map50": scores.map50}


def _evaluated(plan: StudyPlan, row: DeploymentRow, network: nn.Module, device: str) -> dict[str, float]:
    """Return the scores of an exported file, and torch's mAP of images of the same shapes."""
    scores = _scores(evaluate_file(plan, network, device, row.folder))
    torchs = _torchs_scores(plan, row)
    if fixed_shape(network) is not None:
        torchs = _scores(evaluate_file(plan, row.weights, device, row.folder, square=True))
    return {**scores, "torch_map": torchs["map"]}


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return {"map": evaluation.metrics.map, "map50": evaluation.metrics.map50}


def _program(network: nn.Module, device: torch.device) -> str:
    if isinstance(network, RuntimeNetwork):
        return f"{network.runtime.title} on the {network.runtime.place}"
    return f"torch {torch.__version__} on {device_name(device)}"


def _images(network: nn.Module, imgsz: int) -> torch.Tensor:
    """Return an image of random values for a network, square, on the device from which it takes images."""
    (side,) = round_to_stride((imgsz,), largest_stride(network))
    return random_images(network, side, next(network.parameters()).device)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    files = path.rglob("*") if is_dir(path) else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def time_rows(plan: StudyPlan, device: str) -> None:
    """Measure the latency of every file in interleaved rounds, and write latency.json.

    Args:
        plan: The study, its files examined.
        device: "cpu" or a CUDA device number.
    """
    load_plugins(plan.config.plugin)
    chosen = select_device(device)
    rows = {row.name: row for row in all_rows(plan) if row.is_exported() and not row.error()}
    found: dict[str, dict[str, object]] = {name: {"of": row_identity(row)} for name, row in rows.items()}
    turns = {}
    for name, row in rows.items():
        try:
            network = load_network([row.file() or row.weights], chosen)
            turn = partial(time_passes, network, _images(network, plan.config.imgsz), PASSES)
            turn()  # a warm-up
        except (*BLOCK_ERRORS, UserError) as error:
            found[name]["error"] = _reason(error)
        else:
            turns[name] = turn
    seconds = plan.config.cost_seconds
    rounds = run_interleaved(turns, ROUNDS, seconds, np.random.default_rng(0), "deployment: latency")
    for name, times in rounds.items():
        passes = [1000 * each for turn in times for each in turn]
        found[name] |= {"latency_ms": median(passes), "latency_p95_ms": float(np.percentile(passes, 95))}
        torchs = f"{rows[name].variant}/{TORCH}"
        ratio = paired_ratios({torchs: rounds[torchs], name: times}, torchs)[name] if torchs in rounds else None
        found[name] |= {"latency_ratio": ratio, "rounds": len(times)}
    write_json_atomically(latency_file(plan), {"rows": found})


# ---- the table ----


def read_deployments(plan: StudyPlan) -> tuple[Deployment, ...]:
    """Return the table's rows from the files in the study's folder."""
    timed = read_json(latency_file(plan)).get("rows", {})
    return with_unmatched([_deployment(row, plan.config.split, timed.get(row.name, {})) for row in all_rows(plan)])


def _deployment(row: DeploymentRow, split: str, timed: Mapping[str, Any]) -> Deployment:
    found = row.read()
    made = Deployment(row.variant, row.runtime, row.precision, row.seed, str(found.get("program", "")), row.file())
    if found.get("error"):
        return dataclasses.replace(made, error=found["error"])
    scores = found.get("scores", {}).get(split)
    if scores is None:
        return dataclasses.replace(made, error=f"it was not evaluated on {split}")
    timed = timed if timed.get("of") == row_identity(row) else {}
    return dataclasses.replace(
        made,
        file_bytes=found.get("bytes"),
        map=scores["map"],
        map50=scores["map50"],
        torch_map=scores.get("torch_map"),
        latency_ms=timed.get("latency_ms"),
        latency_p95_ms=timed.get("latency_p95_ms"),
        latency_ratio=timed.get("latency_ratio"),
        memory_mib=found.get("memory_mib"),
        remark=_remark(found),
        no_latency=timed.get("error", "the measurement did not end"),
    )


def _remark(found: Mapping[str, Any]) -> str:
    if not found.get("fixed"):
        return ""
    return (
        "its file takes squares of one size alone, so it and torch's mAP that it is compared with are of such images; "
        f"a file for any size: {found['fixed']}"
    )


def with_unmatched(deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
    """Return deployments, and of each whether a faster one is as accurate, up to AS_ACCURATE.

    Args:
        deployments: Those of a study.

    Returns:
        The same; `unmatched` stays None of those without mAP or latency.
    """
    known = [(each.map, each.latency_ms) for each in deployments if each.map is not None and each.latency_ms]

    def is_unmatched(score: float | None, latency: float | None) -> bool | None:
        if score is None or not latency:
            return None
        return not any(time < latency and other >= score - AS_ACCURATE for other, time in known)

    return tuple(dataclasses.replace(each, unmatched=is_unmatched(each.map, each.latency_ms)) for each in deployments)
