"""The runs of a study executed and its costs measured, in processes of their own, by one program or several."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from models.inference import largest_stride
from models.registry import load_plugins
from utils.checkpoint import load_models
from utils.compare.cost import measure_costs
from utils.compare.deployment import deploy_missing
from utils.compare.deployment_rows import forget_stale_deployments, is_deployed
from utils.compare.plan import PlannedVariant, StudyPlan
from utils.compare.process_pool import Job, ProcessPool
from utils.compare.run import data_of, execute_run
from utils.compare.run_dir import RunFiles, read_json
from utils.compare.sample_grid import draw_sample_grid
from utils.compare.study_progress import StudyProgress
from utils.config import Slicing, SplitOptions
from utils.config.compare_options import CompareConfig
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.engine.evaluator import as_evaluated
from utils.files import write_json_atomically
from utils.lock_file import lock_holder
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts

COSTS_FILE, SAMPLE_GRID_FILE, MEASURE_LOG = "costs.json", "strip.jpg", "measure.log"
BASELINE_LINE = "the baseline is {}; continue with: python compare.py --study {}"


# ---- runs ----


def forget_failures(plan: StudyPlan) -> None:
    """Remove what earlier starts of the study wrote about runs that failed, so that these are retried."""
    for files in plan.missing():
        files.failed.unlink(missing_ok=True)
    forget_stale_deployments(plan)


def run_missing(plan: StudyPlan, threads: int | None = None) -> None:
    """Execute every run that is neither done nor failed, in processes of their own, and wait for those of others.

    Args:
        plan: The study. A failure is written to the run's folder.
        threads: Threads of each process, 0 for torch's own choice; None divides the processor's.
    """
    runs = {run_name(plan, variant, seed): (variant, seed) for variant, seed in plan.pairs()}
    files = files_by_name(plan)
    missing = [name for name in runs if not files[name].has_ended()]
    if not missing:
        return
    devices = devices_of(plan.config)
    LOGGER.info(
        f"{len(missing)} of {len(runs)} runs to do in {plan.folder} on {', '.join(map(str, dict.fromkeys(devices)))}; "
        + BASELINE_LINE.format(plan.variants[0].name, plan.folder)
    )
    progress = StudyProgress(files, plan.config.epochs if plan.trains else 1, len(devices))
    pool = ProcessPool(
        devices,
        threads_of(plan.config) if threads is None else threads,
        progress.update,
        lambda job: progress.log_end(job.name),
        lambda job: progress.log_wait(job.name, lock_holder(job.lock)),
    )
    try:
        pool.run([_job(plan, name, *runs[name], files[name]) for name in missing])
    except KeyboardInterrupt:
        LOGGER.info(f"\nstopped; continue with: python compare.py --study {plan.folder}")
        raise
    finally:
        progress.close()


def files_by_name(plan: StudyPlan) -> dict[str, RunFiles]:
    """Return the files of every run by its name in messages."""
    return {run_name(plan, variant, seed): plan.files(variant.name, seed) for variant, seed in plan.pairs()}


def _job(plan: StudyPlan, name: str, variant: PlannedVariant, seed: int, files: RunFiles) -> Job:
    arguments = (plan, variant, seed)
    return Job(name, execute_run, arguments, files.lock, files.log, files.is_done, files.write_failure, files.error)


def run_name(plan: StudyPlan, variant: PlannedVariant, seed: int) -> str:
    """Return the name of a run in messages.

    Args:
        plan: The study.
        variant: What is trained or evaluated.
        seed: Seed of the run.

    Returns:
        Such as "yolov5n_CBAM seed 1"; a checkpoint's has no seed.
    """
    return f"{variant.name} seed {seed}" if plan.trains else variant.name


def devices_of(config: CompareConfig) -> list[str]:
    """Return the device of each of --jobs processes; without --device, all GPUs in turn, or the CPU."""
    gpus = [str(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    devices = [name.strip() for name in config.device.split(",")] if config.device else gpus or ["cpu"]
    return [devices[index % len(devices)] for index in range(config.jobs)]


def threads_of(config: CompareConfig) -> int:
    """Return the threads of each process: the processor's, divided; 0 leaves a single process torch's own choice."""
    return max(torch.get_num_threads() // config.jobs, 1) if config.jobs > 1 else 0


# ---- costs and sample grid ----


def measure_missing(plan: StudyPlan) -> None:
    """Measure costs, draw the sample grid and deploy, once, when no run is under way; failures are logged only."""
    _measure_costs(plan)
    deploy_missing(plan, devices_of(plan.config), measure_lock(plan))


def _measure_costs(plan: StudyPlan) -> None:
    weights = _weights_by_name(plan)
    if _has_costs(plan):
        return
    LOGGER.info("measuring costs, and drawing the detections of each model on some images ...")
    failures: list[str] = []
    job = Job(
        "costs and sample grid",
        measure,
        (plan, weights),
        measure_lock(plan),
        plan.folder / MEASURE_LOG,
        lambda: _has_costs(plan),
        failures.append,
    )
    ProcessPool(devices_of(plan.config)[:1], 0).run([job])
    for reason in failures:
        LOGGER.warning(f"WARNING: costs or the sample grid are missing from the report: {reason}")


def measure_lock(plan: StudyPlan) -> Path:
    """Return the lock file of the measurement."""
    return plan.folder / "measure.claim"


def is_measured(plan: StudyPlan) -> bool:
    """Return whether there are costs, a sample grid, and the exported files that are asked for, all measured."""
    return _has_costs(plan) and is_deployed(plan)


def _has_costs(plan: StudyPlan) -> bool:
    """Return whether there are costs and a sample grid of every variant that can have them."""
    weights, costs, sample_grid = _weights_by_name(plan), plan.folder / COSTS_FILE, plan.folder / SAMPLE_GRID_FILE
    return not weights or (sample_grid.exists() and costs.exists() and set(read_json(costs)) == set(weights))


def _weights_by_name(plan: StudyPlan) -> dict[str, Path]:
    """Return for each variant the checkpoint of its first seed that is done, for its cost and the sample grid."""
    weights = {}
    for variant in plan.variants:
        done = [seed for seed in plan.seeds if plan.files(variant.name, seed).is_done()]
        if done:
            weights[variant.name] = plan.compared_weights(variant, done[0])
    return weights


def _measured_in_place_of(plan: StudyPlan) -> dict[str, str]:
    """Return by variant the one whose costs are its own: the first that has the same network, as most recipes do."""
    first: dict[object, str] = {}
    for each in plan.variants:
        first.setdefault((each.cfg, each.recipe.hyp.anchors) if each.recipe else each.name, each.name)
    return {
        each.name: first[(each.cfg, each.recipe.hyp.anchors) if each.recipe else each.name] for each in plan.variants
    }


def measure(plan: StudyPlan, weights: Mapping[str, Path], device: str) -> None:
    """Write costs.json and strip.jpg, in a process of its own, so that memory peaks are the models'.

    Args:
        plan: The study.
        weights: Checkpoints by name of variant, the baseline's first.
        device: "cpu" or a CUDA device number.
    """
    if _has_costs(plan):  # by another process, since this one asked
        return
    chosen, config, spec = select_device(device), plan.config, data_of(plan)
    load_plugins(config.plugin)
    (plan.folder / SAMPLE_GRID_FILE).unlink(missing_ok=True)  # of other variants: the two belong together
    measured = _measured_in_place_of(plan)
    networks = {name: path for name, path in weights.items() if measured[name] == name or measured[name] not in weights}
    costs = measure_costs(networks, config.imgsz, chosen, seconds=config.cost_seconds)
    of_each = {name: costs[name if name in costs else measured[name]] for name in weights}
    write_json_atomically(plan.folder / COSTS_FILE, {name: dataclasses.asdict(cost) for name, cost in of_each.items()})
    models = {name: load_models(path, chosen) for name, path in weights.items()}
    stride = max(largest_stride(model) for model in models.values())
    options = dataclasses.replace(SplitOptions.of(config), download=False)  # it is there since the plan was made
    dataset = open_split(spec, config.split, as_evaluated(options, stride))
    with drawing_fonts(config.font):
        draw_sample_grid(
            models, dataset, spec.names, chosen, plan.folder / SAMPLE_GRID_FILE, slicing=Slicing.of(config)
        )
