"""The dataset checker, to run before training: what is wrong with a dataset, file by file and as a whole.

    python -m utils.datasets.check data/shapes.yaml --img 640 --cfg models/yolov5n.yaml

Writes check.html, check.json, findings.csv, check.png, sheet_<split>.jpg and duplicates.jpg to runs/check/exp, exp2,
... and nothing anywhere else. Exit code: 0 without faults and warnings, 1 with, 2 if the check itself could not run.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run_script
from utils.config.flags import build_parser, parse
from utils.datasets.check import CheckConfig, main

if TYPE_CHECKING:
    from utils.datasets.check.checker import Report

DESCRIPTION = (
    "Check a dataset before training on it: python -m utils.datasets.check DATA.yaml [flags]. Exit code 0: clean, "
    "1: faults or warnings, 2: could not run."
)
PROGRAM = "python -m utils.datasets.check"


def parse_opt(argv: Sequence[str] | None = None) -> CheckConfig:
    """Return the options of a command line; the data yaml may stand without its flag."""
    return parse(CheckConfig, _with_data_flag(argv), DESCRIPTION, PROGRAM)


def script(argv: Sequence[str] | None = None) -> int:
    """Check as a command line says and return the exit code: 0 clean, 1 faults or warnings, 2 could not run."""
    reports: list[Report] = []
    code = run_script(lambda config: reports.append(main(config)), parse_opt, argv)
    return code or int(not reports[0].clean)


def _with_data_flag(argv: Sequence[str] | None) -> list[str]:
    """Return the command line with --data in front of the data yaml if that is given without it.

    It is the one word that belongs to no flag or, of several, the first that ends like a yaml; any other such word is
    left for the parser to name.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _, unknown = build_parser(CheckConfig, DESCRIPTION, PROGRAM).parse_known_args(argv)
    words = [word for word in unknown if not word.startswith("-")]
    word = (
        words[0]
        if len(unknown) == len(words) == 1
        else next((one for one in words if one.endswith((".yaml", ".yml"))), None)
    )
    if word is not None and not any(given.split("=")[0] == "--data" for given in argv):
        argv.remove(word)
        argv += ["--data", word]
    return argv


if __name__ == "__main__":
    sys.exit(script())
