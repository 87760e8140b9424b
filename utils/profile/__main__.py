"""The command: the cost of each layer of a model, and the share of attention.

python -m utils.profile --cfg models/yolov5n_CBAM.yaml [--imgsz 384 640] [--device cpu] [--rounds 10]
python -m utils.profile --weights runs/train/exp/weights/best.pt      the checkpoint's own model
python -m utils.profile --cfg my.yaml --weights yolov5n.pt            the yaml, with the weights that fit
python -m utils.profile --weights yolov5n.onnx                        an exported file: its operators by time
python -m utils.profile --cfg my.yaml --plugin my_block.py
"""

import argparse
import sys
from collections.abc import Sequence

from utils.cli import run_guarded
from utils.log import configure
from utils.profile import DEFAULT_SIZE, ROUNDS


def build_parser() -> argparse.ArgumentParser:
    """Return the command's flags."""
    parser = argparse.ArgumentParser(prog="python -m utils.profile", description="The cost of each layer of a model.")
    parser.add_argument("--cfg", help="model yaml, or its bare name in models/ or models/hub/")
    parser.add_argument("--weights", help="checkpoint (.pt) or exported file, profiled itself unless --cfg is given")
    parser.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        type=int,
        nargs="+",
        default=DEFAULT_SIZE,
        metavar="PIXELS",
        help="side of a square image, or its height and width",
    )
    parser.add_argument("--device", default="", help="cpu, mps or a CUDA device number")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="number of timed passes; each layer's fastest is shown"
    )
    parser.add_argument("--plugin", action="append", default=[], help="Python file that registers blocks of your own")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(argv)
    configure()
    return run_guarded(_show, options)


def _show(options: argparse.Namespace) -> None:
    from utils.profile.profile_command import show  # so that --help, and a missing package, need no torch

    show(options)


if __name__ == "__main__":
    sys.exit(main())
