"""Errors that are the user's to mend: shown as one line, never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something given to the program is wrong. The message is one line that names
    the file, the place in it and the fix; scripts print it and exit with code 2.
    """


class ConfigError(UserError):
    """A flag, a hyperparameter file or a data yaml cannot be used as it stands."""


class ModelError(UserError):
    """A model yaml or a block's arguments describe a network that cannot be built."""


class DataError(UserError):
    """Images or labels are missing, unreadable or contradict the data yaml."""


class CheckpointError(UserError):
    """A weights file is missing, damaged, of another kind, or refused."""


class NonFiniteError(UserError):
    """Training met a loss that is not a finite number."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Return " (did you mean A, B?)" for the choices that look like `name`, else ""."""
    by_lower = {choice.lower(): choice for choice in sorted(choices)}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=count, cutoff=0.5)
    return f" (did you mean {', '.join(by_lower[match] for match in matches)}?)" if matches else ""
