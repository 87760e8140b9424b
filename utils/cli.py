"""How a script runs: flags in, exit code out. Imports nothing heavy, so that `--help` answers at once."""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from utils import log
from utils.errors import Interruption, UserError

ConfigType = TypeVar("ConfigType")
FAILED = 2
_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM))


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
        0, 2 after a user error or a disk error (one line on standard error), 1 if only some inputs of a run failed, or
        130 after Ctrl-C (and 128 and the number of another signal that asked it to end). Other exceptions pass with
        their traceback.
    """
    config = parse_opt(argv)
    log.configure()
    return run_guarded(main, config)


def run_guarded(function: Callable[..., object], *arguments: object) -> int:
    """Call a function and return the exit code, as `run_script` says.

    Args:
        function: Does what the script is for.
        *arguments: Passed to it.

    Returns:
        0, 2 after a user error or a disk error (one line on standard error), 1 if only some inputs of a run failed, or
        130 after Ctrl-C (and 128 and the number of another signal that asked it to end).
    """
    try:
        function(*arguments)
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {log.without_controls(' '.join(str(error).split()))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        sys.stdout.flush()
        where = error.filename or "a file of the run"
        print(f"error: {where}: {error.strerror}; make room, or choose another --project", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        interruption = Interruption.of(error)
        print(f"\n{interruption}", file=sys.stderr)
        return interruption.exit_code
    return 0
