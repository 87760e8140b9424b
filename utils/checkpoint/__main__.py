"""Checkpoint files from the command line: show, convert, strip, average and compare them.

Inputs are only read, nothing in them is executed, and an output that exists already is refused without --force.

    python -m utils.checkpoint show last.pt                          what it is, its layers, settings, sha256
    python -m utils.checkpoint convert yolov5s.pt ours.pt            an official YOLOv5 file (v5.0 to v7.0) to ours
    python -m utils.checkpoint convert best.pt plain.pt --to weights its weights as a state dict for other programs
    python -m utils.checkpoint convert best.pt --to yolov5           best_yolov5.pt for YOLOv5's own programs, or a zip
    python -m utils.checkpoint strip last.pt small.pt                without training, in half precision
    python -m utils.checkpoint average epoch1*.pt --output mean.pt   the mean of several epochs
    python -m utils.checkpoint diff a.pt b.pt                        what differs; exit code 1 if something does
"""

import argparse
import sys
from collections.abc import Sequence

from utils.checkpoint import TARGETS
from utils.cli import run_guarded


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m utils.checkpoint`."""
    parser = argparse.ArgumentParser(
        "python -m utils.checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    show = commands.add_parser(
        "show", help="what a file is: origin, layers, sizes, classes, settings, training, sha256"
    )
    show.add_argument("file")
    show.add_argument("--tensors", action="store_true", help="list every tensor as well")
    convert = commands.add_parser(
        "convert", help="official YOLOv5 file to ours; a checkpoint for YOLOv5, or its weights for other programs"
    )
    convert.add_argument("file")
    convert.add_argument("output", nargs="?")
    convert.add_argument("--output", "-o", dest="output_by_flag", metavar="OUTPUT", help="the same as OUTPUT")
    convert.add_argument(
        "--to",
        choices=TARGETS,
        help="checkpoint: ours; weights: a plain state dict; safetensors; yolov5: a checkpoint that YOLOv5 loads, or a "
        "zip of yaml, source and weights for its tree if YOLOv5 lacks a block "
        "(default: safetensors for an output of that suffix, else checkpoint)",
    )
    strip = commands.add_parser("strip", help="remove the training state and convert to half precision")
    strip.add_argument("file")
    strip.add_argument("output", nargs="?")
    strip.add_argument("--in-place", action="store_true", help="replace the file itself")
    average = commands.add_parser("average", help="the mean of several checkpoints of one model")
    average.add_argument("files", nargs="+")
    average.add_argument("--output", "-o", required=True)
    diff = commands.add_parser("diff", help="what differs between two checkpoints")
    diff.add_argument("first")
    diff.add_argument("second")
    diff.add_argument("--all", action="store_true", help="list every tensor that differs, not the 20 that differ most")
    for writing in (convert, strip, average):
        writing.add_argument("--force", action="store_true", help="replace an output that exists already")
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the command of parsed options and return the exit code."""
    if options.command == "show":
        from utils.checkpoint.description import describe

        print("\n".join(describe(options.file, options.tensors)))
        return 0
    from utils.checkpoint import tools

    if options.command == "diff":
        lines = tools.differences(options.first, options.second, None if options.all else 20)
        print("\n".join(lines) if lines else "no difference")
        return int(bool(lines))
    if options.command == "convert":
        output = tools.convert(options.file, options.output_by_flag or options.output, options.to, options.force)
    elif options.command == "strip":
        output = tools.strip_file(options.file, options.output, options.in_place, options.force)
    else:
        output = tools.average(options.files, options.output, options.force)
    print(f"{output}: {output.stat().st_size:,} bytes")
    if options.command == "convert" and options.to == "yolov5" and output.suffix == ".zip":
        from utils.checkpoint.yolov5_package import EDITS

        print("the edits that YOLOv5's tree needs, which README.md in the zip has in full:")
        print("\n".join(f"{number}. {edit}" for number, edit in enumerate(EDITS, 1)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (1: diff found differences, 2: user error)."""
    options = build_parser().parse_args(argv)
    codes: list[int] = []
    return run_guarded(lambda: codes.append(run(options))) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
