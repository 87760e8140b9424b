"""User errors: shown as one line, never as a traceback."""

import difflib
import reprlib
import signal
from collections.abc import Iterable

VALUE_LIMIT = 200  # characters of a value or a path in a message
NAME_LIMIT = 60  # characters of a class name in a table or a plot
CHOICES_LIMIT = 2000  # characters of a list of what could be chosen
_JOINERS = "\u200c\u200d"  # between letters of some scripts, and parts of an emoji
_MOST_COMPARED = 5000  # choices among which the nearest is looked for


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


class MemoryShortageError(UserError):
    """A training step took more memory than there is."""


class NonFiniteError(UserError):
    """A loss or gradient of the training is not a finite number."""


class PartialError(UserError):
    """Some inputs of a run failed; the results of the others are complete."""

    exit_code = 1


class ParityError(UserError):
    """An exported file computes something else than torch; it was put aside under another name."""

    exit_code = 1


class _BoundedRepr(reprlib.Repr):
    """Python's repr of the first items of a value only, so that its length and its time are bounded."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxother = 4, VALUE_LIMIT
        self.maxstring = self.maxlong = VALUE_LIMIT + 10  # longer than what is shown, so that the cut is at the end
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 20

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: self.maxstring])

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write a whole number of several thousand digits."""
        return repr(x) if x.bit_length() < 1000 else f"<a whole number of {x.bit_length()} bits>"


def shown(value: object, limit: int = VALUE_LIMIT) -> str:
    """Return a value of a file as Python writes it, for a message: one line of at most `limit` characters.

    Args:
        value: What a file holds; however large or nested it is, only its beginning is looked at.
        limit: Largest number of characters; what is longer ends in dots.

    Returns:
        The text, with control characters escaped.
    """
    return cut(_BoundedRepr().repr(value), limit)


def cut(text: object, limit: int = VALUE_LIMIT) -> str:
    r"""Return text of a file, or a path, as it is safe to print: one line of at most `limit` characters.

    Args:
        text: The text.
        limit: Largest number of characters; what is longer ends in dots.

    Returns:
        The text, with control characters and marks of writing direction escaped.

    Example:
        >>> cut("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    start = str(text)[: limit + 1]
    safe = "".join(c if c.isprintable() or c in _JOINERS else repr(c)[1:-1] for c in start)
    return safe if len(safe) <= limit else f"{safe[: limit - 3]}..."


class Interruption(KeyboardInterrupt):
    """The program is asked to end: by Ctrl-C, by a signal, or because nobody reads its output any more.

    What handles Ctrl-C handles it too. Scripts print the message, one line, and exit with `exit_code`.

    Args:
        message: Who asked, and perhaps how to go on.
        number: The signal; that of Ctrl-C by default.
    """

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT):
        super().__init__(message)
        self.number = int(number)

    @property
    def exit_code(self) -> int:
        """What shells report of a program that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    @classmethod
    def of(cls, cause: KeyboardInterrupt, more: str = "") -> "Interruption":
        """Return an interruption or a plain KeyboardInterrupt as an interruption.

        Args:
            cause: What was raised.
            more: Follows its message, such as how to go on.

        Returns:
            A new one for the same signal.
        """
        number = cause.number if isinstance(cause, cls) else signal.SIGINT
        return cls(f"{str(cause) or 'interrupted'}{more}", number)


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Return a hint for an error message that names the choices that look like `name`.

    Args:
        name: What was given; case does not matter.
        choices: The known names.
        count: Largest number of names in the hint.

    Returns:
        " (did you mean A, B?)", or "" if none is similar.
    """
    by_lower = {str(choice)[:100].lower(): str(choice) for choice in sorted(choices, key=str)[:_MOST_COMPARED]}
    matches = difflib.get_close_matches(str(name)[:100].lower(), by_lower, n=count, cutoff=0.5)
    return f" (did you mean {', '.join(cut(by_lower[match]) for match in matches)}?)" if matches else ""
