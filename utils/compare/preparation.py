"""From the options to a plan: files found, data read, networks checked, the parameter-matched baseline made.

All of it happens before the first run, so that an error is reported within seconds and not after other runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.graph.shapes import ShapeCache, infer_shapes, load_spec, totals
from models.registry import load_plugins
from utils.checkpoint import find_weights
from utils.compare.deployment_rows import check_packages, is_deployed
from utils.compare.manifest import HYP_FILE, read_manifest, write_study_files
from utils.compare.parameter_matched import ParameterMatchedBaseline, can_take_weights, match_parameters
from utils.compare.plan import PlannedVariant, StudyPlan, planned_variants, run_files
from utils.compare.provenance import data_facts
from utils.compare.recipes import recipe_notes
from utils.compare.results import PARAMETER_MATCHED
from utils.config import DatasetSpec, Hyperparameters
from utils.config.compare_options import OF_DATA, CompareConfig
from utils.config.yaml_files import find_yaml
from utils.device import select_device
from utils.engine.user_loggers import absolute_references, load_logger_class
from utils.errors import ConfigError
from utils.log import LOGGER


def prepare(folder: Path, config: CompareConfig, keep_study: bool = False) -> StudyPlan:
    """Return the plan of a study, with its own files written to its folder.

    A study whose runs are all done needs neither data, starting weights nor device.

    Args:
        folder: Folder of the study.
        config: The options.
        keep_study: Leave study.yaml alone, since the options come from it.

    Returns:
        The plan.

    Raises:
        UserError: Something in the options, the data or a model cannot be used.
    """
    previous = read_manifest(folder)
    finished = _is_finished(folder, config, previous)
    for name in () if finished else config.device.split(","):
        select_device(name)
    load_plugins(config.plugin)
    for reference in config.logger:
        load_logger_class(reference)
    config, spec, weights = resolve_paths(config, finished)
    _make_folder(folder)
    variants = planned_variants(config, folder, weights)
    splits = dict.fromkeys(("train", "val", config.split) if config.cfg else (config.split,))
    data = previous["data"] if finished else {split: data_facts(config, spec, split) for split in splits}
    matched, notes = None, _notes(config)
    notes += recipe_notes(recipes) if (recipes := [each.recipe for each in variants if each.recipe]) else []
    if config.cfg:
        parameters = check_networks(variants, spec, config)
        if config.control:
            matched, variants, note = _with_parameter_matched(variants, parameters, spec.nc, folder)
            notes += [note]
    plan = StudyPlan(folder, config, tuple(variants), data, matched, tuple(notes))
    if not (finished and is_deployed(plan)):
        check_packages(config)
        if finished:  # its files are evaluated on the same images as torch was
            plan = dataclasses.replace(plan, data={**data, config.split: data_facts(config, spec, config.split)})
    write_study_files(plan, previous, keep_study)
    if not config.cfg or config.compares_recipes:
        return plan
    return dataclasses.replace(plan, config=dataclasses.replace(config, hyp=str(folder / HYP_FILE)))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        reason = str(error.strerror).lower()
        raise ConfigError(
            f"{folder}: cannot be a study's folder, {reason}; choose another --project or --name"
        ) from None


def _is_finished(folder: Path, config: CompareConfig, manifest: Mapping[str, Any]) -> bool:
    """Return whether every run of the manifest is done, and no variant or seed is new."""
    if not manifest or config.split not in manifest["data"]:
        return False
    known = [name for name, entry in manifest["variants"].items() if entry["role"] != PARAMETER_MATCHED]
    return (
        config.planned_count == len(known)
        and list(config.seed_list) == manifest["seeds"]
        and config.control == manifest["control"]
        and all(
            run_files(folder, name, seed, config.split).is_done()
            for name in manifest["variants"]
            for seed in manifest["seeds"]
        )
    )


def resolve_paths(config: CompareConfig, finished: bool = False) -> tuple[CompareConfig, DatasetSpec, list[Path]]:
    """Return the options with all paths absolute, the dataset, and the checkpoints.

    Args:
        config: The options.
        finished: Whether all runs are done, so that checkpoints need not exist.

    Returns:
        The options, the dataset (of one class with --single-cls), and the files of --weights.
    """
    spec = DatasetSpec.load(config.data)
    weights = [
        (Path(name) if finished else find_weights(name, config.download)).absolute() for name in config.checkpoints
    ]
    Hyperparameters.load(config.hyp, config.hyp_unknown)
    hyp = find_yaml(config.hyp, "data/hyps", "hyperparameter file").absolute()
    recipes = config.recipes or ()
    eight_bit = config.int8 not in ("", OF_DATA)
    config = dataclasses.replace(
        config,
        data=str(spec.file),
        int8=str(_calibration_data(config.int8).file) if eight_bit else config.int8,
        weights=tuple(map(str, weights)) or None,
        hyp=str(hyp),
        recipes=tuple(str(find_yaml(name, "data/hyps", "hyperparameter file").absolute()) for name in recipes) or None,
        plugin=tuple(str(Path(name).resolve()) for name in config.plugin),
        logger=absolute_references(config.logger),
        font=str(Path(config.font).resolve()) if config.font else "",
    )
    return config, spec.as_single_class() if config.single_cls else spec, weights


def _calibration_data(source: str) -> DatasetSpec:
    """Return the dataset of --int8, of which files are calibrated on the train images."""
    spec = DatasetSpec.load(source)
    spec.paths("train")
    return spec


def check_networks(variants: Sequence[PlannedVariant], spec: DatasetSpec, config: CompareConfig) -> dict[str, int]:
    """Return the number of parameters of each variant.

    Args:
        variants: Variants with a yaml.
        spec: The dataset, for its number of classes.
        config: Input size and --attention-start.

    Returns:
        The number of parameters by name.

    Raises:
        ModelError: A yaml cannot be built.
        ConfigError: The input size is no multiple of a variant's stride, so that sizes would differ.
    """
    cache = ShapeCache()
    parameters = {}
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


def _with_parameter_matched(
    variants: list[PlannedVariant], parameters: Mapping[str, int], nc: int, folder: Path
) -> tuple[ParameterMatchedBaseline | None, list[PlannedVariant], str]:
    """Return the parameter-matched baseline, the variants with it, and a note for the reader."""
    baseline, *others = variants
    larger = {each.name: parameters[each.name] for each in others}
    matched = match_parameters(baseline.text, baseline.source, larger, nc) if larger else None
    if matched is None:
        note = (
            "No parameter-matched baseline was made: no wider baseline is nearer to the parameters of the largest "
            "variant than the baseline is, since layers widen in steps of 8 channels."
        )
        LOGGER.info(note)
        return None, variants, note
    file = folder / "models" / f"{PARAMETER_MATCHED}.yaml"
    source = f"{baseline.source}, wider"
    wider = PlannedVariant(PARAMETER_MATCHED, PARAMETER_MATCHED, source, file, matched.text, baseline.weights)
    note = matched.sentence()
    if baseline.weights:
        matched = dataclasses.replace(matched, takes_weights=can_take_weights(baseline.text, matched.text))
        note += (
            " It starts as the baseline: it has all weights that the baseline has of the checkpoint, and its further "
            "channels, drawn at random, are read with weight 0."
            if matched.takes_weights
            else " It cannot take the baseline's weights per channel, only tensors of the same shape: a handicap."
        )
    LOGGER.info(note)
    return matched, [*variants, wider], note


def _notes(config: CompareConfig) -> list[str]:
    notes = []
    if len(config.seed_list) == 1:
        notes.append(
            "One seed: how much of a difference is due to the randomness of training was not tested."
            if config.cfg
            else "Checkpoints as they are: how they were trained, and the randomness of training, were not tested."
        )
    if config.cfg and config.split == "val":
        notes.append(
            "Compared on the split by which each run's best epoch was chosen; --split test compares on images that "
            "were used for no choice."
        )
    if config.split == "train":
        notes.append("Compared on the images of the training: this says nothing about new images.")
    return notes
