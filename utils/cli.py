"""How a script runs: flags in, exit code out, or a call from Python. Imports nothing heavy: `--help` answers at once.

A signal that asks the program to end is raised as an `Interruption`, which is handled as Ctrl-C is on its way up: files
are closed, workers ended, and whoever knows how to go on adds it to the message.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from typing import TypeVar

from utils import log
from utils.errors import Interruption, UserError
from utils.language import ENGLISH, speaking
from utils.stop_signals import StopRequest, interruption_by
from utils.threads import limit_threads, yielding_threads

ConfigType = TypeVar("ConfigType")
ResultType = TypeVar("ResultType")
FAILED = 2
_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM))
_REQUIRED = frozenset(("PIL", "cv2", "matplotlib", "numpy", "torch", "torchvision", "tqdm", "yaml"))  # requirements.txt
_USERS_ERRORS = _DISK_ERRORS | {errno.EMFILE, errno.ENFILE}


def run_script(
    main: Callable[[ConfigType], object],
    parse_opt: Callable[[Sequence[str] | None], ConfigType],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, call `main` and return the exit code. Use as `sys.exit(run_script(main, parse_opt))`.

    Args:
        main: Does what the script is for.
        parse_opt: Makes the configuration of a command line (`sys.argv` if it is None).
        argv: The command line without the program's name.

    Returns:
        What `run_guarded` says. Other exceptions pass with their traceback.
    """
    # of several processes, which all read the same command line, one says what is wrong with it
    with nullcontext() if log.is_main_process() else redirect_stderr(io.StringIO()):
        config = parse_opt(argv)
    log.configure()
    limit_threads(os.environ)
    with speaking(getattr(config, "lang", ENGLISH)):
        return run_guarded(main, config)


def run_guarded(function: Callable[..., object], *arguments: object) -> int:
    """Call a function and return the exit code; what the user can do something about is one line on standard error.

    Args:
        function: Does what the script is for.
        *arguments: Passed to it.

    Returns:
        0; 2 after a user error, a disk error, too many open files or a required package that is not installed,
        1 if only some inputs of a run failed; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 if the reader
        of the output closed it.
    """
    stop = StopRequest()
    try:
        with stop.deferred(), stop.at_once(), yielding_threads():
            function(*arguments)
            sys.stdout.flush()
    except UserError as error:
        return _ended_with(f"error: {error}", error.exit_code)
    except KeyboardInterrupt as error:
        ending = Interruption.of(error)
        return _ended_with(str(ending), ending.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _REQUIRED:
            raise
        line = f"error: {error.name} is not installed for {sys.executable}; pip install -r requirements.txt"
        return _ended_with(line, FAILED)
    except OSError as error:
        if stop.number is not None:  # a terminal that hung up cannot be written to either
            ending = interruption_by(stop.number)
            return _ended_with(str(ending), ending.exit_code)
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            ending = log.closed_output()
            return _ended_with(str(ending), ending.exit_code)
        if error.errno not in _USERS_ERRORS:
            raise
        return _ended_with(f"error: {_os_error_line(error)}", FAILED)
    return 0


@contextmanager
def python_call() -> Iterator[None]:
    """Do what a script does for a call from Python: show messages, and raise what it would print as a `UserError`.

    What the user can do something about is one exception kind, whose text is the line. Others pass.

    Raises:
        UserError: Also in place of disk errors and too many open files.
    """
    with log.messages_shown():
        try:
            yield
        except OSError as error:
            if error.errno not in _USERS_ERRORS:
                raise
            raise UserError(_os_error_line(error)) from error


def run_from_python(main: Callable[[ConfigType], ResultType], make_config: Callable[[], ConfigType]) -> ResultType:
    """Run a script's `main` as its command does, for `train.run(...)` and the like.

    Args:
        main: Does what the script is for.
        make_config: Makes the configuration of the options; its errors are raised as those of `main`.

    Returns:
        What `main` returns.

    Raises:
        UserError: What the command would print as its one line.
    """
    with python_call():
        config = make_config()
        if "torch" not in sys.modules:
            limit_threads(os.environ)
        with yielding_threads():
            return main(config)


def _ended_with(line: str, code: int) -> int:
    """Print a last line to standard error, if anybody reads it, and return the exit code."""
    with suppress(OSError):
        sys.stdout.flush()
    with suppress(OSError):
        print(log.without_controls(" ".join(line.split())), file=sys.stderr)
    return code


def _os_error_line(error: OSError) -> str:
    where = error.filename or "a file of the run"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{where}: {error.strerror}; raise the limit (ulimit -n 1024), or lower --workers"
    return f"{where}: {error.strerror}; make room, or choose another --project"


def _is_output_closed() -> bool:
    """Return whether standard output or standard error is a pipe that nobody reads."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
