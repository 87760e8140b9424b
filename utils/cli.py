"""How a script runs: flags in, exit code out. Imports nothing heavy, so that `--help` answers at once."""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from utils import log
from utils.config.flags import Options, parse
from utils.errors import UserError

ConfigType = TypeVar("ConfigType", bound=Options)
FAILED = 2
_DISK_REFUSALS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM))
INTERRUPTED = 130  # what shells give a program that ended on Ctrl-C


def run_script(
    main: Callable[[ConfigType], object],
    config_class: type[ConfigType],
    description: str | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Parse the command line, call `main(config)` and return the exit code: 0, 2 after an error that is the
    user's to mend (one line on standard error), 130 after Ctrl-C. Other exceptions pass with their traceback.

    Use as `sys.exit(run_script(main, TrainConfig, "..."))`.
    """
    config = parse(config_class, argv, description, prog)
    log.configure()
    return guarded(main, config)


def guarded(function: Callable[..., object], *arguments: object) -> int:
    """Call `function(*arguments)` and return the exit code, as `run_script` says."""
    try:
        function(*arguments)
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno not in _DISK_REFUSALS:
            raise
        sys.stdout.flush()
        where = error.filename or "a file of the run"
        print(f"error: {where}: {error.strerror}; make room, or choose another --project", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    return 0
