"""Detect objects in images, videos, folders, cameras and streams.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/

Results go to runs/detect/exp, exp2, ...: annotated images and, as asked, label files, crops and tables.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_script
from utils.config import DetectConfig, from_options, parse

DESCRIPTION = "Detect objects in images, videos, folders, cameras and streams."


def parse_opt(argv: Sequence[str] | None = None) -> DetectConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(DetectConfig, argv, description=DESCRIPTION, prog="detect.py")


def run(**options: object) -> Path:
    """Detect with the given options (named as the flags, with underscores) and return the run folder.

    Inputs that fail are skipped with a warning. Raises UserError kinds, also if every input fails.
    """
    from utils.engine.detection import detect

    return detect(from_options(DetectConfig, **options)).save_dir


def main(config: DetectConfig) -> Path:
    """Detect as `config` says and return the run folder. Raises UserError kinds; PartialError if an input failed."""
    from utils.engine.detection import detect

    outcome = detect(config)
    outcome.require_complete()
    return outcome.save_dir


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
