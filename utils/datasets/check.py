"""The doctor to see before training: what is wrong with a data set, file by file and as a whole.

    python -m utils.datasets.check data/shapes.yaml --img 640 --cfg models/yolov5n.yaml

Writes check.json, findings.csv, check.png, sheet_<split>.jpg and duplicates.jpg to runs/check/exp, exp2, ... and nothing
anywhere else. Exit code: 0 without faults and warnings, 1 with, 2 where the check itself could not run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.cli import run_script
from utils.config import from_options
from utils.config.flags import Options, build_parser, flag
from utils.errors import ConfigError, nearest
from utils.files import ROOT

if TYPE_CHECKING:
    from utils.datasets.doctor import Report

DESCRIPTION = (
    "Check a data set before training on it: python -m utils.datasets.check DATA.yaml [flags]. Exit code 0: clean, "
    "1: faults or warnings, 2: could not run."
)
PROGRAM = "python -m utils.datasets.check"


@dataclass(frozen=True)
class CheckConfig(Options):
    """What the check can be told. Field names are the flags with underscores."""

    data: str = flag(str(ROOT / "data" / "shapes.yaml"), "data set yaml; may also stand without the flag")
    cfg: str = flag(
        "", "model yaml whose anchors and strides the boxes are held against; '' takes --weights', else yolov5n's"
    )
    weights: str = flag("", "checkpoint whose anchors and strides the boxes are held against")
    imgsz: int = flag(
        640,
        "side of the network input in pixels at which boxes are measured",
        "integer",
        low=32,
        aliases=("--img", "--img-size"),
    )
    anchor_t: float = flag(
        4.0, "factor by which a side may differ from an anchor's, as in the hyperparameters", "number", low=1
    )
    min_box: float = flag(3.0, "pixels at --imgsz below which a box's side is tiny", "number", low=0)
    similar: float = flag(0.9, "least similarity of near-duplicate pictures", "number", low=0.5, high=1)
    turned: bool = flag(
        False, "also look for mirrored and turned copies (the search takes eight times as long)", "switch"
    )
    no_duplicates: bool = flag(False, "do not look for duplicate pictures", "switch")
    ignore: tuple[str, ...] = flag(
        (), "kinds of findings to leave out, such as picture-turned; may be repeated", repeatable=True
    )
    workers: int = flag(8, "threads that look at pictures; 0 looks in the main one", "integer", low=0)
    plugin: tuple[str, ...] = flag(
        (),
        "a Python file of your own to import first, such as one that registers a block; may be repeated",
        repeatable=True,
    )
    project: str = flag(str(ROOT / "runs" / "check"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered where it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")

    def check(self) -> None:
        from utils.datasets.findings import KINDS

        for kind in self.ignore:
            if kind not in KINDS:
                raise ConfigError(f"--ignore {kind}: no such kind of finding{nearest(kind, KINDS)}")
        if self.cfg and self.weights:
            raise ConfigError("--cfg and --weights: one of them says the anchors; leave the other out")


def run(**options: object) -> "Report":
    """Check a data set with the given options (named as the flags, with underscores) and return what was found."""
    return main(from_options(CheckConfig, **options))


def main(config: CheckConfig) -> "Report":
    """Check as `config` says. Raises UserError kinds where nothing can be checked."""
    from utils.datasets.doctor import check

    return check(config)


def script(argv: Sequence[str] | None = None) -> int:
    """Check as a command line says and return the exit code: 0 clean, 1 faults or warnings, 2 could not run."""
    reports = []
    code = run_script(
        lambda config: reports.append(main(config)), CheckConfig, DESCRIPTION, _with_data_flag(argv), PROGRAM
    )
    return code or int(not reports[0].clean)


def _with_data_flag(argv: Sequence[str] | None) -> list[str]:
    """The command line with --data in front of the data yaml where that stands without it: the one word that belongs to no
    flag or, of several, the first that ends like a yaml; what else belongs to no flag is left to the parser to name.
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
