"""The converter: VOC, COCO, labelme and CVAT annotations as a dataset in YOLO layout that train.py takes at once.

    python -m utils.datasets.convert voc SOURCE --output DIR [--split 0.8 0.1 0.1]

Writes DIR/images, DIR/labels, DIR/data.yaml and a report, as a whole or not at all, and never into a folder that has
files. Exit code: 0 if everything was converted, 1 if files or objects are faulty and were left out, 2 if it could not
run.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import run_script
from utils.config.flags import build_parser, parse
from utils.datasets.convert import ConvertConfig, main

if TYPE_CHECKING:
    from utils.datasets.convert.conversion import ConversionReport

DESCRIPTION = (
    "Convert annotations to YOLO layout: python -m utils.datasets.convert voc|coco|labelme|cvat SOURCE --output DIR "
    "[flags]. Exit code 0: all converted, 1: faulty files or objects left out, 2: could not run."
)
PROGRAM = "python -m utils.datasets.convert"


def parse_opt(argv: Sequence[str] | None = None) -> ConvertConfig:
    """Return the options of a command line; format and source may stand without their flags."""
    return parse(ConvertConfig, _with_flags(argv), DESCRIPTION, PROGRAM)


def script(argv: Sequence[str] | None = None) -> int:
    """Convert as a command line says and return the exit code: 0 all, 1 something was faulty, 2 could not run."""
    reports: list[ConversionReport] = []
    code = run_script(lambda config: reports.append(main(config)), parse_opt, argv)
    return code or int(not reports[0].clean)


def _with_flags(argv: Sequence[str] | None) -> list[str]:
    """Return the command line with --format and --source in front of the words that stand without a flag."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _, unknown = build_parser(ConvertConfig, DESCRIPTION, PROGRAM).parse_known_args(argv)
    words = [word for word in unknown if not word.startswith("-")]
    given = {word.split("=")[0] for word in argv if word.startswith("--")}
    for name, word in zip([name for name in ("--format", "--source") if name not in given], words, strict=False):
        argv.remove(word)
        argv += [name, word]
    return argv


if __name__ == "__main__":
    sys.exit(script())
