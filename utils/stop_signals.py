"""Signals that ask a program to end, taken when it suits: after the step that runs, with its state written.

Ctrl-C, SIGTERM, SIGHUP (the terminal is gone), SIGUSR1 (Slurm's warning that the time is nearly up) and SIGUSR2
(submitit's) are one request. Only the main thread gets signals; in another one a `StopRequest` never sees any.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ClassVar

from utils.errors import Interruption

ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
_NOTICE = b"\nending after this step, with the state saved; a second signal ends at once\n"


class StopRequest:
    """A request to end, by signal: noted while `deferred()` is entered, raised by `check()`.

    Attributes:
        number: The first signal that came; None while there was none.
        repeats_end: Whether a second signal ends at once. A process that gets the signals of a scheduler also from its
            parent, which passes them on, sets it to False: for it they are one request.
    """

    repeats_end: ClassVar[bool] = True

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._handlers: dict[int, Any] = {}

    def check(self) -> None:
        """Raise an `Interruption` if a signal came."""
        if self.number is not None:
            raise interruption_by(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal while the block runs; raise the second one at once.

        A signal that is ignored already, as SIGHUP under nohup, stays ignored. At the end of the block the handlers of
        before are put back.
        """
        if self._handlers or threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
        self._handlers = {number: old for number, old in found.items() if old not in (signal.SIG_IGN, None)}
        for number in self._handlers:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `deferred()`: raise also the first signal at once, in a part that is long and can be repeated."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.repeats_end:
            return
        first, self.number = self.number is None, number
        if first and not self._at_once:
            with suppress(OSError):
                os.write(2, _NOTICE)  # a handler may have interrupted a print, which cannot be entered twice
            return
        self._at_once = False  # what is written on the way out is ended by a further signal only
        if not first:
            for each in self._handlers:  # a system that shuts down sends several
                signal.signal(each, signal.SIG_IGN)
        raise interruption_by(number)


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise an `Interruption` at once for a signal that comes while the block runs."""
    stop = StopRequest()
    with stop.deferred(), stop.at_once():
        yield


def interruption_by(number: int) -> Interruption:
    """Return what is raised for a signal."""
    text = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return Interruption(text, number)
