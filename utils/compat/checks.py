"""The check_* functions of YOLOv5's scripts. They look and report; none of them installs or downloads anything."""

import glob
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.config import DatasetSpec
from utils.config.dataset_spec import SPLITS
from utils.datasets.splits import require_images
from utils.errors import ConfigError, DataError, cut, nearest
from utils.files import ROOT, is_file
from utils.log import LOGGER, warn_once

_SEARCHED = ("data", "models", "utils")  # folders of the project in which a file that is named alone is looked for
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([0-9][0-9.]*))?")


def make_divisible(x: float, divisor: Any) -> int:
    """Return the least multiple of a number that is not below `x`.

    Args:
        x: Any number.
        divisor: A number, or a tensor whose largest value counts.

    Returns:
        The multiple.
    """
    unit = int(divisor.max()) if hasattr(divisor, "max") else int(divisor)
    return -int(-x // unit) * unit


def check_img_size(imgsz: int | Sequence[int], s: Any = 32, floor: int = 0) -> int | list[int]:
    """Return an image size raised to multiples of a stride, with a warning if that changes it.

    Args:
        imgsz: One side in pixels, or several.
        s: The stride, a number or a tensor.
        floor: Least side in pixels.

    Returns:
        One side, or a list, as given.
    """
    sides = [imgsz] if isinstance(imgsz, (int, float)) else list(imgsz)
    rounded = [max(make_divisible(side, s), floor) for side in sides]
    if rounded != sides:
        warn_once(f"--img-size {imgsz} is not a multiple of the largest stride {s}; using {rounded}")
    return rounded[0] if isinstance(imgsz, (int, float)) else rounded


def check_suffix(
    file: str | Sequence[str] = "yolov5s.pt", suffix: str | Sequence[str] = (".pt",), msg: str = ""
) -> None:
    """Return if each file has one of the suffixes.

    Args:
        file: A name, or several; names without a suffix pass.
        suffix: One, or several.
        msg: Begins the error.

    Raises:
        ConfigError: If one has another suffix.
    """
    suffixes = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in [file] if isinstance(file, (str, Path)) else file:
        own = Path(name).suffix.lower()
        if suffixes and own and own not in suffixes:
            raise ConfigError(f"{msg}{cut(name)}: expected a file that ends in {' or '.join(suffixes)}")


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """Return the path of a file: as given, else found by its name below data, models or utils of the project.

    Args:
        file: The path; "" gives "".
        suffix: Suffixes that are allowed, if not "".

    Returns:
        The path.

    Raises:
        ConfigError: If it has another suffix, or is an address.
        DataError: If there is no such file, or several.
    """
    text = str(file)
    check_suffix(text, suffix or ())
    if not text or is_file(text):
        return text
    if text.startswith(("http:/", "https:/")):
        raise ConfigError(f"{cut(text)}: is not downloaded; fetch it, and give its path")
    found = [path for folder in _SEARCHED for path in glob.glob(str(ROOT / folder / "**" / text), recursive=True)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{cut(text)}: several files have this name: {cut(', '.join(found))}; give the path of one")
    names = {path.name for folder in _SEARCHED for path in (ROOT / folder).glob(f"**/*{Path(text).suffix or '.yaml'}")}
    raise DataError(f"{cut(text)}: no such file{nearest(Path(text).name, names)}")


def check_yaml(file: str | Path, suffix: str | Sequence[str] = (".yaml", ".yml")) -> str:
    """Return the path of a yaml, as `check_file` does.

    Args:
        file: The path, or a name in the project.
        suffix: Suffixes that are allowed.

    Returns:
        The path.
    """
    return check_file(file, suffix)


def check_dataset(data: str | Path | dict[str, Any], autodownload: bool = False) -> dict[str, Any]:
    """Return what a data yaml says, with its paths made absolute.

    Args:
        data: A data yaml, or its content.
        autodownload: Whether a dataset that is not on disk may be fetched; v6.1's default is True.

    Returns:
        path, train, val, test (a path, a list of them, or None), nc, names (a list) and download.

    Raises:
        ConfigError: If the yaml cannot be used.
        DataError: If the images of a split are not there.
    """
    spec = DatasetSpec.load(data)
    require_images(spec, [split for split in SPLITS if split in spec.splits()], download=autodownload)
    found: dict[str, Any] = {"path": spec.root, "nc": spec.nc, "names": list(spec.names), "download": spec.download}
    for split in SPLITS:
        paths = [str(path) for path in getattr(spec, split)]
        found[split] = paths[0] if len(paths) == 1 else paths or None
    return found


def check_requirements(
    requirements: str | Path | Sequence[str] = ROOT / "requirements.txt",
    exclude: Sequence[str] = (),
    install: bool = False,
    cmds: str = "",
) -> bool:
    """Return whether packages are installed; a warning names those that are not. Nothing is ever installed.

    Args:
        requirements: A requirements file, or lines of one; only names and `>=` count.
        exclude: Names that are not looked for.
        install: Not followed.
        cmds: Not followed.

    Returns:
        Whether all are there.
    """
    is_path = isinstance(requirements, Path) or isinstance(requirements, str) and requirements.endswith(".txt")
    if is_path and not is_file(str(requirements)):
        raise DataError(f"{cut(requirements)}: no such requirements file")
    lines: Sequence[str] = (
        Path(str(requirements)).read_text(encoding="utf-8").splitlines()
        if is_path
        else [requirements]
        if isinstance(requirements, str)
        else [str(line) for line in requirements]  # type: ignore[union-attr]
    )
    missing = [line.strip() for line in lines if not _is_installed(line, exclude)]
    if missing:
        quoted = " ".join(f'"{line}"' for line in missing)
        LOGGER.warning(f"WARNING: not installed: {', '.join(missing)}; install with: pip install {quoted}")
    return not missing


def _is_installed(line: str, exclude: Sequence[str]) -> bool:
    found = _REQUIREMENT.match(line.partition("#")[0])
    if not found or line.lstrip().startswith("-") or found[1] in exclude:
        return True
    try:
        installed = metadata.version(found[1])
    except metadata.PackageNotFoundError:
        return False
    return not found[2] or check_version(installed, found[2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])


def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Return whether a version is at least another.

    Args:
        current: The version, such as 1.10.2+cu113.
        minimum: The other.
        name: Of what, for messages.
        pinned: Whether they must be equal.
        hard: Whether to raise an error if not.
        verbose: Whether to log a warning if not.

    Returns:
        Whether it is.

    Raises:
        ConfigError: If it is not, with `hard`.
    """
    mine, least = _numbers(current), _numbers(minimum)
    fits = mine == least if pinned else mine >= least
    message = f"{name}{minimum} is required, and {name}{current} is installed"
    if hard and not fits:
        raise ConfigError(message)
    if verbose and not fits:
        LOGGER.warning(f"WARNING: {message}")
    return fits


def check_python(minimum: str = "3.7.0") -> bool:
    """Return True, or raise ConfigError if this Python is older than `minimum`."""
    return check_version(platform.python_version(), minimum, name="Python ", hard=True)


def check_imshow(warn: bool = False) -> bool:
    """Return whether this machine can show windows; without one a warning says that nothing will be shown."""
    shows = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if shows:
        try:
            cv2.imshow("test", np.zeros((1, 1, 3), np.uint8))
            cv2.waitKey(1)
            cv2.destroyAllWindows()
            return True
        except cv2.error:  # built without windows
            pass
    LOGGER.warning("WARNING: there is no display, or OpenCV was built without windows; images are not shown")
    return False


def check_git_status() -> None:
    """Do nothing: the network is not asked for newer versions."""


def check_font(font: str = "", progress: bool = False) -> None:
    """Do nothing: text is drawn with fonts that are on this machine, and none is downloaded.

    Args:
        font: Not used.
        progress: Not used.
    """
