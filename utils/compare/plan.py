"""What a study is going to do: its folder, its variants and its seeds.

FOLDER/study.yaml         what was asked for; --study reads it
FOLDER/settings.yaml      what the runs are made with; a later start must agree (record.py)
FOLDER/models, hyp.yaml   each variant's yaml and the hyperparameters as they are trained with
FOLDER/runs/NAME/seed0/   a run: train.py's folder and more (run_files.py)
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.graph.architecture import find_yaml
from utils.compare.parameter_matched import CONTROL, Widened
from utils.compare.run_dir import RunFiles
from utils.config.compare_options import STUDY_FILE, CompareConfig, read_study
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError
from utils.files import new_run_dir, read_text


@dataclass(frozen=True)
class PlannedVariant:
    """One thing compared. source: the name of its yaml or checkpoint; cfg: the study's copy of the yaml, None for a
    checkpoint; text: what that copy holds; weights: the checkpoint, or what its trainings start from, None for random weights.
    """

    name: str
    role: str  # baseline, variant or control
    source: str
    cfg: Path | None
    text: str
    weights: Path | None

    def identity(self) -> str:
        """Return what makes it the same variant later: the hash of its yaml or checkpoint."""
        return text_hash(self.text) if self.cfg else file_hash(self.weights)


@dataclass(frozen=True)
class StudyPlan:
    """A study ready to run. config: with every path written out; widened: what the control is, None without one;
    data: facts by split (environment.data_facts); notes: what a reader must know of the plan.
    """

    folder: Path
    config: CompareConfig
    variants: tuple[PlannedVariant, ...]
    data: Mapping[str, Mapping[str, Any]]
    widened: Widened | None = None
    notes: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return bool(self.config.cfg)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.config.seed_list

    def files(self, variant: str, seed: int) -> RunFiles:
        return run_files(self.folder, variant, seed, self.config.split)

    def pairs(self) -> list[tuple[PlannedVariant, int]]:
        """Every (variant, seed), seed by seed, so that a study that ends early has whole pairs."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    def is_done(self) -> bool:
        return all(self.files(variant.name, seed).is_done() for variant, seed in self.pairs())


def run_files(folder: Path, variant: str, seed: int, split: str) -> RunFiles:
    """Return the files of one run of the study in `folder`."""
    return RunFiles(folder / "runs" / variant / f"seed{seed}", split)


def open_study(asked: CompareConfig) -> tuple[Path, CompareConfig]:
    """Return the study's folder, made where none is named, and its configuration.

    --study names a folder, its study.yaml, or another yaml, whose study lies in --project under the yaml's name.
    """
    if not asked.study:
        if not asked.cfg and not asked.weights:
            raise ConfigError("nothing to compare: give --cfg A.yaml B.yaml, or --weights a.pt b.pt, or --study FOLDER")
        folder = Path(asked.project) / asked.name if asked.name else new_run_dir(asked.project, "exp")
        return folder.resolve(), asked
    path = Path(asked.study)
    file = path / STUDY_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"--study {path}: no such file or folder; a study's folder holds {STUDY_FILE}")
    folder = file.parent if file.name == STUDY_FILE else Path(asked.project) / file.stem
    return folder.resolve(), read_study(file, asked)


def planned_variants(config: CompareConfig, folder: Path, weights: Sequence[Path]) -> list[PlannedVariant]:
    """Return what `config` compares, the first as the baseline; nothing is written yet."""
    roles = ["baseline", *["variant"] * max(len(config.yamls), len(weights))]
    if not config.cfg:
        return [
            PlannedVariant(name, role, path.name, None, "", path)
            for name, role, path in zip(_names(weights), roles, weights)
        ]
    yamls = [find_yaml(name) for name in config.yamls]
    for path in yamls:
        read_yaml(path)  # says what is no mapping, with its line
    start = weights[0] if weights else None
    return [
        PlannedVariant(name, role, path.name, folder / "models" / f"{name}.yaml", read_text(path), start)
        for name, role, path in zip(_names(yamls), roles, yamls)
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: its stem, with the folders before it where stems are alike; best.pt goes by its run."""
    for folders in range(4):
        names = [_name(path, folders) for path in paths]
        if len({name.lower() for name in (*names, CONTROL)}) == len(names) + 1:  # some file systems know one case only
            return names
    twice = next(path for path, name in zip(paths, names) if names.count(name) > 1 or name.lower() == CONTROL)
    raise ConfigError(f"{twice}: is in the study twice, or is called {CONTROL}; each variant needs a name of its own")


def _name(path: Path, folders: int) -> str:
    parts = path.resolve().with_suffix("").parts
    if len(parts) > 2 and parts[-2] == "weights":
        parts = parts[:-2] if parts[-1] == "best" else (*parts[:-2], parts[-1])
    return re.sub(r"[^\w.+-]", "_", "_".join(parts[-1 - folders :]))


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text with Unix line ends."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
