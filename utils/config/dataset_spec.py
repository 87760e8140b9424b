"""The description of a dataset: what a data yaml says, checked, with its paths resolved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.config.moved_paths import find_moved
from utils.config.yaml_files import MOST_CLASSES, find_yaml, read_yaml
from utils.errors import ConfigError, DataError, cut, nearest, shown
from utils.files import ROOT, exists, expand_home, is_dir
from utils.log import warn_once

SPLITS = ("train", "val", "test")
_KEYS = (*SPLITS, "path", "nc", "names", "download", "sha256", "generate")


@dataclass(frozen=True)
class DatasetSpec:
    """What a data yaml describes.

    Attributes:
        file: The yaml, or None.
        root: The folder that its paths are relative to.
        train: Folders or .txt lists of images, perhaps none; so are `val` and `test`.
        val: See `train`.
        test: See `train`.
        nc: Number of classes.
        names: One per class.
        download: How the dataset can be fetched.
        generate: How it can be drawn.
        others: Every further key that may name a split, such as holdout.
        sha256: SHA-256 of the archive at `download`, 64 hexadecimal digits, or None.
        keypoints: `kpt_shape`: number of key points of each row and numbers of each (2 or 3); None if not given.
        moved: What was done to find paths that do not exist as they are written, one line each.
    """

    file: Path | None
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    nc: int
    names: tuple[str, ...]
    download: str | None = None
    generate: dict | None = None
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    sha256: str | None = None
    keypoints: tuple[int, int] | None = None
    moved: tuple[str, ...] = ()

    @classmethod
    def load(cls, source: Path | str | Mapping) -> "DatasetSpec":
        """Return the description in a data yaml (a path, or a name in data/) or in a mapping of the same keys.

        Nothing of the data is read. A folder or list that is not where the yaml says but beside the yaml, as after an
        export, is taken there, and a warning says so. Raises ConfigError that names the file, the key and the fix.
        """
        if isinstance(source, Mapping):
            file, content, texts = None, dict(source), dict(source)
        else:
            file = find_yaml(source, "data", "data yaml").absolute()
            content, texts = read_yaml(file), read_yaml(file, texts_only=True)
        where = cut(file or "data")
        entries = {split: _entries(where, split, content.get(split)) for split in SPLITS}
        root = _root(where, content.get("path"), file, entries)
        nc, names = _classes(where, content.get("nc"), texts.get("names"))
        download, generate = content.get("download"), content.get("generate")
        if download is not None and not isinstance(download, str):
            raise ConfigError(f"{where}: download: expected text, got {type(download).__name__}")
        if generate is not None and not isinstance(generate, dict):
            raise ConfigError(f"{where}: generate: expected a mapping, got {type(generate).__name__}")
        sha256 = _checksum(where, texts.get("sha256"), download)
        will_come = generate is not None or download is not None and not is_dir(root)  # drawn or fetched later
        finder = _PathFinder(file, root, may_move=not will_come)
        paths = {split: finder.find(split, entries[split]) for split in SPLITS}
        others = {key: finder.find(key, texts) for key, texts in _other_entries(content).items()}
        for note in finder.moved:
            warn_once(note)
        return cls(
            file,
            root,
            nc=nc,
            names=names,
            download=download or None,
            sha256=sha256,
            generate=generate,
            others=others,
            keypoints=_keypoints(where, content),
            moved=tuple(finder.moved),
            **paths,
        )

    def paths(self, split: str) -> tuple[Path, ...]:
        """Return the folders and lists of a split. Raises DataError if the yaml names none."""
        found = getattr(self, split) if split in SPLITS else self.others.get(split, ())
        if not found:
            known = self.splits()
            raise DataError(
                f"{cut(self.file or 'data')}: no `{cut(split)}:` given{nearest(split, known)}; add the folder or "
                f".txt list of its images, or take a split that is there: {cut(', '.join(known)) or 'none'}"
            )
        return found

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits given; of other keys than train, val and test, those whose paths exist."""
        others = (name for name, paths in self.others.items() if all(exists(path) for path in paths))
        return (*(split for split in SPLITS if getattr(self, split)), *others)

    def as_single_class(self) -> "DatasetSpec":
        """Return the same data with all classes taken as one, named item unless there was one only."""
        return self if self.nc == 1 else replace(self, nc=1, names=("item",))


@dataclass
class _PathFinder:
    """Finds the folders and lists of a data yaml, also those that its exporter named as seen from elsewhere."""

    file: Path | None
    root: Path
    may_move: bool
    moved: list[str] = field(default_factory=list)

    def find(self, split: str, entries: tuple[str, ...]) -> tuple[Path, ...]:
        """Return the paths of a split; what was done to find one is kept in `moved`."""
        return tuple(self._find(split, entry) for entry in entries)

    def _find(self, split: str, entry: str) -> Path:
        path = self.root / entry
        if not self.may_move or exists(path) or "/" not in entry and "\\" not in entry and split not in SPLITS:
            return path
        beside = [self.file.parent] if self.file else []
        is_foreign = Path(entry).is_absolute() or not is_dir(self.root)
        for base in beside if is_foreign else dict.fromkeys((self.root, *beside)):
            is_beside = is_foreign and exists(base / entry)
            found = (base / entry, "beside this yaml") if is_beside else find_moved(base, entry)
            if found:
                self.moved.append(
                    f"{self.file or 'data'}: {split}: {path} is not there; {found[0]} is taken ({found[1]})"
                )
                return found[0]
        return path


def _keypoints(where: str, content: Mapping) -> tuple[int, int] | None:
    """Return `kpt_shape`, which data yamls of key points have: [how many per row, numbers of each]."""
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    numbers = [number for number in shape if type(number) is int] if isinstance(shape, list) and len(shape) == 2 else []
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise ConfigError(f"{where}: kpt_shape: expected [number of key points, 2 or 3], got {shown(shape)}")
    return numbers[0], numbers[1]


def _entries(where: str, split: str, value: object) -> tuple[str, ...]:
    """Return a split's paths as written: text, a list of texts, or nothing."""
    values = value if isinstance(value, (list, tuple)) else [] if value in (None, "") else [value]
    for entry in values:
        if not isinstance(entry, (str, Path)) or not str(entry):
            raise ConfigError(f"{where}: {split}: expected a path or a list of paths, got {shown(entry)}")
    return tuple(str(entry) for entry in values)


def _other_entries(content: Mapping) -> dict[str, tuple[str, ...]]:
    """Return the paths of each further key that could be a split: a word, with a text or a list of texts."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        values = value if isinstance(value, list) else [value]
        is_word = isinstance(key, str) and key not in _KEYS and key.replace("-", "_").isidentifier()
        if is_word and values and all(isinstance(text, str) and text for text in values):
            found[key] = tuple(values)
    return found


def _root(where: str, value: object, file: Path | None, entries: Mapping[str, tuple[str, ...]]) -> Path:
    """Return the folder that the splits are relative to.

    A relative `path:` is below the project's root as in v6.1 or, if nothing is there, below the yaml's own folder, then
    the current one. Without `path:` the same folders are tried for the first split.
    """
    if value is not None and not isinstance(value, (str, Path)):
        raise ConfigError(f"{where}: path: expected a folder, got {shown(value)}")
    if "\0" in str(value or ""):
        raise ConfigError(f"{where}: path: no folder's name holds a null character, got {shown(value)}")
    path = expand_home(value or "")
    if path.is_absolute():
        return path
    roots = [(base / path).resolve() for base in (ROOT, *([file.parent] if file else []), Path.cwd())]
    first = next((entry for split in SPLITS for entry in entries[split]), "")
    for root in roots:
        if first and exists(root / first):
            return root
    if file and first and not value and find_moved(file.parent, first):
        return file.parent
    if value:
        for root in roots:
            if is_dir(root):
                return root
    return roots[0]


def _checksum(where: str, value: object, download: object) -> str | None:
    """Return the SHA-256 of the archive in lower case, None if the yaml gives none."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ConfigError(f"{where}: sha256: expected 64 hexadecimal digits, got {shown(value)}")
    if not download:
        raise ConfigError(f"{where}: sha256: is that of the archive at `download:`, which is not given")
    return value.lower()


def _classes(where: str, count: object, names: object) -> tuple[int, tuple[str, ...]]:
    """Return nc and the class names, from a list, a mapping of class ids to names, or nc alone."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigError(f"{where}: nc: expected a whole number of at least 1, got {shown(count)}")
    _limit_classes(where, count or 0)
    if names in (None, "", [], {}):
        if count is None:
            raise ConfigError(f"{where}: neither nc nor names given; add `names:` with one name per class")
        return count, tuple(f"class{class_id}" for class_id in range(count))
    if isinstance(names, Mapping):
        names = _in_order(where, names)
    if not isinstance(names, (list, tuple)):
        raise ConfigError(
            f"{where}: names: expected a list, or a mapping of class numbers to names, got {shown(names)}"
        )
    _limit_classes(where, len(names))
    for name in names:
        if isinstance(name, (list, tuple, Mapping)):
            raise ConfigError(f"{where}: names: expected one name per class, got {shown(name)}")
    if count is not None and count != len(names):
        raise ConfigError(f"{where}: nc is {count} but there are {len(names)} names; make them agree, or leave nc out")
    return len(names), tuple(str(name) for name in names)


def _limit_classes(where: str, count: int) -> None:
    if count > MOST_CLASSES:
        raise ConfigError(f"{where}: {shown(count)} classes; a dataset here has at most {MOST_CLASSES}")


def _in_order(where: str, names: Mapping) -> list:
    """Return the names of a mapping 0: first, 1: second, ... in order."""
    try:
        by_number = {int(key): name for key, name in names.items()}
    except (TypeError, ValueError):
        keys = cut(", ".join(str(key)[:80] for key in list(names)[:20]), 80)
        raise ConfigError(f"{where}: names: expected class numbers 0, 1, ... as keys, got {keys}") from None
    missing = next((number for number in range(len(names)) if number not in by_number), None)
    if missing is not None:
        raise ConfigError(f"{where}: names: class numbers must run from 0 to {len(names) - 1}; {missing} is missing")
    return [by_number[number] for number in range(len(names))]
