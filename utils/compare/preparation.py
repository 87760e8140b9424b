"""From what was asked to a plan: paths found, data read, networks checked, the control solved, all before the first run.

What is wrong with any of it is said here, in seconds, and not after the runs before it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.graph.shapes import ShapeCache, infer_shapes, load_spec, totals
from models.registry import load_plugins
from utils.checkpoint import find_weights
from utils.compare.manifest import HYP_FILE, read_record, settle
from utils.compare.parameter_matched import CONTROL, Widened, takes_weights, widened
from utils.compare.plan import PlannedVariant, StudyPlan, planned_variants, run_files
from utils.compare.provenance import data_facts
from utils.config import DatasetSpec, Hyperparameters
from utils.config.compare_options import CompareConfig
from utils.config.yaml_files import find_yaml
from utils.device import select_device
from utils.errors import ConfigError
from utils.log import LOGGER


def prepare(folder: Path, config: CompareConfig, keep_study: bool = False) -> StudyPlan:
    """Return the plan of the study in `folder`, with its own files written there (study.yaml unless `keep_study`).

    A study whose runs are all done needs neither data, starting weights nor device any more. Raises UserError kinds.
    """
    before = read_record(folder)
    finished = _is_finished(folder, config, before)
    for name in () if finished else config.device.split(","):
        select_device(name)
    load_plugins(config.plugin)
    config, spec, weights = with_paths(config, finished)
    _make(folder)
    variants = planned_variants(config, folder, weights)
    splits = dict.fromkeys(("train", "val", config.split) if config.cfg else (config.split,))
    data = before["data"] if finished else {split: data_facts(config, spec, split) for split in splits}
    solved, notes = None, _notes(config)
    if config.cfg:
        parameters = check_networks(variants, spec, config)
        if config.control:
            solved, variants, note = _with_control(variants, parameters, spec.nc, folder)
            notes += [note]
    plan = StudyPlan(folder, config, tuple(variants), data, solved, tuple(notes))
    settle(plan, before, keep_study)
    return (
        plan
        if not config.cfg
        else dataclasses.replace(plan, config=dataclasses.replace(config, hyp=str(folder / HYP_FILE)))
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{folder}: cannot be a study's folder, {error.strerror.lower()}; choose another --project or --name"
        ) from None


def _is_finished(folder: Path, config: CompareConfig, record: Mapping[str, Any]) -> bool:
    """Whether all that is asked for is done: every recorded run, and no variant or seed is new."""
    if not record or config.split not in record["data"]:
        return False
    planned = len(config.cfg or config.checkpoints)
    recorded = [name for name, entry in record["variants"].items() if entry["role"] != CONTROL]
    return (
        planned == len(recorded)
        and list(config.seed_list) == record["seeds"]
        and config.control == record["control"]
        and all(
            run_files(folder, name, seed, config.split).is_done()
            for name in record["variants"]
            for seed in record["seeds"]
        )
    )


def with_paths(config: CompareConfig, finished: bool = False) -> tuple[CompareConfig, DatasetSpec, list[Path]]:
    """Return the configuration with all paths absolute, the data set as it is counted, and the checkpoints."""
    spec = DatasetSpec.load(config.data)
    weights = [
        (Path(name) if finished else find_weights(name, config.download)).absolute() for name in config.checkpoints
    ]
    Hyperparameters.load(config.hyp)
    hyp = find_yaml(config.hyp, "data/hyps", "hyperparameter file").absolute()
    config = dataclasses.replace(
        config,
        data=str(spec.file),
        weights=tuple(map(str, weights)) or None,
        hyp=str(hyp),
        plugin=tuple(str(Path(name).resolve()) for name in config.plugin),
    )
    return config, spec.as_single_class() if config.single_cls else spec, weights


def check_networks(variants: Sequence[PlannedVariant], spec: DatasetSpec, config: CompareConfig) -> dict[str, int]:
    """Return the parameters of each variant. Raises ModelError for a yaml that cannot be built, and ConfigError where the
    size of the pictures would not be the same for all.
    """
    cache, parameters = ShapeCache(), {}
    for variant in variants:
        content = {**yaml.safe_load(variant.text), "nc": spec.nc, "yaml_file": variant.source}
        if config.attention_start:
            content["attention_start"] = config.attention_start
        layers = infer_shapes(load_spec(content), cache)
        stride = int(max(layers[source].stride for source in layers[-1].row.sources))
        if config.imgsz % stride or config.imgsz < 2 * stride:
            raise ConfigError(
                f"--imgsz {config.imgsz}: {variant.source} needs a multiple of {stride} of at least {2 * stride}; "
                "otherwise it would be trained at another size than the others"
            )
        parameters[variant.name] = totals(layers)[0]
    return parameters


def _with_control(
    variants: list[PlannedVariant], parameters: Mapping[str, int], nc: int, folder: Path
) -> tuple[Widened | None, list[PlannedVariant], str]:
    """Return what the control is, the variants with it, and a note for the reader."""
    baseline, *others = variants
    larger = {each.name: parameters[each.name] for each in others}
    solved = widened(baseline.text, baseline.source, larger, nc) if larger else None
    if solved is None:
        note = (
            "No control was made: no wider baseline is nearer to the parameters of the largest variant than the baseline is, "
            "since layers widen in steps of 8 channels."
        )
        LOGGER.info(note)
        return None, variants, note
    file = folder / "models" / f"{CONTROL}.yaml"
    control = PlannedVariant(CONTROL, CONTROL, f"{baseline.source}, wider", file, solved.text, baseline.weights)
    note = solved.sentence()
    if baseline.weights:
        solved = dataclasses.replace(solved, takes_weights=takes_weights(baseline.text, solved.text))
        note += (
            " It starts as the baseline: it has all weights that the baseline has of the checkpoint, and its further "
            "channels, drawn at random, are read with weight 0."
            if solved.takes_weights
            else " It cannot take the baseline's weights channel by channel, only tensors of the same shape: a handicap."
        )
    LOGGER.info(note)
    return solved, [*variants, control], note


def _notes(config: CompareConfig) -> list[str]:
    notes = []
    if len(config.seed_list) == 1:
        notes.append(
            "One seed: how much of a difference is the chance of a training was not tested."
            if config.cfg
            else "Checkpoints as they are: how they were trained, and the chance of a training, were not tested."
        )
    if config.cfg and config.split == "val":
        notes.append(
            "Compared on the split by which each run's best epoch was chosen; --split test compares on pictures that "
            "decided nothing."
        )
    if config.split == "train":
        notes.append("Compared on the pictures that were trained on: this tells nothing of new ones.")
    return notes
