"""Writer of the converted dataset: images, label files, data yaml and report, as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.datasets.convert.label_rows import ImageRows
from utils.datasets.convert.split_assignment import SPLIT_NAMES
from utils.errors import DataError
from utils.files import write_text_atomically
from utils.log import progress

DATA_YAML = "data.yaml"


@dataclass(frozen=True)
class ConvertedImage:
    """An image of the result: its source, its annotation file or "", its name without suffix, its split, its rows."""

    path: Path
    annotation: str
    name: str
    split: str
    rows: ImageRows

    @property
    def file(self) -> str:
        """The file's name in images/<split>."""
        return f"{self.name}{self.path.suffix}"


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its name at the end; after an error nothing is left of it.

    Raises DataError if `output` has files already or cannot be made.
    """
    refuse_existing(output)
    partial = output.parent / f".{output.name}.{os.getpid()}.part"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise DataError(f"{output}: cannot be made: {error.strerror}; choose another --output") from None
    try:
        yield partial
        if output.is_dir():
            output.rmdir()  # it is empty, or this raises
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def refuse_existing(output: Path) -> None:
    """Raise DataError if a file or a folder that is not empty has this name."""
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{output}: exists already, and nothing is overwritten; choose a new --output")


def write_dataset(folder: Path, images: Sequence[ConvertedImage], link: bool) -> None:
    """Write images/<split> and labels/<split>.

    Args:
        folder: Where.
        images: What.
        link: Whether images become links to their sources instead of copies.

    Raises:
        DataError: An image cannot be copied or linked.
    """
    for split in used_splits(images):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for one in progress(images, len(images), "Linking images" if link else "Copying images"):
        target = folder / "images" / one.split / one.file
        try:
            if link:
                target.symlink_to(one.path.resolve())
            else:
                shutil.copyfile(one.path, target)
        except OSError as error:
            doing, remedy = ("linked", "leave out --link") if link else ("copied", "make room, or use --link")
            raise DataError(f"{one.path}: cannot be {doing} to {target}: {error.strerror}; {remedy}") from None
        (folder / "labels" / one.split / f"{one.name}.txt").write_text("".join(f"{row}\n" for row in one.rows.texts))


def write_data_yaml(folder: Path, output: Path, images: Sequence[ConvertedImage], names: Sequence[str]) -> None:
    """Write the data yaml.

    Args:
        folder: Where it is written.
        output: The folder's later name, which the yaml says.
        images: The images.
        names: One per class.
    """
    content = {
        "path": str(output.resolve()),
        **{split: f"images/{split}" for split in used_splits(images)},
        "nc": len(names),
        "names": list(names),
    }
    head = "# Made by python -m utils.datasets.convert; correct path if you move the folder.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    write_text_atomically(folder / DATA_YAML, head + text)


def used_splits(images: Sequence[ConvertedImage]) -> list[str]:
    """Return the splits that have images, in the order train, val, test."""
    used = {one.split for one in images}
    return [split for split in SPLIT_NAMES if split in used]
