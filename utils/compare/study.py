"""What compare.py runs: a study prepared, its missing runs executed, costs measured, and the results reported."""

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.registry import load_plugins
from utils.checkpoint import load_models
from utils.compare.cost import measure_costs, with_training_time
from utils.compare.manifest import HYP_FILE, training_settings
from utils.compare.plan import PlannedVariant, StudyPlan, open_study
from utils.compare.preparation import prepare
from utils.compare.process_pool import Job, ProcessPool
from utils.compare.provenance import versions
from utils.compare.report import console_table, write_report
from utils.compare.results import PARAMETER_MATCHED, Cost, Run, Study, VariantResult
from utils.compare.run import data_of, execute_run
from utils.compare.run_dir import RunFiles, read_json
from utils.compare.sample_grid import draw_sample_grid
from utils.compare.study_progress import StudyProgress
from utils.compare.verdicts import compare_with_parameter_matched, with_statistics
from utils.config import EvalOptions, Hyperparameters, SplitOptions
from utils.config.compare_options import STUDY_FILE, CompareConfig
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.engine.evaluator import as_evaluated, largest_stride
from utils.errors import UserError
from utils.files import write_json_atomically
from utils.lock_file import lock_holder
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts

COSTS_FILE, SAMPLE_GRID_FILE, MEASURE_LOG = "costs.json", "strip.jpg", "measure.log"
BASELINE_LINE = "the baseline is {}; continue with: python compare.py --study {}"


def compare(requested: CompareConfig) -> Study:
    """Run, continue or report a study, and return it. Runs that failed are in it, and its report is written.

    Raises UserError for errors that are found before the first run.
    """
    folder, config = open_study(requested)
    keep_study = bool(requested.study) and (folder / STUDY_FILE).resolve() in _study_files(requested.study)
    with contextlib.ExitStack() as at_end:
        try:
            at_end.enter_context(drawing_fonts(config.font))
            plan = prepare(folder, config, keep_study)
        except UserError:
            _remove_if_empty(folder)
            raise
        run_missing(plan)
        measure_missing(plan)
        study = assemble(plan)
        files = write_report(study)
        beside = ", ".join(file.name for file in files[1:])
        LOGGER.info(f"\n{console_table(study)}\n\nreport: {files[0]}, and beside it {beside}")
    return study


def _study_files(path: str) -> tuple[Path, ...]:
    """Return the files that --study may mean."""
    return Path(path).resolve(), (Path(path) / STUDY_FILE).resolve()


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a study that never began."""
    with contextlib.suppress(OSError):
        folder.rmdir()


# ---- runs ----


def run_missing(plan: StudyPlan) -> None:
    """Execute every run that is not done, in processes of their own; a failure is written to the run's folder."""
    runs = {run_name(plan, variant, seed): (variant, seed) for variant, seed in plan.pairs()}
    files = {name: plan.files(variant.name, seed) for name, (variant, seed) in runs.items()}
    missing = [name for name in runs if not files[name].is_done()]
    if not missing:
        return
    for name in missing:
        files[name].failed.unlink(missing_ok=True)
    devices = devices_of(plan.config)
    LOGGER.info(
        f"{len(missing)} of {len(runs)} runs to do in {plan.folder} on {', '.join(map(str, dict.fromkeys(devices)))}; "
        + BASELINE_LINE.format(plan.variants[0].name, plan.folder)
    )
    progress = StudyProgress(files, plan.config.epochs if plan.trains else 1, len(devices))
    pool = ProcessPool(
        devices,
        _threads(plan.config),
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


def _job(plan: StudyPlan, name: str, variant: PlannedVariant, seed: int, files: RunFiles) -> Job:
    arguments = (plan, variant, seed)
    return Job(name, execute_run, arguments, files.lock, files.log, files.is_done, files.write_failure)


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


def _threads(config: CompareConfig) -> int:
    """Return the threads of each process: the processor's, divided; 0 leaves a single process torch's own choice."""
    return max(torch.get_num_threads() // config.jobs, 1) if config.jobs > 1 else 0


# ---- costs and sample grid ----


def measure_missing(plan: StudyPlan) -> None:
    """Measure costs and draw the sample grid, once, when no run is under way; failures are logged only."""
    weights = _weights_by_name(plan)
    wanted = [plan.folder / SAMPLE_GRID_FILE, plan.folder / COSTS_FILE]
    if not weights or all(file.exists() for file in wanted) and set(read_json(wanted[1])) == set(weights):
        return
    LOGGER.info("measuring costs, and drawing the detections of each model on some images ...")
    failures: list[str] = []
    job = Job(
        "costs and sample grid",
        measure,
        (plan, weights),
        plan.folder / "measure.claim",
        plan.folder / MEASURE_LOG,
        lambda: all(file.exists() for file in wanted),
        failures.append,
    )
    for file in wanted:
        file.unlink(missing_ok=True)
    ProcessPool(devices_of(plan.config)[:1], 0).run([job])
    for reason in failures:
        LOGGER.warning(f"WARNING: costs or the sample grid are missing from the report: {reason}")


def _weights_by_name(plan: StudyPlan) -> dict[str, Path]:
    """Return for each variant the checkpoint of its first seed that is done, for its cost and the sample grid."""
    weights = {}
    for variant in plan.variants:
        done = [seed for seed in plan.seeds if plan.files(variant.name, seed).is_done()]
        if done:
            weights[variant.name] = plan.compared_weights(variant, done[0])
    return weights


def measure(plan: StudyPlan, weights: Mapping[str, Path], device: str) -> None:
    """Write costs.json and strip.jpg, in a process of its own, so that memory peaks are the models'.

    Args:
        plan: The study.
        weights: Checkpoints by name of variant, the baseline's first.
        device: "cpu" or a CUDA device number.
    """
    chosen, config, spec = select_device(device), plan.config, data_of(plan)
    load_plugins(config.plugin)
    costs = measure_costs(weights, config.imgsz, chosen, seconds=config.cost_seconds)
    write_json_atomically(plan.folder / COSTS_FILE, {name: dataclasses.asdict(cost) for name, cost in costs.items()})
    models = {name: load_models(path, chosen) for name, path in weights.items()}
    stride = max(largest_stride(model) for model in models.values())
    options = dataclasses.replace(SplitOptions.of(config), download=False)  # it is there since the plan was made
    dataset = open_split(spec, config.split, as_evaluated(options, stride))
    with drawing_fonts(config.font):
        draw_sample_grid(models, dataset, spec.names, chosen, plan.folder / SAMPLE_GRID_FILE)


# ---- the study ----


def assemble(plan: StudyPlan) -> Study:
    """Return the study from the files in its folder: runs, statistics, costs, and notes for the reader."""
    LOGGER.info("intervals and tests ...")
    costs = {
        name: Cost(**{**cost, "notes": tuple(cost["notes"])})
        for name, cost in read_json(plan.folder / COSTS_FILE).items()
    }
    variants = []
    for planned in plan.variants:
        runs = tuple(load_run(plan, planned, seed) for seed in plan.seeds)
        cost = _with_mean_training_time(costs.get(planned.name), runs)
        variants.append(VariantResult(planned.name, planned.source, planned.role, runs, cost))
    names = data_of(plan).names
    sample_grid = plan.folder / SAMPLE_GRID_FILE
    return Study(
        title=plan.config.title or plan.folder.name,
        folder=plan.folder,
        command=command_of(plan),
        variants=with_statistics(variants, names),
        seeds=plan.seeds,
        names=names,
        settings=_settings(plan, variants),
        versions=(_distinct_facts(plan, variants, "versions") or [versions()])[0],
        data={"name": Path(plan.config.data).name, "split": plan.config.split, **plan.data},
        date=datetime.datetime.now().isoformat(sep=" ", timespec="minutes"),
        notes=(*_notes(plan, variants, costs), *compare_with_parameter_matched(variants, names)),
        sample_grid=sample_grid if sample_grid.exists() else None,
    )


def load_run(plan: StudyPlan, planned: PlannedVariant, seed: int) -> Run:
    """Return one run from the files in its folder.

    Args:
        plan: The study.
        planned: What is trained or evaluated.
        seed: Seed of the run.

    Returns:
        The run, done, failed or missing.
    """
    files = plan.files(planned.name, seed)
    if not files.is_done():
        error = files.error()
        return Run(planned.name, seed, "failed" if error else "missing", files.folder, error=error or "it was not run")
    return Run(
        planned.name,
        seed,
        "done",
        files.folder,
        plan.compared_weights(planned, seed),
        files.read_scores(),
        files.read_matches(),
        files.results if files.results.exists() else None,
        files.training_seconds(),
    )


def _with_mean_training_time(cost: Cost | None, runs: tuple[Run, ...]) -> Cost | None:
    seconds = [run.seconds for run in runs if run.seconds]
    return cost and with_training_time(cost, sum(seconds) / len(seconds) if seconds else None)


def command_of(plan: StudyPlan) -> str:
    """Return the command that makes the same study again."""
    words = ["python", "compare.py"]
    for name, value in plan.config.study_content().items():
        if name == "hyp" or value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        if name == "plugin":
            words += [word for each in values for word in (flag, str(each))]
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(_short_path, values)]
    hyp = Hyperparameters.load(plan.config.hyp, plan.config.hyp_unknown) if plan.trains else None
    own_hyp = hyp is not None and hyp != Hyperparameters.load(CompareConfig.hyp)
    return shlex.join(words) + (f" --hyp {plan.folder.name}/{HYP_FILE}" if own_hyp else "")


def _short_path(value: object) -> str:
    """Return a path as its name, a run's checkpoint with its run: a report does not show a machine's folders."""
    if not isinstance(value, str) or not Path(value).is_absolute():
        return str(value)
    return "/".join(Path(value).parts[-3 if Path(value).parent.name == "weights" else -1 :])


def _distinct_facts(plan: StudyPlan, variants: list[VariantResult], name: str) -> list[Any]:
    """Return the distinct values of a fact over the runs that are done, such as their devices."""
    values = [
        plan.files(run.variant, run.seed).read_facts().get(name)
        for variant in variants
        for run in variant.runs
        if run.status == "done"
    ]
    return [value for index, value in enumerate(values) if value and value not in values[:index]]


def _settings(plan: StudyPlan, variants: list[VariantResult]) -> dict[str, Any]:
    """Return the settings that the report lists."""
    start = plan.variants[0].weights if plan.trains else None
    return {
        **training_settings(plan.config),
        **({"weights": start.name if start else "random"} if plan.trains else {}),
        "split": plan.config.split,
        "conf_thres": EvalOptions.conf_thres,
        "iou_thres": EvalOptions.iou_thres,
        "max_det": EvalOptions.max_det,
        "device": ", ".join(_distinct_facts(plan, variants, "device")) or "none: no run is done",
    }


def _notes(plan: StudyPlan, variants: list[VariantResult], costs: Mapping[str, Cost]) -> tuple[str, ...]:
    """Return what a reader must know: about the plan, runs that failed, and conditions that were not equal."""
    notes = [*plan.notes, *_transfer_notes(plan)]
    runs = [run for variant in variants for run in variant.runs]
    for run in runs:
        if run.status != "done":
            notes.append(f"{run.variant} seed {run.seed}: {run.status}, {run.error}. It is in no figure.")
    done = [plan.files(run.variant, run.seed) for run in runs if run.status == "done"]
    devices, all_versions = _distinct_facts(plan, variants, "device"), _distinct_facts(plan, variants, "versions")
    threads = {count for files in done for count in files.thread_counts()}
    if len(devices) > 1:
        notes.append(f"The runs were made on different devices: {', '.join(sorted(devices))}.")
    if len(all_versions) > 1:
        kinds = {name: dict.fromkeys(str(found.get(name)) for found in all_versions) for name in all_versions[0]}
        unequal = (f"{name} {' and '.join(kind)}" for name, kind in kinds.items() if len(kind) > 1)
        notes.append(f"The runs were evaluated with different versions: {'; '.join(unequal)}.")
    if len(threads) > 1:
        notes.append("The runs were made with different numbers of threads, which changes sums in their last digits.")
    if any(run.scores and run.scores.coco is None for run in runs):
        notes.append("pycocotools was not installed: AP by size is missing.")
    if not costs:
        notes.append(f"Costs were not measured; {MEASURE_LOG} says why.")
    return tuple(notes)


def _transfer_notes(plan: StudyPlan) -> list[str]:
    """Return how much of the checkpoint the trainings began with; the parameter-matched baseline has the baseline's."""
    shares = {
        variant.name: plan.files(variant.name, plan.seeds[0]).transferred_share()
        for variant in plan.variants
        if variant.role != PARAMETER_MATCHED
    }
    known = {name: f"{share:.1%}" for name, share in shares.items() if share is not None}
    start = plan.variants[0].weights
    if not known or start is None:
        return []
    if len(set(known.values())) == 1:
        share = next(iter(known.values()))
        return [
            f"Every training began with {share} of the parameters of {start.name}; the rest is for other classes, or "
            "no layer takes it."
        ]
    unequal = ", ".join(f"{name} {share}" for name, share in known.items())
    return [f"The trainings began with unequal shares of the parameters of {start.name}: {unequal}."]
