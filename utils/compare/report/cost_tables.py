"""The tables of what a variant costs: by the layer counters and clocks of torch, and as its exported files run."""

import dataclasses
from collections.abc import Sequence

from utils.compare.report import cells
from utils.compare.report.cells import Cell, Column, Table
from utils.compare.report.study_cells import NAME, PRIMARY, cost_cell, name_cell, why_no_cost
from utils.compare.results import Deployment, Study

_COSTS = (
    ("parameters", "parameters", "", 0),
    ("gflops", "GFLOPs", "", 2),
    ("gflops_thop", "GFLOPs by thop", "", 2),
    ("latency_ms", "latency, median", "ms", 2),
    ("latency_p95_ms", "latency, p95", "ms", 2),
    ("throughput", "throughput", "images/s", 1),
    ("inference_mib", "memory, inference", "MiB", 0),
    ("training_mib", "memory, training", "MiB", 0),
    ("training_seconds", "training time", "h:mm:ss", 0),
)


def costs(study: Study) -> Table:
    """Return one row per variant: parameters, operations, time and memory."""
    rows = [
        (name_cell(study, variant), *(cost_cell(variant.cost, field, decimals) for field, _, _, decimals in _COSTS))
        for variant in study.variants
    ]
    measured = [variant.cost for variant in study.variants if variant.cost]
    columns, rows = _with_ratios(study, [NAME, *(Column(title, unit) for _, title, unit, _ in _COSTS)], rows)
    conditions = "; ".join(dict.fromkeys(f"{cost.imgsz} pixels on {cost.device}" for cost in measured))
    caption = (
        "GFLOPs: counted as the operations are dispatched, attention's matrix products included; by thop: as in "
        "YOLOv5's tables. Latency: batch 1, its ratio to the baseline measured within each round; throughput: batch "
        "16; memory: the peak." + (f" Measured at {conditions}." if conditions else "")
    )
    return Table("costs", "Cost", tuple(columns), tuple(rows), caption)


def _with_ratios(
    study: Study,
    columns: list[Column],
    rows: list[tuple[Cell, ...]],
) -> tuple[list[Column], list[tuple[Cell, ...]]]:
    """Return the columns and rows of the cost, with the ratio of latencies if it was measured."""
    if not any(variant.cost and "latency_ms" in variant.cost.ratios for variant in study.variants):
        return columns, rows
    after = 1 + next(index for index, (field, *_) in enumerate(_COSTS) if field == "latency_p95_ms")
    measured = [
        (variant.cost.ratios.get("latency_ms") if variant.cost else None, variant.cost) for variant in study.variants
    ]
    ratios = [cells.number(ratio, 3, why_no_cost(cost, "latency_ms")) for ratio, cost in measured]
    return (
        [*columns[:after], Column("latency, ratio", "×"), *columns[after:]],
        [(*row[:after], ratio, *row[after:]) for row, ratio in zip(rows, ratios, strict=True)],
    )


def deployment(study: Study) -> Table | None:
    """Return one row per variant and runtime: what a file keeps of torch's mAP, and its latency, memory and size."""
    by_name = {variant.name: variant for variant in study.variants}
    rows = [
        (name_cell(study, by_name[each.variant]), cells.text_cell(each.runtime), *_deployment_cells(each))
        for each in study.deployments
    ]
    columns = (
        NAME,
        Column("runtime", figures=False),
        Column("precision", figures=False),
        Column(PRIMARY, "points"),
        Column("minus torch's", "points"),
        Column("mAP50", "points"),
        Column("latency, median", "ms"),
        Column("latency, p95", "ms"),
        Column("latency, ratio", "×"),
        Column("memory", "MiB"),
        Column("file", "MB"),
        Column("unmatched", figures=False),
    )
    seeds = list(dict.fromkeys(each.seed for each in study.deployments))
    programs = {each.runtime: each.program for each in study.deployments if each.program}
    split = study.data.get("split", "the study's")
    caption = (
        f"The best.pt of {_seeds_text(seeds)} of each variant as torch and its exported files run it. mAP: on the "
        f"{split} split, by the same code on the same image shapes, so that a difference to torch is the runtime's or "
        "that of 8 bits. Latency: one image without suppression, all rows in interleaved rounds; its ratio to torch's "
        "of the same variant is measured within each round. Memory: by how much the resident memory of a fresh "
        "process, whose libraries are loaded, rises at most while the file is opened and run on some images. File: "
        "torch's checkpoint holds half precision. Unmatched: no faster row is as accurate up to 0.1 points; one seed "
        "does not show that variants differ. "
        f"Measured with {'; '.join(f'{name}: {program}' for name, program in programs.items()) or 'nothing'}."
    )
    return Table("deployment", "Deployment", columns, tuple(rows), caption) if rows else None


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}, the first," if len(seeds) == 1 else "the first seed that is done"


def _deployment_cells(each: Deployment) -> list[Cell]:
    """Return the cells after the runtime; those of a file that cannot be used have its reason."""
    precision = cells.text_cell(each.precision)
    if each.error:
        return [precision, *[cells.missing(each.error)] * 9]
    accuracy, unknown = cells.points(each.map, "not evaluated"), "the system does not tell it"
    accuracy = dataclasses.replace(accuracy, reason=accuracy.reason or each.remark)
    lost = each.map - each.torch_map if each.map is not None and each.torch_map is not None else None
    is_torch = "torch is what the others are compared with"
    return [
        precision,
        accuracy,
        cells.signed(lost, is_torch),
        cells.points(each.map50, "not evaluated"),
        cells.number(each.latency_ms, 2, each.no_latency),
        cells.number(each.latency_p95_ms, 2, each.no_latency),
        cells.number(each.latency_ratio, 3, each.no_latency or "torch's latency is not known"),
        cells.number(each.memory_mib, 0, unknown),
        cells.number(each.file_bytes, 2, unknown, 1e-6),
        _unmatched_cell(each),
    ]


def _unmatched_cell(each: Deployment) -> Cell:
    if each.unmatched is None:
        return cells.missing(each.no_latency)
    return Cell("unmatched", "unmatched", tone="better") if each.unmatched else Cell("no", "no")
