"""Command line of the weight transfer: puts a checkpoint's weights into another model, without training.

python -m utils.transfer --cfg models/yolov5n_CBAM.yaml --weights yolov5n.pt --output cbam.pt --attention-start identity
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_guarded
from utils.log import configure
from utils.transfer import TRANSFER_MODES


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m utils.transfer`."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.transfer",
        description="Transfer a checkpoint's weights to another model, "
        "without training: a variant that starts as the pretrained network.",
    )
    parser.add_argument("--cfg", required=True, help="model yaml, such as models/yolov5n_CBAM.yaml")
    parser.add_argument("--weights", required=True, help="checkpoint to take weights from")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        help="checkpoint to write; the transfer report is written beside it as .csv",
    )
    parser.add_argument("--attention-start", choices=("identity", "plain"), help="how inserted attention starts")
    parser.add_argument(
        "--transfer",
        choices=TRANSFER_MODES,
        default="layers",
        help="align layers by type, shapes and order, or keys by name as v6.1",
    )
    parser.add_argument(
        "--require-transfer",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="smallest share of the checkpoint's parameters that must be used, 0 to 1",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the tensors that are new")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers blocks of your own"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = build_parser().parse_args(argv)
    configure()
    return run_guarded(_transfer, options)


def _transfer(options: argparse.Namespace) -> None:
    from utils.transfer.transfer_command import transfer  # so that --help, and a missing package, need no torch

    transfer(options)


if __name__ == "__main__":
    sys.exit(main())
