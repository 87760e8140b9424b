"""User errors: shown as one line, never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An input of the program is wrong.

    The message is one line that names the file, the place in it and the fix; scripts print it and exit with
    `exit_code`.
    """

    exit_code = 2


class ConfigError(UserError):
    """A flag, a hyperparameter file or a data yaml cannot be used as it stands."""


class ModelError(UserError):
    """A model yaml or a block's arguments describe a network that cannot be built."""


class DataError(UserError):
    """Images or labels are missing, unreadable or contradict the data yaml."""


class CheckpointError(UserError):
    """A weights file is missing, damaged, of another kind, or refused."""


class NonFiniteError(UserError):
    """A loss or gradient of the training is not a finite number."""


class PartialError(UserError):
    """Some inputs of a run failed; the results of the others are complete."""

    exit_code = 1


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Return a hint for an error message that names the choices that look like `name`.

    Args:
        name: What was given; case does not matter.
        choices: The known names.
        count: Largest number of names in the hint.

    Returns:
        " (did you mean A, B?)", or "" if none is similar.
    """
    by_lower = {choice.lower(): choice for choice in sorted(choices)}
    matches = difflib.get_close_matches(str(name)[:100].lower(), by_lower, n=count, cutoff=0.5)
    return f" (did you mean {', '.join(by_lower[match] for match in matches)}?)" if matches else ""
