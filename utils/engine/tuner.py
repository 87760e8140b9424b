"""--evolve: hyperparameters evolved over many short trainings.

Each generation changes one of the best parents at random and trains with the result. evolve.csv is the whole memory of
an evolution: 7 results and the hyperparameters, one row per generation.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.config import Hyperparameters, TrainConfig
from utils.config.yaml_files import read_yaml
from utils.engine.hooks import VALIDATION_COLUMNS
from utils.engine.training import train
from utils.errors import ConfigError, NonFiniteError
from utils.files import new_run_dir, read_text, write_text_atomically
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts

# key: (strength of its mutation, lowest, highest); strength 0 never changes, but the range holds
RANGES: dict[str, tuple[float, float, float]] = {
    "lr0": (1, 1e-5, 1e-1),
    "lrf": (1, 0.01, 1),
    "momentum": (0.3, 0.6, 0.98),
    "weight_decay": (1, 0, 0.001),
    "warmup_epochs": (1, 0, 5),
    "warmup_momentum": (1, 0, 0.95),
    "warmup_bias_lr": (1, 0, 0.2),
    "box": (1, 0.02, 0.2),
    "cls": (1, 0.2, 4),
    "cls_pw": (1, 0.5, 2),
    "obj": (1, 0.2, 4),
    "obj_pw": (1, 0.5, 2),
    "iou_t": (0, 0.1, 0.7),
    "anchor_t": (1, 2, 8),
    "anchors": (2, 2, 10),
    "fl_gamma": (0, 0, 2),
    "hsv_h": (1, 0, 0.1),
    "hsv_s": (1, 0, 0.9),
    "hsv_v": (1, 0, 0.9),
    "degrees": (1, 0, 45),
    "translate": (1, 0, 0.9),
    "scale": (1, 0, 0.9),
    "shear": (1, 0, 10),
    "perspective": (0, 0, 0.001),
    "flipud": (1, 0, 1),
    "fliplr": (0, 0, 1),
    "mosaic": (1, 0, 1),
    "mixup": (1, 0, 1),
    "copy_paste": (1, 0, 1),
}
_PARENTS = 5
_MUTATED_SHARE, _SIGMA, _FACTORS = 0.8, 0.2, (0.3, 3.0)


def evolve(
    train_once: Callable[[dict[str, Any]], Sequence[float]],
    base: Mapping[str, float | str],
    generations: int,
    directory: Path | str,
    generator: np.random.Generator,
) -> dict[str, float | str]:
    """Train some generations, log each in directory/evolve.csv, and return the best hyperparameters known.

    The first generation of an empty folder trains `base` as it is; a folder with an evolve.csv goes on, with the draws
    that an uninterrupted evolution would have made. Also writes hyp_evolve.yaml and evolve.png.

    Args:
        train_once: hyperparameters -> P, R, mAP50, mAP50-95 and three losses; a training that does not stay finite
            counts as fitness 0.
        base: Where the evolution starts. Keys that RANGES does not know keep its value, and so do texts (the name of
            the box loss), which are in no table.
        generations: Trainings to make.
        directory: Folder of the evolution.
        generator: Decides every mutation.

    Returns:
        The hyperparameters of the best generation in the folder.

    Raises:
        ConfigError: For an evolve.csv of other hyperparameters.
    """
    directory = Path(directory)
    texts = {name: value for name, value in base.items() if isinstance(value, str)}
    numbers = {name: value for name, value in base.items() if not isinstance(value, str)}
    _check_texts(directory / "hyp_evolve.yaml", texts)
    file, key = directory / "evolve.csv", int(generator.integers(2**63))
    for _ in range(generations):
        rows, fitnesses = read_generations(file, numbers)
        generation = len(rows)
        values = mutate(rows, fitnesses, np.random.default_rng([key, generation])) if rows else numbers
        try:
            results = tuple(map(float, train_once({**values, **texts})))
        except NonFiniteError as error:
            LOGGER.warning(f"WARNING: generation {generation} counts as fitness 0: {error}")
            results = (0.0,) * len(VALIDATION_COLUMNS)
        append_generation(file, results, values)
        rows, fitnesses = read_generations(file, numbers)
        best = int(np.argmax(fitnesses))
        _write_best(directory / "hyp_evolve.yaml", {**rows[best], **texts}, best, len(rows), fitnesses[best])
        LOGGER.info(
            f"evolve: generation {generation} has fitness {fitness(results):.5g}; "
            f"the best, generation {best}, {fitnesses[best]:.5g}"
        )
    return {**_finish(file, numbers), **texts}


def _check_texts(file: Path, texts: Mapping[str, str]) -> None:
    """Raise ConfigError if an evolution goes on in the folder of one with another box loss, which no table shows."""
    if file.exists():
        before = {name: value for name, value in read_yaml(file).items() if isinstance(value, str)}
        if before != texts:
            raise ConfigError(
                f"{file}: this evolution was started with {before or 'the default iou'}, not "
                f"{dict(texts) or 'the default'}; use another --name, or the same --hyp"
            )


def mutate(
    rows: Sequence[Mapping[str, float]], fitnesses: Sequence[float], generator: np.random.Generator
) -> dict[str, float]:
    """Return a child of one of the five best rows, drawn by how far its fitness lies above the fifth's.

    Each value with a known range is changed with a probability of 0.8 by a factor 0.3..3 around 1 and kept inside its
    range; at least one changes if one may.

    Args:
        rows: Hyperparameters of the generations so far, at least one, all with the same keys.
        fitnesses: Fitness per row.
        generator: Decides the child.

    Returns:
        The child's hyperparameters.
    """
    scores = np.asarray(fitnesses, np.float64)
    best = np.argsort(-scores, kind="stable")[:_PARENTS]
    weights = scores[best] - scores[best].min() + 1e-6
    parent = rows[int(generator.choice(best, p=weights / weights.sum()))]
    known = [name for name in parent if name in RANGES]
    strength = np.array([RANGES[name][0] for name in known], np.float64)
    factors = np.ones(len(known))
    while strength.any() and (factors == 1).all():
        chosen = generator.random(len(known)) < _MUTATED_SHARE
        steps = generator.standard_normal(len(known)) * generator.random() * _SIGMA
        factors = (1 + strength * chosen * steps).clip(*_FACTORS)
    changed = {
        name: _limited(name, parent[name] * factor) for name, factor in zip(known, factors.tolist(), strict=True)
    }
    return {name: changed.get(name, value) for name, value in parent.items()}


def _limited(name: str, value: float) -> float:
    """The value inside its range, in the five digits that evolve.csv keeps."""
    _, lowest, highest = RANGES[name]
    return float(f"{min(max(value, lowest), highest):.5g}")


def fitness(results: Sequence[float]) -> float:
    """Return 0.1 mAP50 + 0.9 mAP50-95 of a row of results, 0 if that is not finite."""
    value = 0.1 * results[2] + 0.9 * results[3]
    return value if math.isfinite(value) else 0.0


def read_generations(file: Path, base: Mapping[str, float]) -> tuple[list[dict[str, float]], list[float]]:
    """Return the hyperparameters and the fitness per row of an evolve.csv, two empty lists if there is none.

    Args:
        file: The table.
        base: Hyperparameters whose evolution it must be.

    Returns:
        Hyperparameters per generation, and fitness per generation.

    Raises:
        ConfigError: Naming the line, if columns or numbers are not those of an evolution of `base`.
    """
    if not file.exists():
        return [], []
    header, *lines = [[cell.strip() for cell in line.split(",")] for line in read_text(file).splitlines()] or [[]]
    if header != [*VALIDATION_COLUMNS, *base]:
        raise ConfigError(
            f"{file}:1: these are not the columns of this evolution's hyperparameters; "
            f"use another --name, or the same --hyp"
        )
    rows, fitnesses = [], []
    for number, cells in enumerate(lines, 2):
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            values = []
        if len(values) != len(header):
            raise ConfigError(f"{file}:{number}: expected {len(header)} numbers; delete the line to go on")
        rows.append(dict(zip(base, values[len(VALIDATION_COLUMNS) :], strict=True)))
        fitnesses.append(fitness(values))
    return rows, fitnesses


def append_generation(file: Path, results: Sequence[float], values: Mapping[str, float]) -> None:
    """Add a row to an evolve.csv, in v6.1's form: right-aligned columns of 20, five significant digits.

    Args:
        file: The table; a new one gets a header.
        results: P, R, mAP50, mAP50-95 and three losses.
        values: Hyperparameters by name.
    """
    if len(results) != len(VALIDATION_COLUMNS):
        raise ValueError(f"append_generation: expected {len(VALIDATION_COLUMNS)} results, got {len(results)}")
    text = "" if file.exists() else ",".join(f"{name:>20}" for name in (*VALIDATION_COLUMNS, *values)) + "\n"
    text += ",".join(f"{value:20.5g}" for value in (*results, *values.values())) + "\n"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(text)


def _write_best(file: Path, values: Mapping[str, float | str], generation: int, generations: int, best: float) -> None:
    import yaml

    comment = f"# the best of {generations} generations: number {generation}, fitness {best:.5g}\n"
    content = comment + yaml.safe_dump(dict(values), sort_keys=False)
    write_text_atomically(file, content)


def _finish(file: Path, base: Mapping[str, float]) -> dict[str, float]:
    """Draw evolve.png and return the best row, or `base` if nothing was trained."""
    rows, fitnesses = read_generations(file, base)
    if not rows:
        return dict(base)
    from utils.plots.sweeps import plot_evolution

    plot_evolution(file)
    return rows[int(np.argmax(fitnesses))]


def evolve_training(config: TrainConfig) -> None:
    """Train `config.evolve` generations, each with mutated hyperparameters, validated at its end only.

    runs/train becomes runs/evolve, as in v6.1; --resume goes on in the folder --name. The folder holds
    evolve.csv (results and hyperparameters of each generation), hyp_evolve.yaml (the best) and evolve.png.
    """
    with drawing_fonts(config.font):
        _evolve_training(config)


def _evolve_training(config: TrainConfig) -> None:
    project = config.project[: -len("train")] + "evolve" if config.project.endswith("train") else config.project
    save_dir = new_run_dir(project, config.name, exist_ok=config.exist_ok or bool(config.resume))
    base = Hyperparameters.load(config.hyp, config.hyp_unknown)
    trial = dataclasses.replace(
        config, evolve=None, resume=False, noval=True, nosave=True, project=str(save_dir), name="trial", exist_ok=True
    )

    def train_once(values: dict[str, Any]) -> tuple[float, ...]:
        return train(trial, hyp=Hyperparameters.load(values)).row()

    evolve(train_once, base.as_dict(), config.evolve or 0, save_dir, np.random.default_rng([config.seed, 3]))
    LOGGER.info(
        f"hyperparameter evolution finished after {config.evolve} generations: results in {save_dir}, "
        f"use them with --hyp {save_dir / 'hyp_evolve.yaml'}"
    )
