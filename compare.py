r"""Compare model variants or recipes on your data, over seeds, with intervals, tests and costs.

    python compare.py --cfg yolov5n.yaml yolov5n_CBAM.yaml --data my.yaml --weights yolov5n.pt \
        --epochs 100 --seeds 3 --control
    python compare.py --cfg yolov5n.yaml --data my.yaml --pieces assign=tal nbs=16,optimizer=AdamW
    python compare.py --weights a.pt b.pt --data my.yaml
    python compare.py --study runs/compare/exp

The first --cfg, recipe or checkpoint is the baseline. docs/studies.md describes the folder of a study and how
it continues.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run_from_python, run_script
from utils.config import from_options, parse
from utils.config.compare_options import CompareConfig
from utils.errors import UserError
from utils.stop_signals import interrupting

if TYPE_CHECKING:
    from utils.compare.results import Study

DESCRIPTION = (
    "Train variants or recipes with several seeds, or take trained checkpoints, and report differences and costs."
)


def parse_opt(argv: Sequence[str] | None = None) -> CompareConfig:
    """Return the options of the command line."""
    return parse(CompareConfig, argv, description=DESCRIPTION, prog="compare.py")


def main(config: CompareConfig) -> "Study":
    """Run, continue or report a study, and return it. Runs that failed are in it: see `Run.status`."""
    from utils.compare.study import compare

    return compare(config)


def run(**options: object) -> "Study":
    """Compare variants; the flags are keywords.

    Trainings are processes of their own: a script that calls this needs `if __name__ == "__main__":` around it.

    Args:
        **options: The flags with underscores, such as cfg=["yolov5n.yaml", "yolov5n_CBAM.yaml"], data="my.yaml".

    Returns:
        The study with its results; the report is in its folder.
    """
    return run_from_python(main, lambda: from_options(CompareConfig, **options))


def _main_or_error(config: CompareConfig) -> "Study":
    """Call `main`, and raise UserError at the end if a run failed, for the exit code.

    A signal that asks the program to end stops the study as Ctrl-C does: each run saves its state and frees its lock.
    """
    with interrupting():
        study = main(config)
    runs = [run for variant in study.variants for run in variant.runs]
    failed = [f"{run.variant} seed {run.seed}: {run.error}" for run in runs if run.status != "done"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed and are missing from the report ({'; '.join(failed)}); "
            f"python compare.py --study {study.folder} retries them"
        )
    return study


if __name__ == "__main__":
    sys.exit(run_script(_main_or_error, parse_opt))
