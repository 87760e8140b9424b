"""settings.yaml: what a study's runs are made with, so that a later start cannot mix in runs made otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.compare.plan import StudyPlan, file_hash
from utils.config import Hyperparameters
from utils.config.compare_options import FREE, STUDY_FILE, CompareConfig
from utils.config.flags import flag_fields
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError
from utils.files import write_text_atomically

SETTINGS_FILE = "settings.yaml"
HYP_FILE = "hyp.yaml"
_ELSEWHERE = ("cfg", "weights", "data", "hyp", "plugin", "seeds", "control", "study", "split", "project", "name", *FREE)
_EVALUATING = ("imgsz", "single_cls", "labels")  # what counts where nothing is trained


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the study in `folder`, empty where there is none yet."""
    path = folder / SETTINGS_FILE
    return read_yaml(path) if path.exists() else {}


def training_settings(config: CompareConfig) -> dict[str, Any]:
    """Return the options that decide what comes out of a run, beside those that are kept by content."""
    names = [each.name for each in flag_fields(config) if each.name not in _ELSEWHERE]
    values = config.as_dict()
    return {name: values[name] for name in names if config.cfg or name in _EVALUATING}


def settle(plan: StudyPlan, before: Mapping[str, Any], keep_study: bool = False) -> None:
    """Write the study's own files; keep_study: not study.yaml, which is where the plan comes from.

    Raises ConfigError with what differs where runs were made with other settings.
    A study may grow by seeds and variants. It may not lose any: what was run and is left out is missing from the report.
    """
    now = record_of(plan, before)
    changes = differences(before, now) if before else []
    if changes and any(any((plan.folder / "runs").glob(f"*/*/{result}")) for result in ("weights/*.pt", "*.npz")):
        raise ConfigError(
            f"{plan.folder}: its runs were made with other settings: {'; '.join(changes)}; put them back, "
            "or start another study with another --name"
        )
    for variant in plan.variants:
        if variant.cfg:
            variant.cfg.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(variant.cfg, variant.text)
    if plan.trains:
        write_text_atomically(plan.folder / HYP_FILE, yaml.safe_dump(now["hyp"], sort_keys=False))
    write_text_atomically(
        plan.folder / SETTINGS_FILE, _yaml(now, "What the runs of this study are made with; a later start must agree.")
    )
    if not keep_study:
        write_text_atomically(
            plan.folder / STUDY_FILE,
            _yaml(_described(plan), "python compare.py --study <this folder> runs or continues it."),
        )


def record_of(plan: StudyPlan, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a plan; facts of files that a finished study no longer finds are taken from `before`."""

    def kept(group: str, name: str, path: Path) -> str:
        return file_hash(path) if path.exists() else str(before.get(group, {}).get(name, ""))

    variants = {
        each.name: {
            "role": each.role,
            "source": each.source,
            "hash": each.identity()
            if each.cfg or each.weights.exists()
            else before.get("variants", {}).get(each.name, {}).get("hash", ""),
        }
        for each in plan.variants
    }
    start = plan.variants[0].weights if plan.trains else None
    return {
        "settings": training_settings(plan.config),
        "hyp": Hyperparameters.load(plan.config.hyp).as_dict() if plan.trains else {},
        "weights": {start.name: kept("weights", start.name, start)} if start else {},
        "plugins": {Path(name).name: kept("plugins", Path(name).name, Path(name)) for name in plan.config.plugin},
        "variants": variants,
        "control": plan.config.control,
        "seeds": list(plan.seeds),
        "data": {split: dict(facts) for split, facts in {**before.get("data", {}), **plan.data}.items()},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what keeps the runs of two records from being compared."""
    changes = [
        f"{name} {old!r} -> {now[group].get(name)!r}"
        for group in ("settings", "hyp")
        for name, old in before[group].items()
        if now[group].get(name) != old
    ]
    changes += [f"{name} by default -> {new!r}" for name, new in now["hyp"].items() if name not in before["hyp"]]
    if list(before["weights"].values()) != list(now["weights"].values()):
        old, new = (", ".join(each["weights"]) or "none" for each in (before, now))
        changes.append(f"weights {old} -> {new}, another content")
    changes += [
        f"the plugin {name} has changed" for name, old in before["plugins"].items() if now["plugins"].get(name) != old
    ]
    changes += [
        f"the pictures or labels of {split} have changed"
        for split, old in before["data"].items()
        if split in now["data"] and now["data"][split]["hash"] != old["hash"]
    ]
    for name, old in before["variants"].items():
        new = now["variants"].get(name)
        if new is None:
            changes.append(f"{name} is left out")
        elif new["hash"] != old["hash"]:
            changes.append(f"{name} is another network than before")
        elif new["role"] != old["role"]:
            changes.append(f"{name} is the {new['role']}, was the {old['role']}")
    lost = [str(seed) for seed in before["seeds"] if seed not in now["seeds"]]
    return changes + ([f"left out: seed {', '.join(lost)}"] if lost else [])


def _described(plan: StudyPlan) -> dict[str, Any]:
    """Return the study.yaml of a study that was asked for by flags: yamls and hyperparameters are the folder's own."""
    content = plan.config.described()
    if plan.trains:
        content["cfg"] = [f"models/{variant.cfg.name}" for variant in plan.variants if variant.role != "control"]
        content["hyp"] = HYP_FILE
    return content


def _yaml(values: Mapping[str, Any], comment: str) -> str:
    return f"# {comment}\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}"
