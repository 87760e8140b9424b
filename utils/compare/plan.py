"""What a study is going to do: its folder, its variants and its seeds.

FOLDER/study.yaml         the study as given; --study reads it
FOLDER/settings.yaml      what the runs are made with; a later start must agree (manifest.py)
FOLDER/models, hyp.yaml   each variant's yaml and the hyperparameters as they are trained with
FOLDER/recipes            with --recipes or --pieces: the hyperparameters of each, in place of hyp.yaml
FOLDER/runs/NAME/seed0/   a run: train.py's folder and more (run_dir.py)
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.graph.architecture import find_yaml
from utils.compare.parameter_matched import ParameterMatchedBaseline
from utils.compare.recipes import RECIPES, Recipe, planned_recipes
from utils.compare.results import BASELINE, PARAMETER_MATCHED, VARIANT
from utils.compare.run_dir import RunFiles
from utils.config.compare_options import STUDY_FILE, CompareConfig, read_study
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError, cut
from utils.files import is_dir, is_file, new_run_dir, read_text


@dataclass(frozen=True)
class PlannedVariant:
    """One of the models that a study compares.

    Attributes:
        name: Its name in tables, and of its folder of runs.
        role: BASELINE, VARIANT or PARAMETER_MATCHED (results.py).
        source: Name of its yaml or checkpoint.
        cfg: The study's copy of the yaml, None for a checkpoint.
        text: Content of that copy.
        weights: The checkpoint, or the one that its trainings start from; None for random weights.
        recipe: What it is trained with, in a study that compares recipes; None otherwise.
    """

    name: str
    role: str
    source: str
    cfg: Path | None
    text: str
    weights: Path | None
    recipe: Recipe | None = None

    def is_readable(self) -> bool:
        """Return whether `content_hash` can be computed."""
        return self.cfg is not None or (self.weights is not None and self.weights.exists())

    def content_hash(self) -> str:
        """Return the hash of its yaml or checkpoint, by which a later start recognizes it."""
        return file_hash(self.weights) if self.cfg is None and self.weights else text_hash(self.text)


@dataclass(frozen=True)
class StudyPlan:
    """A study that is ready to run.

    Attributes:
        folder: Folder of the study.
        config: The options, with absolute paths.
        variants: What is compared, the baseline first.
        data: Facts by split (provenance.data_facts).
        parameter_matched: The parameter-matched baseline, None without one.
        notes: What a reader must know about the plan.
    """

    folder: Path
    config: CompareConfig
    variants: tuple[PlannedVariant, ...]
    data: Mapping[str, Mapping[str, Any]]
    parameter_matched: ParameterMatchedBaseline | None = None
    notes: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return bool(self.config.cfg)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.config.seed_list

    def files(self, variant: str, seed: int) -> RunFiles:
        """Return the files of one run.

        Args:
            variant: Name of the variant.
            seed: Seed of the run.

        Returns:
            The files, whether they exist or not.
        """
        return run_files(self.folder, variant, seed, self.config.split)

    def hyp_of(self, variant: PlannedVariant) -> str:
        """Return the file of hyperparameters that a variant is trained with."""
        return str(variant.recipe.file) if variant.recipe else self.config.hyp

    def compared_weights(self, variant: PlannedVariant, seed: int) -> Path:
        """Return the checkpoint that is evaluated.

        Args:
            variant: The variant.
            seed: Seed of the run.

        Returns:
            best.pt of the training, or the checkpoint itself if nothing is trained.
        """
        if variant.weights and not self.trains:
            return variant.weights
        return self.files(variant.name, seed).best

    def pairs(self) -> list[tuple[PlannedVariant, int]]:
        """Return every (variant, seed), seed by seed, so that a study that ends early has whole pairs."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    def missing(self) -> list[RunFiles]:
        """Return the files of the runs that are not done."""
        every = (self.files(variant.name, seed) for variant, seed in self.pairs())
        return [files for files in every if not files.is_done()]

    def is_done(self) -> bool:
        """Return whether every run is done."""
        return not self.missing()

    def has_ended(self) -> bool:
        """Return whether every run is done or has failed."""
        return all(files.has_ended() for files in self.missing())


def run_files(folder: Path, variant: str, seed: int, split: str) -> RunFiles:
    """Return the files of one run.

    Args:
        folder: Folder of the study.
        variant: Name of the variant.
        seed: Seed of the run.
        split: The split that it is evaluated on.

    Returns:
        The files, whether they exist or not.
    """
    return RunFiles(folder / "runs" / variant / f"seed{seed}", split)


def open_study(requested: CompareConfig) -> tuple[Path, CompareConfig]:
    """Return the study's folder, a new one if none is named, and its configuration.

    --study names a folder, its study.yaml, or another yaml, whose study is in --project under the yaml's name.
    """
    if not requested.study:
        if not requested.cfg and not requested.weights:
            raise ConfigError("nothing to compare: give --cfg A.yaml B.yaml, or --weights a.pt b.pt, or --study FOLDER")
        project, name = requested.project, requested.name
        folder = Path(project) / name if name else new_run_dir(project, "exp")
        return folder.resolve(), requested
    path = Path(requested.study)
    file = path / STUDY_FILE if is_dir(path) else path
    if not is_file(file):
        raise ConfigError(f"--study {cut(path)}: no such file or folder; a study's folder holds {STUDY_FILE}")
    folder = file.parent if file.name == STUDY_FILE else Path(requested.project) / file.stem
    return folder.resolve(), read_study(file, requested)


def planned_variants(config: CompareConfig, folder: Path, weights: Sequence[Path]) -> list[PlannedVariant]:
    """Return what `config` compares, the first as the baseline; nothing is written yet.

    Args:
        config: The options.
        folder: Folder of the study.
        weights: The checkpoints of --weights, as files.

    Returns:
        One entry per yaml, or per recipe of the one yaml, or per checkpoint if there are no yamls.

    Raises:
        ConfigError: A yaml is not readable, two variants cannot be told apart by name, or a recipe is not usable.
    """
    if not config.cfg:
        return [
            PlannedVariant(name, _role(index), path.name, None, "", path)
            for index, (name, path) in enumerate(zip(_names(weights), weights, strict=True))
        ]
    yamls = [find_yaml(name) for name in config.yamls]
    for path in yamls:
        read_yaml(path)  # reports what is no mapping, with its line
    start = weights[0] if weights else None
    if config.compares_recipes:
        model = folder / "models" / f"{yamls[0].stem}.yaml"
        return [
            PlannedVariant(each.name, _role(index), each.source, model, read_text(yamls[0]), start, each)
            for index, each in enumerate(planned_recipes(config, folder / RECIPES))
        ]
    return [
        PlannedVariant(name, _role(index), path.name, folder / "models" / f"{name}.yaml", read_text(path), start)
        for index, (name, path) in enumerate(zip(_names(yamls), yamls, strict=True))
    ]


def _role(index: int) -> str:
    return VARIANT if index else BASELINE


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: its stem, with the folders before it if stems are alike; best.pt goes by its run."""
    for folders in range(4):
        names = [_name(path, folders) for path in paths]
        distinct = {name.lower() for name in (*names, PARAMETER_MATCHED)}  # some file systems know one case only
        if len(distinct) == len(names) + 1:
            return names
    twice = next(
        path
        for path, name in zip(paths, names, strict=True)
        if names.count(name) > 1 or name.lower() == PARAMETER_MATCHED
    )
    raise ConfigError(
        f"{twice}: is in the study twice, or is called {PARAMETER_MATCHED}; each variant needs a name of its own"
    )


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
