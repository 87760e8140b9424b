"""What compare.py runs: a study prepared, its missing runs made, costs measured, and all of it put together for the report."""

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
from utils.compare.lock_file import holder_of
from utils.compare.manifest import HYP_FILE, training_settings
from utils.compare.plan import PlannedVariant, StudyPlan, open_study
from utils.compare.preparation import prepare
from utils.compare.process_pool import Job, Pool
from utils.compare.provenance import versions
from utils.compare.report import console_table, write_report
from utils.compare.results import Cost, Run, Study, VariantResult
from utils.compare.run import data_of, do_run
from utils.compare.run_dir import RunFiles, read_json
from utils.compare.sample_grid import draw_strip
from utils.compare.study_progress import StudyProgress
from utils.compare.verdicts import against_control, with_statistics
from utils.config import Hyperparameters, SplitOptions
from utils.config.compare_options import STUDY_FILE, CompareConfig
from utils.datasets.splits import open_split
from utils.device import select_device
from utils.engine.evaluator import as_evaluated, largest_stride
from utils.errors import UserError
from utils.files import write_json_atomically
from utils.log import LOGGER

COSTS_FILE, STRIP_FILE, MEASURE_LOG = "costs.json", "strip.jpg", "measure.log"
BASELINE_LINE = "the baseline is {}; continue with: python compare.py --study {}"


def compare(asked: CompareConfig) -> Study:
    """Run, continue or report the study that `asked` means; return it. What failed is in it, and its report is written.

    Raises UserError kinds for what is wrong before the first run.
    """
    folder, config = open_study(asked)
    try:
        plan = prepare(
            folder, config, keep_study=bool(asked.study) and (folder / STUDY_FILE).resolve() in _meant(asked.study)
        )
    except UserError:
        _remove_if_empty(folder)
        raise
    run_missing(plan)
    measure_missing(plan)
    study = assemble(plan)
    files = write_report(study)
    LOGGER.info(
        f"\n{console_table(study)}\n\nreport: {files[0]}, and beside it {', '.join(file.name for file in files[1:])}"
    )
    return study


def _meant(path: str) -> tuple[Path, ...]:
    return Path(path).resolve(), (Path(path) / STUDY_FILE).resolve()


def _remove_if_empty(folder: Path) -> None:
    """A study that never began leaves no folder."""
    with contextlib.suppress(OSError):
        folder.rmdir()


# ---- runs ----


def run_missing(plan: StudyPlan) -> None:
    """Do every run that is not done, in processes of their own; failures are left in the runs' folders."""
    names = {name_of(plan, variant, seed): (variant, seed) for variant, seed in plan.pairs()}
    files = {name: plan.files(variant.name, seed) for name, (variant, seed) in names.items()}
    missing = [name for name in names if not files[name].is_done()]
    if not missing:
        return
    for name in missing:
        files[name].failed.unlink(missing_ok=True)
    devices = devices_of(plan.config)
    LOGGER.info(
        f"{len(missing)} of {len(names)} runs to do in {plan.folder} on {', '.join(map(str, dict.fromkeys(devices)))}; "
        + BASELINE_LINE.format(plan.variants[0].name, plan.folder)
    )
    progress = StudyProgress(files, plan.config.epochs if plan.trains else 1, len(devices))
    pool = Pool(
        devices,
        _threads(plan.config),
        progress.update,
        lambda job: progress.ended(job.name),
        lambda job: progress.waits(job.name, holder_of(job.claim)),
    )
    try:
        pool.run([_job(plan, name, *names[name], files[name]) for name in missing])
    except KeyboardInterrupt:
        LOGGER.info(f"\nstopped; continue with: python compare.py --study {plan.folder}")
        raise
    finally:
        progress.close()


def _job(plan: StudyPlan, name: str, variant: PlannedVariant, seed: int, files: RunFiles) -> Job:
    return Job(name, do_run, (plan, variant, seed), files.claim, files.log, files.is_done, files.fail)


def name_of(plan: StudyPlan, variant: PlannedVariant, seed: int) -> str:
    return f"{variant.name} seed {seed}" if plan.trains else variant.name


def devices_of(config: CompareConfig) -> list[str]:
    """The device of each of --jobs processes; without --device, all GPUs in turn, or the CPU."""
    found = [str(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    named = [name.strip() for name in config.device.split(",")] if config.device else found or ["cpu"]
    return [named[number % len(named)] for number in range(config.jobs)]


def _threads(config: CompareConfig) -> int:
    """Threads of each process: the processor's divided among them; 0 leaves torch's own choice to a single one."""
    return max(torch.get_num_threads() // config.jobs, 1) if config.jobs > 1 else 0


# ---- costs and pictures ----


def measure_missing(plan: StudyPlan) -> None:
    """Measure costs and draw the strip, once, when no run is under way; what fails is said and left out of the report."""
    done = _weights(plan)
    wanted = [plan.folder / STRIP_FILE, plan.folder / COSTS_FILE]
    if not done or all(file.exists() for file in wanted) and set(read_json(wanted[1])) == set(done):
        return
    LOGGER.info("measuring costs, and detecting on some pictures with each model ...")
    failures: list[str] = []
    job = Job(
        "costs and pictures",
        measure,
        (plan, done),
        plan.folder / "measure.claim",
        plan.folder / MEASURE_LOG,
        lambda: all(file.exists() for file in wanted),
        failures.append,
    )
    for file in wanted:
        file.unlink(missing_ok=True)
    Pool(devices_of(plan.config)[:1], 0).run([job])
    for reason in failures:
        LOGGER.warning(f"WARNING: costs or pictures are missing from the report: {reason}")


def _weights(plan: StudyPlan) -> dict[str, Path]:
    """The checkpoint of each variant that shows its cost and pictures: its first seed that is done."""
    found = {}
    for variant in plan.variants:
        done = [seed for seed in plan.seeds if plan.files(variant.name, seed).is_done()]
        if done:
            found[variant.name] = plan.files(variant.name, done[0]).best if plan.trains else variant.weights
    return found


def measure(plan: StudyPlan, weights: Mapping[str, Path], device: str) -> None:
    """Write costs.json and draw strip.jpg. In a process of its own, so that memory peaks are the models'."""
    chosen, config, spec = select_device(device), plan.config, data_of(plan)
    load_plugins(config.plugin)
    costs = measure_costs(weights, config.imgsz, chosen, seconds=config.cost_seconds)
    write_json_atomically(plan.folder / COSTS_FILE, {name: dataclasses.asdict(cost) for name, cost in costs.items()})
    models = {name: load_models(path, chosen) for name, path in weights.items()}
    stride = max(largest_stride(model) for model in models.values())
    options = dataclasses.replace(SplitOptions.of(config), download=False)  # it is there since the plan was made
    dataset = open_split(spec, config.split, as_evaluated(options, stride))
    draw_strip(models, dataset, spec.names, chosen, plan.folder / STRIP_FILE)


# ---- the study ----


def assemble(plan: StudyPlan) -> Study:
    """Return the study as its folder has it now: runs, statistics, costs, and what a reader must know."""
    LOGGER.info("intervals and tests ...")
    costs = {
        name: Cost(**{**cost, "notes": tuple(cost["notes"])})
        for name, cost in read_json(plan.folder / COSTS_FILE).items()
    }
    variants = []
    for planned in plan.variants:
        runs = tuple(run_of(plan, planned, seed) for seed in plan.seeds)
        variants.append(
            VariantResult(planned.name, planned.source, planned.role, runs, _cost(costs.get(planned.name), runs))
        )
    names = data_of(plan).names
    strip = plan.folder / STRIP_FILE
    return Study(
        title=plan.config.title or plan.folder.name,
        folder=plan.folder,
        command=command_of(plan),
        variants=with_statistics(variants, names),
        seeds=plan.seeds,
        names=names,
        settings=_settings(plan, variants),
        versions=(_facts(plan, variants, "versions") or [versions()])[0],
        data={"name": Path(plan.config.data).name, "split": plan.config.split, **plan.data},
        date=datetime.datetime.now().isoformat(sep=" ", timespec="minutes"),
        notes=(*_notes(plan, variants, costs), *against_control(variants, names)),
        strip=strip if strip.exists() else None,
    )


def run_of(plan: StudyPlan, planned: PlannedVariant, seed: int) -> Run:
    """Return one run as its folder has it."""
    files = plan.files(planned.name, seed)
    weights = files.best if plan.trains else planned.weights
    if not files.is_done():
        error = files.error()
        return Run(planned.name, seed, "failed" if error else "missing", files.folder, error=error or "it was not run")
    return Run(
        planned.name,
        seed,
        "done",
        files.folder,
        weights,
        files.read_scores(),
        files.read_matches(),
        files.results if files.results.exists() else None,
        files.seconds(),
    )


def _cost(cost: Cost | None, runs: tuple[Run, ...]) -> Cost | None:
    """A cost with the mean time of the trainings."""
    seconds = [run.seconds for run in runs if run.seconds]
    return cost and with_training_time(cost, sum(seconds) / len(seconds) if seconds else None)


def command_of(plan: StudyPlan) -> str:
    """Return the command that makes the same study again."""
    words = ["python", "compare.py"]
    for name, value in plan.config.described().items():
        if name == "hyp" or value is None:
            continue
        word = f"--{name.replace('_', '-')}"
        if name == "plugin":
            words += [part for each in value for part in (word, each)]
        elif isinstance(value, bool):
            words.append(word if value else word.replace("--", "--no-", 1))
        else:
            words += [word, *(_short(each) for each in (value if isinstance(value, list) else [value]))]
    own_hyp = plan.trains and Hyperparameters.load(plan.config.hyp) != Hyperparameters.load(CompareConfig.hyp)
    return shlex.join(words) + (f" --hyp {plan.folder.name}/{HYP_FILE}" if own_hyp else "")


def _short(value: object) -> str:
    """A path as its name, a run's checkpoint with its run: where a machine keeps its files is nobody's business."""
    if not isinstance(value, str) or not Path(value).is_absolute():
        return str(value)
    return "/".join(Path(value).parts[-3 if Path(value).parent.name == "weights" else -1 :])


def _facts(plan: StudyPlan, variants: list[VariantResult], name: str) -> list[Any]:
    """Return what the runs that are done say of a fact, such as their device, each answer once."""
    told = [
        plan.files(run.variant, run.seed).read_facts().get(name)
        for variant in variants
        for run in variant.runs
        if run.status == "done"
    ]
    return [fact for place, fact in enumerate(told) if fact and fact not in told[:place]]


def _settings(plan: StudyPlan, variants: list[VariantResult]) -> dict[str, Any]:
    """Return the settings that the report lists."""
    start = plan.variants[0].weights if plan.trains else None
    return {
        **training_settings(plan.config),
        **({"weights": start.name if start else "random"} if plan.trains else {}),
        "split": plan.config.split,
        "conf_thres": 0.001,
        "iou_thres": 0.6,
        "max_det": 300,
        "device": ", ".join(_facts(plan, variants, "device")) or "none: no run is done",
    }


def _notes(plan: StudyPlan, variants: list[VariantResult], costs: Mapping[str, Cost]) -> tuple[str, ...]:
    """Return what a reader must know: of the plan, of runs that failed, and where circumstances were not equal."""
    notes = [*plan.notes, *_transfer_notes(plan)]
    runs = [run for variant in variants for run in variant.runs]
    for run in runs:
        if run.status != "done":
            notes.append(f"{run.variant} seed {run.seed}: {run.status}, {run.error}. It is in no figure.")
    done = [plan.files(run.variant, run.seed) for run in runs if run.status == "done"]
    devices, made_with = _facts(plan, variants, "device"), _facts(plan, variants, "versions")
    threads = {count for files in done for count in files.threads()}
    if len(devices) > 1:
        notes.append(f"The runs were made on different devices: {', '.join(sorted(devices))}.")
    if len(made_with) > 1:
        kinds = {name: dict.fromkeys(str(found.get(name)) for found in made_with) for name in made_with[0]}
        unequal = (f"{name} {' and '.join(kind)}" for name, kind in kinds.items() if len(kind) > 1)
        notes.append(f"The runs were evaluated with different versions: {'; '.join(unequal)}.")
    if len(threads) > 1:
        notes.append("The runs were made with different numbers of threads, which changes sums in their last digits.")
    if any(run.status == "done" and run.scores.coco is None for run in runs):
        notes.append("pycocotools was not installed: AP by size is missing.")
    if not costs:
        notes.append(f"Costs were not measured; {MEASURE_LOG} says why.")
    return tuple(notes)


def _transfer_notes(plan: StudyPlan) -> list[str]:
    """Say how much of the checkpoint the trainings began with; the control has what the baseline has."""
    shares = {
        variant.name: plan.files(variant.name, plan.seeds[0]).transferred()
        for variant in plan.variants
        if variant.role != "control"
    }
    known = {name: f"{share:.1%}" for name, share in shares.items() if share is not None}
    if not known:
        return []
    start = plan.variants[0].weights.name
    if len(set(known.values())) == 1:
        return [
            f"Every training began with {next(iter(known.values()))} of the parameters of {start}; the rest is for other "
            "classes or has no place."
        ]
    return [
        f"The trainings began with unequal shares of the parameters of {start}: "
        + ", ".join(f"{name} {share}" for name, share in known.items())
        + "."
    ]
