"""The optional packages of exporters and runtimes: asked for when a format needs them, in one line."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils.errors import ConfigError, cut

REQUIREMENTS = "-r requirements-export.txt"  # what pip installs for formats without a package of their own


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a parent package is not there, or is broken
        return False


def require(*packages: str, install: str = f"pip install {REQUIREMENTS}") -> None:
    """Raise ConfigError if one of the packages is not installed; they are not imported. Asked before long work."""
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed; {install}")


def required(module: str, package: str, path: Path, install: str = REQUIREMENTS) -> Any:
    """Return an optional package's module.

    Args:
        module: What is imported.
        package: Its name for pip.
        path: The file that needs it, for the message.
        install: What pip is given to install it.

    Returns:
        The module.

    Raises:
        ConfigError: If it is not installed, with what to install, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise ConfigError(f"{cut(path)}: needs {package}, which cannot be imported here: {error}") from None
        raise ConfigError(f"{cut(path)}: needs {package}, which is not installed: pip install {install}") from None
    except (ImportError, OSError) as error:
        raise ConfigError(f"{cut(path)}: needs {package}, which cannot be imported here: {cut(error)}") from None
