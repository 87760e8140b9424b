"""Preparation of a dataset before anything reads it: drawn, downloaded, or reported as missing.

It is drawn if the data yaml says how, and downloaded only if the user asked for that.
"""

import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from utils.config import DatasetSpec
from utils.datasets import drawn_shapes as shapes
from utils.download import fetch, public_address
from utils.errors import ConfigError, DataError, cut, shown
from utils.files import exists
from utils.log import LOGGER

# What zipfile and the decompressors raise for damaged members, and the system for names that it cannot write.
_UNPACK_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, OSError),
)


def ensure(spec: DatasetSpec, splits: Sequence[str] = ("train", "val"), download: bool = False) -> None:
    """Return when every folder and list of the splits exists.

    A dataset with `generate:` is drawn on first use, and again if its options have changed. Code in a data yaml is
    never run.

    Args:
        spec: The dataset.
        splits: Names of the splits that are needed.
        download: Whether an archive may be fetched from the address in the data yaml; otherwise nothing is.

    Raises:
        ConfigError: If `generate:` has an unknown key or a wrong value, or the classes are not those of the drawing.
        DataError: If data are missing: names what, where it was looked for, and how to get it. Also if a folder in the
            way has other content, or the archive cannot be unpacked.
        UserError: If the archive cannot be fetched.
    """
    if spec.generate is not None:
        _draw(spec, shapes.ShapesOptions.read(spec.generate), splits)
    missing = _missing(spec, splits)
    if missing and download:
        _download(spec)
        missing = _missing(spec, splits)
    if missing:
        split, path = missing[0]
        raise DataError(
            f"{cut(spec.file or 'data')}: {split} images are missing: looked for {cut(path)}; {_remedy(spec, download)}"
        )


def _missing(spec: DatasetSpec, splits: Sequence[str]) -> list[tuple[str, Path]]:
    return [(split, path) for split in splits for path in spec.paths(split) if not exists(path)]


def _draw(spec: DatasetSpec, options: shapes.ShapesOptions, splits: Sequence[str]) -> None:
    """Draw the dataset unless it is there with these options, or images of the user's own are."""
    if spec.names not in (shapes.CLASSES, ("item",)):  # item: the same data with --single-cls
        raise ConfigError(
            f"{spec.file or 'data'}: names must be {list(shapes.CLASSES)} for the shapes dataset, "
            f"got {list(spec.names)}"
        )
    may_draw = shapes.is_drawn(spec.root) or _missing(spec, splits)  # images of the user's own are not replaced
    if may_draw and not shapes.is_drawn(spec.root, options):
        shapes.draw_dataset(spec.root, options)


def _archive_address(spec: DatasetSpec) -> str | None:
    """Return the address of a zip archive, or None if `download:` is anything else."""
    text = (spec.download or "").strip()
    plain = text.startswith(("https://", "http://")) and len(text.split()) == 1
    return text if plain and text.split("?")[0].lower().endswith(".zip") else None


def _remedy(spec: DatasetSpec, download: bool) -> str:
    """Return how the user can get missing data."""
    if _archive_address(spec) and not download:
        return f"--download fetches it from {public_address(_archive_address(spec) or '')}"
    if spec.download and not _archive_address(spec):
        return (
            "its `download:` is a program or script, which is never run: fetch the data as it says and put it there, "
            "or give the address of a .zip instead"
        )
    return "put it there, or correct `path:` and the split in the data yaml"


def _download(spec: DatasetSpec) -> None:
    """Fetch and unpack the archive; the data folder appears whole or not at all."""
    address = _archive_address(spec)
    if address is None:
        return
    root = spec.root
    if exists(root) and any(root.iterdir()):
        raise DataError(f"{root}: exists but is incomplete; move it away and --download fetches it anew")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        archive = fetch(
            address,
            Path(temporary) / "archive.zip",
            kind="a zip archive",
            minimum=1,
            sha256=spec.sha256,
            remedy=f"fetch it elsewhere and unpack it at {cut(root)}",
        )
        unpack(archive, Path(temporary) / "content", public_address(address))
        content = Path(temporary) / "content"
        entries = [entry for entry in content.iterdir() if entry.name != "__MACOSX"]
        if len(entries) == 1 and entries[0].is_dir() and not (content / "images").exists():
            content = entries[0]  # the archive holds the data folder itself
        if exists(root):
            root.rmdir()
        shutil.move(content, root)
    LOGGER.info(f"Unpacked to {root}")


def unpack(archive: Path, folder: Path, origin: str = "") -> None:
    """Unpack a zip archive into a folder.

    Args:
        archive: The zip file.
        folder: Where its files are written; it is created if missing.
        origin: Where it comes from, for the error; the file's name if empty.

    Raises:
        DataError: If the archive is damaged, does not fit on the disk, or names a link or a file outside the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin, member = cut(origin or archive.name), None
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            for each in members:
                _reject_unsafe(origin, each)
            needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
            if needed > free:
                raise DataError(
                    f"{origin}: needs {needed / 1e9:.1f} GB to unpack, {free / 1e9:.1f} GB are free in {folder.parent}"
                )
            for member in members:
                opened.extract(member, folder)
    except _UNPACK_ERRORS as error:
        place = f"; the first that cannot be unpacked is {shown(member.filename)}" if member else ""
        reason = cut(getattr(error, "strerror", None) or error or type(error).__name__)
        raise DataError(f"{origin}: is not a readable zip archive: {reason}{place}") from None


def _reject_unsafe(origin: str, member: zipfile.ZipInfo) -> None:
    """Raise DataError for a member that is a link or would be written outside the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts and ":" in path.parts[0]:
        raise DataError(f"{origin}: refused: it names {shown(member.filename)}, a place outside its folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{origin}: refused: {shown(member.filename)} is a link")
