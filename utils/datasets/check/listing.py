"""The images that a dataset lists, before any is opened.

Also found: images listed more than once, label files without an image, and images of formats that are not read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config import DatasetSpec
from utils.config.dataset_spec import SPLITS
from utils.datasets.check.findings import Finding
from utils.datasets.image_lists import read_image_list
from utils.datasets.label_files import label_path, list_images
from utils.errors import DataError
from utils.files import read_text
from utils.images import is_image

OTHER_FORMATS = (".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".svg", ".tga")
_NO_LABELS = (
    "classes.txt",
    "readme.txt",
    "labels.txt",
    "names.txt",
    "obj.names.txt",
    "notes.txt",
)  # text files that other tools put beside images


@dataclass(frozen=True)
class Listing:
    """The images of a dataset.

    Attributes:
        paths: split -> its images, sorted, each once.
        real: path -> the file behind it, where links lead.
        repeats: (split, split that names the file first) of each file that is named again.
        findings: What is wrong with the lists themselves.
    """

    paths: dict[str, list[str]]
    real: dict[str, str]
    repeats: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def list_splits(spec: DatasetSpec) -> Listing:
    """Return the images of every split that the data yaml names, such as holdout too; no image is opened."""
    paths: dict[str, list[str]] = {}
    findings: list[Finding] = []
    sources = _sources(spec)
    for split, given in sources.items():
        listed, found = _listed(spec, split, given)
        findings += found if split in SPLITS else []  # a key without images may mean anything
        if listed:
            paths[split] = listed
    real = {path: os.path.realpath(path) for listed in paths.values() for path in listed}
    again = list(_named_twice(paths, real))
    findings += [finding for _, finding in again]
    findings += _shared_labels(paths, real)
    once = {split: sorted({real[path]: path for path in reversed(listed)}.values()) for split, listed in paths.items()}
    listed_sources = {split: sources[split] for split in once}
    findings += _missing(once, listed_sources)
    once = {split: [path for path in listed if os.path.exists(path)] for split, listed in once.items()}
    findings += _orphans(once)
    findings += _other_formats(listed_sources)
    return Listing(
        {split: listed for split, listed in once.items() if listed},
        real,
        tuple((finding.split, other) for other, finding in again),
        tuple(findings),
    )


def _sources(spec: DatasetSpec) -> dict[str, tuple[Path, ...]]:
    """Split -> its folders and lists.

    These are train, val and test, given or not, and each further key whose folders or .txt lists are there, unless it
    means the whole dataset.
    """
    whole = {spec.root, *spec.root.parents}
    others = {name: spec.paths(name) for name in spec.splits() if name not in SPLITS}
    return {
        **{split: getattr(spec, split) for split in SPLITS},
        **{
            name: given
            for name, given in others.items()
            if all(path.suffix == ".txt" or path.is_dir() and path.resolve() not in whole for path in given)
        },
    }


def _listed(spec: DatasetSpec, split: str, sources: Sequence[Path]) -> tuple[list[str], list[Finding]]:
    """The images of a split as often as its folders and lists name them, and what is wrong with those."""
    yaml = str(spec.file or "data")
    findings: list[Finding] = []
    paths: list[str] = []
    if not sources and split != "test":
        fix = "add its folder or list to the data yaml"
        findings.append(Finding(yaml, 0, "split-missing", f"no `{split}:` given", split, fix))
    for source in sources:
        note = next((note for note in spec.moved if f" {source} is taken " in note), "")
        if note:
            findings.append(Finding(yaml, 0, "paths-moved", note.removeprefix(f"{yaml}: "), split))
        if not source.exists():
            findings.append(Finding(str(source), 0, "split-missing", f"{split}: no such folder or list", split))
            continue
        try:
            paths += list_images(source)
            moved = read_image_list(source).note if source.is_file() else ""
            if moved:
                findings.append(Finding(str(source), 0, "paths-moved", f"{split}: {moved}", split))
        except DataError as error:
            what = str(error).removeprefix(f"{source}: ")
            findings.append(Finding(str(source), 0, "split-empty", f"{split}: {what}", split))
    return sorted(os.path.abspath(path) for path in paths), findings


def _named_twice(paths: dict[str, list[str]], real: dict[str, str]) -> Iterator[tuple[str, Finding]]:
    """(split that has the file, finding) for each time a file is named after its first, in its split or a later one."""
    first: dict[str, tuple[str, str]] = {}
    for split, listed in paths.items():
        here: set[str] = set()
        for path in listed:
            file = real[path]
            if file in here:
                yield split, Finding(path, 0, "listed-twice", f"{split} names this file more than once", split)
            elif file in first:
                other, name = first[file]
                by_name = "" if name == path else f" (as {name})"
                yield other, Finding(path, 0, "in-two-splits", f"is in {other} and in {split}{by_name}", split)
            else:
                first[file] = split, path
            here.add(file)


def _shared_labels(paths: dict[str, list[str]], real: dict[str, str]) -> Iterator[Finding]:
    """Images that differ only in their suffix take their labels from one file."""
    owner: dict[str, str] = {}
    for split, listed in paths.items():
        for path in listed:
            other = owner.setdefault(label_path(path), path)
            if real[other] != real[path]:
                what = f"is read for {Path(other).name} and for {Path(path).name}"
                yield Finding(label_path(path), 0, "label-shared", what, split)


def _missing(paths: Mapping[str, list[str]], sources: Mapping[str, Sequence[Path]]) -> Iterator[Finding]:
    """Images that a list names and that are not there, with the list's line, and links that lead nowhere."""
    for split, listed in paths.items():
        absent = {path for path in listed if not os.path.exists(path)}
        for path in sorted(filter(os.path.islink, absent)):
            yield Finding(path, 0, "picture-unreadable", f"is a link to {os.readlink(path)}, which is not there", split)
        for source in sources[split] if absent else ():
            for line, name in _list_lines(source):
                beside = os.path.abspath(source.parent / name)
                if beside in absent or os.path.abspath(name) in absent:
                    yield Finding(str(source), line, "listed-missing", f"{name} is not there", split)


def _list_lines(source: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of the images in a .txt list."""
    if source.is_file():
        for line, text in enumerate(read_text(source).splitlines(), 1):
            if is_image(text.strip()):
                yield line, text.strip()


def _orphans(paths: dict[str, list[str]]) -> Iterator[Finding]:
    """Label files in the splits' label folders whose image is nowhere: neither listed nor beside the listed ones."""
    visited: set[str] = set()
    for split, listed in paths.items():
        images: dict[str, str] = {}  # folder of labels -> folder of its images
        stems: dict[str, set[str]] = {}
        for path in listed:
            labels, name = os.path.split(label_path(path))
            images.setdefault(labels, os.path.dirname(path))
            stems.setdefault(labels, set()).add(os.path.splitext(name)[0])
        for labels in sorted(images):
            if labels not in visited and os.path.isdir(labels):
                beside = {os.path.splitext(name)[0] for name in os.listdir(images[labels]) if is_image(name)}
                yield from _without_image(labels, images[labels], stems[labels] | beside, split)
            visited.add(labels)


def _without_image(labels: str, images: str, stems: set[str], split: str) -> Iterator[Finding]:
    by_lower = {stem.lower(): stem for stem in stems}
    for name in sorted(os.listdir(labels)):
        stem, suffix = os.path.splitext(name)
        if suffix != ".txt" or stem in stems or name.lower() in _NO_LABELS:
            continue
        if labels == images and not _looks_like_labels(labels, name):
            continue
        twin = by_lower.get(stem.lower())
        what = f"has no image {stem}.* in {images}"
        fix = f"rename it to {twin}.txt: names differ in upper and lower case" if twin else ""
        yield Finding(os.path.join(labels, name), 0, "label-orphan", what, split, fix)


def _looks_like_labels(folder: str, name: str) -> bool:
    """Whether a text file among images may be labels: its first row has five values or more, all numbers."""
    try:
        fields = read_text(os.path.join(folder, name)).split("\n", 1)[0].split()
        return len(fields) >= 5 and all(abs(float(field)) < 1e9 for field in fields)
    except (OSError, ValueError):
        return False


def _other_formats(sources: Mapping[str, Iterable[Path]]) -> Iterator[Finding]:
    """Images in the splits' folders that are not read because of their format."""
    visited: set[Path] = set()
    for split, given in sources.items():
        for source in given:
            if source in visited or not source.is_dir():
                continue
            visited.add(source)
            for parent, folders, names in os.walk(source):
                folders.sort()
                for name in sorted(names):
                    if name.lower().endswith(OTHER_FORMATS) and not name.startswith("."):
                        what = f"is a {Path(name).suffix[1:].upper()} file, which is not read"
                        yield Finding(os.path.join(parent, name), 0, "picture-other-format", what, split)
