"""settings.yaml: what a study's runs are made with, so that a later start cannot mix in runs made otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.compare.plan import PlannedVariant, StudyPlan, file_hash
from utils.compare.recipes import RECIPES
from utils.compare.results import PARAMETER_MATCHED
from utils.config import Hyperparameters
from utils.config.compare_options import CHANGEABLE, SLICING, STUDY_FILE, CompareConfig
from utils.config.flags import flag_fields
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError
from utils.files import write_text_atomically

SETTINGS_FILE = "settings.yaml"
HYP_FILE = "hyp.yaml"
_KEPT_ELSEWHERE = (
    *(
        "cfg",
        "weights",
        "data",
        "hyp",
        "recipes",
        "pieces",
        "plugin",
        "seeds",
        "control",
        "study",
        "split",
        "project",
        "name",
    ),
    *CHANGEABLE,
)
_OF_EVALUATION = ("imgsz", "rect_pad", "single_cls", "labels", *SLICING)  # the options that count if nothing is trained


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of the study in `folder`, empty if there is none yet."""
    path = folder / SETTINGS_FILE
    return read_yaml(path) if path.exists() else {}


def training_settings(config: CompareConfig) -> dict[str, Any]:
    """Return the options that decide the results of a run, without those that are kept by content."""
    names = [each.name for each in flag_fields(config) if each.name not in _KEPT_ELSEWHERE]
    values = config.as_dict()
    return {name: values[name] for name in names if config.cfg or name in _OF_EVALUATION}


def write_study_files(plan: StudyPlan, previous: Mapping[str, Any], keep_study: bool = False) -> None:
    """Write the study's own files: yamls, hyperparameters, the manifest and study.yaml.

    A study may grow by seeds and variants. It may not lose any: a run left out would be missing from the report.

    Args:
        plan: The study.
        previous: The manifest of earlier starts, empty for a new study.
        keep_study: Leave study.yaml alone, since the plan comes from it.

    Raises:
        ConfigError: Runs were made with other settings; the message names the differences.
    """
    manifest = make_manifest(plan, previous)
    changes = manifest_changes(previous, manifest) if previous else []
    if changes and any(any((plan.folder / "runs").glob(f"*/*/{result}")) for result in ("weights/*.pt", "*.npz")):
        raise ConfigError(
            f"{plan.folder}: its runs were made with other settings: {'; '.join(changes)}; put them back, "
            "or start another study with another --name"
        )
    for variant in plan.variants:
        if variant.cfg:
            variant.cfg.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(variant.cfg, variant.text)
    for recipe in filter(None, (variant.recipe for variant in plan.variants)):
        recipe.file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(recipe.file, yaml.safe_dump(recipe.hyp.as_dict(), sort_keys=False))
    if plan.trains and not plan.config.compares_recipes:
        write_text_atomically(plan.folder / HYP_FILE, yaml.safe_dump(manifest["hyp"], sort_keys=False))
    write_text_atomically(
        plan.folder / SETTINGS_FILE,
        _yaml(manifest, "What the runs of this study are made with; a later start must agree."),
    )
    if not keep_study:
        write_text_atomically(
            plan.folder / STUDY_FILE,
            _yaml(_study_content(plan), "python compare.py --study <this folder> runs or continues it."),
        )


def make_manifest(plan: StudyPlan, previous: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a plan.

    Args:
        plan: The study.
        previous: The manifest of earlier starts: facts of files that a finished study no longer finds come from it.

    Returns:
        Settings, hyperparameters, hashes of weights, plugins, variants and data, and the seeds.
    """

    def hash_of(group: str, path: Path) -> str:
        return file_hash(path) if path.exists() else str(previous.get(group, {}).get(path.name, ""))

    def variant_hash(variant: PlannedVariant) -> str:
        if variant.is_readable():
            return variant.content_hash()
        return previous.get("variants", {}).get(variant.name, {}).get("hash", "")

    start = plan.variants[0].weights if plan.trains else None
    return {
        "settings": training_settings(plan.config),
        "hyp": _shared_hyperparameters(plan),
        "weights": {start.name: hash_of("weights", start)} if start else {},
        "plugins": {path.name: hash_of("plugins", path) for path in map(Path, plan.config.plugin)},
        "variants": {
            each.name: {
                "role": each.role,
                "source": each.source,
                "hash": variant_hash(each),
                **({"hyp": each.recipe.hyp.as_dict()} if each.recipe else {}),
            }
            for each in plan.variants
        },
        "control": plan.config.control,
        "seeds": list(plan.seeds),
        "data": {split: dict(facts) for split, facts in {**previous.get("data", {}), **plan.data}.items()},
    }


def manifest_changes(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return why the runs of two manifests cannot be compared, one sentence part per change.

    Args:
        previous: The manifest that the runs were made with.
        current: The manifest of this start.

    Returns:
        The changes in words, empty if there are none; seeds, variants and splits that were added are no changes.
    """
    changes = [
        f"{name} {old!r} -> {current[group].get(name)!r}"
        for group in ("settings", "hyp")
        for name, old in previous[group].items()
        if current[group].get(name) != old
    ]
    changes += [f"{name} by default -> {new!r}" for name, new in current["hyp"].items() if name not in previous["hyp"]]
    newer = ((name, getattr(CompareConfig, name)) for name in SLICING if name not in previous["settings"])
    changes += [  # the runs are older than these options
        f"{name} {default!r} -> {current['settings'][name]!r}"
        for name, default in newer
        if current["settings"].get(name, default) != default
    ]
    if list(previous["weights"].values()) != list(current["weights"].values()):
        old, new = (", ".join(each["weights"]) or "none" for each in (previous, current))
        changes.append(f"weights {old} -> {new}, another content")
    changes += [
        f"the plugin {name} has changed"
        for name, old in previous["plugins"].items()
        if current["plugins"].get(name) != old
    ]
    changes += [
        f"the images or labels of {split} have changed"
        for split, old in previous["data"].items()
        if split in current["data"] and current["data"][split]["hash"] != old["hash"]
    ]
    for name, old in previous["variants"].items():
        new = current["variants"].get(name)
        if new is None:
            changes.append(f"{name} is left out")
        elif new["hash"] != old["hash"]:
            changes.append(f"{name} is another network than before")
        elif new["role"] != old["role"]:
            changes.append(f"{name} is the {new['role']}, was the {old['role']}")
        else:
            changes += _recipe_changes(name, old.get("hyp", {}), new.get("hyp", {}))
    lost = [str(seed) for seed in previous["seeds"] if seed not in current["seeds"]]
    return changes + ([f"left out: seed {', '.join(lost)}"] if lost else [])


def _shared_hyperparameters(plan: StudyPlan) -> dict[str, Any]:
    """Return the hyperparameters of all trainings; each recipe has its own, beside its name."""
    if not plan.trains or plan.config.compares_recipes:
        return {}
    return Hyperparameters.load(plan.config.hyp, plan.config.hyp_unknown).as_dict()


def _recipe_changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in which hyperparameters a recipe is not the one that its runs were made with."""
    return [
        f"{name}: {key} {old.get(key, 'by default')!r} -> {new.get(key, 'by default')!r}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def _study_content(plan: StudyPlan) -> dict[str, Any]:
    """Return the study.yaml of a study given by flags: yamls and hyperparameters are the folder's own."""
    content: dict[str, Any] = plan.config.study_content()
    if plan.trains:
        yamls = [variant.cfg for variant in plan.variants if variant.role != PARAMETER_MATCHED]
        content["cfg"] = list(dict.fromkeys(f"models/{path.name}" for path in yamls if path))
        files = [f"{RECIPES}/{each.recipe.file.name}" for each in plan.variants if each.recipe]
        content["hyp"] = files[0] if plan.config.pieces else HYP_FILE
    if plan.config.recipes:
        content["recipes"] = files
        del content["hyp"]  # the first recipe is the control
    return content


def _yaml(values: Mapping[str, Any], comment: str) -> str:
    return f"# {comment}\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}"
