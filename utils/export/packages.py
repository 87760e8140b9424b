"""The optional packages of exporters: looked for when a format needs them, with one line that says what to install."""

from importlib.util import find_spec

from utils.errors import ConfigError

INSTALL = "pip install -r requirements-export.txt"


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a parent package is not there, or is broken
        return False


def require(*packages: str, install: str = INSTALL) -> None:
    """Raise ConfigError if one of the packages is not installed; the message says how to install all of them."""
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed; {install}")
