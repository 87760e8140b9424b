"""Validate weights on a dataset: P, R and mAP by YOLOv5's rules and by COCO's.

    python val.py --weights runs/train/exp/weights/best.pt --data data/shapes.yaml

Results go to runs/val/exp, exp2, ...: metrics.json, curves, the confusion matrix and images of batches.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run_from_python, run_script
from utils.config import ValConfig, from_options, parse

if TYPE_CHECKING:
    from utils.engine.validation import Validation

DESCRIPTION = "Validate weights on a dataset."


def parse_opt(argv: Sequence[str] | None = None) -> ValConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(ValConfig, argv, description=DESCRIPTION, prog="val.py")


def run(**options: object) -> "Validation":
    """Validate with the given options (named as the flags, with underscores).

    The result unpacks as v6.1's: (P, R, mAP50, mAP50-95, box, obj, cls), AP per class, milliseconds.
    """
    return run_from_python(main, lambda: from_options(ValConfig, **options))


def main(config: ValConfig) -> "Validation":
    """Validate as `config` says. Raises UserError kinds."""
    from utils.engine.validation import validate

    return validate(config)


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
