"""Detect objects in images, videos, folders, cameras and streams.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/

Results go to runs/detect/exp, exp2, ...: annotated images and, as asked, label files, crops and tables.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import python_call, run_from_python, run_script
from utils.config import DetectConfig, from_options, parse

if TYPE_CHECKING:
    from utils.engine.detection import DetectionOutcome, DetectionStream

DESCRIPTION = "Detect objects in images, videos, folders, cameras and streams."


def parse_opt(argv: Sequence[str] | None = None) -> DetectConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(DetectConfig, argv, description=DESCRIPTION, prog="detect.py")


def run(stream: bool = False, **options: object) -> "DetectionOutcome | DetectionStream":
    """Detect with the given options, named as the flags with underscores, and return the predictions.

    The call logs as the command does, writes its files, and goes on to the end of the source. With `stream` it returns
    at once, and the run goes on as its predictions are asked for.

    Args:
        stream: Return an iterator of predictions that still have their images.
        **options: The flags, such as weights="best.pt", source="images/".

    Returns:
        The sequence of `Prediction` records, without images, with the run folder as `save_dir` and the inputs that were
        skipped as `failures`; of a camera or stream, which has no end, without predictions. With `stream` an iterator.

    Raises:
        UserError: What the command prints as its one line; also if every input fails.
    """
    from utils.engine.detection import DetectionStream, detect

    if stream:
        with python_call():
            config = from_options(DetectConfig, **options)
        return DetectionStream(config, python_call)
    return run_from_python(lambda config: detect(config, keep=True), lambda: from_options(DetectConfig, **options))


def main(config: DetectConfig) -> Path:
    """Detect as `config` says and return the run folder. Raises UserError kinds; PartialError if an input failed."""
    from utils.engine.detection import detect

    outcome = detect(config)
    outcome.require_complete()
    return outcome.save_dir


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
