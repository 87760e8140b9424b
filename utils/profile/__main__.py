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

from models.graph.flops import short_message
from models.registry import BLOCK_ERRORS, load_plugins
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.cli import run_guarded
from utils.datasets.letterboxing import round_to_stride
from utils.device import select_device
from utils.errors import ConfigError, ModelError
from utils.log import LOGGER, configure
from utils.profile.layer_profile import profile_layers, render
from utils.profile.timing import ROUNDS
from utils.runtimes.opening import is_exported
from utils.runtimes.operator_times import profile_file
from utils.transfer.pretrained import transfer_weights

DEFAULT_SIZE = [640]


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


def show(options: argparse.Namespace) -> None:
    """Build the model that the flags name and print its profile."""
    if not (options.cfg or options.weights):
        raise ConfigError("nothing to profile: give --cfg with a model yaml, or --weights with a checkpoint")
    if options.rounds < 1:
        raise ConfigError(f"--rounds {options.rounds}: must be at least 1")
    device = select_device(options.device)
    if options.weights and not options.cfg and is_exported(options.weights):
        sides = options.imgsz if options.imgsz != DEFAULT_SIZE else None
        size = _input_size(sides, 32) if sides else None
        LOGGER.info(profile_file(options.weights, size, options.rounds, device))
        return
    load_plugins(options.plugin)
    model = _build_model(options.cfg, options.weights)
    size = _input_size(options.imgsz, int(max(model.stride)))
    try:
        profile = profile_layers(
            model.to(device),
            size,
            options.rounds,
            open_gates=bool(options.cfg),
            name=str(options.cfg or options.weights),
        )
    except BLOCK_ERRORS as error:
        raise ModelError(
            f"{options.cfg or options.weights}: does not run on images of {size[0]} x {size[1]}: {short_message(error)}"
        ) from error
    LOGGER.info(render(profile))


def _build_model(cfg: str | None, weights: str | None) -> Model:
    if cfg is not None and weights is None:
        return Model(cfg)
    checkpoint = read_checkpoint(find_weights(weights or ""))
    if cfg is None:
        return build_model(checkpoint)
    model = Model(cfg, nc=checkpoint.nc)
    transfer_weights(model, checkpoint)
    return model


def _input_size(imgsz: Sequence[int], stride: int) -> tuple[int, int]:
    """Return (height, width) in pixels, raised to multiples of the largest stride."""
    if len(imgsz) > 2 or min(imgsz) < 1:
        raise ConfigError(
            f"--imgsz {' '.join(map(str, imgsz))}: expected the side of a square in pixels, or height and width"
        )
    sides = round_to_stride(imgsz, stride)
    return sides[0], sides[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(argv)
    configure()
    return run_guarded(show, options)


if __name__ == "__main__":
    sys.exit(main())
