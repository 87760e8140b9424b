"""The recipes that a study compares on one model: files of hyperparameters, or pieces added to one file.

`--recipes A.yaml B.yaml` takes files, the first as the control. `--pieces assign=tal nbs=16,optimizer=AdamW` takes
--hyp as the control, and for each piece --hyp with these keys replaced. A recipe's name is made of its file's or
its keys (`assign-tal`, `nbs-16+optimizer-AdamW`), so that folders and tables say what differs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config import Hyperparameters
from utils.config.compare_options import CompareConfig
from utils.errors import ConfigError, cut

RECIPES = "recipes"  # in the study's folder: the hyperparameters of each recipe
_NONE = ("null", "none", "~")
_LONGEST_NAME = 100  # characters; a folder's name may have 255 bytes


@dataclass(frozen=True)
class Recipe:
    """One of the recipes that a study compares.

    Attributes:
        name: Its name in tables, and of its folder of runs; valid as a file name.
        source: The file, or the file and the keys that are added to it, for readers.
        file: The study's copy.
        hyp: The hyperparameters.
    """

    name: str
    source: str
    file: Path
    hyp: Hyperparameters


def planned_recipes(config: CompareConfig, folder: Path) -> list[Recipe]:
    """Return the recipes of --recipes or --pieces, the control first; nothing is written.

    Args:
        config: The options; paths are absolute, or names in data/hyps.
        folder: Folder of the study's copies.

    Returns:
        The recipes.

    Raises:
        ConfigError: A file or a piece cannot be read, or two recipes are alike. The message names the piece.
    """
    files = [Path(name) for name in config.recipes or (config.hyp,)]
    sources = [(path.stem, path.name, Hyperparameters.load(path, config.hyp_unknown)) for path in files]
    sources += [_with_piece(files[0].name, sources[0][2], text) for text in config.pieces or ()]
    recipes = [
        Recipe(_file_name(name), source, folder / f"{_file_name(name)}.yaml", hyp) for name, source, hyp in sources
    ]
    _refuse_repetitions(recipes, "--recipes" if config.recipes else "--pieces")
    return recipes


def _with_piece(file: str, base: Hyperparameters, text: str) -> tuple[str, str, Hyperparameters]:
    """Return name, source and hyperparameters of a piece: KEY=VALUE,KEY=VALUE added to a file."""
    changes = parse_piece(text)
    try:
        hyp = base.replace(**changes)
    except ConfigError as error:
        raise ConfigError(f"--pieces {cut(text)}: {error}") from None
    name = "+".join(f"{key}-{value}" for key, value in changes.items())
    return name, f"{file} with {', '.join(f'{key}: {value}' for key, value in changes.items())}", hyp


def parse_piece(text: str) -> dict[str, str | None]:
    """Return the values of KEY=VALUE,KEY=VALUE by key, as texts; `null` is None.

    Raises:
        ConfigError: The text has another form, or a key twice.
    """
    changes: dict[str, str | None] = {}
    for part in text.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(
                f"--pieces {cut(text)}: expected KEY=VALUE, or several with commas, such as assign=tal,nbs=16"
            )
        if key in changes:
            raise ConfigError(f"--pieces {cut(text)}: {cut(key)} is given twice; name each key once")
        changes[key] = None if value.lower() in _NONE else value
    return changes


def recipe_notes(recipes: Sequence[Recipe]) -> list[str]:
    """Return for each recipe in which hyperparameters it differs from the control, as sentences for a reader."""
    control, *others = recipes
    return [f"{each.name} is {control.name} with {_differences(control.hyp, each.hyp)}." for each in others]


def _differences(control: Hyperparameters, other: Hyperparameters) -> str:
    values = vars(control)
    changed = [(key, value) for key, value in vars(other).items() if value != values[key]]
    return ", ".join(f"{key} {_shown(value)} (not {_shown(values[key])})" for key, value in changed)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)[:_LONGEST_NAME]


def _refuse_repetitions(recipes: Sequence[Recipe], option: str) -> None:
    """Raise ConfigError if two recipes have one name (on a file system that knows one case), or say the same."""
    for index, recipe in enumerate(recipes):
        for other in recipes[:index]:
            if recipe.hyp == other.hyp:
                like = "the control" if other is recipes[0] else other.name
                raise ConfigError(
                    f"{option} {cut(recipe.source)}: is the same recipe as {like}, key by key; leave it out"
                )
            if recipe.name.lower() == other.name.lower():
                raise ConfigError(
                    f"{option} {cut(recipe.source)}: has the name {recipe.name}, as {cut(other.source)} has; rename one"
                )
