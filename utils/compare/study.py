"""What compare.py runs: a study prepared, its missing runs executed, costs measured, and the results reported."""

import contextlib
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.compare.cost import with_training_time
from utils.compare.deployment import read_deployments
from utils.compare.execution import (
    COSTS_FILE,
    MEASURE_LOG,
    SAMPLE_GRID_FILE,
    forget_failures,
    measure_missing,
    run_missing,
)
from utils.compare.launcher import launch_missing
from utils.compare.manifest import HYP_FILE, training_settings
from utils.compare.plan import PlannedVariant, StudyPlan, open_study
from utils.compare.preparation import prepare
from utils.compare.provenance import versions
from utils.compare.recipes import RECIPES, Recipe
from utils.compare.report import console_table, write_report
from utils.compare.results import PARAMETER_MATCHED, Cost, Run, Study, VariantResult
from utils.compare.run import data_of
from utils.compare.run_dir import read_json
from utils.compare.verdicts import compare_with_parameter_matched, with_statistics
from utils.config import EvalOptions, Hyperparameters
from utils.config.compare_options import OF_DATA, STUDY_FILE, CompareConfig
from utils.errors import UserError
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts


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
        if config.launcher:
            launch_missing(plan)
        else:
            forget_failures(plan)
            run_missing(plan)
            measure_missing(plan)
        study = assemble(plan)
        files = write_report(study, requested.lang)
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
        deployments=read_deployments(plan),
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
        if value is None or name == "hyp" and not plan.config.pieces:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        if name == "plugin":
            words += [word for each in values for word in (flag, str(each))]
        elif name in ("hyp", "recipes"):  # the study's own copies
            words += [flag, *(f"{plan.folder.name}/{RECIPES}/{each.file.name}" for each in _shown_recipes(plan, name))]
        elif name == "int8" and value == OF_DATA:
            words.append(flag)
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(_short_path, values)]
    if not plan.trains or plan.config.compares_recipes:
        return shlex.join(words)
    hyp = Hyperparameters.load(plan.config.hyp, plan.config.hyp_unknown)
    own_hyp = hyp != Hyperparameters.load(CompareConfig.hyp)
    return shlex.join(words) + (f" --hyp {plan.folder.name}/{HYP_FILE}" if own_hyp else "")


def _shown_recipes(plan: StudyPlan, name: str) -> list[Recipe]:
    """Return the recipes whose files an option of the command names."""
    recipes = [each.recipe for each in plan.variants if each.recipe]
    return recipes[:1] if name == "hyp" else recipes


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
        notes.append("Some runs were evaluated without COCO's figures: AP by size is missing.")
    if plan.config.slice:
        notes.append(
            f"Every image was also predicted in tiles of {plan.config.slice} pixels (docs/slicing.md), training's own "
            "validation excepted. Latency, throughput and memory are those of one pass over one image."
        )
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
